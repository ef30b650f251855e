"""Losses with the names and arguments of pytorch-metric-learning: one matrix of embeddings, and labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ._functional import contrastive


class NTXentLoss(nn.Module):
    """NT-Xent for two embeddings of each label, which is where pytorch-metric-learning's is that loss.

    Args:
        temperature: τ.
    """

    def __init__(self, temperature=0.07):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """`embeddings` `[2n, d]`, `labels` `[2n]`, each of which occurs twice."""
        counts = torch.unique(_labels(embeddings, labels), return_counts=True)[1]
        if (counts != 2).any():
            raise ValueError(
                f"labels occur {sorted(set(counts.tolist()))} times, but each must occur twice; with more, "
                "pytorch-metric-learning's loss is another, and SupConLoss is what is made for labels"
            )
        first, second = labels.argsort(stable=True).view(-1, 2).unbind(1)
        return contrastive(embeddings[first], embeddings[second], form="nt-xent", temperature=self.temperature)


class SupConLoss(nn.Module):
    """SupCon by the cosine, the mean over the rows that have a positive.

    Args:
        temperature: τ.
    """

    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """`embeddings` `[n, d]`, `labels` `[n]`."""
        _, of, counts = torch.unique(_labels(embeddings, labels), return_inverse=True, return_counts=True)
        weights = (counts > 1)[of]
        if not weights.any():
            return embeddings.sum() * 0
        return contrastive(
            embeddings,
            labels=labels,
            form="nt-xent",
            objective="sup-con-outside",
            temperature=self.temperature,
            weights=weights.to(embeddings.dtype),
        )


def _labels(embeddings, labels) -> Tensor:
    for name, x in (("embeddings", embeddings), ("labels", labels)):
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, but are of type {type(x).__name__}")
    if embeddings.dim() != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels have shape {list(labels.shape)} and embeddings {list(embeddings.shape)}, but must be "
            "[n] and [n, d]"
        )
    return labels
