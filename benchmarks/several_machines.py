"""One run over several processes: what each part of a step takes and sends, and what that comes to on many
machines.

    python3 benchmarks/several_machines.py                 measures on this machine, and writes the record
    python3 benchmarks/several_machines.py --model-only    the tables of the model from the last record

It needs an MPI and a build with it: cargo build --release -p kinfold-cli --features mpi. Messages between the
processes go over TCP, so that the interface `lo` counts them; what runs on one machine otherwise, through shared
memory, sends the same.

The model takes two parts from this machine, the seconds of a pair in a ResNet-18 on images of 32 × 32 and the
loss's speed, and the rest from formulas. Of W machines, n pairs, d numbers an embedding and P weights, a step of NT-Xent takes each

    encoder    n / W pairs
    loss       2 n / W rows among 2 n columns, in three products: 24 n² d / W operations
    sends      2 n d · 4 bytes of embeddings, as many of their gradients, 2 P · 4 of the weights', each (W − 1) / W

and parts follow one another; nothing overlaps. One machine alone takes 16 n² d operations for the loss.
"""

import argparse
import json
import os
import pathlib
import platform
import random
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "records"
COUNTS = [1, 2, 4]
# What is trained: the default encoder, an MLP that has nearly nothing but weights, and one as people train it.
RUNS = {
    "convnet": 'epochs = 4\nbatch = 479\n',
    "mlp": 'epochs = 4\nbatch = 479\n[encoder]\nname = "mlp"\nwidths = [1024, 1024]\n',
    "resnet18": 'data = "noise.npy"\nepochs = 1\nbatch = 64\nhold_out = 0.2\n'
                '[encoder]\nname = "resnet18"\nstem = "small"\n',
}
# Images of 32 × 32 in colour: a NumPy array without labels, so that nothing is measured after training.
IMAGES = 400
# Whose encoder the model has, and pairs of a machine where the batch grows with their number.
MODELLED, WEAK = "resnet18", 512
NODES = [1, 4, 16, 64, 256, 1024]
GBIT = [10, 100]
DIMS = [128, 1024]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinfold", default=str(target() / "release" / "kinfold"))
    parser.add_argument("--machine", default=platform.node() or "machine", help="name in the record")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model-only", metavar="RECORD", nargs="?", const="", help="a record's .json; else the last")
    parser.add_argument("--no-record", action="store_true")
    return parser.parse_args()


def target():
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))


def environment():
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_rmaps_base_oversubscribe": "1"}
    return os.environ | allowed


def launched(count, command, tcp=True):
    over = ["--mca", "btl", "self,tcp", "--mca", "btl_tcp_if_include", "lo"] if tcp else []
    return ["mpirun", *over, "-n", str(count), *command] if count > 1 else command


def noise(path):
    """Writes the images."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({IMAGES}, 32, 32, 3), }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
                     + random.Random(0).randbytes(IMAGES * 32 * 32 * 3))


def loopback():
    """Bytes that went through `lo` so far."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    return 0


def trained(kinfold, name, count, folder):
    """A run's summary, the bytes that went over TCP, and how many weights there are."""
    config, out = folder / f"{name}.toml", folder / f"{name}-{count}-{len(list(folder.iterdir()))}"
    config.write_text(RUNS[name])
    before = loopback()
    command = [kinfold, "train", "--config", str(config), "--out", str(out)]
    subprocess.run(launched(count, command), check=True, capture_output=True, env=environment(), cwd=folder)
    sent = loopback() - before
    # The header is nothing beside the weights.
    return json.loads((out / "summary.json").read_text()), sent, (out / "model.safetensors").stat().st_size // 4


def bench(kinfold, count, dim, rows=4096, loss="nt-xent"):
    command = [kinfold, "bench", "--json", "--loss", loss, "--rows", str(rows), "--dim", str(dim)]
    before = loopback()
    done = subprocess.run(launched(count, command), check=True, capture_output=True, text=True, env=environment())
    return json.loads(done.stdout[done.stdout.index("{"):]) | {"loopback": loopback() - before}


def measure(options):
    record = {"machine": options.machine, "processor": processor(), "runs": {}, "loss": {}}
    with tempfile.TemporaryDirectory() as folder:
        noise(pathlib.Path(folder) / "noise.npy")
        for name in RUNS:
            rounds = [{count: trained(options.kinfold, name, count, pathlib.Path(folder)) for count in COUNTS}
                      for _ in range(options.rounds)]
            record["runs"][name] = {count: middle([of[count] for of in rounds]) for count in COUNTS}
    for dim in DIMS:
        record["loss"][dim] = {count: bench(options.kinfold, count, dim) for count in COUNTS}
    return record


def middle(rounds):
    """Of several runs: the median of everything."""
    summaries = [summary for summary, _, _ in rounds]
    steps = summaries[0]["steps"]
    found = {"step": statistics.median(s["seconds"] / s["steps"] for s in summaries), "weights": rounds[0][2],
             "pairs": summaries[0]["pairs_per_second"] * summaries[0]["seconds"] / steps}
    if "processes" in summaries[0]:
        parts = [dict(s["processes"]["seconds_per_step"]) for s in summaries]
        found["parts"] = {part: statistics.median(p[part] for p in parts) for part in parts[0]}
        found["bytes"] = summaries[0]["processes"]["bytes_per_step"]
        found["tcp"] = statistics.median(sent for _, sent, _ in rounds) / steps
    return found


def processor():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    field = lambda name: next((x.split(":")[1].strip() for x in lines if x.startswith(name)), "?")  # noqa: E731
    return f"{field('model name')} (family {field('cpu family')} model {field('model')}), {os.cpu_count()} processors"


def step(nodes, pairs, dim, weights, gbit, per_pair, flops):
    """Seconds of the parts of a step: encoder, loss, embeddings and their gradients, gradients of weights."""
    others = (nodes - 1) / nodes
    seconds = lambda numbers: 4 * numbers * others / (gbit * 1e9 / 8)  # noqa: E731
    loss = 24 * pairs**2 * dim / nodes if nodes > 1 else 16 * pairs**2 * dim
    return {"encoder": per_pair * pairs / nodes, "loss": loss / flops,
            "embeddings": seconds(2 * 2 * pairs * dim), "weights": seconds(2 * weights)}


def model(record):
    """Tables of weak and strong scaling."""
    ours = record["runs"][MODELLED]["1"]
    per_pair = ours["step"] / ours["pairs"]
    lines = []
    for dim in DIMS:
        alone = record["loss"][str(dim)]["1"]
        flops = alone["gflops"] * 1e9
        for kind, pairs_of in [(f"weak, {WEAK} pairs a machine", lambda nodes: WEAK * nodes),
                               ("strong, 65,536 pairs", lambda _: 65536)]:
            lines += ["", f"{kind}, d = {dim}: milliseconds of a step, and what of it is work of the encoder", "",
                      "| machines | pairs | encoder | loss | " + " | ".join(
                          f"embeddings {g} Gbit/s | weights {g} Gbit/s | encoder's share" for g in GBIT) + " |",
                      "|---:" * (4 + 3 * len(GBIT)) + "|"]
            for nodes in NODES:
                pairs = pairs_of(nodes)
                cells = []
                for gbit in GBIT:
                    parts = step(nodes, pairs, dim, ours["weights"], gbit, per_pair, flops)
                    share = parts["encoder"] / sum(parts.values())
                    cells += [f"{1e3 * parts['embeddings']:,.1f}", f"{1e3 * parts['weights']:,.1f}", f"{share:.0%}"]
                lines.append(f"| {nodes:,} | {pairs:,} | {1e3 * parts['encoder']:,.0f} | {1e3 * parts['loss']:,.0f} | "
                             + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(record):
    lines = [f"# Several processes on {record['processor']}", "",
             "`python3 benchmarks/several_machines.py`; medians, NT-Xent, messages over TCP on one machine.", ""]
    for name, runs in record["runs"].items():
        parts = list(next(r["parts"] for r in runs.values() if "parts" in r))
        lines += [f"## Training, {name}: milliseconds of a step", "",
                  "| processes | step | " + " | ".join(parts) + " | bytes sent by each, formula | measured |",
                  "|---:" * (4 + len(parts)) + "|"]
        for count, run in runs.items():
            cells = [f"{1e3 * run['parts'][p]:.1f}" for p in parts] if "parts" in run else [""] * len(parts)
            sent = [f"{run['bytes']:,.0f}", f"{run['tcp'] / int(count):,.0f}"] if "parts" in run else ["", ""]
            lines.append(f"| {count} | {1e3 * run['step']:.1f} | " + " | ".join(cells + sent) + " |")
        lines.append("")
    lines += ["## The loss: 4,096 pairs, milliseconds", "",
              "| d | processes | all | loss | gathered | scattered | one process alone | bytes sent by each |",
              "|---:" * 8 + "|"]
    for dim, runs in record["loss"].items():
        for count, run in runs.items():
            part = lambda name: f"{1e3 * run['parts'][name]['median']:.1f}" if "parts" in run else ""  # noqa: E731
            alone = run["alone"]["median"] if "alone" in run else run["seconds"]["median"]
            lines.append(f"| {dim} | {count} | {1e3 * run['seconds']['median']:.1f} | {part('loss')} | "
                         f"{part('embeddings gathered')} | {part('gradients scattered')} | {1e3 * alone:.1f} | "
                         f"{run.get('bytes_sent', 0):,} |")
    return "\n".join(lines)


def main():
    options = arguments()
    if options.model_only is not None:
        path = pathlib.Path(options.model_only) if options.model_only else max(RECORDS.glob("*-several.json"))
        print(model(json.loads(path.read_text())))
        return
    # As it is read again: keys are texts.
    record = json.loads(json.dumps(measure(options)))
    text = tables(record) + "\n\n## A model of many machines\n" + model(record) + "\n"
    print(text)
    if not options.no_record:
        import datetime
        path = RECORDS / f"{datetime.date.today()}-{options.machine}-several"
        path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
        path.with_suffix(".md").write_text(text)


main()
