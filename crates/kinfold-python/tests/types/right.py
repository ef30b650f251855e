"""What a user writes, under the strictest settings of type checkers."""

import torch
from torch import Tensor, nn

import kinfold.numpy as knp
from kinfold.torch import (
    CachedMultipleNegativesRankingLoss,
    ClipLoss,
    DCLLoss,
    GISTEmbedLoss,
    InfoNCE,
    MultipleNegativesRankingLoss,
    NTXentLoss,
    SupConLoss,
    contrastive,
    info_nce,
    metric_learning,
)


def step(encoder: nn.Module, criterion: InfoNCE, x: Tensor, y: Tensor) -> Tensor:
    return criterion(encoder(x), encoder(y))


def losses(a: Tensor, b: Tensor, labels: Tensor) -> list[Tensor]:
    return [
        info_nce(a, b, temperature=0.1, form="both-ways", ids=labels),
        info_nce(a, b, temperature=torch.tensor(0.1), reduction="none"),
        contrastive(a, b, objective="debiased", positive_share=0.1, check_finite=False),
        NTXentLoss(0.5, memory_bank_size=(64, 8))(a, b),
        DCLLoss(weight_fn=lambda x, y: (x - y).square().sum(1))(a, b),
        SupConLoss()(torch.stack([a, b], 1), labels),
        metric_learning.SupConLoss()(a, labels),
        metric_learning.NTXentLoss(0.1)(a, labels),
    ]


def models(model: nn.Module) -> list[nn.Module]:
    return [
        MultipleNegativesRankingLoss(model),
        CachedMultipleNegativesRankingLoss(model, mini_batch_size=4),
        GISTEmbedLoss(model, model),
        ClipLoss(world_size=1),
    ]


def arrays() -> float:
    import numpy

    x = numpy.ones((4, 3), dtype=numpy.float32)
    loss, gradients = knp.value_and_gradients(x, x, temperature=0.2, form="nt-xent")
    assert gradients.queries.shape == (4, 3)
    return loss + knp.value(x, x) + float(knp.row_losses(x, x).sum())
