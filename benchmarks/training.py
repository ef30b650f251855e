"""Training steps beside PyTorch's, from one run.

    python3 benchmarks/training.py                        makes a virtual environment with torch in it
    python3 benchmarks/training.py --python PATH          takes an interpreter that has torch and numpy
    python3 benchmarks/training.py --only mlp,vit --no-record

A step is forward, NT-Xent, backward and AdamW, of the same model, batch, loss and optimizer, on two
threads each. Ours is `kinfold train` itself, so that it makes its views and writes its metrics, too;
PyTorch's input lies ready. PyTorch is measured as it is usually written (`eager`), with the fused
AdamW, and for convolutions with channels last, as well; the fastest of these is the rival. Then all
run in turn, round after round, so that whatever else the machine does hits all of them; the record
gives medians, and the least beside them.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import tempfile
import time

from compare import begun, build, gemm, with_torch, written

THREADS, TEMPERATURE, RATE, DECAY = 2, 0.5, 1e-3, 1e-4
# Seconds between two contestants: threads that the one before has left spinning go to sleep.
PAUSE = 0.1

STRIDED = {"name": "convnet", "widths": [32, 64, 128, 128], "kernels": [5, 3, 3, 3],
           "strides": [2, 2, 1, 2], "embedding": 256, "projector": "none"}
RESNET = {"name": "resnet18", "stem": "small", "projector": "none"}
CASES = {
    # Images are twice the pairs.
    "convnet-512": {"images": 512, "size": 28, "channels": 1, "encoder": STRIDED, "steps": 3},
    "mlp-1024": {"images": 1024, "size": 28, "channels": 1, "steps": 3,
                 "encoder": {"name": "mlp", "widths": [1024, 1024], "embedding": 128,
                             "projector": "none"}},
    "resnet18-64": {"images": 64, "size": 32, "channels": 3, "encoder": RESNET, "steps": 1},
    "resnet18-256": {"images": 256, "size": 32, "channels": 3, "encoder": RESNET, "steps": 1},
    "vit-64": {"images": 64, "size": 32, "channels": 3, "steps": 1,
               "encoder": {"name": "vit", "patch": 4, "width": 192, "depth": 6, "heads": 3,
                           "projector": "none"}},
}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--python", help="an interpreter with torch and numpy")
    parser.add_argument("--only", help="the cases whose names begin so, or so, with commas")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--machine", default=platform.node() or "machine", help="name in the record")
    parser.add_argument("--no-record", action="store_true")
    return parser.parse_args()


def settings(case):
    """The run as kinfold reads it, in TOML."""
    tables = {
        "": {"batch": case["images"] // 2, "epochs": 100000},
        "image": {"size": case["size"], "channels": case["channels"]},
        "encoder": case["encoder"],
        "loss": {"name": "nt-xent", "temperature": TEMPERATURE},
        "optimizer": {"learning_rate": RATE, "weight_decay": DECAY},
    }
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]"] if name else []
        # What JSON calls strings, numbers and lists, TOML does, too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


class Kinfold:
    """Our side: a process that trains when it is asked to."""

    name = "kinfold"

    def __init__(self, binary, case, pixels, folder):
        import numpy
        (folder / "settings.toml").write_text(settings(case))
        numpy.save(folder / "data.npy", pixels)
        command = [binary, folder / "settings.toml", folder / "data.npy", folder / "run"]
        environment = os.environ | {"RAYON_NUM_THREADS": str(THREADS)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment)

    def seconds(self, steps):
        self.process.stdin.write(f"time {steps}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("kinfold has stopped; what it says is above")
        return json.loads(line)["seconds"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Torch:
    """The same model in PyTorch."""

    def __init__(self, name, model, x, fused=False, channels_last=False):
        import torch
        self.name, self.model, self.x = name, model, x
        if channels_last:
            self.model = model.to(memory_format=torch.channels_last)
            self.x = x.contiguous(memory_format=torch.channels_last)
        options = {"fused": True} if fused else {}
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, **options)

    def step(self):
        loss = nt_xent(self.model(self.x))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        # As kinfold does, which tells it.
        return loss.item()

    def seconds(self, steps):
        seconds = []
        for _ in range(steps):
            start = time.perf_counter()
            self.step()
            seconds.append(time.perf_counter() - start)
        return seconds

    def close(self):
        pass


def nt_xent(z):
    import torch
    import torch.nn.functional as F
    z = F.normalize(z)
    n = len(z) // 2
    logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))


def torch_model(case):
    """The encoder in PyTorch, layer by layer as kinfold has it."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    encoder, size, channels = case["encoder"], case["size"], case["channels"]

    def mlp():
        width, layers = channels * size * size, [nn.Flatten()]
        for to in encoder["widths"]:
            layers += [nn.Linear(width, to, bias=False), nn.BatchNorm1d(to), nn.ReLU()]
            width = to
        return nn.Sequential(*layers, nn.Linear(width, encoder["embedding"]))

    def convnet():
        depth, side, layers = channels, size, []
        for to, kernel, stride in zip(encoder["widths"], encoder["kernels"], encoder["strides"]):
            convolution = nn.Conv2d(depth, to, kernel, stride, kernel // 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(to), nn.ReLU()]
            depth, side = to, -(-side // stride)
        head = nn.Linear(depth * side * side, encoder["embedding"])
        return nn.Sequential(*layers, nn.Flatten(), head)

    class Residual(nn.Module):
        def __init__(self, depth, to, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(depth, to, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(to, to, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(to), nn.BatchNorm2d(to)
            self.short = nn.Sequential(nn.Conv2d(depth, to, 1, stride, bias=False),
                                       nn.BatchNorm2d(to)) if depth != to else nn.Identity()

        def forward(self, x):
            y = F.relu(self.bn1(self.conv1(x)), inplace=True)
            return F.relu(self.bn2(self.conv2(y)) + self.short(x), inplace=True)

    def resnet18():
        layers, depth = [nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64),
                         nn.ReLU(inplace=True)], 64
        for i, to in enumerate([64, 128, 256, 512]):
            layers += [Residual(depth, to, 1 if i == 0 else 2), Residual(to, to, 1)]
            depth = to
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.heads = heads

        def forward(self, x):
            n, tokens, width = x.shape
            qkv = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            mixed = F.scaled_dot_product_attention(*qkv.unbind(0))
            x = x + self.proj(mixed.transpose(1, 2).reshape(n, tokens, width))
            return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))

    class Vit(nn.Module):
        def __init__(self, patch, width, depth, heads):
            super().__init__()
            self.patches = nn.Conv2d(channels, width, patch, patch)
            self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
            self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
            self.norm = nn.LayerNorm(width, 1e-6)

        def forward(self, x):
            x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
            return self.norm(self.blocks(x)).mean(1)

    def vit():
        return Vit(*[encoder[key] for key in ("patch", "width", "depth", "heads")])

    torch.manual_seed(0)
    return {"mlp": mlp, "convnet": convnet, "resnet18": resnet18, "vit": vit}[encoder["name"]]()


def measure(binary, case, options):
    import numpy
    import torch

    generator = numpy.random.default_rng(0)
    shape = (case["images"], case["size"], case["size"], case["channels"])
    pixels = generator.integers(0, 256, shape, dtype=numpy.uint8)
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255).contiguous()
    ways = [("eager", {}), ("fused AdamW", {"fused": True})]
    if case["encoder"]["name"] in ("convnet", "resnet18"):
        ways.append(("channels last, fused AdamW", {"fused": True, "channels_last": True}))
    rivals = [Torch(name, torch_model(case), x, **way) for name, way in ways]
    with tempfile.TemporaryDirectory() as folder:
        everyone = [Kinfold(binary, case, pixels, pathlib.Path(folder)), *rivals]
        times = {contestant.name: [] for contestant in everyone}
        of_gemm = []
        for number in range(options.rounds + 1):
            for contestant in everyone:
                time.sleep(PAUSE)
                seconds = contestant.seconds(case["steps"])
                # In the first round memory is fetched and code is loaded.
                times[contestant.name] += seconds if number else []
            of_gemm.append(gemm())
        for contestant in everyone:
            contestant.close()
    results = {name: {"median": statistics.median(seconds), "min": min(seconds)}
               for name, seconds in times.items()}
    return {"case": case, "gemm_gflops": 2 * 4096**3 / statistics.median(of_gemm) / 1e9,
            "parameters": sum(p.numel() for p in rivals[0].model.parameters()), "results": results}


def table(record):
    lines = [f"# Training steps, {record['date']}, {record['processor']}, {THREADS} threads", ""]
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += [f"{versions}. f32; forward, NT-Xent, backward, AdamW; ours makes its views, too.",
              f"Made by `{record['command']}`.", "",
              f"Load average when it began: {record['load'][0]:.2f}; when it ended: "
              f"{record['load_after'][0]:.2f}. Times are of a shared machine: compare within a case.",
              "", "`x` is how many times kinfold is faster, by medians (by the least times).", "",
              "| case | who | median ms | least ms | images/s | x |", "|---|---|---|---|---|---|"]
    for name, measured in record["cases"].items():
        title = f"{name} ({measured['parameters'] / 1e6:.1f} M weights)"
        ours = measured["results"]["kinfold"]
        for who, result in measured["results"].items():
            factor = ""
            if who != "kinfold":
                factor = (f"{result['median'] / ours['median']:.2f} "
                          f"({result['min'] / ours['min']:.2f})")
            lines.append(f"| {title} | {who} | {result['median'] * 1e3:.1f} | "
                         f"{result['min'] * 1e3:.1f} | "
                         f"{measured['case']['images'] / result['median']:.0f} | {factor} |")
            title = ""
    return "\n".join(lines) + "\n"


def main():
    options = arguments()
    with_torch(options)
    import torch

    torch.set_num_threads(THREADS)
    binary = build("training_speed")
    only = ["--only", options.only] if options.only else []
    rounds = ["--rounds", str(options.rounds)] if options.rounds != 7 else []
    record = begun(["python3 benchmarks/training.py", *only, *rounds])
    record["cases"] = {}
    for name, case in CASES.items():
        if options.only and not name.startswith(tuple(options.only.split(","))):
            continue
        record["cases"][name] = measured = measure(binary, case, options)
        medians = {who: f"{r['median'] * 1e3:.1f}" for who, r in measured["results"].items()}
        print(name, f"GEMM {measured['gemm_gflops']:.0f}", medians, flush=True)
        record["load_after"] = os.getloadavg()
        if not options.no_record:
            written(record, f"{options.machine}-training", table(record))
    print(table(record))


if __name__ == "__main__":
    main()
