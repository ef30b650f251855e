"""The settings of a loss, by name: the same for `kinfold.torch` and `kinfold.numpy`.

`_native.Loss` checks them and has the defaults.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Form = Literal["one-way", "both-ways", "nt-xent"]
Objective = Literal[
    "softmax",
    "decoupled",
    "decoupled-weighted",
    "debiased",
    "hard-negatives",
    "sup-con-outside",
    "sup-con-inside",
    "rince",
    "sigmoid",
]
Reduction = Literal["mean", "sum"]


class Settings(TypedDict, total=False):
    """What a loss is. `kinfold.torch.contrastive` says what each setting means."""

    form: Form
    objective: Objective
    temperature: float
    reduction: Reduction
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
    matryoshka_dims: Sequence[int]
    matryoshka_weights: Sequence[float] | None


NAMES = tuple(Settings.__annotations__)
