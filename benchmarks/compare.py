#!/usr/bin/env python3
"""kinfold beside PyTorch: the cases of cases.toml, one record.

    python3 benchmarks/compare.py                      makes a virtual environment and installs torch in it
    python3 benchmarks/compare.py --python PATH        takes an interpreter that has torch and numpy
    python3 benchmarks/compare.py --only one-way-256-128 --no-record

For each case every contestant computes the same numbers from the same input, the value and the
gradients by queries and keys. They must agree before anything is timed. Then they run in turn,
round after round, so that whatever else the machine does hits all of them; the record gives
medians, and the least beside them. Two speeds of PyTorch's own products are taken in the same turns:
that of two 4096 x 4096 matrices, the best that it can do, and that of the three products that a
loss and its gradients come down to, n x d by d x n, n x n by n x d, and n x n transposed by n x d.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib

# Seconds between two contestants, and of matrix products before each.
PAUSE, BUSY = 0.02, 0.05

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", help="an interpreter with torch and numpy")
    parser.add_argument("--only", help="the cases whose names begin so, or so, with commas")
    parser.add_argument("--rounds", type=float, default=1.0, help="times the rounds of the cases")
    parser.add_argument("--machine", default=platform.node() or "machine", help="name in the record")
    parser.add_argument("--no-record", action="store_true")
    return parser.parse_args()


def with_torch(options):
    """Starts this script again under an interpreter that has torch."""
    try:
        import torch  # noqa: F401
        return
    except ImportError:
        pass
    if options.python:
        python = options.python
    else:
        environment = HERE / ".venv"
        python = environment / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", environment], check=True)
            install = [python, "-m", "pip", "install", "--quiet", "torch", "numpy"]
            subprocess.run(install, check=True)
    os.execv(python, [str(python), *sys.argv])


def build(program, *features):
    """The executable of one of the programs here."""
    command = ["cargo", "build", "--release", "-p", "kinfold-benchmarks", "--bin", program, *features]
    command.append("--message-format=json-render-diagnostics")
    lines = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    built = [json.loads(line) for line in lines.splitlines()]
    return next(b["executable"] for b in built if b.get("target", {}).get("name") == program
                and b.get("executable"))


class Kinfold:
    """Our side: a process that answers requests."""

    def __init__(self, binary, case, budget, threads, tau, file, name):
        self.name = name
        self.process = subprocess.Popen([binary], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.ask(f"open {case['loss']} {case['pairs']} {case['dim']} {tau} {threads} {budget} {file}")

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def result(self):
        import numpy
        with tempfile.NamedTemporaryFile() as file:
            self.ask(f"gradients {file.name}")
            self.statistics = self.ask("value")
            return self.statistics["value"], numpy.fromfile(file.name, dtype=numpy.float32)

    def seconds(self, calls):
        return self.ask(f"time {calls}")["seconds"]

    def busy(self, seconds):
        self.ask(f"busy {seconds}")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Torch:
    """A rival: a function of queries and keys, differentiated."""

    def __init__(self, name, loss, q, k):
        self.name, self.loss = name, loss
        self.q, self.k = q.clone().requires_grad_(), k.clone().requires_grad_()

    def run(self):
        self.q.grad = self.k.grad = None
        value = self.loss(self.q, self.k)
        value.backward()
        return value

    def result(self):
        import numpy
        value = self.run().item()
        return value, numpy.concatenate([self.q.grad.numpy().ravel(), self.k.grad.numpy().ravel()])

    def seconds(self, calls):
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            self.run()
            seconds.append(time.perf_counter() - start)
        return seconds

    def busy(self, seconds):
        import torch
        x, start = torch.ones(768, 768), time.perf_counter()
        while time.perf_counter() - start < seconds:
            x @ x

    def close(self):
        pass


def losses(name, tau):
    """The usual code for a loss, and where there is one, the call that avoids the matrix."""
    import torch
    import torch.nn.functional as F

    def one_way(q, k):
        q, k = F.normalize(q), F.normalize(k)
        return F.cross_entropy(q @ k.T / tau, torch.arange(len(q)))

    def both(q, k):
        logits = F.normalize(q) @ F.normalize(k).T / tau
        labels = torch.arange(len(q))
        return 0.5 * (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels))

    def nt_xent(q, k):
        z = F.normalize(torch.cat([q, k]))
        logits = (z @ z.T / tau).fill_diagonal_(-torch.inf)
        n = len(q)
        labels = torch.cat([torch.arange(n, 2 * n), torch.arange(n)])
        return F.cross_entropy(logits, labels)

    fused = getattr(F, "linear_cross_entropy", None)
    chunked = {}
    if fused and hasattr(torch.nn, "LinearCrossEntropyOptions"):
        chunked = {"options": torch.nn.LinearCrossEntropyOptions()}

    def one_way_fused(q, k):
        q, k = F.normalize(q), F.normalize(k)
        return fused(q / tau, k, torch.arange(len(q)), **chunked)

    def both_fused(q, k):
        q, k = F.normalize(q), F.normalize(k)
        labels = torch.arange(len(q))
        there, back = fused(q / tau, k, labels, **chunked), fused(k / tau, q, labels, **chunked)
        return 0.5 * (there + back)

    usual = {"one-way": one_way, "both": both, "nt-xent": nt_xent}[name]
    without = {"one-way": one_way_fused, "both": both_fused}.get(name)
    return usual, without if fused else None


def agree(contestants):
    """Everyone's value and gradients, held against the first one's."""
    import numpy
    (value, gradient), *others = [c.result() for c in contestants]
    gradient = gradient.astype(numpy.float64)
    for contestant, (theirs, of_theirs) in zip(contestants[1:], others):
        apart = abs(value - theirs) / abs(value)
        far = numpy.linalg.norm(gradient - of_theirs) / numpy.linalg.norm(gradient)
        if not (apart < 1e-5 and far < 1e-4):
            raise SystemExit(f"{contestant.name} differs: value by {apart:.1e}, gradients by {far:.1e}")
    return value


def gemm():
    """Seconds for PyTorch's product of two 4096 x 4096 matrices."""
    import torch
    if not hasattr(gemm, "x"):
        gemm.x = torch.randn(4096, 4096)
    start = time.perf_counter()
    gemm.x @ gemm.x
    return time.perf_counter() - start


class OwnProducts:
    """The three products of a case: logits, and the gradients by both sides."""

    def __init__(self, rows, dim):
        import torch
        self.left, self.right = torch.randn(rows, dim), torch.randn(rows, dim)
        self.matrix, self.out = torch.empty(rows, rows), torch.empty(rows, dim)

    def seconds(self):
        """Of one, on average."""
        import torch
        start = time.perf_counter()
        torch.mm(self.left, self.right.T, out=self.matrix)
        torch.mm(self.matrix, self.right, out=self.out)
        torch.mm(self.matrix.T, self.left, out=self.out)
        return (time.perf_counter() - start) / 3


def products(case, kept):
    """How many products of n x n x d a loss comes down to; n counts both views for NT-Xent."""
    return {"one-way": 3, "both": 4 - kept, "nt-xent": 2 - 0.5 * kept}[case["loss"]]


def measure(binary, case, options, tau, threads):
    import numpy
    import torch

    generator = numpy.random.default_rng(0)
    shape = (case["pairs"], case["dim"])
    q = generator.standard_normal(shape, dtype=numpy.float32)
    k = (0.7 * q + generator.standard_normal(shape, dtype=numpy.float32)).astype(numpy.float32)
    usual, without = losses(case["loss"], tau)
    with tempfile.NamedTemporaryFile() as file:
        numpy.concatenate([q, k]).tofile(file.name)
        ours = [Kinfold(binary, case, budget, threads, tau, file.name, name) for budget, name in
                [(512 << 20, "kinfold")] + [(b, f"kinfold, budget {b >> 20} MiB")
                                            for b in case.get("budgets", [])]]
    q, k = torch.from_numpy(q), torch.from_numpy(k)
    rivals = [Torch("eager", usual, q, k), Torch("torch.compile", torch.compile(usual), q, k)]
    if without:
        rivals.append(Torch("linear_cross_entropy", without, q, k))
    everyone = ours + rivals
    value = agree(everyone)

    rows = case["pairs"] * (2 if case["loss"] == "nt-xent" else 1)
    own = OwnProducts(rows, case["dim"])
    gemm(), own.seconds()
    rounds = max(1, round(case["rounds"] * options.rounds))
    times = {c.name: [] for c in everyone}
    of_gemm, of_own = [], []
    for number in range(rounds):
        for contestant in everyone:
            # Threads that the one before has left spinning would take a core from this one; after a
            # pause they sleep. Then a contestant's own threads get to work, as an encoder's pass
            # would have them at work in training: which core a sleeping thread wakes on is the
            # system's affair, and for what takes less than a millisecond it would be all there is.
            time.sleep(PAUSE)
            contestant.busy(BUSY)
            times[contestant.name] += contestant.seconds(case.get("calls", 1))
        if number < 7:
            of_gemm.append(gemm())
            of_own += [own.seconds() for _ in range(case.get("calls", 1))]
    for contestant in everyone:
        contestant.close()

    g = 2 * rows * rows * case["dim"]
    own_speed, best_own_speed = g / statistics.median(of_own), g / min(of_own)
    speed = 2 * 4096**3 / statistics.median(of_gemm)
    best_speed = 2 * 4096**3 / min(of_gemm)
    results = {}
    for contestant in everyone:
        seconds = times[contestant.name]
        result = {"median": statistics.median(seconds), "min": min(seconds), "max": max(seconds)}
        if isinstance(contestant, Kinfold):
            # The share of strips whose exponentials are kept is what fits into the budget.
            whole = rows * rows * 4 / (2 if case["loss"] == "nt-xent" else 1)
            budget = 512 << 20
            if "budget" in contestant.name:
                budget = int(contestant.name.split()[-2]) << 20
            kept = min(1.0, budget / whole) if contestant.statistics["kept"] else 0.0
            flop = products(case, kept) * g
            result |= {"products": round(products(case, kept), 2),
                       "gflops": flop / result["median"] / 1e9,
                       "gemm_share": flop / result["median"] / speed,
                       "gemm_share_of_best": flop / result["min"] / best_speed,
                       "own_share": flop / result["median"] / own_speed,
                       "own_share_of_best": flop / result["min"] / best_own_speed,
                       "scratch_bytes": contestant.statistics["scratch_bytes"]}
        results[contestant.name] = result
    return {"case": case, "value": value, "gemm_gflops": speed / 1e9,
            "gemm_gflops_best": best_speed / 1e9, "own_gflops": own_speed / 1e9,
            "own_gflops_best": best_own_speed / 1e9, "results": results}


def shown(options):
    """The options that change what is measured."""
    only = ["--only", options.only] if options.only else []
    return only + (["--rounds", str(options.rounds)] if options.rounds != 1 else [])


def name_of(case):
    return f"{case['loss']}-{case['pairs']}-{case['dim']}"


def processor():
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def begun(command, **more):
    """What a record says of the machine and of what was measured, before anything is."""
    import torch
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE).stdout.strip()
    rustc = subprocess.run(["rustc", "--version"], text=True, stdout=subprocess.PIPE).stdout.split()
    return {
        "date": datetime.date.today().isoformat(), "processor": processor(), **more,
        "load": os.getloadavg(),
        "versions": {"kinfold": commit, "rustc": rustc[1], "torch": torch.__version__,
                     "python": platform.python_version(), "linux": platform.release()},
        "command": " ".join(command),
    }


def written(record, name, table):
    """Writes a record, as Markdown and as JSON: after each case, so that an interruption costs no more
    than one."""
    path = HERE / "records" / f"{record['date']}-{name}"
    path.with_suffix(".md").write_text(table)
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


def table(record):
    lines = [f"# {record['date']}, {record['processor']}, {record['threads']} threads", ""]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += [f"{versions}. f32, temperature {record['temperature']}, the value and all gradients, "
              "normalisation included.", f"Made by `{record['command']}`.", "",
              f"Load average when it began: {record['load'][0]:.2f}; when it ended: "
              f"{record['load_after'][0]:.2f}. {record['note']}", "",
              "`x` is how many times kinfold's default is faster, by medians (by the least times). "
              "The last two columns are the speed of the products that kinfold counts, as a share of that of "
              "PyTorch's, in the same turns: 4096³, and the three products of the case's own shapes, by "
              "medians (by the least times).", ""]
    lines += ["| case | who | median ms | least ms | x | GFLOP/s | of 4096³ | of its own shapes |",
              "|---|---|---|---|---|---|---|---|"]
    for case in record["cases"]:
        ours = case["results"]["kinfold"]
        title = (f"{name_of(case['case'])} (PyTorch: 4096³ {case['gemm_gflops']:.0f}, "
                 f"own {case['own_gflops']:.0f} GFLOP/s)")
        for name, result in case["results"].items():
            line = f"| {title} | {name} | {result['median'] * 1e3:.2f} | {result['min'] * 1e3:.2f} | "
            title = ""
            if "gflops" in result:
                line += (f" | {result['gflops']:.0f}, {result['products']} g | "
                         f"{result['gemm_share']:.0%} ({result['gemm_share_of_best']:.0%}) | "
                         f"{result['own_share']:.0%} ({result['own_share_of_best']:.0%}) |")
            else:
                line += (f"{result['median'] / ours['median']:.2f} "
                         f"({result['min'] / ours['min']:.2f}) | | | |")
            lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    options = arguments()
    with_torch(options)
    import torch

    declared = tomllib.loads((HERE / "cases.toml").read_text())
    threads, tau = declared["threads"], declared["temperature"]
    torch.set_num_threads(threads)
    binary = build("bench_case", "--no-default-features")
    record = begun(["python3 benchmarks/compare.py", *shown(options)], threads=threads, temperature=tau,
                   note="Times are of a shared machine: compare within a case.")
    record["cases"] = []
    for case in declared["case"]:
        if options.only and not name_of(case).startswith(tuple(options.only.split(","))):
            continue
        measured = measure(binary, case, options, tau, threads)
        record["cases"].append(measured)
        medians = {name: f"{r['median'] * 1e3:.2f}" for name, r in measured["results"].items()}
        print(name_of(case), f"GEMM {measured['gemm_gflops']:.0f}", medians, flush=True)
        record["load_after"] = os.getloadavg()
        if not options.no_record:
            written(record, options.machine, table(record))
    print(table(record))


if __name__ == "__main__":
    main()
