"""The row rule: from the sums over a row's logits to its loss, and to its derivatives by these sums.

Input: `Terms`. Output: an `Outcome`. The formulas are those of the oracle,
`crates/kinfold/src/loss/reference.rs`, and so are the letters; all are over vectors, `[rows, 1]`. A new
objective is a function here, and a line in `_RULES`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._terms import Outcome, Terms


class Numbers(NamedTuple):
    """What a row's loss depends on beside its logits."""

    #: 1/τ.
    scale: Tensor | float
    #: The sigmoid's bias.
    bias: Tensor | float
    #: w, the weight of the positive in the weighted decoupled loss, `[rows, 1]`.
    positive_weight: Tensor | None


def row_outcome(loss, x: Terms, numbers: Numbers) -> tuple[Outcome, Tensor]:
    """The outcome of each row, and which rows have nothing to choose, or nothing to choose from: their loss
    is 0. `loss` are its settings by name."""
    outcome = _RULES[loss.objective](loss, x, numbers)
    empty = x.positives < 0.5
    if loss.objective in _NEED_NEGATIVES:
        empty = empty | (x.negatives < 0.5)
    outcome.value = outcome.value.masked_fill(empty, 0)
    return outcome, empty


def _softmax(loss, x: Terms, _) -> Outcome:
    """`ln(neg + pos) − mean_P s`, less `smoothing · (mean of all s − mean_P s)`."""
    above = x.log_negatives() - x.log_positives
    sig = torch.sigmoid(above)
    out = Outcome(_softplus(above) + x.spread(), log_positives=-sig, log_negatives={1.0: sig}, spread=1.0)
    if smoothing := loss.label_smoothing:
        share, count = 1 / x.positives.clamp_min(1), (x.positives + x.negatives).clamp_min(1)
        sum_positives = x.sum_positives
        mean = (sum_positives + x.sum_negatives(x.u)) / count
        out.value = out.value + (sum_positives * share - mean) * smoothing
        out.sum_positives = (share - 1 / count) * smoothing
        out.sum_negatives = -smoothing / count
    return out


def _sup_con_inside(_, x: Terms, __) -> Outcome:
    """`ln(neg + pos) − ln(pos / |P|)`."""
    above = x.log_negatives() - x.log_positives
    sig = torch.sigmoid(above)
    value = _softplus(above) + x.positives.clamp_min(1).log()
    return Outcome(value, log_positives=-sig, log_negatives={1.0: sig})


def _decoupled(_, x: Terms, numbers: Numbers) -> Outcome:
    """`ln neg − w s_p`; w is 1 unless given."""
    log_neg, log_pos, w = x.log_negatives(), x.log_positives, numbers.positive_weight
    one = torch.ones_like(log_neg)
    if w is None:
        return Outcome(log_neg - log_pos, log_positives=-one, log_negatives={1.0: one})
    value = log_neg - w * log_pos + (1 - w) * x.reference
    return Outcome(value, log_positives=-w, log_negatives={1.0: one}, reference=1 - w)


def _debiased(loss, x: Terms, numbers: Numbers) -> Outcome:
    """`ln(1 + g/pos)`, R = neg."""
    value, of_y, of_bound = _corrected(loss, x, numbers, x.log_negatives() - x.log_positives)
    return Outcome(
        value,
        log_positives=-of_y - of_bound,
        log_negatives={1.0: of_y},
        reference=-of_bound,
        log_scale=-of_bound * numbers.scale,
    )


def _hard_negatives(loss, x: Terms, numbers: Numbers) -> Outcome:
    """The same, `R = N Σ e^((1+β)s) / Σ e^(βs)`."""
    beta = loss.numbers["concentration"]
    log_r = x.negatives.clamp_min(1).log() + x.log_negatives(1 + beta) - x.log_negatives(beta)
    value, of_y, of_bound = _corrected(loss, x, numbers, log_r - x.log_positives)
    return Outcome(
        value,
        log_positives=-of_y - of_bound,
        log_negatives={1 + beta: of_y, beta: -of_y},
        reference=-of_bound,
        log_scale=-of_bound * numbers.scale,
    )


def _corrected(loss, x: Terms, numbers: Numbers, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`ln(1 + g/pos)`, `g = max((R − τ⁺ N pos) / (1 − τ⁺), N e^(−1/τ))`, given `y = ln(R/pos)`; and its
    derivatives by y and by the logarithm of the bound, of which one is 0."""
    share, negatives = loss.numbers["positive_share"], x.negatives.clamp_min(1)
    # R/pos − τ⁺N = R/pos · rest. Where the rest is not above 0, the bound has taken over.
    rest = 1 - ((negatives * share).log() - y).exp()
    above = rest > 0
    rest = rest.masked_fill(~above, 1)
    free = y + rest.log() - math.log(1 - share)
    bound = negatives.log() - numbers.scale - x.reference - x.log_positives
    bounded = (free < bound) | ~above
    ratio = torch.where(bounded, bound, free)
    sig = torch.sigmoid(ratio)
    return _softplus(ratio), (sig / rest).masked_fill(bounded, 0), sig.masked_fill(~bounded, 0)


def _rince(loss, x: Terms, _) -> Outcome:
    """`((λ Z)^q − e^(q s_p)) / q`, `Z = pos + neg`."""
    q, log_lambda = loss.numbers["q"], math.log(loss.numbers["lambda"])
    log_pos = x.log_positives
    above, s = x.log_negatives() - log_pos, log_pos + x.reference
    of_z = ((_softplus(above) + s + log_lambda) * q).exp()
    of_pos = (s * q).exp()
    return Outcome(
        (of_z - of_pos) / q,
        log_positives=of_z * torch.sigmoid(-above) - of_pos,
        log_negatives={1.0: of_z * torch.sigmoid(above)},
        reference=of_z - of_pos,
    )


def _sigmoid(_, x: Terms, numbers: Numbers) -> Outcome:
    """`ln(1 + e^(−s_p − b)) + Σ ln(1 + e^(s_j + b))`."""
    of_pair, logits = x.log_positives + numbers.bias, x.u + numbers.bias
    value = _softplus(-of_pair) + x.sum_negatives(_softplus(logits))
    return Outcome(value, log_positives=-torch.sigmoid(-of_pair), each_negative=torch.sigmoid(logits))


def _softplus(x: Tensor) -> Tensor:
    """`ln(1 + eˣ)`, to the last digit."""
    return torch.logaddexp(x, torch.zeros_like(x))


_RULES = {
    "softmax": _softmax,
    "decoupled": _decoupled,
    "decoupled-weighted": _decoupled,
    "debiased": _debiased,
    "hard-negatives": _hard_negatives,
    "sup-con-outside": _softmax,
    "sup-con-inside": _sup_con_inside,
    "rince": _rince,
    "sigmoid": _sigmoid,
}
_NEED_NEGATIVES = ("decoupled", "decoupled-weighted", "debiased", "hard-negatives")
