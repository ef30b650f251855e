//! The row rule on a device: from the sums over a row's logits to its loss.
//!
//! Input: [`Terms`]. Output: the loss of each row, `[rows, 1]`. The formulas are those of
//! `kinfold::loss::reference` and so are the letters; each is written once, over vectors, and Burn
//! differentiates it. A new objective is a function here, and a line in [`row_losses`].

use super::terms::{Reference, Terms};
use burn::tensor::Tensor;
use kinfold::{ContrastiveLoss, Objective};

/// What a row's loss depends on beside its logits.
pub(super) struct Numbers {
    /// 1/τ, `[1, 1]`.
    pub(super) scale: Tensor<2>,
    /// The bias of the sigmoid, `[1, 1]`.
    pub(super) bias: Tensor<2>,
    /// w, the weight of the positive in the weighted decoupled loss, `[rows, 1]`.
    pub(super) positive_weight: Option<Tensor<2>>,
}

/// Where the logits are counted from. A softmax depends on differences to the positive's logit; the
/// sigmoid, on logits as they are.
pub(super) fn reference(objective: Objective) -> Reference {
    match objective {
        Objective::SupConOutside | Objective::SupConInside => Reference::LargestPositive,
        Objective::Sigmoid { .. } => Reference::Zero,
        _ => Reference::Positive,
    }
}

/// The loss of each row, `[rows, 1]`; 0 where it has nothing to choose, or nothing to choose from.
pub(super) fn row_losses(loss: &ContrastiveLoss, x: &Terms, numbers: Numbers) -> Tensor<2> {
    let empty = x.no_positives();
    let no_negatives = || x.no_negatives().bool_or(empty.clone());
    let (value, empty) = match loss.objective() {
        Objective::SupConInside => (sup_con_inside(x), empty),
        Objective::Decoupled | Objective::DecoupledWeighted { .. } => {
            (decoupled(x, numbers.positive_weight), no_negatives())
        }
        Objective::Debiased { positive_share } => {
            let y = x.log_negatives(1.0) - x.log_positives();
            (corrected(x, y, positive_share, numbers.scale), no_negatives())
        }
        // R = N Σ e^((1+β)s) / Σ e^(βs).
        Objective::HardNegatives { positive_share, concentration: beta } => {
            let log_n = x.negatives.clone().clamp_min(1.0).log();
            let y = log_n + x.log_negatives(1.0 + beta) - x.log_negatives(beta) - x.log_positives();
            (corrected(x, y, positive_share, numbers.scale), no_negatives())
        }
        Objective::Rince { q, lambda } => (rince(x, q, lambda), empty),
        Objective::Sigmoid { .. } => (sigmoid(x, numbers.bias), empty),
        // Softmax and SupCon with the mean outside; kinfold has no other.
        _ => (softmax(x, loss.label_smoothing()), empty),
    };
    value.mask_fill(empty, 0.0)
}

/// `ln(neg + pos) − mean_P s`, less `smoothing · (mean of all s − mean_P s)`.
fn softmax(x: &Terms, smoothing: f64) -> Tensor<2> {
    let mut value = softplus(x.log_negatives(1.0) - x.log_positives());
    if let Some(spread) = x.spread() {
        value = value + spread;
    }
    if smoothing != 0.0 {
        let (positives, negatives) = (x.positives.clone(), x.negatives.clone());
        let sum = x.sum_positives();
        let mean_positive = sum.clone() / positives.clone().clamp_min(1.0);
        let mean = (sum + x.sum_negatives(|u| u)) / (positives + negatives).clamp_min(1.0);
        value = value + (mean_positive - mean) * smoothing;
    }
    value
}

/// `ln(neg + pos) − ln(pos / |P|)`.
fn sup_con_inside(x: &Terms) -> Tensor<2> {
    let log_count = x.positives.clone().clamp_min(1.0).log();
    softplus(x.log_negatives(1.0) - x.log_positives()) + log_count
}

/// `ln neg − w s_p`; w is 1 unless given.
fn decoupled(x: &Terms, weight: Option<Tensor<2>>) -> Tensor<2> {
    match weight {
        None => x.log_negatives(1.0) - x.log_positives(),
        Some(w) => {
            let rest = w.clone().neg() + 1.0;
            x.log_negatives(1.0) - w * x.log_positives() + rest * x.reference.clone()
        }
    }
}

/// `ln(1 + g/pos)`, `g = max((R − τ⁺ N pos) / (1 − τ⁺), N e^(−1/τ))`, given `y = ln(R/pos)`.
fn corrected(x: &Terms, y: Tensor<2>, share: f64, scale: Tensor<2>) -> Tensor<2> {
    let negatives = x.negatives.clone().clamp_min(1.0);
    // R/pos − τ⁺N = R/pos · rest. Where the rest is not above 0, the bound has taken over; it is kept
    // away from 0, where the slope of its logarithm is infinite.
    let part = (negatives.clone() * share).log() - y.clone();
    let below = part.clone().greater_equal_elem(0.0);
    let rest = part.mask_fill(below.clone(), -1.0).exp().neg() + 1.0;
    let rest = rest.clamp_min(1e-30);
    let free = y + rest.log() - (1.0 - share).ln();
    let bound = negatives.log() - scale - x.reference.clone() - x.log_positives();
    let bounded = free.clone().lower(bound.clone()).bool_or(below);
    softplus(free.mask_where(bounded, bound))
}

/// `((λ Z)^q − e^(q s_p)) / q`, `Z = pos + neg`.
fn rince(x: &Terms, q: f64, lambda: f64) -> Tensor<2> {
    let s = x.log_positives() + x.reference.clone();
    let log_z = softplus(x.log_negatives(1.0) - x.log_positives()) + s.clone();
    (((log_z + lambda.ln()) * q).exp() - (s * q).exp()) / q
}

/// `ln(1 + e^(−s_p − b)) + Σ ln(1 + e^(s_j + b))`.
fn sigmoid(x: &Terms, bias: Tensor<2>) -> Tensor<2> {
    let of_positive = softplus((x.log_positives() + bias.clone()).neg());
    of_positive + x.sum_negatives(|s| softplus(s + bias.clone()))
}

/// `ln(1 + eˣ)`, exact where it is small, and with the slope `eˣ / (1 + eˣ)` everywhere.
fn softplus(x: Tensor<2>) -> Tensor<2> {
    let largest = x.clone().detach().clamp_min(0.0);
    let one = largest.clone().neg().exp();
    let e = (x - largest.clone()).exp();
    largest + (e + (one - 1.0)).log1p()
}
