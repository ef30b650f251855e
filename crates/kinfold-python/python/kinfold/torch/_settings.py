"""What both ways of computing a loss need to know of it."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .. import _native

# The settings of a loss, in the order in which the operation has them.
NAMES = """form objective temperature cosine margin label_smoothing factor norm_floor in_batch within_views
    offset sigma positive_share concentration bias sum""".split()
OFFSET = NAMES.index("offset")


@functools.lru_cache(maxsize=256)
def native_loss(*settings) -> _native.Loss:
    """The settings, checked, as the engine has them."""
    return _native.Loss(**dict(zip(NAMES, settings)))


def computed_in(dtype: torch.dtype) -> torch.dtype:
    """What a loss of such embeddings is computed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def exact_numbers(device: torch.device) -> torch.dtype:
    """What single numbers are held in."""
    return torch.float32 if device.type == "mps" else torch.float64


def rows_of(form: str, queries: Tensor, keys: Tensor | None) -> int:
    """Rows that choose: n, or 2n where all views do."""
    return queries.shape[0] + (keys.shape[0] if form == "nt-xent" and keys is not None else 0)
