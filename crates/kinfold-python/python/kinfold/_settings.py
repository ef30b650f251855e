"""The settings of a loss, by name: the same for `kinfold.torch` and `kinfold.numpy`.

`_native.Loss` checks them and has the defaults.
"""

from __future__ import annotations

from typing import TypedDict


class Settings(TypedDict, total=False):
    """What a loss is. `kinfold.torch.contrastive` says what each setting means."""

    form: str
    objective: str
    temperature: float
    reduction: str
    normalize: bool
    margin: float
    label_smoothing: float
    factor: float
    norm_floor: float
    in_batch_negatives: bool
    within_views: bool
    offset: int
    sigma: float
    positive_share: float
    concentration: float
    q: float
    lam: float
    bias: float


NAMES = tuple(Settings.__annotations__)
