"""The losses in PyTorch's own operations, for devices that kinfold's engine does not run on.

Input: what the operation `kinfold::info_nce` is given. Output: the same as from the engine. A strip of
logits, so many rows × all candidates, is the largest thing that is held: never the n × n matrix.

1. the matrices that are compared (`_Problem`);
2. what a strip of rows chooses among, and the logits (`strips`);
3. sums over each row of a strip (`_terms`), and losses from these (`_rule`);
4. from slopes to gradients (`reduced`).
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor

from .. import _native
from . import _engine, _rule
from ._batch import Batch, computed_in, exact_numbers, loss_of, of_prefixes, parsed
from ._terms import Logits, Terms

# Logits that a strip may have, and rows.
LOGITS, ROWS = 1 << 24, 1024

# Places of the matrices that are compared. Where all views choose, both are one, the queries above the
# keys, in the queries' place.
QUERIES, KEYS, NEGATIVES = 0, 1, 2


def info_nce(*given):
    """Value and gradients; see `_operation`."""
    *tensors, settings, check_finite, unreduced, gradients = given
    batch, loss = Batch(*tensors), loss_of(settings)
    _engine.check(batch, loss)
    with torch.no_grad(), _whole_products(batch.queries.device.type):
        if check_finite and not _in_range(batch):
            _engine.compute(_on_cpu(batch), loss, True, unreduced=False, gradients=False)  # It says what is not.
        if prefixes := of_prefixes(settings):
            return _sum_of_prefixes(batch, prefixes, unreduced, gradients)
        problem = _Problem(batch, parsed(settings))
        return problem.unreduced_rows() if unreduced else problem.reduced(gradients)


def _sum_of_prefixes(batch: Batch, prefixes, unreduced: bool, gradients: bool):
    """The losses over all prefixes, one after the other."""
    total = None
    for dim, settings in prefixes:
        cut = [None if x is None else x[..., :dim] for x in batch[:3]]
        value, *of, numbers = info_nce(*cut, *batch[3:], settings, False, unreduced, gradients)
        if total is None:
            wholes = [x.new_zeros(g.shape) if x.numel() else x for x, g in zip(of, batch[:3])]
            total = [torch.zeros_like(value), *wholes, torch.zeros_like(numbers)]
        total[0] += value
        total[-1] += numbers
        for whole, x in zip(total[1:-1], of):
            if x.numel():
                whole[..., :dim] += x
    return tuple(total)


@contextlib.contextmanager
def _whole_products(device: str):
    """Products in all of their digits: in half of them, as under autocast or by TF32, it would be another
    loss."""
    before = [matmul.fp32_precision for matmul in _MATMULS]
    legacy = None if _MATMULS else torch.get_float32_matmul_precision()
    try:
        for matmul in _MATMULS:
            matmul.fp32_precision = "ieee"
        if legacy is not None:
            torch.set_float32_matmul_precision("highest")
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for matmul, precision in zip(_MATMULS, before):
            matmul.fp32_precision = precision
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)


# What says how precise products are; before PyTorch 2.9 there is one setting for all.
_MATMULS = [x for x in (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
            if hasattr(x, "fp32_precision")]


def _in_range(batch: Batch) -> bool:
    """Whether all numbers are such that there is a loss; the device is asked once."""
    matrices = (batch.queries, batch.keys, batch.negatives, *batch.guide, batch.bias)
    right = [torch.isfinite(x).all() for x in matrices if x is not None]
    if batch.weights is not None:
        right += [(torch.isfinite(batch.weights) & (batch.weights >= 0)).all(), batch.weights.any()]
    if batch.scale is not None:
        right.append((batch.scale > 0) & torch.isfinite(batch.scale))
    return bool(torch.stack(right).all())


def _on_cpu(batch: Batch) -> Batch:
    there = Batch(*(None if x is None else x.cpu() for x in batch))
    return there._replace(weights=None if there.weights is None else there.weights.double())


class _Problem:
    def __init__(self, batch: Batch, settings):
        self.settings, self.given = settings, batch[:3]
        self.learned = batch.scale, batch.bias
        queries, keys, negatives = self.given
        self.exact = computed_in(queries.dtype)
        self.scale = 1.0 / settings.temperature if batch.scale is None else batch.scale.to(self.exact)
        self.bias = settings.numbers.get("bias") if batch.bias is None else batch.bias.to(self.exact)
        self.pairs = n = queries.shape[0]
        self.per_query = negatives.shape[1] if negatives is not None and negatives.dim() == 3 else None
        self.floor = settings.norm_floor if settings.similarity == "cosine" else None
        self.lengths: list[Tensor | None] = [None, None, None]
        self.compared = [self._as_compared(which, x) for which, x in enumerate(self.given)]
        self.guide = [None if x is None else _unit(x.to(self.exact), 1e-12)[0] for x in batch.guide]
        self.ids = [None, None, None]
        if (ids := batch.ids) is not None:
            m, own = keys.shape[0], slice(settings.offset, settings.offset + n)
            self.ids = [ids[own], ids[:m], ids[m:] if len(ids) > m else None]
        self.labels = batch.labels
        self.positive_weights = None
        if settings.objective == "decoupled-weighted":
            own = self.compared[KEYS][settings.offset : settings.offset + n]
            pairs = (self.compared[QUERIES] * own).sum(1, True)
            self.positive_weights = 2 - n * torch.softmax(pairs / settings.numbers["sigma"], 0)
        if settings.form == "nt-xent" and keys is not None:
            self._stack()
        self.weights = self._weights(batch.weights)

    def _as_compared(self, which: int, x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        x = x.flatten(0, -2).to(self.exact)
        if self.floor is None:
            return x
        x, self.lengths[which] = _unit(x, self.floor)
        return x

    def _stack(self) -> None:
        """Queries and keys as one matrix, and what stands beside their rows, too."""
        self.compared = [torch.cat(self.compared[:2]), None, None]
        twice = lambda x: None if x is None else torch.cat([x, x])  # noqa: E731
        self.ids = [twice(self.ids[KEYS]), None, None]
        self.labels, self.positive_weights = twice(self.labels), twice(self.positive_weights)

    def _weights(self, weights: Tensor | None) -> Tensor:
        """What each row counts, `[rows, 1]`: its weight, divided by the sum of all for the mean."""
        rows = self.compared[QUERIES].shape[0]
        if weights is None:
            weights = self.compared[QUERIES].new_ones(rows)
        weights = weights.to(self.exact)[:, None]
        return weights if self.settings.reduction == "sum" else weights / weights.sum()

    # --- strips -------------------------------------------------------------------------------------

    def passes(self):
        """Which matrix's rows choose, from which matrix, and what share of the loss that is."""
        if self.settings.form == "nt-xent":
            return [(QUERIES, QUERIES, 1.0)]
        # Where every pair is on its own, both ways are one.
        if self.settings.form == "one-way" or self.settings.objective == "sigmoid":
            return [(QUERIES, KEYS, 1.0)]
        return [(QUERIES, KEYS, 0.5), (KEYS, QUERIES, 0.5)]

    def strips(self, chooser: int, target: int):
        """Each strip's first row and number of rows, its outcome, and what its columns are of."""
        blocks = self._blocks(chooser, target)
        columns = sum(block.columns for block in blocks)
        most = max(1, min(ROWS, LOGITS // max(columns, 1)))
        for start in range(0, self.compared[chooser].shape[0], most):
            rows = min(most, self.compared[chooser].shape[0] - start)
            yield start, rows, self._outcome(self._logits(blocks, start, rows), start, rows), blocks

    def _outcome(self, logits: Logits, start: int, rows: int):
        """The terms of a strip, its rows' outcome, and which of them have no loss."""
        weights = self.positive_weights
        weights = None if weights is None else weights[start : start + rows]
        terms = Terms(logits, self.labels is not None, self.settings.objective == "sigmoid")
        numbers = _rule.Numbers(self.scale, self.bias, weights)
        return terms, *_rule.row_outcome(self.settings, terms, numbers)

    def _blocks(self, chooser: int, target: int):
        all_of = lambda left, right: _Block(self, left, right)  # noqa: E731
        own = lambda: _Block(self, chooser, KEYS, 1, self.settings.offset)  # noqa: E731
        blocks = [all_of(chooser, target) if self.settings.in_batch else own()]
        if self.compared[NEGATIVES] is not None:
            blocks.append(_Block(self, QUERIES, NEGATIVES, self.per_query))
        if self.settings.within_views:
            blocks += [all_of(QUERIES, QUERIES), all_of(KEYS, KEYS)]
        # Negatives of no rows have no columns.
        return [block for block in blocks if block.columns]

    def _logits(self, blocks, start: int, rows: int):
        closest = self._closest(start, rows)
        similarities, positives, left_out = [], [], []
        for i, block in enumerate(blocks):
            similarity = block.similarity(start, rows)
            # The first block is the one that positives are in.
            positive = torch.zeros_like(similarity, dtype=torch.bool)
            if i == 0:
                positive = self._positive(block, start, rows)
            if margin := self.settings.margin:
                similarity = similarity - margin * positive.to(self.exact)
            out = positive
            if closest is not None:
                left, right = self.guide[block.left][start : start + rows], self.guide[block.right]
                out = out | (left @ right.T > closest + _native.GUIDE_MARGIN)
            if block.each is None and block.left == block.right:
                out = out | _same(_count(start, rows, out), _count(0, block.columns, out))
            if block.each is None and self.ids[block.right] is not None:
                out = out | _same(self.ids[block.left][start : start + rows], self.ids[block.right])
            similarities.append(similarity), positives.append(positive), left_out.append(out)
        return Logits(
            s=torch.cat(similarities, 1) * self.scale,
            positive=torch.cat(positives, 1),
            not_negative=torch.cat(left_out, 1),
        )

    def _positive(self, block, start: int, rows: int) -> Tensor:
        """Which of the first block's columns are positives of the rows from `start` on."""
        like = self.compared[QUERIES]
        if block.each is not None:
            return torch.ones(rows, block.columns, dtype=torch.bool, device=like.device)
        row, column = _count(start, rows, like), _count(0, block.columns, like)
        if self.labels is not None:
            same = _same(self.labels[start : start + rows], self.labels)
            return same & ~_same(row, column)
        if self.settings.form == "nt-xent":
            return _same((row + self.pairs) % (2 * self.pairs), column)
        return _same(row + self.settings.offset, column)

    def _closest(self, start: int, rows: int) -> Tensor | None:
        """What the guide finds of the positives of the rows from `start` on, `[rows, 1]`."""
        queries, keys, _ = self.guide
        if queries is None:
            return None
        own = slice(start, start + rows)
        return (queries[own] * keys[own]).sum(1, True)

    # --- value and gradients ------------------------------------------------------------------------

    def unreduced_rows(self):
        value = 0
        for chooser, target, share in self.passes():
            strips = self.strips(chooser, target)
            rows = [outcome.value for _, _, (_, outcome, _), _ in strips]
            value = value + self.settings.factor * share * torch.cat(rows)[:, 0]
        return value, *self._nothing(), self._number([])

    def reduced(self, gradients: bool):
        value = of_log_scale = of_bias = self.compared[QUERIES].new_zeros(())
        of = [None if x is None else torch.zeros_like(x) for x in self.compared]
        for chooser, target, share in self.passes():
            for start, rows, (terms, outcome, empty), blocks in self.strips(chooser, target):
                weights = self.weights[start : start + rows] * (self.settings.factor * share)
                value = value + (outcome.value * weights).sum()
                if not gradients:
                    continue
                slopes = terms.slopes(outcome).masked_fill(empty, 0)
                # Where the slopes balance, the logits' common part, the reference, has no say.
                log_scale = (slopes * terms.u).sum(1, True) + outcome.reference * terms.reference
                of_log_scale = of_log_scale + ((log_scale + outcome.log_scale).masked_fill(empty, 0) * weights).sum()
                slopes = slopes * weights
                of_bias = of_bias + slopes.sum()
                slopes = slopes * self.scale
                for block, part in zip(blocks, slopes.split([b.columns for b in blocks], 1)):
                    block.spread(of, start, rows, part)
        if not gradients:
            return value, *self._nothing(), self._number([])
        scale, bias = self.learned
        of_scale = of_log_scale / self.scale if scale is not None else torch.zeros_like(value)
        of_bias = of_bias if bias is not None else torch.zeros_like(value)
        return value, *self._through_comparison(of), self._number([of_scale, of_bias])

    def _through_comparison(self, of):
        """Gradients by rows as they are compared become gradients by the rows themselves."""
        if self.compared[KEYS] is None and self.given[KEYS] is not None:
            n = self.pairs
            stacked, of = self.compared[QUERIES], [of[QUERIES][:n], of[QUERIES][n:], None]
            self.compared = [stacked[:n], stacked[n:], None]
        out = []
        for given, unit, length, gradient in zip(self.given, self.compared, self.lengths, of):
            if given is None:
                out.append(self.compared[QUERIES].new_empty(0))
                continue
            if length is not None:
                along = (gradient * unit).sum(1, True).where(length >= self.floor, 0)
                gradient = (gradient - along * unit) / length.clamp_min(self.floor)
            out.append(gradient.reshape(given.shape).contiguous())
        return out

    def _nothing(self):
        return [self.compared[QUERIES].new_empty(0) for _ in range(3)]

    def _number(self, numbers):
        like = self.compared[QUERIES]
        if not numbers:
            return like.new_empty(0, dtype=exact_numbers(like.device))
        return torch.stack(numbers).to(exact_numbers(like.device))


class _Block:
    """Columns of a strip: rows of one matrix against all rows of another, or each against its own."""

    def __init__(self, problem, left: int, right: int, each: int | None = None, first: int = 0):
        self.left, self.right, self.each, self.first = left, right, each, first
        self.of_left, self.of_right = problem.compared[left], problem.compared[right]
        self.columns = self.of_right.shape[0] if each is None else each

    def _own(self, start: int, rows: int) -> slice:
        return slice(self.first + start * self.each, self.first + (start + rows) * self.each)

    def similarity(self, start: int, rows: int) -> Tensor:
        left = self.of_left[start : start + rows]
        if self.each is None:
            return left @ self.of_right.T
        own = self.of_right[self._own(start, rows)].reshape(rows, self.each, -1)
        return (own @ left[:, :, None])[:, :, 0]

    def spread(self, of, start: int, rows: int, slopes: Tensor) -> None:
        """Adds what slopes `[rows, columns]` are to the two matrices that are compared."""
        left = self.of_left[start : start + rows]
        if self.each is None:
            of[self.left][start : start + rows] += slopes @ self.of_right
            of[self.right] += slopes.T @ left
            return
        own = self._own(start, rows)
        right = self.of_right[own].reshape(rows, self.each, -1)
        of[self.left][start : start + rows] += (slopes[:, None, :] @ right)[:, 0]
        of[self.right][own] += (slopes[:, :, None] @ left[:, None, :]).reshape(rows * self.each, -1)


def _unit(x: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Rows divided by their lengths, and these. Squares of large or small numbers stay in range."""
    largest = x.abs().amax(1, True).clamp_min(torch.finfo(x.dtype).tiny)
    length = (x / largest).square().sum(1, True).sqrt() * largest
    return x / length.clamp_min(floor), length


def _count(start: int, count: int, like: Tensor) -> Tensor:
    return torch.arange(start, start + count, device=like.device)


def _same(row: Tensor, column: Tensor) -> Tensor:
    """Where rows and columns have the same integer."""
    return row[:, None] == column
