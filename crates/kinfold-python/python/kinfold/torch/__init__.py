"""The losses for PyTorch: exact, differentiable, and without the n × n matrix.

    from kinfold.torch import info_nce, InfoNCE, NTXentLoss, ClipLoss

    loss = info_nce(out1, out2, temperature=0.1)

Functions are `contrastive`, the whole family, and `info_nce`. Modules have the names and arguments of the
libraries that they may replace. On the CPU kinfold's engine computes; on every other device the same is
done in strips of PyTorch's operations.
"""

from . import metric_learning
from ._functional import contrastive, info_nce
from ._modules import (
    ClipLoss,
    DCLLoss,
    DCLWLoss,
    DebiasedLoss,
    HardNegativesLoss,
    InfoNCE,
    NTXentLoss,
    SigLipLoss,
    SupConLoss,
)
from ._sentence_transformers import (
    CachedMultipleNegativesRankingLoss,
    GISTEmbedLoss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)

__all__ = [
    "CachedMultipleNegativesRankingLoss",
    "ClipLoss",
    "DCLLoss",
    "DCLWLoss",
    "DebiasedLoss",
    "GISTEmbedLoss",
    "HardNegativesLoss",
    "InfoNCE",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "NTXentLoss",
    "SigLipLoss",
    "SupConLoss",
    "contrastive",
    "info_nce",
    "metric_learning",
]
