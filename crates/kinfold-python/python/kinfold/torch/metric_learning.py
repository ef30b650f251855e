"""Losses with the names and arguments of pytorch-metric-learning: one matrix of embeddings, and labels.

Where a batch is compared with all of itself, kinfold's engine computes, and without the matrix. Where pairs
are given, by a miner or by `CrossBatchMemory`, they are what is computed, and a list of their similarities is
the largest thing that is held.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._functional import contrastive
from ._module import Loss

#: Anchors and their positives, anchors and their negatives, by row; or triplets.
Indices = tuple[Tensor, ...]

# Pairs whose embeddings are looked at together.
_PAIRS = 1 << 16


class _OfLabels(Loss):
    """A loss of embeddings with labels.

    Args:
        temperature: τ.
        distance: pytorch-metric-learning's `CosineSimilarity` or `DotProductSimilarity`; None is the former.
        reducer: one of pytorch-metric-learning's reducers, which is given each pair's or each row's loss.
            None is the mean over pairs, or over the rows that have something to choose.
    """

    def __init__(
        self, temperature: float | Tensor, distance: Any | None, reducer: Callable[..., Tensor] | None
    ) -> None:
        super().__init__(temperature, normalize=_normalize(distance))
        self.distance = distance
        self.reducer = reducer

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Indices | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """`embeddings` `[n, d]` and `labels` `[n]`, and what they are compared with, `ref_emb` `[m, d]` and
        `ref_labels` `[m]`, in place of themselves. `indices_tuple` are the pairs or triplets that count, as
        miners give them; None for all. The loss has the type of the embeddings."""
        _check(embeddings, labels, "embeddings", "labels")
        if labels is None and indices_tuple is None:
            raise ValueError("labels are needed, or indices_tuple in their place")
        if ref_emb is not None:
            _check(ref_emb, ref_labels, "ref_emb", "ref_labels")
        labels, ref_labels = (None if x is None else x.to(embeddings.device) for x in (labels, ref_labels))
        if indices_tuple is None and ref_emb is None:
            loss = self._of_batch(embeddings, labels)
        else:
            others = embeddings if ref_emb is None else ref_emb
            if indices_tuple is None:
                indices_tuple = _all_pairs(labels, ref_labels)
            loss = self._of_pairs(embeddings, others, _pairs(indices_tuple), labels)
        return loss.to(embeddings.dtype) if isinstance(loss, Tensor) else loss

    def _reduced(self, losses: Tensor, indices: Any, kind: str, embeddings: Tensor, labels: Tensor | None) -> Any:
        losses = losses.to(embeddings.dtype)
        told = {"loss": {"losses": losses, "indices": indices, "reduction_type": kind}}
        return self.reducer(told, embeddings, labels)

    def _nothing(self, embeddings: Tensor, labels: Tensor | None) -> Any:
        if self.reducer is None:
            return embeddings.sum() * 0
        told = {"loss": {"losses": 0, "indices": None, "reduction_type": "already_reduced"}}
        return self.reducer(told, embeddings, labels)

    def _similarities(self, embeddings: Tensor, others: Tensor, left: Tensor, right: Tensor) -> Tensor:
        exact = torch.promote_types(embeddings.dtype, torch.float32)
        a, b = embeddings.to(exact), others.to(exact)
        if self.settings["normalize"]:
            a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
        return _Pairwise.apply(a, b, left, right) / self.temperature


class NTXentLoss(_OfLabels):
    __doc__ = "NT-Xent of every pair of one label, against what is of others.\n" + _OfLabels.__doc__.split("\n", 1)[1]

    def __init__(
        self,
        temperature: float | Tensor = 0.07,
        distance: Any | None = None,
        reducer: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__(temperature, distance, reducer)

    def _of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        # Where each label has one pair, as two views have, half of the products are enough. A compiled graph
        # has to know how many pairs there are.
        if self.reducer is None and (torch.compiler.is_compiling() or _are_twins(labels)):
            first, second = twins(labels).unbind()
            return contrastive(
                embeddings[first], embeddings[second], form="nt-xent", temperature=self.temperature, **self.settings
            )
        anchors, positives = _positive_pairs(labels)
        if not len(anchors) or not (labels != labels[0]).any():
            return self._nothing(embeddings, labels)
        losses = contrastive(
            embeddings[anchors],
            embeddings[positives],
            embeddings,
            in_batch_negatives=False,
            ids=torch.cat([labels[anchors], labels]),
            temperature=self.temperature,
            reduction="mean" if self.reducer is None else "none",
            **self.settings,
        )
        if self.reducer is None:
            return losses
        return self._reduced(losses, (anchors, positives), "pos_pair", embeddings, labels)

    def _of_pairs(self, embeddings: Tensor, others: Tensor, pairs: Indices, labels: Tensor | None) -> Tensor:
        anchors, positives, of_negatives, negatives = pairs
        if not len(anchors) or not len(of_negatives):
            return self._nothing(embeddings, labels)
        of_pairs = self._similarities(embeddings, others, anchors, positives)
        log_negatives = _log_sum_exp(
            self._similarities(embeddings, others, of_negatives, negatives), of_negatives, len(embeddings)
        )
        losses = F.softplus(log_negatives[anchors] - of_pairs)
        if self.reducer is None:
            return losses.mean()
        return self._reduced(losses, (anchors, positives), "pos_pair", embeddings, labels)


class SupConLoss(_OfLabels):
    __doc__ = "SupCon, the mean over positives outside the logarithm.\n" + _OfLabels.__doc__.split("\n", 1)[1]

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        distance: Any | None = None,
        reducer: Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__(temperature, distance, reducer)

    def _of_batch(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        chooses = _has_twin(labels)
        # Where no row has a positive, or all have one label, there is nothing to learn.
        some = (chooses.any() & (labels != labels[:1]).any()).to(embeddings.dtype)
        if self.reducer is not None and not some:
            return self._nothing(embeddings, labels)
        losses = contrastive(
            embeddings,
            labels=labels,
            form="nt-xent",
            objective="sup-con-outside",
            temperature=self.temperature,
            weights=torch.where(chooses.any(), chooses, True).to(embeddings.dtype),
            reduction="mean" if self.reducer is None else "none",
            **self.settings,
        )
        if self.reducer is None:
            return losses * some
        return self._reduced(losses, torch.arange(len(labels)), "element", embeddings, labels)

    def _of_pairs(self, embeddings: Tensor, others: Tensor, pairs: Indices, labels: Tensor | None) -> Tensor:
        anchors, positives, of_negatives, negatives = pairs
        if not len(anchors) or not len(of_negatives):
            return self._nothing(embeddings, labels)
        # Triplets name a pair more than once.
        anchors, positives = torch.unique(torch.stack([anchors, positives]), dim=1)
        of_negatives, negatives = torch.unique(torch.stack([of_negatives, negatives]), dim=1)
        n = len(embeddings)
        of_positives = self._similarities(embeddings, others, anchors, positives)
        log_positives = _log_sum_exp(of_positives, anchors, n)
        log_negatives = _log_sum_exp(
            self._similarities(embeddings, others, of_negatives, negatives), of_negatives, n
        )
        counts = torch.bincount(anchors, minlength=n)
        chooses = (counts > 1) | (counts > 0) & (torch.bincount(of_negatives, minlength=n) > 0)
        mean = of_positives.new_zeros(n).index_add(0, anchors, of_positives) / counts.clamp_min(1)
        losses = F.softplus(log_negatives - log_positives) + log_positives - mean
        losses = torch.where(counts > 0, losses, torch.zeros_like(losses))
        if self.reducer is None:
            return (losses * chooses).sum() / chooses.sum().clamp_min(1)
        return self._reduced(losses, torch.arange(n), "element", embeddings, labels)


# --- pairs ------------------------------------------------------------------------------------------


class _Pairwise(torch.autograd.Function):
    """Products of rows of two matrices, so many pairs at a time that no copy of all rows is held."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(a, b, left, right)
        parts = zip(left.split(_PAIRS), right.split(_PAIRS))
        return torch.cat([(a[i] * b[j]).sum(1) for i, j in parts])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, upstream: Tensor):
        a, b, left, right = ctx.saved_tensors
        of_a, of_b = torch.zeros_like(a), torch.zeros_like(b)
        for i, j, g in zip(left.split(_PAIRS), right.split(_PAIRS), upstream[:, None].split(_PAIRS)):
            of_a.index_add_(0, i, g * b[j])
            of_b.index_add_(0, j, g * a[i])
        return of_a, of_b, None, None


def _log_sum_exp(x: Tensor, of: Tensor, rows: int) -> Tensor:
    """`ln Σ eˣ` over what is of each row; of nothing, a number far below all others."""
    nothing = torch.full([rows], -1e30, dtype=x.dtype, device=x.device)
    largest = nothing.scatter_reduce(0, of, x.detach(), "amax")
    sums = torch.zeros_like(nothing).index_add(0, of, (x - largest[of]).exp())
    return torch.where(sums > 0, largest + torch.where(sums > 0, sums, 1).log(), nothing)


def _positive_pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs of rows of one label, without a look at those of two."""
    ordered, order = labels.sort(stable=True)
    starts = torch.searchsorted(ordered, ordered)
    counts = torch.searchsorted(ordered, ordered, right=True) - starts
    anchors = torch.arange(len(labels), device=labels.device).repeat_interleave(counts)
    before = counts.cumsum(0) - counts
    positives = starts[anchors] + torch.arange(len(anchors), device=labels.device) - before[anchors]
    apart = anchors != positives
    return order[anchors[apart]], order[positives[apart]]


def _all_pairs(labels: Tensor, ref_labels: Tensor) -> Indices:
    """All pairs with other rows: as many numbers as rows times others."""
    same = labels[:, None] == ref_labels
    return *same.nonzero().unbind(1), *(~same).nonzero().unbind(1)


def _pairs(indices: Indices) -> Indices:
    """Pairs, of pairs or of triplets."""
    if not isinstance(indices, tuple) or len(indices) not in (3, 4):
        raise ValueError("indices_tuple must be four tensors, of pairs, or three, of triplets")
    if len(indices) == 4:
        return indices
    anchors, positives, negatives = indices
    return anchors, positives, anchors, negatives


def _are_twins(labels: Tensor) -> bool:
    """Whether each label occurs twice, and there are two."""
    counts = torch.unique(labels, return_counts=True)[1]
    return len(counts) > 1 and bool((counts == 2).all())


def _has_twin(labels: Tensor) -> Tensor:
    """Which rows are not alone with their label."""
    ordered, order = labels.sort()
    same = ordered[1:] == ordered[:-1]
    none = same.new_zeros(1)
    beside = torch.cat([none, same]) | torch.cat([same, none])
    return torch.empty_like(beside).scatter(0, order, beside)


@torch.library.custom_op("kinfold::twins", mutates_args=())
def twins(labels: Tensor) -> Tensor:
    """The two rows of each label, `[2, labels / 2]`: an operation of its own, so that what a compiled graph
    cannot ask of its numbers is asked."""
    if not _are_twins(labels):
        raise ValueError("in a compiled graph each label must occur twice; more pairs need an eager call")
    return labels.argsort(stable=True).view(-1, 2).T.contiguous()


@twins.register_fake
def _(labels: Tensor) -> Tensor:
    return labels.new_empty([2, labels.shape[0] // 2], dtype=torch.int64)


def _normalize(distance: Any | None) -> bool:
    """Whether a distance of pytorch-metric-learning's is the cosine, or else the dot product as it is."""
    if distance is None:
        return True
    name = type(distance).__name__
    if name not in ("CosineSimilarity", "DotProductSimilarity") or getattr(distance, "power", 1) != 1:
        raise ValueError(f"distance is {name}, but must be CosineSimilarity or DotProductSimilarity, of power 1")
    return bool(getattr(distance, "normalize_embeddings", True))


def _check(embeddings: Any, labels: Any, of_embeddings: str, of_labels: str) -> None:
    for name, x in ((of_embeddings, embeddings), (of_labels, labels)):
        if not isinstance(x, Tensor) and not (x is None and name != of_embeddings):
            raise TypeError(f"{name} must be a torch.Tensor, but are of type {type(x).__name__}")
    if embeddings.dim() != 2 or labels is not None and labels.shape != embeddings.shape[:1]:
        shape = None if labels is None else list(labels.shape)
        raise ValueError(
            f"{of_labels} have shape {shape} and {of_embeddings} {list(embeddings.shape)}, but must be [n] and [n, d]"
        )
