"""SimCLR as a user does it, from images on disk to an accuracy: kinfold's command beside PyTorch's usual
script.

    python3 benchmarks/end_to_end.py --data cifar-10-batches-bin            makes a virtual environment
    python3 benchmarks/end_to_end.py --data DATA --python PATH --epochs 5   torch, torchvision, pillow, numpy

DATA is a folder with CIFAR-10's binary files (https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz,
unpacked; data_batch_1.bin and test_batch.bin alone will do for a first look), or one with a sub-folder of
images for each class; of these a fifth is held out, the same for both. Without it there is nothing to do, and
the script says so.

Both train the same ConvNet (64-128-256-256) with the same loss, batch, optimizer and views, drawn on the fly,
for so many epochs, one after the other, on all cores: PyTorch with two DataLoader workers and torchvision's v2
views of PIL images, its fastest. Pairs per second are those of whole epochs; the accuracy is the vote of the
200 nearest training images.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import tempfile
import time

from compare import begun, with_torch, written

THREADS = os.cpu_count()
WORKERS, BATCH, SIZE, WIDTHS, EMBEDDING, PROJECTION = 2, 512, 32, (64, 128, 256, 256), 256, 128
TEMPERATURE, RATE, DECAY, STRENGTH = 0.5, 2e-3, 1e-4, 0.5
NEIGHBOURS = 200


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, help="CIFAR-10's binary files, or a folder a class")
    parser.add_argument("--python", help="an interpreter with torch, torchvision, pillow and numpy")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--machine", default=platform.node() or "machine", help="name in the record")
    parser.add_argument("--no-record", action="store_true")
    return parser.parse_args()


def ours(binary, data, epochs, folder):
    """What `kinfold train` reached."""
    settings = f"""
        epochs = {epochs}
        batch = {BATCH}
        [image]
        size = {SIZE}
        channels = 3
        [view]
        recipe = "simclr"
        strength = {STRENGTH}
        blur = 0.0
        [encoder]
        name = "convnet"
        widths = {list(WIDTHS)}
        embedding = {EMBEDDING}
        projector = "mlp"
        projection = {PROJECTION}
        [loss]
        name = "nt-xent"
        temperature = {TEMPERATURE}
        [optimizer]
        learning_rate = {RATE}
        weight_decay = {DECAY}
    """
    (folder / "settings.toml").write_text(settings)
    command = [binary, "train", "--config", folder / "settings.toml", "--data", data, "--out", folder / "run"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((folder / "run" / "summary.json").read_text())
    return {"pairs_per_second": summary["pairs_per_second"], "loss": summary["loss"],
            "accuracy": summary["evaluation"]["weighted_neighbours"]["trained"]}


def images(data):
    """Images `[n, 32, 32, 3]` and labels, to train on and to judge by."""
    import numpy
    from PIL import Image

    def binary(files):
        rows = numpy.concatenate([numpy.fromfile(file, numpy.uint8) for file in sorted(files)])
        rows = rows.reshape(-1, 1 + 3 * SIZE * SIZE)
        pixels = rows[:, 1:].reshape(-1, 3, SIZE, SIZE).transpose(0, 2, 3, 1)
        return numpy.ascontiguousarray(pixels), rows[:, 0].astype(numpy.int64)

    batches = list(data.glob("data_batch_*.bin"))
    if batches:
        return binary(batches), binary([data / "test_batch.bin"])
    sides = ([], []), ([], [])
    for label, folder in enumerate(sorted(path for path in data.iterdir() if path.is_dir())):
        for i, file in enumerate(sorted(folder.rglob("*.*"))):
            with Image.open(file) as image:
                pixels = numpy.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.BILINEAR))
            side = sides[i % 5 == 4]
            side[0].append(pixels)
            side[1].append(label)
    return tuple((numpy.stack(pixels), numpy.array(labels)) for pixels, labels in sides)


def theirs(data, epochs):
    """What the usual script reaches."""
    import torch
    import torch.nn.functional as F
    from PIL import Image
    from torch import nn
    from torchvision.transforms import v2

    (pixels, labels), (test_pixels, test_labels) = images(data)
    jitter = v2.ColorJitter(0.8 * STRENGTH, 0.8 * STRENGTH, 0.8 * STRENGTH, 0.2 * STRENGTH)
    view = v2.Compose([
        v2.RandomResizedCrop(SIZE, scale=(0.08, 1.0)), v2.RandomHorizontalFlip(),
        v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(0.2),
        v2.ToImage(), v2.ToDtype(torch.float32, scale=True),
    ])

    class Views(torch.utils.data.Dataset):
        def __len__(self):
            return len(pixels)

        def __getitem__(self, i):
            image = Image.fromarray(pixels[i])
            return view(image), view(image)

    torch.manual_seed(0)
    depth, side, layers = 3, SIZE, []
    for i, to in enumerate(WIDTHS):
        stride = 1 if i == 0 else 2
        layers += [nn.Conv2d(depth, to, 3, stride, 1, bias=False), nn.BatchNorm2d(to), nn.ReLU()]
        depth, side = to, -(-side // stride)
    encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(depth * side * side, EMBEDDING))
    projector = nn.Sequential(nn.Linear(EMBEDDING, EMBEDDING, bias=False), nn.BatchNorm1d(EMBEDDING),
                              nn.ReLU(), nn.Linear(EMBEDDING, PROJECTION))
    model = nn.Sequential(encoder, projector).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    loader = torch.utils.data.DataLoader(Views(), BATCH, shuffle=True, drop_last=True, num_workers=WORKERS,
                                         persistent_workers=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    start = time.perf_counter()
    for _ in range(epochs):
        losses = []
        for pair in loader:
            x = torch.cat(pair).contiguous(memory_format=torch.channels_last)
            z = F.normalize(model(x))
            n = len(z) // 2
            logits = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
            loss = F.cross_entropy(logits, torch.cat([torch.arange(n, 2 * n), torch.arange(n)]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    seconds = time.perf_counter() - start

    model.eval()

    @torch.no_grad()
    def embedded(pixels):
        x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div(255)
        return F.normalize(torch.cat([encoder(x) for x in x.split(BATCH)]))

    keys, labels = embedded(pixels), torch.from_numpy(labels)
    right = 0
    for queries, own in zip(embedded(test_pixels).split(BATCH), torch.from_numpy(test_labels).split(BATCH)):
        cosines, near = (queries @ keys.T).topk(min(NEIGHBOURS, len(keys)))
        votes = torch.zeros(len(queries), int(labels.max()) + 1)
        votes.scatter_add_(1, labels[near], ((cosines - 1) / 0.1).exp())
        right += (votes.argmax(1) == own).sum().item()
    return {"pairs_per_second": epochs * len(loader) * BATCH / seconds,
            "loss": sum(losses) / len(losses), "accuracy": right / len(test_labels)}


def table(record):
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines = [f"# SimCLR, end to end, {record['date']}, {record['processor']}, {THREADS} threads", "",
             f"{versions}. {record['images']} images of {record['data']}, {record['epochs']} epochs, batch "
             f"{BATCH}.", f"Made by `{record['command']}`.", "",
             f"Load average when it began: {record['load'][0]:.2f}.", "",
             "| who | pairs/s | loss of the last epoch | 200-NN |", "|---|---|---|---|"]
    for who, reached in record["reached"].items():
        lines.append(f"| {who} | {reached['pairs_per_second']:.0f} | {reached['loss']:.3f} | "
                     f"{reached['accuracy']:.1%} |")
    return "\n".join(lines) + "\n"


def main():
    options = arguments()
    if not options.data or not options.data.is_dir():
        given = f"{options.data} is no folder" if options.data else "no --data"
        print(f"skipped: {given}; see the first lines of this script for what goes there")
        return
    with_torch(options)
    import torch

    torch.set_num_threads(THREADS)
    subprocess.run(["cargo", "build", "--release", "--workspace", "--quiet"], check=True,
                   cwd=pathlib.Path(__file__).parent.parent)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", pathlib.Path(__file__).parent.parent / "target"))
    record = begun(["python3 benchmarks/end_to_end.py", f"--epochs {options.epochs}"],
                   epochs=options.epochs, data=options.data.name)
    (pixels, _), _ = images(options.data)
    record["images"] = len(pixels)
    record["reached"] = {}
    with tempfile.TemporaryDirectory() as folder:
        binary = target / "release" / "kinfold"
        record["reached"]["kinfold"] = ours(binary, options.data, options.epochs, pathlib.Path(folder))
    print(record["reached"], flush=True)
    record["reached"]["PyTorch"] = theirs(options.data, options.epochs)
    if not options.no_record:
        written(record, f"{options.machine}-end-to-end", table(record))
    print(table(record))


if __name__ == "__main__":
    main()
