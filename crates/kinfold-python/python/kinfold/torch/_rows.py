"""From a strip's logits to its losses and their slopes.

Comes in: logits, `[rows, candidates]`, and which are positives and negatives. Goes out: each row's loss,
and its derivatives with respect to each logit, to log(1/τ) and to the bias. The formulas are those of
the oracle, `crates/kinfold/src/loss/reference.rs`, and so are the letters. Logits are counted from the
positive's (the largest one's, where there are several), and sums of exponentials are held as their
logarithms: nothing overflows, and a small loss keeps its digits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# The logarithm of a sum of nothing: far below all others, but finite, so that it can be subtracted.
_NOTHING = -1e30


class Logits(NamedTuple):
    s: Tensor
    positive: Tensor
    # Positives, and what is no candidate at all.
    not_negative: Tensor
    # What the positive counts in the weighted decoupled loss, `[rows, 1]`.
    positive_weight: Tensor | None


class Losses(NamedTuple):
    # `[rows, 1]`, and the slopes `[rows, candidates]`.
    value: Tensor
    slopes: Tensor
    log_scale: Tensor
    bias: Tensor


class _Raw(NamedTuple):
    """Before rows without a loss are taken out. Slopes at positives, and at negatives; elsewhere neither
    is looked at."""

    value: Tensor
    of_positive: Tensor | float
    of_negative: Tensor
    # What the slopes add up to, where that is not 0, `[rows, 1]`.
    total: Tensor | None = None
    # The derivative with respect to log(1/τ) where logits are held fixed.
    explicit: Tensor | None = None


def losses(problem, logits: Logits) -> Losses:
    x = _Counted(problem, logits)
    raw = x.by_objective()
    slopes = torch.where(logits.positive, raw.of_positive, raw.of_negative.masked_fill(logits.not_negative, 0))
    # A row that has nothing to choose, or nothing to choose from, has no loss.
    without = x.positives < 0.5
    if problem.objective in ("decoupled", "decoupled-weighted", "debiased", "hard-negatives"):
        without = without | (x.negatives < 0.5)
    slopes = slopes.masked_fill(without, 0)
    # Where the slopes balance, the logits' common part has no say.
    log_scale = (slopes * x.u).sum(1, True)
    if raw.total is not None:
        log_scale = log_scale + raw.total * x.at
    if raw.explicit is not None:
        log_scale = log_scale + raw.explicit
    return Losses(
        raw.value.masked_fill(without, 0),
        slopes,
        log_scale.masked_fill(without, 0),
        slopes.sum(1, True),
    )


class _Counted:
    """A strip's logits, counted from `at`, and what all objectives make of them."""

    def __init__(self, problem, logits: Logits):
        self.problem, self.logits = problem, logits
        s, positive, not_negative, _ = logits
        self.positives = positive.sum(1, True).to(s.dtype)
        self.negatives = (~not_negative).sum(1, True).to(s.dtype)
        if problem.labels is not None:
            largest = s.masked_fill(~positive, -math.inf).amax(1, True)
            self.at = largest.masked_fill(self.positives < 0.5, 0)
        else:
            self.at = s.masked_fill(~positive, 0).sum(1, True)
        self.u = s - self.at

    def by_objective(self) -> _Raw:
        return {
            "softmax": self.softmax,
            "decoupled": self.decoupled,
            "decoupled-weighted": self.decoupled,
            "debiased": self.debiased,
            "hard-negatives": self.hard,
            "sup-con-outside": self.softmax,
            "sup-con-inside": self.inside,
            "sigmoid": self.sigmoid,
        }[self.problem.objective]()

    def _log_sum_exp(self, left_out: Tensor, by: float = 1.0) -> tuple[Tensor, Tensor]:
        """`ln Σ e^(by·u)` over columns that are not left out, and each one's part of the sum."""
        x = (self.u * by).masked_fill(left_out, -math.inf)
        top = x.amax(1, True).clamp_min(_NOTHING)
        e = (x - top).exp()
        # The largest is 1, so the bound is met by sums of nothing alone.
        total = e.sum(1, True).clamp_min(0.5)
        return top + total.log(), e / total

    def _log_positives(self):
        return self._log_sum_exp(~self.logits.positive)

    def _log_negatives(self, by: float = 1.0):
        return self._log_sum_exp(self.logits.not_negative, by)

    def _sum_over(self, left_out: Tensor) -> Tensor:
        return self.u.masked_fill(left_out, 0).sum(1, True)

    def softmax(self) -> _Raw:
        """ln(neg + pos) − mean_P s, smoothed where that is asked for."""
        (log_pos, part_of_pos), (log_neg, part_of_neg) = self._log_positives(), self._log_negatives()
        x = log_neg - log_pos
        of_positives = self._sum_over(~self.logits.positive)
        share = 1 / self.positives.clamp_min(1)
        mean_positive = of_positives * share
        sig = torch.sigmoid(x)
        value = _softplus(x) + (log_pos - mean_positive)
        of_positive = part_of_pos - share - part_of_pos * sig
        of_negative = part_of_neg * sig
        if smoothing := self.problem.label_smoothing:
            count = (self.positives + self.negatives).clamp_min(1)
            mean = (of_positives + self._sum_over(self.logits.not_negative)) / count
            value = value + (mean_positive - mean) * smoothing
            of_positive = of_positive + (share - 1 / count) * smoothing
            of_negative = of_negative - smoothing / count
        return _Raw(value, of_positive, of_negative)

    def inside(self) -> _Raw:
        """ln(neg + pos) − ln(pos / |P|)."""
        (log_pos, part_of_pos), (log_neg, part_of_neg) = self._log_positives(), self._log_negatives()
        x = log_neg - log_pos
        sig = torch.sigmoid(x)
        value = _softplus(x) + self.positives.clamp_min(1).log()
        return _Raw(value, -part_of_pos * sig, part_of_neg * sig)

    def decoupled(self) -> _Raw:
        """ln neg − w s_p."""
        log_neg, of_negative = self._log_negatives()
        weight = self.logits.positive_weight
        if weight is None:
            return _Raw(log_neg, torch.full_like(log_neg, -1), of_negative)
        total = 1 - weight
        return _Raw(log_neg + total * self.at, -weight, of_negative, total)

    def debiased(self) -> _Raw:
        """ln(1 + g/pos), R = neg."""
        return self._corrected(*self._log_negatives())

    def hard(self) -> _Raw:
        """The same, R = N Σ e^((1+β)s) / Σ e^(βs)."""
        beta = self.problem.concentration
        (harder, of_harder), (weights, of_weights) = self._log_negatives(1 + beta), self._log_negatives(beta)
        y = self.negatives.clamp_min(1).log() + harder - weights
        return self._corrected(y, of_harder * (1 + beta) - of_weights * beta)

    def _corrected(self, y: Tensor, slopes: Tensor) -> _Raw:
        """ln(1 + g/pos), g = max((R − τ⁺ N pos) / (1 − τ⁺), N e^(−1/τ)), given `y = ln(R/pos)` and its
        slopes at negatives."""
        share, negatives, scale = self.problem.positive_share, self.negatives.clamp_min(1), self.problem.scale
        # R/pos − τ⁺N = R/pos · rest, which is perhaps negative: the bound has taken over then.
        rest = 1 - ((negatives * share).log() - y).exp()
        above = rest > 0
        rest = rest.masked_fill(~above, 1)
        corrected = y + rest.log() - math.log(1 - share)
        bound = negatives.log() - scale - self.at
        bounded = (corrected < bound) | ~above
        x = torch.where(bounded, bound, corrected)
        sig = torch.sigmoid(x)
        slope = torch.where(bounded, sig, sig / rest)
        # The bound depends on τ, and on no negative.
        only_bound = (-sig).masked_fill(~bounded, 0)
        of_negative = (slopes * slope).masked_fill(bounded, 0)
        return _Raw(_softplus(x), -slope, of_negative, only_bound, only_bound * scale)

    def sigmoid(self) -> _Raw:
        """ln(1 + e^(−s_p − b)) + Σ ln(1 + e^(s_j + b))."""
        logit = self.logits.s + self.problem.bias
        of_pair = self.at + self.problem.bias
        of_negatives = _softplus(logit).masked_fill(self.logits.not_negative, 0).sum(1, True)
        of_negative = torch.sigmoid(logit)
        of_positive = -torch.sigmoid(-of_pair)
        total = of_negative.masked_fill(self.logits.not_negative, 0).sum(1, True) + of_positive
        return _Raw(_softplus(-of_pair) + of_negatives, of_positive, of_negative, total)


def _softplus(x: Tensor) -> Tensor:
    """ln(1 + eˣ), to the last digit."""
    return torch.logaddexp(x, torch.zeros_like(x))
