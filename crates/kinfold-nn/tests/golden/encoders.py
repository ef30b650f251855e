"""Writes encoders.json, what PyTorch's encoders make of some images, for src/encoders/tests.rs to agree
with; and mlp.pth, a small file of PyTorch's own kind.

    pip install torch==2.15.0 torchvision==0.29.2
    python tests/golden/encoders.py

Images and weights are a formula of a name and an index (`noise`), so that the file holds results only,
and of those every `step`-th number. All is in f32.
"""

import json
import math
import pathlib

import torch
import torchvision
from torch import nn

ROWS = 3
HERE = pathlib.Path(__file__).parent


def noise(name, count):
    """Of [-1, 1), in f64."""
    mask, salt = 0xFFFFFFFF, 0
    for byte in name.encode():
        salt = (salt * 31 + byte) & mask
    h = (torch.arange(count, dtype=torch.int64) * 40503 + salt) & mask
    for factor, shift in [(73244475, 16), (73244475, 15)]:
        h = ((h ^ (h >> shift)) * factor) & mask
    h ^= h >> 16
    return h.to(torch.float64) / 2**31 - 1


def weight(name, shape):
    u = noise(name, math.prod(shape))
    if name.endswith("running_var"):
        u = 1 + 0.5 * u
    elif name.endswith("bn3.weight"):
        # Batch statistics of fifty layers at full strength would amplify f32's rounding to 1e-4.
        u = 0.3 + 0.1 * u
    elif len(shape) == 1 and name.endswith("weight"):
        u = 1 + 0.2 * u
    elif len(shape) == 1:
        u = 0.1 * u
    else:
        u = u * math.sqrt(3 / math.prod(shape[1:]))
    return u.to(torch.float32).reshape(shape)


class Vit(nn.Module):
    """timm's VisionTransformer without class token, its tokens normalised and then averaged."""

    def __init__(self, size, patch, width, depth, heads):
        super().__init__()
        self.heads = heads
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, (size // patch) ** 2, width))
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.Module()
            block.norm1, block.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
            block.attn = nn.Module()
            block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            block.mlp = nn.Module()
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x):
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        n, tokens, width = x.shape
        for block in self.blocks:
            qkv = block.attn.qkv(block.norm1(x)).reshape(n, tokens, 3, self.heads, width // self.heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
            x = x + block.attn.proj(y)
            x = x + block.mlp.fc2(nn.functional.gelu(block.mlp.fc1(block.norm2(x))))
        return self.norm(x).mean(1)


class Layers(nn.Module):
    """Layers with batch norm and ReLU, and a head."""

    def __init__(self, kind, layers, head):
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in layers:
            module = nn.Module()
            width = layer.weight.shape[0]
            module.norm = nn.BatchNorm2d(width) if kind == "convolution" else nn.BatchNorm1d(width)
            setattr(module, kind, layer)
            self.layers.append(module)
        self.kind, self.head = kind, head

    def forward(self, x):
        x = x.flatten(1) if self.kind == "linear" else x
        for layer in self.layers:
            x = torch.relu(layer.norm(getattr(layer, self.kind)(x)))
        return self.head(x.flatten(1))


def resnet(name, stem):
    model = getattr(torchvision.models, name)()
    if stem == "small":
        model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        model.maxpool = nn.Identity()
    model.fc = nn.Identity()
    return model


def mlp():
    layers = [nn.Linear(3 * 36, 12, bias=False), nn.Linear(12, 10, bias=False)]
    return Layers("linear", layers, nn.Linear(10, 6))


def convnet():
    """28 × 28 grey pixels, in strides."""
    sizes = [(1, 32, 5, 2), (32, 64, 3, 2), (64, 128, 3, 1), (128, 128, 3, 2)]
    layers = [nn.Conv2d(a, b, k, s, k // 2, bias=False) for a, b, k, s in sizes]
    return Layers("convolution", layers, nn.Linear(2048, 256))


CASES = [
    ({"name": name, "stem": stem}, size, 3, resnet(name, stem))
    for name in ["resnet18", "resnet50"]
    for stem, size in [("small", 17), ("imagenet", 66)]
] + [
    ({"name": "mlp", "widths": [12, 10], "embedding": 6}, 6, 3, mlp()),
    (
        {"name": "convnet", "widths": [32, 64, 128, 128], "kernels": [5, 3, 3, 3], "strides": [2, 2, 1, 2]}
        | {"embedding": 256},
        28,
        1,
        convnet(),
    ),
    ({"name": "vit", "patch": 4, "width": 24, "depth": 2, "heads": 3}, 12, 3, Vit(12, 4, 24, 2, 3)),
]


def main():
    cases = []
    for settings, size, channels, model in CASES:
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(weight(name, value.shape))
        if settings["name"] == "mlp":
            torch.save(model.state_dict(), HERE / "mlp.pth")
        pixels = noise("pixels", ROWS * channels * size * size)
        images = (pixels * 0.5 + 0.5).to(torch.float32).reshape(ROWS, channels, size, size)
        case = {"settings": settings, "size": size, "channels": channels}
        with torch.no_grad():
            for mode in ["eval", "train"]:
                out = getattr(model, mode)()(images)
                case["step"] = max(1, out.shape[1] // 40)
                case[mode] = [round(value, 6) for value in out[:, :: case["step"]].flatten().tolist()]
        cases.append(case)
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = f'"torch": "{torch.__version__}",\n"torchvision": "{torchvision.__version__}",\n'
    (HERE / "encoders.json").write_text("{\n" + head + '"cases": [\n' + lines + "\n]\n}\n")


main()
