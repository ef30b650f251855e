"""What a loss is computed of, and the settings that travel with it."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _native


class Batch(NamedTuple):
    """Tensors of one type on one device, in the order in which the operations take them."""

    queries: Tensor
    keys: Tensor | None
    negatives: Tensor | None
    #: 1/τ and the sigmoid's bias, where they are learned.
    scale: Tensor | None
    bias: Tensor | None
    ids: Tensor | None = None
    labels: Tensor | None = None
    weights: Tensor | None = None
    guide_queries: Tensor | None = None
    guide_keys: Tensor | None = None
    guide_negatives: Tensor | None = None

    @property
    def guide(self) -> tuple[Tensor | None, ...]:
        return self[8:]


#: The number of tensors in a batch, and of those that may want a gradient, which come first.
TENSORS, LEAVES = len(Batch._fields), 5


@functools.lru_cache(maxsize=256)
def loss(**settings) -> _native.Loss:
    """The loss of settings by name, which are checked."""
    return _native.Loss(**settings)


@torch.compiler.assume_constant_result
def settings_text(**settings) -> str:
    """Settings by name, checked, as the one string that an operation of PyTorch's can be given."""
    return loss(**settings).settings


@functools.lru_cache(maxsize=256)
def loss_of(text: str) -> _native.Loss:
    """The loss of `settings_text`."""
    return _native.Loss.of(text)


@functools.lru_cache(maxsize=256)
def parsed(text: str) -> SimpleNamespace:
    """The settings of `settings_text` by name. An objective's own numbers are in `numbers`."""
    settings = json.loads(text)
    objective, numbers = settings.pop("objective"), {}
    if isinstance(objective, dict):
        ((objective, numbers),) = objective.items()
    return SimpleNamespace(**settings, objective=objective, numbers=numbers)


@functools.lru_cache(maxsize=256)
def summed(text: str) -> str:
    """The same settings, with the sum for the mean."""
    return json.dumps({**json.loads(text), "reduction": "sum"})


@functools.lru_cache(maxsize=256)
def of_prefixes(text: str) -> list[tuple[int, str]]:
    """The prefixes that a loss is over, and the settings of the loss over each; none for all features."""
    settings = json.loads(text)
    prefixes, factor = settings["matryoshka"], settings["factor"]
    one = lambda weight: json.dumps({**settings, "matryoshka": [], "factor": factor * weight})  # noqa: E731
    return [(prefix["dim"], one(prefix["weight"])) for prefix in prefixes]


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """What a loss of such embeddings is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def exact_numbers(device: torch.device) -> torch.dtype:
    """What single numbers are held in."""
    return torch.float32 if device.type == "mps" else torch.float64


def rows_of(form: str, queries: Tensor, keys: Tensor | None) -> int:
    """Rows that choose: n, or 2n where all views do."""
    return queries.shape[0] + (keys.shape[0] if form == "nt-xent" and keys is not None else 0)
