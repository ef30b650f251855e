"""A ResNet that kinfold trained, in torchvision, and one of torchvision's as kinfold's beginning.

    pip install torch==2.15.0 torchvision==0.29.2 numpy safetensors
    python tests/golden/torchvision_loads.py path/to/kinfold

For both ResNets and both stems: trains a step, loads model.safetensors with strict=True, and compares
the embeddings; then saves seeded weights of torchvision's as .pth and as .safetensors, begins with
them and takes a step too small to move anything, and compares the weights. Prints the largest
differences and fails beyond 1e-4.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy
import torch
import torchvision
from safetensors.torch import load_file, save_file

KINFOLD = sys.argv[1]
IMAGES = 24


def kinfold(*arguments):
    done = subprocess.run([KINFOLD, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stderr}")


def theirs(name, stem):
    model = getattr(torchvision.models, name)()
    if stem == "small":
        model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = torch.nn.Identity()
    return model


def encoder(run):
    weights = load_file(run / "model.safetensors")
    return {name.removeprefix("encoder."): w for name, w in weights.items() if name.startswith("encoder.")}


def main(folder):
    torch.manual_seed(0)
    worst = 0.0
    for name in ["resnet18", "resnet50"]:
        for stem, size in [("small", 24), ("imagenet", 72)]:
            pixels = numpy.random.default_rng(0).integers(0, 256, (IMAGES, size, size, 3), dtype=numpy.uint8)
            numpy.save(folder / "images.npy", pixels)
            config = folder / "config.toml"
            config.write_text(f'[encoder]\nname = "{name}"\nstem = "{stem}"\n')
            train = ["train", "--config", config, "--data", folder / "images.npy", "--image-size", size]
            train += ["--epochs", 1, "--batch", 8]

            run = folder / f"{name}-{stem}"
            kinfold(*train, "--out", run)
            kinfold("embed", run, "--out", folder / "out.npy")
            ours = torch.from_numpy(numpy.load(folder / "out.npy"))
            model = theirs(name, stem)
            model.fc = torch.nn.Identity()
            model.load_state_dict(encoder(run), strict=True)
            model.eval()
            with torch.inference_mode():
                out = model(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
            gap = (ours - out).abs().max().item()
            print(f"{name} {stem}: embeddings differ by at most {gap:.2e} (the largest is {out.abs().max():.2f})")
            worst = max(worst, gap)

            begin = theirs(name, stem).state_dict()
            torch.save(begin, folder / "begin.pth")
            save_file(begin, folder / "begin.safetensors")
            for ending in ["pth", "safetensors"]:
                run = folder / f"{name}-{stem}-{ending}"
                still = ["--init", folder / f"begin.{ending}", "--learning-rate", 1e-12]
                kinfold(*train, *still, "--out", run)
                gap = max(
                    (w - begin[key]).abs().max().item() for key, w in encoder(run).items() if "running" not in key
                )
                print(f"{name} {stem}: weights from .{ending} differ by at most {gap:.2e}")
                worst = max(worst, gap)
    assert worst < 1e-4, worst


with tempfile.TemporaryDirectory() as folder:
    main(pathlib.Path(folder))
