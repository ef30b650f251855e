"""Peak memory and pairs per second of `kinfold train` by the size of a batch, in chunks and at once.

    cargo build --release
    python benchmarks/batches.py DATA [--chunk 256] [--batches 256 512 ...] [--at-once 256 512 ...] [-- FLAGS]

DATA needs as many pairs as the largest batch; Omniglot's images_background_small1.zip with its quarter
turns has 10,880. Each run is stopped after two steps, or one where an epoch has no more; what it
reached stands in its summary.json. Memory is the whole process's, data and the evaluation at the end
included. Prints a table in Markdown.
"""

import argparse
import json
import pathlib
import signal
import subprocess
import tempfile
import time

KINFOLD = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "kinfold"


def run(arguments, batch, chunk):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "run"
        command = [arguments.kinfold, "train", "--data", arguments.data, "--out", out, "--epochs", 1]
        command += ["--pairs", "views", "--expand", "rotations", "--image-size", 28, "--channels", 1, "--invert"]
        command += ["--batch", batch, *arguments.flags]
        command += ["--chunk", chunk] if chunk else []
        training = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
        metrics = out / "metrics.jsonl"
        while training.poll() is None and not (metrics.exists() and metrics.read_text()):
            time.sleep(0.05)
        # The step that is under way, the second, is finished. An epoch of one step ends by itself.
        if training.poll() is None:
            training.send_signal(signal.SIGINT)
        assert training.wait() in (0, 130)
        return json.loads((out / "summary.json").read_text())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--kinfold", default=KINFOLD)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--batches", type=int, nargs="*", default=[256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--at-once", type=int, nargs="*", default=[256, 512, 1024, 2048])
    parser.add_argument("flags", nargs="*", help="more flags of kinfold train, after --")
    arguments = parser.parse_args()
    print("| pairs in a batch | chunk | steps | peak memory, MiB | pairs/s |\n|---|---|---|---|---|")
    cases = [(batch, None) for batch in arguments.at_once]
    cases += [(batch, arguments.chunk) for batch in arguments.batches]
    for batch, chunk in cases:
        summary = run(arguments, batch, chunk)
        memory = summary["peak_memory_bytes"] / 2**20
        speed = summary["pairs_per_second"]
        print(f"| {batch:,} | {chunk or 'none'} | {summary['steps']} | {memory:,.0f} | {speed:.0f} |", flush=True)


if __name__ == "__main__":
    main()
