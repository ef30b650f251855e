"""Writes views.json: what torchvision makes of small pictures, for src/views/golden.rs to agree with.

    pip install torch==2.15.0 torchvision==0.29.2 pillow
    python tests/golden/views.py

Pictures are a formula (`byte`), so that the file holds results only. All is in f32, as torchvision has it.
"""

import json
import pathlib

import torch
import torchvision
from torchvision.transforms.v2 import functional as F

WIDTH, HEIGHT = 19, 13


def byte(i):
    return (i * i * 31 + i * 7) % 256


def picture(channels):
    bytes_ = torch.tensor([byte(i) for i in range(HEIGHT * WIDTH * channels)], dtype=torch.uint8)
    return bytes_.reshape(HEIGHT, WIDTH, channels).permute(2, 0, 1)


def floats(channels, size):
    n = channels * size * size
    return torch.tensor([byte(i) / 255 for i in range(n)], dtype=torch.float32).reshape(channels, size, size)


def rounded(tensor):
    return [round(value, 6) for value in tensor.flatten().tolist()]


def step(image, name, factor):
    return {
        "brightness": F.adjust_brightness,
        "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation,
        "hue": F.adjust_hue,
        "grey": lambda image, _: F.rgb_to_grayscale(image, num_output_channels=3),
    }[name](image, factor)


def crop(image, left, top, width, height, size, flip):
    image = F.resized_crop(image, top, left, height, width, [size, size], antialias=True)
    return F.horizontal_flip(image) if flip else image


def main():
    boxes = [  # channels, left, top, width, height, size, flip
        (3, 0, 0, 19, 13, 7, False),
        (3, 4, 2, 6, 6, 6, True),
        (3, 5, 3, 3, 4, 9, False),
        (1, 1, 0, 17, 5, 8, True),
        (1, 18, 12, 1, 1, 2, False),
    ]
    resize = []
    for box in boxes:
        image = picture(box[0]).to(torch.float32) / 255
        resize.append({"crop": list(map(int, box)), "out": rounded(crop(image, *box[1:]))})
    jitters = [
        [("brightness", 1.7)],
        [("contrast", 0.3)],
        [("contrast", 1.8)],
        [("saturation", 0.2)],
        [("saturation", 1.8)],
        [("hue", 0.2)],
        [("hue", -0.17)],
        [("hue", 0.5)],
        [("grey", 0)],
        [("brightness", 0.6), ("contrast", 1.4), ("saturation", 0.5), ("hue", 0.1)],
        [("contrast", 0.7), ("hue", -0.1), ("brightness", 1.3), ("saturation", 1.5)],
        [("hue", 0.05), ("saturation", 1.6), ("contrast", 1.5), ("brightness", 0.8), ("grey", 0)],
        [("saturation", 0.9), ("brightness", 1.5), ("hue", -0.2), ("contrast", 0.4)],
    ]
    colour = []
    for steps in jitters:
        image = floats(3, 6)
        for name, factor in steps:
            image = step(image, name, factor)
        colour.append({"steps": steps, "out": rounded(image)})
    blur = []
    for channels, size, radius, sigma in [(1, 12, 11, 2.0), (3, 6, 1, 0.8), (1, 10, 4, 0.1), (1, 17, 3, 1.1)]:
        image = F.gaussian_blur(floats(channels, size), [2 * radius + 1] * 2, [sigma] * 2)
        blur.append({"channels": channels, "size": size, "radius": radius, "sigma": sigma, "out": rounded(image)})
    # All of it in a row, at a size that has a kernel.
    box, steps, sigma = (3, 2, 1, 15, 11, 20, True), jitters[10], 1.3
    image = crop(picture(3).to(torch.float32) / 255, *box[1:])
    for name, factor in steps:
        image = step(image, name, factor)
    image = F.gaussian_blur(image, [3, 3], [sigma] * 2)
    whole = {"crop": list(map(int, box)), "steps": steps, "sigma": sigma, "out": rounded(image)}
    cases = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "resize": resize,
        "colour": colour,
        "blur": blur,
        "whole": whole,
    }
    lines = ",\n".join(
        f'"{key}": [\n' + ",\n".join(json.dumps(case, separators=(",", ":")) for case in value) + "\n]"
        if isinstance(value, list)
        else f'"{key}": {json.dumps(value, separators=(",", ":"))}'
        for key, value in cases.items()
    )
    pathlib.Path(__file__).with_name("views.json").write_text("{\n" + lines + "\n}\n")


main()
