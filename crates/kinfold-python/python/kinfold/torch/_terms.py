"""Sums over the logits of each row of a strip: what the row rule is applied to.

Input: a strip's logits, `[rows, candidates]`, and which of them are positives and negatives. Output: sums of
exponentials and counts, `[rows, 1]` each; and from a loss's derivatives by them, those by the logits. Logits
are counted from a reference of each row, and sums of exponentials are held as their logarithms: nothing
overflows, and a small loss keeps its digits.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

# The logarithm of an empty sum: far below all others, but finite, so that it can be subtracted.
_NOTHING = -1e30


class Logits(NamedTuple):
    """The candidates of a strip of rows, `[rows, candidates]` each."""

    s: Tensor
    positive: Tensor
    #: Positives, and what is no candidate at all.
    not_negative: Tensor


@dataclass
class Outcome:
    """A loss of each row, and its derivatives by the terms that it is made of; `[rows, 1]` each."""

    value: Tensor
    log_positives: Tensor | float = 0.0
    #: By `log_negatives(power)`, for each power that was asked for.
    log_negatives: dict[float, Tensor] = field(default_factory=dict)
    spread: Tensor | float = 0.0
    #: By the sum of the positives' logits, and of the negatives'.
    sum_positives: Tensor | float = 0.0
    sum_negatives: Tensor | float = 0.0
    #: By each negative's logit, `[rows, candidates]`, where that is no sum of the above.
    each_negative: Tensor | None = None
    reference: Tensor | float = 0.0
    #: By log(1/τ), the logits held fixed.
    log_scale: Tensor | float = 0.0


class Terms:
    """The logits of a strip, counted from `reference`.

    That is the logit of the row's positive, the largest one where a row may have `several`, or 0.
    """

    def __init__(self, logits: Logits, several: bool, from_zero: bool):
        s, self._positive, self._not_negative = logits
        self._several = several
        #: |P| and N, the numbers of positives and of negatives.
        self.positives = self._positive.sum(1, True).to(s.dtype)
        self.negatives = (~self._not_negative).sum(1, True).to(s.dtype)
        if several:
            largest = s.masked_fill(~self._positive, -math.inf).amax(1, True)
            self.reference = largest.masked_fill(self.positives < 0.5, 0)
        elif from_zero:
            self.reference = torch.zeros_like(self.positives)
        else:
            self.reference = s.masked_fill(~self._positive, 0).sum(1, True)
        self.u = s - self.reference
        # The exponentials of what was asked for, and their sums.
        self._of_positives = None
        self._of_negatives: dict[float, tuple[Tensor, Tensor]] = {}

    @functools.cached_property
    def log_positives(self) -> Tensor:
        """`ln Σ e^u` over the positives."""
        if not self._several:
            return self.sum_positives
        log_sum, *self._of_positives = _log_sum_exp(self.u, ~self._positive)
        return log_sum

    def log_negatives(self, power: float = 1.0) -> Tensor:
        """`ln Σ e^(power · u)` over the negatives."""
        log_sum, *self._of_negatives[power] = _log_sum_exp(self.u * power, self._not_negative)
        return log_sum

    def spread(self) -> Tensor | float:
        """`ln Σ e^u − mean u` over the positives; 0 with one positive a row."""
        if not self._several:
            return 0.0
        return self.log_positives - self.sum_positives / self.positives.clamp_min(1)

    @functools.cached_property
    def sum_positives(self) -> Tensor:
        """`Σ u` over the positives."""
        return self.u.masked_fill(~self._positive, 0).sum(1, True)

    def sum_negatives(self, x: Tensor) -> Tensor:
        """`Σ x` over the negatives, `x` being `[rows, candidates]`."""
        return x.masked_fill(self._not_negative, 0).sum(1, True)

    def slopes(self, by: Outcome) -> Tensor:
        """The derivatives of the rows' losses by their logits, `[rows, candidates]`."""
        of_positive = by.log_positives + by.sum_positives
        if self._several:
            e, total = self._of_positives
            # A row's only positive has no spread: its part of the sum is all of it, to the bit.
            share = 1 / self.positives.clamp_min(1)
            part = e / total
            of_positive = by.log_positives * part + by.spread * (part - share) + by.sum_positives
        of_negative = by.sum_negatives if by.each_negative is None else by.each_negative
        for power, slope in by.log_negatives.items():
            e, total = self._of_negatives[power]
            of_negative = of_negative + e * (slope * power / total)
        return torch.where(self._positive, of_positive, of_negative.masked_fill(self._not_negative, 0))


def _log_sum_exp(x: Tensor, left_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ln Σ eˣ` over columns that are not left out; and each one's exponential and their sum, by one
    factor."""
    x = x.masked_fill(left_out, -math.inf)
    largest = x.amax(1, True).clamp_min(_NOTHING)
    e = (x - largest).exp()
    # The largest is 1, so only an empty sum is below the bound.
    total = e.sum(1, True).clamp_min(0.5)
    return largest + total.log(), e, total
