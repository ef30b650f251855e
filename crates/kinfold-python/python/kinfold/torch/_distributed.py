"""One batch over several processes.

Input: this process's rows. Output: the loss of all processes' rows together, the same number in each
of them, and gradients that are exact once DistributedDataParallel has averaged them. docs/python.md says
why they are.

Every process computes the losses of its own rows, against all columns. Where a row's loss is no matter of
its own (SupCon's labels, the weights of the weighted decoupled loss, a guide), every process computes the
whole and keeps the gradients of its own rows.
"""

from __future__ import annotations

from typing import Optional

import torch
import torch.distributed as dist
from torch import Tensor

from ._batch import Batch, computed_in
from ._operation import computed

Group = Optional[dist.ProcessGroup]


def world_size(group: Group = None) -> int:
    """Processes; 1 where there is no `torch.distributed`."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def first_row(x: Tensor, group: Group) -> int:
    """Where this process's rows begin among those of all."""
    (rows,) = _everywhere([x.shape[0]], x.device, group)
    return sum(rows[: dist.get_rank(group)])


def gathered(x: Tensor, group: Group) -> Tensor:
    """The rows of all processes, one's after the other's, without a gradient."""
    (rows,) = _everywhere([x.shape[0]], x.device, group)
    return _Gather.apply(x.detach(), rows, True, group)


def mean_of_all(total: Tensor, rows: int, group: Group) -> Tensor:
    """The mean over all processes' rows of what adds up to `total` over this one's."""
    (everywhere,) = _everywhere([rows], total.device, group)
    return _Mean.apply(total * (len(everywhere) / sum(everywhere)), group)


def _everywhere(numbers: list[int], device: torch.device, group: Group) -> list[tuple[int, ...]]:
    """Each of some numbers, of all processes."""
    here = torch.tensor(numbers, device=device)
    everywhere = [torch.empty_like(here) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everywhere, here, group)
    return list(zip(*torch.stack(everywhere).tolist()))


def contrastive(batch: Batch, settings: dict, check_finite: bool, reduction: str, group: Group) -> Tensor:
    """`_functional.contrastive` of all processes' batches, given this one's."""
    queries, keys, negatives, scale, bias, ids, labels, weights, *guide = batch
    form, objective = settings["form"], settings["objective"]
    if settings["offset"]:
        raise ValueError("with gather=True offsets are worked out here; leave `offset` at 0")
    if keys is not None and keys.shape[0] != queries.shape[0]:
        raise ValueError(f"keys have {keys.shape[0]} rows but queries have {queries.shape[0]}")
    shared = negatives is not None and negatives.dim() == 2
    sizes = _Sizes(queries, negatives if shared else None, group)
    if check_finite:
        _all_finite(batch, group)
    whole = labels is not None or objective == "decoupled-weighted" or guide[0] is not None
    whole = whole or settings["within_views"]
    if whole and negatives is not None and not shared:
        raise ValueError("negatives of each query have no meaning here with gather=True")
    of_own = whole and reduction != "none"
    rows = lambda x: None if x is None else sizes.gathered(x, of_own)  # noqa: E731
    others = lambda x: None if x is None else sizes.gathered(x, of_own, of_negatives=True)  # noqa: E731
    all_negatives = others(negatives) if shared else negatives
    all_ids = _ids(ids, queries.shape[0], rows, others)
    if whole:
        batch = Batch(rows(queries), rows(keys), all_negatives, scale, bias, all_ids, rows(labels),
                      sizes.weights(weights, form, keys), rows(guide[0]), rows(guide[1]), others(guide[2]))
        value = computed(batch, settings, False, reduction)
        return sizes.own_rows(value, form, keys) if reduction == "none" else value
    task = _Task(sizes, all_negatives, scale, bias, settings, reduction)
    losses = _own_rows(task, queries, keys, all_ids, weights, rows)
    if reduction == "none":
        return losses
    if reduction == "mean":
        losses = losses * (sizes.world / task.total(weights, 2 if form == "nt-xent" else 1))
    else:
        losses = losses * sizes.world
    return _Mean.apply(losses, group)


def _all_finite(batch: Batch, group: Group) -> None:
    """Refuses what is not finite in all processes alike: where one alone stopped, the others would wait for
    it."""
    given = [x for x in batch if x is not None and x.is_floating_point()]
    right = torch.stack([torch.isfinite(x).all() for x in given]).all()
    (everywhere,) = _everywhere([int(right)], batch.queries.device, group)
    if not all(everywhere):
        wrong = [rank for rank, right in enumerate(everywhere) if not right]
        raise ValueError(f"there is a NaN or an infinity in the batch of process {', '.join(map(str, wrong))}")


def _own_rows(task, queries, keys, ids, weights, rows) -> Tensor:
    """The losses of this process's rows: their sum, or where nothing is reduced each of them."""
    form, objective = task.settings["form"], task.settings["objective"]
    if form == "one-way" or objective == "sigmoid":
        return task.one_way(queries, rows(keys), ids, weights)
    all_queries, all_keys = rows(queries), rows(keys)
    if form == "both-ways":
        there = task.one_way(queries, all_keys, ids, weights)
        return 0.5 * (there + task.one_way(keys, all_queries, ids, weights))
    # Where all views choose, a row's own column has the id of its positive, and is left out with it.
    if ids is None:
        ids = torch.arange(all_keys.shape[0], device=queries.device)
    ids = torch.cat([ids, ids])
    of_queries, of_keys = (None, None) if weights is None else _halves(weights)
    there = task.one_way(queries, torch.cat([all_keys, all_queries]), ids, of_queries)
    back = task.one_way(keys, torch.cat([all_queries, all_keys]), ids, of_keys)
    return torch.cat([there, back]) if task.reduction == "none" else there + back


def _halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the queries and those of the keys; both empty where a process has no rows."""
    half = len(weights) // 2
    return weights[:half], weights[half:]


class _Task:
    """What all of a loss's parts have in common."""

    def __init__(self, sizes, negatives, scale, bias, settings, reduction: str):
        self.sizes, self.negatives, self.scale, self.bias = sizes, negatives, scale, bias
        self.reduction = reduction
        self.settings = {**settings, "offset": sizes.offset}

    def one_way(self, queries: Tensor, columns: Tensor, ids, weights) -> Tensor:
        if queries.shape[0] == 0 or (weights is not None and not weights.any()):
            # Nothing to compute here, but the others wait for what their columns are told, and
            # DistributedDataParallel for a gradient of everything.
            parts = (queries, columns, self.negatives, self.scale, self.bias)
            exact = computed_in(queries.dtype)
            nothing = sum(part.sum().to(exact) for part in parts if part is not None) * 0
            rows = queries.shape[0] if self.reduction == "none" else ()
            return nothing + queries.new_zeros(rows, dtype=exact)
        settings = {**self.settings, "form": "one-way"}
        batch = Batch(queries, columns, self.negatives, self.scale, self.bias, ids, weights=weights)
        # That all is finite has been seen to.
        return computed(batch, settings, False, "none" if self.reduction == "none" else "sum")

    def total(self, weights: Tensor | None, views: int) -> float:
        """What the rows of all processes count."""
        if weights is None:
            return float(views * sum(self.sizes.rows))
        weight = weights.sum()
        dist.all_reduce(weight, group=self.sizes.group)
        return weight.item()


def _ids(ids, n: int, rows, others):
    if ids is None:
        return None
    of_keys = rows(ids[:n])
    return of_keys if len(ids) == n else torch.cat([of_keys, others(ids[n:])])


class _Sizes:
    """How many rows each process has, and of shared negatives."""

    def __init__(self, queries: Tensor, negatives: Tensor | None, group: Group):
        self.group, self.world, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        here = [queries.shape[0], -1 if negatives is None else negatives.shape[0], queries.shape[1]]
        self.rows, self.negatives, dims = _everywhere(here, queries.device, group)
        if len(set(dims)) > 1:
            raise ValueError(f"embeddings have dimensions {list(dims)} in the processes, but must have one")
        if any(x < 0 for x in self.negatives) and any(x >= 0 for x in self.negatives):
            raise ValueError("some processes have shared negatives and some have none")
        self.offset = sum(self.rows[: self.rank])

    def gathered(self, x: Tensor, of_own: bool, of_negatives: bool = False) -> Tensor:
        return _Gather.apply(x, self.negatives if of_negatives else self.rows, of_own, self.group)

    def weights(self, weights: Tensor | None, form: str, keys) -> Tensor | None:
        """Row weights of all: queries first, where all views choose."""
        if weights is None:
            return None
        if form != "nt-xent" or keys is None:
            return self.gathered(weights, True)
        return torch.cat([self.gathered(half, True) for half in _halves(weights)])

    def own_rows(self, value: Tensor, form: str, keys) -> Tensor:
        views = value.chunk(2) if form == "nt-xent" and keys is not None else [value]
        here = slice(self.offset, self.offset + self.rows[self.rank])
        return torch.cat([view[here] for view in views])


class _Gather(torch.autograd.Function):
    """The rows of all processes, one's after the other's. Backwards, the sum of what all processes say of
    this one's rows; or, where all of them say the same of everything, what is said here, once for each."""

    @staticmethod
    def forward(ctx, x: Tensor, rows: tuple[int, ...], of_own: bool, group: Group) -> Tensor:
        ctx.rows, ctx.of_own, ctx.group = rows, of_own, group
        padded = x.new_zeros(max(rows), *x.shape[1:])
        padded[: x.shape[0]] = x
        everyone = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(everyone, padded, group)
        return torch.cat([part[:count] for part, count in zip(everyone, rows)])

    @staticmethod
    def backward(ctx, gradient: Tensor):
        rank = dist.get_rank(ctx.group)
        start = sum(ctx.rows[:rank])
        here = slice(start, start + ctx.rows[rank])
        if ctx.of_own:
            return gradient[here] * len(ctx.rows), None, None, None
        # Sums of halves would lose digits.
        total = gradient.to(torch.promote_types(gradient.dtype, torch.float32), copy=True).contiguous()
        dist.all_reduce(total, group=ctx.group)
        return total[here].to(gradient.dtype), None, None, None


class _Mean(torch.autograd.Function):
    """The mean over processes of a number; each goes on with its own part backwards."""

    @staticmethod
    def forward(ctx, x: Tensor, group: Group) -> Tensor:
        total = x.clone()
        dist.all_reduce(total, group=group)
        return total / dist.get_world_size(group)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None
