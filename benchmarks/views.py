"""SimCLR views per second of torchvision on one core: the rival of
views_speed.rs.

Usage: python benchmarks/views.py [seconds per case] [recipe ...]; it needs torch, torchvision, pillow.
"""

import sys
import time

import numpy as np
import torch
import torchvision
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2
from PIL import Image

torch.set_num_threads(1)
SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
ONLY = sys.argv[2:]


def picture(width, height):
    """The picture of views_speed.rs: smooth colours under a texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    planes = [(x * (3 + c) // 4 + y * (5 - c) // 4 + (x * y * 7 + 13 * c * x) % 41) % 256 for c in range(3)]
    return np.stack(planes, -1).astype(np.uint8)


def recipe(size, strength, blur, first, between, last):
    steps = first + [
        v2.RandomResizedCrop(size, scale=(0.08, 1.0), interpolation=InterpolationMode.BILINEAR, antialias=True),
        *between,
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.ColorJitter(0.8 * strength, 0.8 * strength, 0.8 * strength, 0.2 * strength)], 0.8),
        v2.RandomGrayscale(0.2),
    ]
    if blur:
        steps.append(v2.RandomApply([v2.GaussianBlur(size // 20 * 2 + 1, (0.1, 2.0))], 0.5))
    return v2.Compose(steps + last)


def speed(view, image):
    for _ in range(10):
        view(image)
    # Seconds that this process has run, so that other work on the machine does not count.
    count, start = 0, time.process_time()
    while time.process_time() - start < SECONDS:
        view(image)
        count += 1
    return count / (time.process_time() - start)


to_float = v2.ToDtype(torch.float32, scale=True)
print("torchvision", torchvision.__version__, "torch", torch.__version__)
for name, width, height, size, strength, blur in [
    ("32x32 from 32x32, s=.5, no blur", 32, 32, 32, 0.5, False),
    ("224x224 from 500x375, s=1, blur", 500, 375, 224, 1.0, True),
]:
    array = picture(width, height)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    with torch.no_grad():
        for kind, image, first, between, last in [
            ("uint8 tensor, contiguous", tensor.contiguous(), [], [], [to_float]),
            ("uint8 tensor, channels last", tensor.unsqueeze(0).contiguous(memory_format=torch.channels_last)[0], [], [], [to_float]),
            ("float tensor", tensor.contiguous(), [to_float], [], []),
            ("uint8 tensor, float after the crop", tensor.contiguous(), [], [to_float], []),
            ("PIL image", Image.fromarray(array), [], [], [v2.ToImage(), to_float]),
        ]:
            if ONLY and not any(only in kind for only in ONLY):
                continue
            torch.manual_seed(0)
            print(f"{name}: {speed(recipe(size, strength, blur, first, between, last), image):8.0f} views/s  ({kind})", flush=True)
