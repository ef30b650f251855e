#!/usr/bin/env python3
"""Losses over six prefixes: all at once, one by one, and as sentence-transformers computes them.

    python benchmarks/matryoshka.py              an interpreter with kinfold, torch and sentence-transformers

n pairs of dimension d, prefixes d, d/2, …, d/32, f32, value and gradients, in turn in one process; the
medians, and what each takes of memory beyond its inputs and gradients. The peer is MatryoshkaLoss over
MultipleNegativesRankingLoss, one way, of embeddings that are there.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch

import kinfold.torch as ours


class Given(torch.nn.Module):
    """A model whose embeddings are there."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def get_embedding_dimension(self):
        return self.dim

    def forward(self, features):
        return {"sentence_embedding": features["x"]}


def contestants(n, d, form):
    """Each as a function without arguments, by name."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=generator)
    b = a + torch.randn(n, d, generator=generator)
    a, b = a.requires_grad_(), b.requires_grad_()
    dims = [d >> k for k in range(6)]

    def differentiated(loss):
        a.grad = b.grad = None
        loss = loss()
        loss.backward()
        return loss.item()

    def one_by_one():
        return sum(ours.contrastive(a[:, :dim], b[:, :dim], form=form, temperature=0.05) for dim in dims)

    settings = {"form": form, "temperature": 0.05}
    out = {
        "all at once": lambda: differentiated(lambda: ours.contrastive(a, b, matryoshka_dims=dims, **settings)),
        "one by one": lambda: differentiated(one_by_one),
        "one loss, all features": lambda: differentiated(lambda: ours.contrastive(a, b, **settings)),
    }
    if form == "one-way":
        from sentence_transformers.sentence_transformer.losses import MatryoshkaLoss, MultipleNegativesRankingLoss

        model = Given(d)
        peer = MatryoshkaLoss(model, MultipleNegativesRankingLoss(model), dims)
        out["sentence-transformers"] = lambda: differentiated(lambda: peer([{"x": a}, {"x": b}], None))
    return out


def peak(options, form, name):
    """Bytes that a contestant takes at its peak beyond what is there before, in a process of its own."""
    command = [sys.executable, __file__, "--pairs", str(options.pairs), "--dim", str(options.dim), "--threads",
               str(options.threads), "--of", f"{form}/{name}"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(field))


def measure_memory(options):
    form, name = options.of.split("/")
    small = contestants(64, options.dim, form)
    small[name]()
    work = contestants(options.pairs, options.dim, form)[name]
    before = resident("VmRSS:")
    work()
    print(max(resident("VmHWM:") - before, 0) - 2 * 4 * options.pairs * options.dim)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=8192)
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.of:
        return measure_memory(options)
    for form in ("one-way", "both-ways", "nt-xent"):
        work = contestants(options.pairs, options.dim, form)
        values = {name: run() for name, run in work.items()}
        for name in set(values) - {"one loss, all features"}:
            assert abs(values[name] / values["all at once"] - 1) < 1e-4, values
        seconds = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, run in work.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        least = statistics.median(seconds["all at once"])
        print(f"{form}, {options.pairs} × {options.dim}, {options.threads} threads, {os.cpu_count()} processors")
        for name, of in seconds.items():
            median = statistics.median(of)
            memory = peak(options, form, name) / 2**20
            print(f"  {name:<24}{median:8.3f} s   {median / least:5.2f} x   {memory:8.0f} MiB")


if __name__ == "__main__":
    main()
