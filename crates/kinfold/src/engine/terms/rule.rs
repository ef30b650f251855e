//! The row rule: from a row's sums to its loss, and to the factors that turn its terms into weights.
//!
//! Input: the sums of a row's terms, and the logit of its positive, in f64. Output: a [`RowOutcome`].
//! This is where one loss differs from another; the strips see sums and factors only.
//!
//! With N the first sum of a row, Q the second, `lnN = ln(sum) + shift`, s the positive's logit less its margin, `σ(t) = 1/(1 + e^−t)`:
//!
//! ```text
//! softmax      L = ln(1 + e^t),  t = lnN − s         ∂L/∂lnN = σ(t)           ∂L/∂s = −σ(t)
//! decoupled    L = lnN − w s                         ∂L/∂lnN = 1              ∂L/∂s = −w
//! corrected    L = ln(1 + e^t),  t = ln g − s        through g, see `corrected`
//! labels, out  L = ln(N + Q) − mean_P s              ∂L/∂lnN = N/(N+Q)        ∂L/∂lnQ = Q/(N+Q)
//! labels, in   L = ln(1 + e^t) + ln|P|,  t = lnN − lnQ      ∂L/∂lnN = σ(t) = −∂L/∂lnQ
//! rince        L = e^(q s) (e^(q d) − 1)/q,  d = ln λ + ln(1 + e^t)    see `rince`
//! sigmoid      L = N + ln(1 + e^−x),  x = s + b      ∂L/∂N = 1                ∂L/∂s = −σ(−x)
//! ```
//!
//! By label, Q is the sum over the row's own label. Nothing here takes the difference of two numbers that are
//! nearly the same where the loss is small.

use super::outcome::RowOutcome;
use crate::engine::candidates::sides::NegativeCounts;
use crate::loss::{ContrastiveLoss, Objective};
use std::ops::Range;

/// What the strips add up for each element of the matrix of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Terms {
    /// `exp(s)`.
    One,
    /// `exp(s)`, columns of another label and those of the row's own apart: N and Q.
    ByLabel,
    /// `exp((1 + β) s)` and `exp(β s)`.
    Powers(f64),
    /// `ln(1 + exp(s + b))`, whose derivative `σ(s + b)` is added up, too.
    Sigmoid(f64),
}

/// The formula by which a row's sums become its loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Formula {
    Softmax,
    Decoupled,
    /// τ⁺ and β; without β, the first sum is over the negatives themselves.
    Corrected {
        share: f64,
        tilt: Option<f64>,
    },
    LabelsOutside,
    LabelsInside,
    Rince {
        q: f64,
        lambda: f64,
    },
    Sigmoid {
        bias: f64,
    },
}

impl Formula {
    pub(crate) fn new(objective: Objective) -> Self {
        match objective {
            Objective::Softmax => Self::Softmax,
            Objective::Decoupled | Objective::DecoupledWeighted { .. } => Self::Decoupled,
            Objective::Debiased { positive_share: share } => Self::Corrected { share, tilt: None },
            Objective::HardNegatives { positive_share: share, concentration } => {
                Self::Corrected { share, tilt: (concentration > 0.0).then_some(concentration) }
            }
            Objective::SupConOutside => Self::LabelsOutside,
            Objective::SupConInside => Self::LabelsInside,
            Objective::Rince { q, lambda } => Self::Rince { q, lambda },
            Objective::Sigmoid { bias } => Self::Sigmoid { bias },
        }
    }

    /// The terms that it needs the sums of, where positives have this `margin`.
    pub(crate) fn terms(self, margin: f64) -> Terms {
        match self {
            Self::Softmax
            | Self::Decoupled
            | Self::Rince { .. }
            | Self::Corrected { tilt: None, .. } => Terms::One,
            Self::Corrected { tilt: Some(tilt), .. } => Terms::Powers(tilt),
            Self::LabelsOutside if margin == 0.0 => Terms::One,
            Self::LabelsOutside | Self::LabelsInside => Terms::ByLabel,
            Self::Sigmoid { bias } => Terms::Sigmoid(bias),
        }
    }
}

impl Terms {
    /// κ: what the logits are multiplied by in the first and second terms.
    pub(crate) fn powers(self) -> [f64; 2] {
        match self {
            Self::Powers(tilt) => [1.0 + tilt, tilt],
            Self::One | Self::ByLabel | Self::Sigmoid(_) => [1.0, 1.0],
        }
    }

    /// Whether there are two sums.
    pub(crate) fn two(self) -> bool {
        self != Self::One
    }

    /// Whether weights are the terms themselves times a factor of the row, so that they can be
    /// multiplied with the columns before the factor is known.
    pub(crate) fn single_pass(self) -> bool {
        matches!(self, Self::One | Self::Sigmoid(_))
    }
}

/// A row's sums over its columns, `Σ exp(κ (s − shift))`, and their shifts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RowSums {
    pub(crate) sums: [f64; 2],
    pub(crate) shifts: [f64; 2],
}

impl RowSums {
    /// The logarithm of one of both sums of exponentials, without its shift.
    fn ln(&self, which: usize) -> f64 {
        self.sums[which].ln() + self.shifts[which]
    }
}

/// What a row's own negatives, which are no columns, add to its sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PerQuerySums {
    /// Their largest logit.
    pub(crate) largest: f64,
    /// The logarithms of both sums, without shifts.
    pub(crate) ln_sums: [f64; 2],
}

/// How each row's sums become its loss: the formula, and everything about the rows but their logits.
#[derive(Debug)]
pub(crate) struct RowRule<'p> {
    pub(crate) formula: Formula,
    /// 1/τ.
    pub(crate) scale: f64,
    /// The margin, in logits.
    pub(crate) margin: f64,
    /// Negatives among the columns.
    pub(crate) negatives: NegativeCounts,
    /// RowSums over negatives of one query alone; empty without.
    pub(crate) per_query: Vec<PerQuerySums>,
    /// How many of those each query has.
    pub(crate) per_query_count: usize,
    /// What the decoupled loss multiplies positives by; empty for 1.
    pub(crate) positive_weights: Vec<f64>,
    /// Positives by label; empty where every row has one positive.
    pub(crate) labelled: Vec<LabelPositives>,
    /// Empty for 1.
    pub(crate) row_weights: &'p [f64],
    /// Rows of weight 0 are passed over.
    skips_unweighted: bool,
    /// The largest number that factors may have in the type of the gradients.
    pub(crate) largest: f64,
}

/// A row's positives by label.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LabelPositives {
    pub(crate) count: usize,
    /// The mean of their logits less the margin; used where there are several.
    pub(crate) mean: f64,
}

impl<'p> RowRule<'p> {
    /// The rule of `loss`, for rows with one positive each.
    pub(crate) fn new(
        loss: &ContrastiveLoss,
        negatives: NegativeCounts,
        row_weights: &'p [f64],
    ) -> Self {
        let scale = loss.temperature().scale();
        Self {
            formula: Formula::new(loss.objective()),
            scale,
            margin: loss.margin * scale,
            negatives,
            per_query: Vec::new(),
            per_query_count: 0,
            positive_weights: Vec::new(),
            labelled: Vec::new(),
            row_weights,
            skips_unweighted: loss.execution.skips_unweighted && !row_weights.is_empty(),
            largest: f64::MAX,
        }
    }

    /// Whether any of these rows is to be computed.
    pub(crate) fn counts(&self, rows: Range<usize>) -> bool {
        !self.skips_unweighted || self.row_weights[rows].iter().any(|&weight| weight > 0.0)
    }

    /// The terms that are added up for each row.
    pub(crate) fn terms(&self) -> Terms {
        self.formula.terms(self.margin)
    }

    /// Negatives of row i among the columns, where their number is known.
    pub(crate) fn negatives(&self, i: usize) -> Option<usize> {
        match &self.negatives {
            NegativeCounts::Same(count) => Some(*count),
            NegativeCounts::Each(counts) => Some(counts[i]),
            NegativeCounts::Unknown => None,
        }
    }

    /// Row i's own number of negatives, those of its query alone included, where it is known.
    fn all_negatives(&self, i: usize) -> usize {
        self.negatives(i).unwrap_or(0) + self.per_query_count
    }

    /// Whether row i's sums have lost too much to underflow, so much that they are below `least`.
    /// `second` is None where there is one sum.
    pub(crate) fn underflows(&self, i: usize, sums: [f64; 2], least: f64) -> bool {
        let two = self.terms().two();
        let several = self.labelled.get(i).is_some_and(|labelled| labelled.count > 1);
        let by_label = !self.labelled.is_empty();
        // In one sum over all other rows, several positives are among them.
        let has_some = self.negatives(i) != Some(0)
            || self.per_query_count > 0
            || (several && !two && self.formula == Formula::LabelsOutside);
        (has_some && sums[0] < least)
            || (two && sums[1] < least && if by_label { several } else { has_some })
    }

    /// The outcome of row i, given its sums over columns and the logit of its positive, if it has just
    /// one.
    pub(crate) fn outcome(&self, i: usize, mut sums: RowSums, positive: Option<f64>) -> RowOutcome {
        let terms = self.terms();
        if let Some(own) = self.per_query.get(i) {
            let powers = terms.powers();
            for which in 0..if terms.two() { 2 } else { 1 } {
                let above = own.ln_sums[which] - powers[which] * sums.shifts[which];
                sums.sums[which] += above.exp();
            }
        }
        let positive = positive.map(|logit| logit - self.margin);
        let labelled = self.labelled.get(i).copied();
        let outcome = match (self.formula, labelled) {
            (Formula::LabelsOutside | Formula::LabelsInside, Some(positives))
                if positives.count == 0 =>
            {
                None
            }
            (Formula::LabelsOutside, Some(positives)) if positives.count > 1 => {
                Some(self.labels_outside(&sums, positives))
            }
            (Formula::LabelsInside, Some(positives)) if positives.count > 1 => {
                Some(self.labels_inside(&sums, positives))
            }
            (Formula::Softmax | Formula::LabelsOutside | Formula::LabelsInside, _) => {
                positive.and_then(|s| self.softmax(&sums, s))
            }
            (Formula::Decoupled, _) => {
                let weight = self.positive_weights.get(i).copied().unwrap_or(1.0);
                positive.and_then(|s| self.decoupled(&sums, s, weight))
            }
            (Formula::Corrected { share, tilt }, _) => {
                let correction = Correction { negatives: self.all_negatives(i), share, tilt };
                positive.and_then(|s| self.corrected(&sums, s, correction))
            }
            (Formula::Rince { q, lambda }, _) => positive.map(|s| self.rince(&sums, s, q, lambda)),
            (Formula::Sigmoid { bias }, _) => positive.map(|s| sigmoid(&sums, s + bias)),
        };
        let mut outcome = outcome.unwrap_or_default();
        outcome.shift = sums.shifts[0];
        if let Some(&weight) = self.row_weights.get(i) {
            outcome.weigh(weight);
        }
        outcome
    }

    /// [`outcome`](Self::outcome) where there are no columns, only negatives of the query alone.
    pub(crate) fn outcome_without_columns(&self, i: usize, positive: f64) -> RowOutcome {
        let largest = self.per_query.get(i).map_or(0.0, |own| own.largest);
        let shift = if largest.is_finite() { largest } else { 0.0 };
        self.outcome(i, RowSums { shifts: [shift; 2], ..RowSums::default() }, Some(positive))
    }

    fn softmax(&self, sums: &RowSums, s: f64) -> Option<RowOutcome> {
        if sums.sums[0] == 0.0 {
            return None; // No negatives, nothing to choose among.
        }
        let t = sums.ln(0) - s;
        let share = logistic(t);
        Some(RowOutcome {
            loss: softplus(t),
            factors: [share / sums.sums[0], 0.0],
            positive: -share,
            direct_log_scale: share * self.margin,
            ..RowOutcome::default()
        })
    }

    fn decoupled(&self, sums: &RowSums, s: f64, weight: f64) -> Option<RowOutcome> {
        if sums.sums[0] == 0.0 {
            return None;
        }
        Some(RowOutcome {
            loss: sums.ln(0) - weight * s,
            factors: [sums.sums[0].recip(), 0.0],
            positive: -weight,
            direct_log_scale: weight * self.margin,
            ..RowOutcome::default()
        })
    }

    /// `g = max((R − τ⁺ N pos) / (1 − τ⁺), N exp(−1/τ))` for the negatives, R their sum or, tilted,
    /// `N Σ exp((1+β)s) / Σ exp(βs)`; all of it relative to pos, the positive's exponential.
    fn corrected(&self, sums: &RowSums, s: f64, correction: Correction) -> Option<RowOutcome> {
        let Correction { negatives, share, tilt } = correction;
        let [first, second] = sums.sums;
        if first == 0.0 || negatives == 0 {
            return None;
        }
        let n = negatives as f64;
        let ln_r = sums.ln(0) - s + tilt.map_or(0.0, |_| n.ln() - second.ln());
        // r − τ⁺N, and r over it; far up the second term is nothing beside the first.
        let (ln_left, ratio) = if ln_r > 600.0 {
            (ln_r, 1.0)
        } else {
            let (r, left) = (ln_r.exp(), ln_r.exp() - share * n);
            if left > 0.0 { (left.ln(), r / left) } else { (f64::NEG_INFINITY, 0.0) }
        };
        let free = ln_left - (1.0 - share).ln();
        let bound = n.ln() - self.scale - s;
        if free <= bound {
            let pull = logistic(bound);
            return Some(RowOutcome {
                loss: softplus(bound),
                positive: -pull,
                direct_log_scale: pull * (self.margin - self.scale),
                ..RowOutcome::default()
            });
        }
        let pull = logistic(free) * ratio;
        let tilted = tilt.unwrap_or(0.0);
        Some(RowOutcome {
            loss: softplus(free),
            factors: [
                (1.0 + tilted) * pull / first,
                tilt.map_or(0.0, |tilt| -tilt * pull / second),
            ],
            positive: -pull,
            direct_log_scale: pull * self.margin,
            ..RowOutcome::default()
        })
    }

    /// With `t = lnN − s` and `d = ln(λ Z) − s`: small differences of large exponentials are taken by
    /// `e^x − 1`. A row whose exponentials leave the range has an infinite loss.
    fn rince(&self, sums: &RowSums, s: f64, q: f64, lambda: f64) -> RowOutcome {
        let t = sums.ln(0) - s;
        let (push, d) = ((q * s).exp(), lambda.ln() + softplus(t));
        let pull = (q * (s + d)).exp();
        let positive = push * (q * d - softplus(t)).exp_m1();
        let fits = push.max(pull) <= self.largest;
        RowOutcome {
            loss: if fits { push * (q * d).exp_m1() / q } else { f64::INFINITY },
            factors: [over(pull * logistic(t), sums.sums[0]), 0.0],
            positive,
            direct_log_scale: -positive * self.margin,
            ..RowOutcome::default()
        }
    }

    fn labels_outside(&self, sums: &RowSums, positives: LabelPositives) -> RowOutcome {
        let of_others = sums.ln(0);
        if self.terms() == Terms::One {
            let (loss, factor) = (of_others - positives.mean, sums.sums[0].recip());
            return RowOutcome { loss, factors: [factor, 0.0], ..RowOutcome::default() };
        }
        let of_positives = sums.ln(1) - self.margin;
        let top = of_others.max(of_positives);
        let all = top + ((of_others - top).exp() + (of_positives - top).exp()).ln();
        let shares = [of_others, of_positives].map(|part| (part - all).exp());
        RowOutcome {
            loss: all - positives.mean,
            factors: [over(shares[0], sums.sums[0]), over(shares[1], sums.sums[1])],
            // The positives' weights together are their share less 1.
            direct_log_scale: -self.margin * (shares[1] - 1.0),
            ..RowOutcome::default()
        }
    }

    fn labels_inside(&self, sums: &RowSums, positives: LabelPositives) -> RowOutcome {
        let t = sums.ln(0) - (sums.ln(1) - self.margin);
        let share = logistic(t);
        RowOutcome {
            loss: softplus(t) + (positives.count as f64).ln(),
            factors: [over(share, sums.sums[0]), over(-share, sums.sums[1])],
            direct_log_scale: self.margin * share,
            ..RowOutcome::default()
        }
    }
}

/// What [`RowRule::corrected`] corrects for: the share τ⁺ of false negatives, and the tilt β.
struct Correction {
    negatives: usize,
    share: f64,
    tilt: Option<f64>,
}

fn sigmoid(sums: &RowSums, x: f64) -> RowOutcome {
    let pull = logistic(-x);
    RowOutcome {
        loss: sums.sums[0] + softplus(-x),
        factors: [1.0, 0.0],
        positive: -pull,
        bias: sums.sums[1] - pull,
        ..RowOutcome::default()
    }
}

/// `ln(1 + e^t)`, to the last digits where it is small.
pub(crate) fn softplus(t: f64) -> f64 {
    if t > 0.0 { t + (-t).exp().ln_1p() } else { t.exp().ln_1p() }
}

/// `1 / (1 + e^−t)`.
fn logistic(t: f64) -> f64 {
    (1.0 + (-t).exp()).recip()
}

/// x / y, and 0 where y is 0.
fn over(x: f64, y: f64) -> f64 {
    if y == 0.0 { 0.0 } else { x / y }
}
