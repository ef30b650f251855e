"""Writes optimizers.json: weights after each of some steps, for src/optimizer/tests.rs to agree with.

    pip install torch==2.15.0
    python tests/golden/optimizers.py

AdamW, SGD and clipping are PyTorch's own. LARS is written after the description and code of SimCLR
(Chen et al. 2020, lars_optimizer.py): classic momentum, no Nesterov, eeta 0.001, and neither decay nor
adaptation for biases. First weights and gradients are a formula (`number`), so that the file holds
results only. All is in f32.
"""

import json
import pathlib

import torch

SHAPES = {"matrix": (3, 4), "zeros": (2, 3), "bias": (4,)}
RATES = [0.5, 2.5, 1.0, 0.01]
DECAY, MOMENTUM, CLIP = 0.1, 0.9, 1.5


def number(i):
    return (i * i * 31 + i * 7) % 256 / 256 - 0.5


def begin():
    numbers = {}
    for k, (name, shape) in enumerate(SHAPES.items()):
        n = torch.Size(shape).numel()
        first = [0.0 if name == "zeros" else number(100 * k + i) for i in range(n)]
        numbers[name] = torch.tensor(first).reshape(shape).requires_grad_()
    return numbers


def gradient(step, k, shape):
    n = torch.Size(shape).numel()
    return torch.tensor([number(1000 * (step + 1) + 100 * k + i) for i in range(n)]).reshape(shape)


class Lars(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"lr": 0.0})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for w in group["params"]:
                g, ratio = w.grad, 1.0
                if w.ndim > 1:
                    g = g + DECAY * w
                    norms = w.norm(), g.norm()
                    ratio = 0.001 * norms[0] / norms[1] if min(norms) > 0 else 1.0
                v = self.state[w].get("v", torch.zeros_like(w))
                self.state[w]["v"] = v = MOMENTUM * v + group["lr"] * ratio * g
                w -= v


OPTIMIZERS = {
    "adamw": lambda params: torch.optim.AdamW(params, weight_decay=DECAY),
    "sgd": lambda params: torch.optim.SGD(params, momentum=MOMENTUM, weight_decay=DECAY),
    "lars": Lars,
}

runs = []
for name, make in OPTIMIZERS.items():
    for clip in [None, CLIP]:
        weights = begin()
        optimizer = make(list(weights.values()))
        run = {"name": name, "clip": clip, "norms": [], "after": []}
        for step, rate in enumerate(RATES):
            for k, w in enumerate(weights.values()):
                w.grad = gradient(step, k, w.shape)
            limit = float("inf") if clip is None else clip
            run["norms"].append(torch.nn.utils.clip_grad_norm_(weights.values(), limit).item())
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
            after = torch.cat([w.detach().flatten() for w in weights.values()])
            run["after"].append([round(x, 7) for x in after.tolist()])
        runs.append(run)

out = pathlib.Path(__file__).with_suffix(".json")
out.write_text("[\n" + ",\n".join(json.dumps(run) for run in runs) + "\n]\n")
