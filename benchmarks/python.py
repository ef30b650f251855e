"""The loss in PyTorch, as libraries have it and as kinfold has it: time and peak memory.

    cargo xtask test-torch                                  # once: installs what is compared
    target/python-torch/bin/python benchmarks/python.py     # prints a table in Markdown

Each contestant is a process of its own, that makes the same embeddings, [n, 256] twice, and answers
requests, one at a time: normalisation where the library leaves it to its user, value, and the gradients of
both sides. They take turns, round after round, and the table has medians; memory is what a process's peak
has grown by since before its first step. Before anything is timed the values must agree with kinfold's of the
same loss to 1e-4.

The crossing from Python is told in two ways, on one thread: what kinfold.torch takes for 8 rows of 4, where
there is next to nothing to compute, and what it takes for 256 rows beyond the native module alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

DIM, TAU = 256, 0.1
# Of whom each is a rival: kinfold's own module in that library's place.
PLACE = {
    "eager": "one-way", "compiled": "one-way", "info-nce-pytorch": "one-way",
    "lightly": "nt-xent", "pytorch-metric-learning": "nt-xent",
    "open-clip": "both-ways", "sentence-transformers": "one-way",
}


def contestant(name):
    """A function of two leaves, [n, d], to the loss."""
    import torch
    import torch.nn.functional as F

    import kinfold.torch as ours

    def question(a, b):
        scores = F.normalize(a) @ F.normalize(b).T / TAU
        return F.cross_entropy(scores, torch.arange(len(a)))

    def labels(n):
        return torch.arange(n).repeat(2)

    if name == "kinfold one-way":
        return lambda a, b: ours.info_nce(a, b, temperature=TAU)
    if name == "kinfold nt-xent":
        return ours.NTXentLoss(temperature=TAU)
    if name == "kinfold both-ways":
        clip, scale = ours.ClipLoss(), torch.tensor(1 / TAU)
        return lambda a, b: clip(F.normalize(a), F.normalize(b), scale)
    if name == "eager":
        return question
    if name == "compiled":
        return torch.compile(question)
    if name == "info-nce-pytorch":
        from info_nce import info_nce
        return lambda a, b: info_nce(a, b, temperature=TAU)
    if name == "lightly":
        from lightly.loss import NTXentLoss
        return NTXentLoss(temperature=TAU)
    if name == "pytorch-metric-learning":
        from pytorch_metric_learning.losses import NTXentLoss
        loss = NTXentLoss(temperature=TAU)
        return lambda a, b: loss(torch.cat([a, b]), labels(len(a)))
    if name == "open-clip":
        from open_clip.loss import ClipLoss
        clip, scale = ClipLoss(), torch.tensor(1 / TAU)
        return lambda a, b: clip(F.normalize(a), F.normalize(b), scale)
    if name == "sentence-transformers":
        # What MultipleNegativesRankingLoss does with the embeddings once its model has made them.
        from sentence_transformers import util
        return lambda a, b: F.cross_entropy(util.cos_sim(a, b) / TAU, torch.arange(len(a)))
    raise SystemExit(f"{name} is nobody")


def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024


def worker(name, n):
    import torch
    loss_of = contestant(name)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, DIM, generator=generator)
    b = (a + torch.randn(n, DIM, generator=generator)).requires_grad_()
    a.requires_grad_()
    before = peak()
    for line in sys.stdin:
        # Nobody measures the first of several: caches are filled by it, and torch.compile compiles.
        count, seconds = int(line), []
        for _ in range(count):
            a.grad = b.grad = None
            start = time.perf_counter()
            loss = loss_of(a, b)
            loss.backward()
            seconds.append(time.perf_counter() - start)
        print(json.dumps({"seconds": seconds, "loss": loss.item(), "mib": peak() - before}), flush=True)


def crossing():
    """Medians in µs on one thread: kinfold.torch for 8 rows of 4, for 256 rows, and the native module for
    those."""
    import torch

    import kinfold.torch as ours
    from kinfold._native import Loss
    torch.set_num_threads(1)
    few = [torch.randn(8, 4).requires_grad_() for _ in range(2)]
    leaves = [torch.randn(256, DIM).requires_grad_() for _ in range(2)]
    into = [torch.empty(256, DIM) for _ in range(2)]
    settings = dict(form="one-way", objective="softmax", temperature=TAU, cosine=True, margin=0.0,
                    label_smoothing=0.0, factor=1.0, norm_floor=1e-12, in_batch=True, within_views=False, offset=0,
                    sigma=0.5, positive_share=0.1, concentration=1.0, bias=0.0, sum=False)
    rows = [(x.data_ptr(), 256, DIM, DIM) for x in leaves]
    gradients = (*((x.data_ptr(), x.numel()) for x in into), (0, 0))
    loss, arguments = Loss(**settings), ("float32", 1, None, *rows, None, False, *(None,) * 7, gradients)
    calls = [
        lambda: ours.info_nce(*few, temperature=TAU).backward(),
        lambda: ours.info_nce(*leaves, temperature=TAU).backward(),
        lambda: loss.compute(*arguments),
    ]
    seconds = [[] for _ in calls]
    for _ in range(10):
        for call, taken in zip(calls, seconds):
            for count in range(100):
                for leaf in (*few, *leaves):
                    leaf.grad = None
                start = time.perf_counter()
                call()
                if count >= 20:
                    taken.append(time.perf_counter() - start)
    return [1e6 * statistics.median(taken) for taken in seconds]


class Process:
    def __init__(self, name, n):
        command = [sys.executable, __file__, "--worker", name, "--rows", str(n)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a contestant has stopped; what it says is above")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(n, rounds):
    count = max(1, min(20, 2_000_000 // (n * n)))
    # NT-Xent's matrix has twice as many rows; at n = 16,384 and four of its size it would be 17 GB.
    # pytorch-metric-learning compares all pairs of pairs and takes 2 s and 2 GB at n = 256 already.
    rivals = {name: place for name, place in PLACE.items()
              if (place != "nt-xent" or n <= 8192) and (name != "pytorch-metric-learning" or n <= 256)}
    names = sorted({f"kinfold {place}" for place in rivals.values()}) + list(rivals)
    processes = {name: Process(name, n) for name in names}
    first = {name: process.run(2) for name, process in processes.items()}
    seconds = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in processes.items():
            seconds[name].append(statistics.median(process.run(count)["seconds"]))
    memory = {name: process.run(1)["mib"] for name, process in processes.items()}
    for process in processes.values():
        process.close()
    for name, place in rivals.items():
        mine = f"kinfold {place}"
        theirs, ours = first[name]["loss"], first[mine]["loss"]
        if abs(theirs - ours) > 1e-4 * abs(ours):
            raise SystemExit(f"{name} has {theirs} at n = {n}, but {mine} has {ours}")
        one, other = statistics.median(seconds[mine]), statistics.median(seconds[name])
        print(f"| {n} | {name} | {1e3 * other:.2f} | {1e3 * one:.2f} | {other / one:.2f} "
              f"| {memory[name]:.0f} | {memory[mine]:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024, 4096, 16384])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        return worker(arguments.worker, arguments.rows[0])
    print("| n | in place of | theirs, ms | kinfold, ms | times as fast | theirs, MiB | kinfold, MiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for n in arguments.rows:
        compare(n, arguments.rounds if n < 10_000 else 3)
    few, whole, native = crossing()
    print(f"\nOn one thread kinfold.torch takes {few:.0f} µs for 8 rows of 4, all in all; for 256 rows it takes "
          f"{whole:.0f} µs and the native module {native:.0f} µs: {whole - native:.0f} µs more.")


if __name__ == "__main__":
    main()
