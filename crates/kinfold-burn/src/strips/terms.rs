//! Sums over the logits of each row of a strip: what the row rule is applied to.
//!
//! Input: the similarities of a strip, `[rows, candidates]`, and which of them are positives and
//! negatives. Output: sums of exponentials, means and counts, `[rows, 1]` each. Logits are counted from
//! a reference of each row, and sums of exponentials are held as their logarithms: nothing overflows,
//! and a small loss keeps its digits.

use burn::tensor::{Bool, Tensor};

/// The logarithm of an empty sum: far below all others, but finite, so that it can be subtracted.
const NOTHING: f32 = -1e30;

/// Where the logits of a row are counted from.
#[derive(Clone, Copy)]
pub(super) enum Reference {
    /// 0.
    Zero,
    /// The logit of the row's one positive.
    Positive,
    /// The largest logit of the row's positives.
    LargestPositive,
}

/// The candidates of a strip of rows.
pub(super) struct Candidates {
    /// Similarities, those of positives less the margin, `[rows, candidates]`.
    pub(super) similarity: Tensor<2>,
    pub(super) positive: Tensor<2, Bool>,
    /// Positives, and what is no candidate at all.
    pub(super) not_negative: Tensor<2, Bool>,
}

/// The logits of a strip, and the sums over them.
pub(super) struct Terms {
    /// Logits less the reference, `[rows, candidates]`.
    u: Tensor<2>,
    not_positive: Tensor<2, Bool>,
    not_negative: Tensor<2, Bool>,
    /// Whether a row may have several positives.
    several: bool,
    /// The reference, as a logit, `[rows, 1]`.
    pub(super) reference: Tensor<2>,
    /// |P|, the number of positives, `[rows, 1]`.
    pub(super) positives: Tensor<2>,
    /// N, the number of negatives, `[rows, 1]`.
    pub(super) negatives: Tensor<2>,
}

impl Terms {
    /// The terms of `candidates`, whose similarities times `scale` `[1, 1]` are the logits.
    pub(super) fn new(candidates: Candidates, scale: Tensor<2>, reference: Reference) -> Self {
        let Candidates { similarity, positive, not_negative } = candidates;
        let dtype = similarity.dtype();
        let count = |x: Tensor<2, Bool>| x.float().cast(dtype).sum_dim(1);
        let not_positive = positive.clone().bool_not();
        let positives = count(positive);
        let negatives = count(not_negative.clone().bool_not());
        // A constant: whatever is counted from it has the right slopes.
        let fixed = similarity.clone().detach();
        let at = match reference {
            Reference::Zero => positives.zeros_like(),
            Reference::Positive => fixed.mask_fill(not_positive.clone(), 0.0).sum_dim(1),
            Reference::LargestPositive => {
                let largest = fixed.mask_fill(not_positive.clone(), f32::NEG_INFINITY).max_dim(1);
                largest.mask_fill(positives.clone().lower_elem(0.5), 0.0)
            }
        };
        Self {
            u: (similarity - at.clone()) * scale.clone(),
            not_positive,
            not_negative,
            several: matches!(reference, Reference::LargestPositive),
            reference: at * scale,
            positives,
            negatives,
        }
    }

    /// `ln Σ e^(power · u)` over the negatives.
    pub(super) fn log_negatives(&self, power: f64) -> Tensor<2> {
        let u = if power == 1.0 { self.u.clone() } else { self.u.clone() * power };
        log_sum_exp(u.mask_fill(self.not_negative.clone(), f32::NEG_INFINITY))
    }

    /// `ln Σ e^u` over the positives.
    pub(super) fn log_positives(&self) -> Tensor<2> {
        if self.several {
            log_sum_exp(self.u.clone().mask_fill(self.not_positive.clone(), f32::NEG_INFINITY))
        } else {
            self.sum_positives()
        }
    }

    /// `ln Σ e^u − mean u` over the positives; none where it is 0, with one positive a row.
    pub(super) fn spread(&self) -> Option<Tensor<2>> {
        if !self.several {
            return None;
        }
        // A node of its own: the slopes of a row's only positive cancel there, to exactly 0, before
        // they meet small ones.
        let u = self.u.clone().mask_fill(self.not_positive.clone(), 0.0);
        let mean = u.clone().sum_dim(1) / self.positives.clone().clamp_min(1.0);
        Some(log_sum_exp(u.mask_fill(self.not_positive.clone(), f32::NEG_INFINITY)) - mean)
    }

    /// `Σ u` over the positives.
    pub(super) fn sum_positives(&self) -> Tensor<2> {
        self.u.clone().mask_fill(self.not_positive.clone(), 0.0).sum_dim(1)
    }

    /// `Σ f(u)` over the negatives.
    pub(super) fn sum_negatives(&self, f: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
        f(self.u.clone()).mask_fill(self.not_negative.clone(), 0.0).sum_dim(1)
    }

    /// Rows that have no positive.
    pub(super) fn no_positives(&self) -> Tensor<2, Bool> {
        self.positives.clone().lower_elem(0.5)
    }

    /// Rows that have no negative.
    pub(super) fn no_negatives(&self) -> Tensor<2, Bool> {
        self.negatives.clone().lower_elem(0.5)
    }
}

/// `ln Σ eˣ` of each row, where −∞ is what is left out.
fn log_sum_exp(x: Tensor<2>) -> Tensor<2> {
    let largest = x.clone().detach().max_dim(1).clamp_min(NOTHING);
    // The largest term is 1, so only an empty sum is below the bound.
    let sum = (x - largest.clone()).exp().sum_dim(1).clamp_min(0.5);
    largest + sum.log()
}
