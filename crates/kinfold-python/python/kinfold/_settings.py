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


class Fixed(TypedDict, total=False):
    """The settings that are the same for arrays and tensors: nobody learns them."""

    form: Form
    objective: Objective
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
    matryoshka_dims: Sequence[int]
    matryoshka_weights: Sequence[float] | None


class Settings(Fixed, total=False):
    """What a loss is. `kinfold.torch.contrastive` says what each setting means."""

    temperature: float
    reduction: Reduction
    bias: float


NAMES = tuple(Settings.__annotations__)
