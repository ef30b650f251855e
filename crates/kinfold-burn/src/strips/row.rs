//! From a strip's logits to its losses and their slopes.
//!
//! Comes in: logits, `[rows, candidates]`, and which are positives and negatives. Goes out: each row's
//! loss, and its derivatives with respect to each logit, to log(1/τ) and to the bias. The formulas are
//! those of `kinfold::loss::reference`, and so are the letters. Logits are counted from the positive's
//! (the largest one's, where there are several), and sums of exponentials are held as their
//! logarithms: nothing overflows, and a small loss keeps its digits.

use super::problem::Problem;
use burn::tensor::{Bool, Tensor};
use kinfold::Objective;

/// The logarithm of a sum of nothing: far below all others, but finite, so that it can be subtracted.
const NOTHING: f32 = -1e30;

/// The logits of a strip.
pub(super) struct Logits {
    /// `[rows, candidates]`.
    pub(super) s: Tensor<2>,
    pub(super) positive: Tensor<2, Bool>,
    /// Positives, and what is no candidate at all.
    pub(super) not_negative: Tensor<2, Bool>,
    /// What the positive counts in the weighted decoupled loss, `[rows, 1]`.
    pub(super) positive_weight: Option<Tensor<2>>,
}

/// The losses of a strip.
pub(super) struct RowLosses {
    /// `[rows, 1]`.
    pub(super) value: Tensor<2>,
    /// ∂L/∂s, `[rows, candidates]`.
    pub(super) slopes: Tensor<2>,
    /// ∂L/∂log(1/τ), `[rows, 1]`.
    pub(super) log_scale: Tensor<2>,
    /// ∂L/∂b, `[rows, 1]`.
    pub(super) bias: Tensor<2>,
}

/// Rows before those without a loss are taken out.
struct Raw {
    value: Tensor<2>,
    /// At positives, and at negatives; elsewhere neither is looked at.
    of_positive: Tensor<2>,
    of_negative: Tensor<2>,
    /// What the slopes add up to, where that is not 0, `[rows, 1]`.
    total: Option<Tensor<2>>,
    /// The derivative with respect to log(1/τ) where logits are held fixed.
    explicit: Option<Tensor<2>>,
}

/// A strip's logits, counted from `at`, and what all objectives make of them.
struct Counted<'a> {
    problem: &'a Problem,
    logits: &'a Logits,
    /// The positive's logit, `[rows, 1]`.
    at: Tensor<2>,
    /// `s − at`.
    u: Tensor<2>,
    /// The numbers of positives and of negatives, `[rows, 1]`.
    positives: Tensor<2>,
    negatives: Tensor<2>,
}

impl Problem {
    pub(super) fn row_losses(&self, logits: Logits) -> RowLosses {
        let x = Counted::new(self, &logits);
        let objective = self.loss.objective();
        let raw = match objective {
            Objective::SupConInside => x.inside(),
            Objective::Decoupled | Objective::DecoupledWeighted { .. } => x.decoupled(),
            Objective::Debiased { positive_share } => x.debiased(positive_share),
            Objective::HardNegatives { positive_share, concentration } => {
                x.hard(positive_share, concentration)
            }
            Objective::Sigmoid { .. } => x.sigmoid(),
            // Softmax and SupCon with the mean outside; kinfold has no other.
            _ => x.softmax(),
        };
        let slopes = raw.of_negative.mask_fill(logits.not_negative.clone(), 0.0);
        let slopes = slopes.mask_where(logits.positive.clone(), raw.of_positive);
        // A row that has nothing to choose, or nothing to choose from, has no loss.
        let needs_negatives = matches!(
            objective,
            Objective::Decoupled
                | Objective::DecoupledWeighted { .. }
                | Objective::Debiased { .. }
                | Objective::HardNegatives { .. }
        );
        let mut without = x.positives.clone().lower_elem(0.5);
        if needs_negatives {
            without = without.bool_or(x.negatives.clone().lower_elem(0.5));
        }
        let slopes = slopes.mask_fill(without.clone().expand(logits.s.dims()), 0.0);
        let bias = slopes.clone().sum_dim(1);
        // Where the slopes balance, the logits' common part has no say.
        let mut log_scale = (slopes.clone() * x.u.clone()).sum_dim(1);
        for more in [raw.total.map(|total| total * x.at.clone()), raw.explicit] {
            log_scale = more.into_iter().fold(log_scale, Tensor::add);
        }
        RowLosses {
            value: raw.value.mask_fill(without.clone(), 0.0),
            slopes,
            log_scale: log_scale.mask_fill(without, 0.0),
            bias,
        }
    }
}

impl<'a> Counted<'a> {
    fn new(problem: &'a Problem, logits: &'a Logits) -> Self {
        let Logits { s, positive, not_negative, .. } = logits;
        let dtype = s.dtype();
        let count = |x: Tensor<2, Bool>| x.float().cast(dtype).sum_dim(1);
        let positives = count(positive.clone());
        let not_positive = positive.clone().bool_not();
        let at = if problem.labels.is_some() {
            let largest = s.clone().detach().mask_fill(not_positive, f32::NEG_INFINITY).max_dim(1);
            largest.mask_fill(positives.clone().lower_elem(0.5), 0.0)
        } else {
            s.clone().mask_fill(not_positive, 0.0).sum_dim(1)
        };
        let negatives = count(not_negative.clone().bool_not());
        Self { problem, logits, u: s.clone() - at.clone(), at, positives, negatives }
    }

    /// `ln Σ e^(by·u)` over columns that are not left out, `[rows, 1]`, and each one's part of the sum.
    fn log_sum_exp(&self, left_out: &Tensor<2, Bool>, by: f64) -> (Tensor<2>, Tensor<2>) {
        let x = (self.u.clone() * by).mask_fill(left_out.clone(), f32::NEG_INFINITY);
        let top = x.clone().detach().max_dim(1).clamp_min(NOTHING);
        let e = (x - top.clone()).exp();
        // The largest is 1, so the bound is met by sums of nothing alone.
        let sum = e.clone().sum_dim(1).clamp_min(0.5);
        (top + sum.clone().log(), e / sum)
    }

    fn log_positives(&self) -> (Tensor<2>, Tensor<2>) {
        self.log_sum_exp(&self.logits.positive.clone().bool_not(), 1.0)
    }

    fn log_negatives(&self, by: f64) -> (Tensor<2>, Tensor<2>) {
        self.log_sum_exp(&self.logits.not_negative, by)
    }

    fn sum_over(&self, left_out: Tensor<2, Bool>) -> Tensor<2> {
        self.u.clone().mask_fill(left_out, 0.0).sum_dim(1)
    }

    /// ln(neg + pos) − mean_P s, smoothed where that is asked for.
    fn softmax(&self) -> Raw {
        let ((log_pos, part_of_pos), (log_neg, part_of_neg)) =
            (self.log_positives(), self.log_negatives(1.0));
        let x = log_neg - log_pos.clone();
        let of_positives = self.sum_over(self.logits.positive.clone().bool_not());
        let share = self.positives.clone().clamp_min(1.0).recip();
        let mean_positive = of_positives.clone() * share.clone();
        let sig = sigmoid(x.clone());
        let mut value = softplus(x) + (log_pos - mean_positive.clone());
        let mut of_positive = part_of_pos.clone() - share.clone() - part_of_pos * sig.clone();
        let mut of_negative = part_of_neg * sig;
        let smoothing = self.problem.loss.label_smoothing();
        if smoothing != 0.0 {
            let all = (self.positives.clone() + self.negatives.clone()).clamp_min(1.0);
            let of_negatives = self.sum_over(self.logits.not_negative.clone());
            let mean = (of_positives + of_negatives) / all.clone();
            value = value + (mean_positive - mean) * smoothing;
            of_positive = of_positive + (share - all.clone().recip()) * smoothing;
            of_negative = of_negative - all.recip() * smoothing;
        }
        Raw { value, of_positive, of_negative, total: None, explicit: None }
    }

    /// ln(neg + pos) − ln(pos / |P|).
    fn inside(&self) -> Raw {
        let ((log_pos, part_of_pos), (log_neg, part_of_neg)) =
            (self.log_positives(), self.log_negatives(1.0));
        let x = log_neg - log_pos;
        let sig = sigmoid(x.clone());
        Raw {
            value: softplus(x) + self.positives.clone().clamp_min(1.0).log(),
            of_positive: part_of_pos * sig.clone().neg(),
            of_negative: part_of_neg * sig,
            total: None,
            explicit: None,
        }
    }

    /// ln neg − w s_p.
    fn decoupled(&self) -> Raw {
        let (log_neg, of_negative) = self.log_negatives(1.0);
        let Some(weight) = self.logits.positive_weight.clone() else {
            let of_positive = self.u.zeros_like() - 1.0;
            return Raw { value: log_neg, of_positive, of_negative, total: None, explicit: None };
        };
        let total = weight.clone().neg() + 1.0;
        Raw {
            value: log_neg + total.clone() * self.at.clone(),
            of_positive: weight.neg().expand(self.u.dims()),
            of_negative,
            total: Some(total),
            explicit: None,
        }
    }

    /// ln(1 + g/pos), R = neg.
    fn debiased(&self, share: f64) -> Raw {
        let (log_neg, part_of_neg) = self.log_negatives(1.0);
        self.corrected(share, log_neg, part_of_neg)
    }

    /// The same, R = N Σ e^((1+β)s) / Σ e^(βs).
    fn hard(&self, share: f64, beta: f64) -> Raw {
        let (harder, of_harder) = self.log_negatives(1.0 + beta);
        let (weights, of_weights) = self.log_negatives(beta);
        let y = self.negatives.clone().clamp_min(1.0).log() + harder - weights;
        self.corrected(share, y, of_harder * (1.0 + beta) - of_weights * beta)
    }

    /// ln(1 + g/pos), g = max((R − τ⁺ N pos) / (1 − τ⁺), N e^(−1/τ)), given `y = ln(R/pos)` and its
    /// slopes at negatives.
    fn corrected(&self, share: f64, y: Tensor<2>, slopes: Tensor<2>) -> Raw {
        let negatives = self.negatives.clone().clamp_min(1.0);
        // R/pos − τ⁺N = R/pos · rest, which is perhaps negative: the bound has taken over then.
        let rest = ((negatives.clone() * share).log() - y.clone()).exp().neg() + 1.0;
        let above = rest.clone().greater_elem(0.0);
        let rest = rest.mask_fill(above.clone().bool_not(), 1.0);
        let corrected = y + rest.clone().log() - (1.0 - share).ln();
        let scale = self.problem.scale.clone();
        let bound = negatives.log() - scale.clone() - self.at.clone();
        let bounded = corrected.clone().lower(bound.clone()).bool_or(above.bool_not());
        let x = corrected.mask_where(bounded.clone(), bound);
        let sig = sigmoid(x.clone());
        let slope = (sig.clone() / rest).mask_where(bounded.clone(), sig.clone());
        let all = bounded.clone().expand(self.u.dims());
        // The bound depends on τ, and on no negative.
        let only_bound = sig.neg().mask_fill(bounded.bool_not(), 0.0);
        Raw {
            value: softplus(x),
            of_positive: slope.clone().neg().expand(self.u.dims()),
            of_negative: (slopes * slope).mask_fill(all, 0.0),
            total: Some(only_bound.clone()),
            explicit: Some(only_bound * scale),
        }
    }

    /// ln(1 + e^(−s_p − b)) + Σ ln(1 + e^(s_j + b)).
    fn sigmoid(&self) -> Raw {
        let logit = self.logits.s.clone() + self.problem.bias.clone();
        let of_pair = self.at.clone() + self.problem.bias.clone();
        let of_negatives =
            softplus(logit.clone()).mask_fill(self.logits.not_negative.clone(), 0.0).sum_dim(1);
        let of_negative = sigmoid(logit);
        let of_positive = sigmoid(of_pair.clone().neg()).neg();
        let negatives = of_negative.clone().mask_fill(self.logits.not_negative.clone(), 0.0);
        let total = negatives.sum_dim(1) + of_positive.clone();
        Raw {
            value: softplus(of_pair.neg()) + of_negatives,
            of_positive: of_positive.expand(self.u.dims()),
            of_negative,
            total: Some(total),
            explicit: None,
        }
    }
}

/// e^(−top) and e^(x − top), whose larger one is 1.
fn two_parts(x: &Tensor<2>) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let top = x.clone().detach().clamp_min(0.0);
    (top.clone().neg().exp(), (x.clone() - top.clone()).exp(), top)
}

/// `ln(1 + eˣ)`, smooth at 0 and without a maximum that has a derivative.
fn softplus(x: Tensor<2>) -> Tensor<2> {
    let (one, e, top) = two_parts(&x);
    top + (e + (one - 1.0)).log1p()
}

/// `eˣ / (1 + eˣ)`, the slope of `softplus`.
fn sigmoid(x: Tensor<2>) -> Tensor<2> {
    let (one, e, _) = two_parts(&x);
    e.clone() / (one + e)
}
