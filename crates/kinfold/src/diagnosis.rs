//! Where a loss stands between its floor and its ceiling.
//!
//! Comes in: a loss and a number of pairs. Goes out: nats. It never sees embeddings yet.

use crate::loss::{Form, InfoNce, Objective};

/// The least value that `pairs` pairs of unit embeddings can reach; see [`InfoNce::floor`].
///
/// It is reached where every pair is identical and the n directions form a regular simplex, whose
/// cosines are −1/(n−1), in n − 1 or more dimensions: `ln(1 + m·exp(−n/((n−1)τ)))` with m negatives a
/// row for the softmax, `ln m − n/((n−1)τ)` for the decoupled loss. The simplex is optimal by the
/// argument of Wang and Isola (2020) and Graf et al. (2021). A margin m takes m/τ off the positive's
/// logit.
pub(crate) fn floor(loss: &InfoNce, pairs: usize) -> Option<f64> {
    if loss.label_smoothing != 0.0 || loss.within_views || !loss.in_batch {
        return None;
    }
    let n = pairs as f64;
    let negatives = match loss.form() {
        Form::OneWay | Form::BothWays => n - 1.0,
        Form::NtXent => 2.0 * n - 2.0,
    };
    // How far the positive's logit is above a negative's.
    let ahead = (n / (n - 1.0) - loss.margin) * loss.temperature().scale();
    let nats = match loss.objective() {
        Objective::Softmax | Objective::Decoupled if pairs < 2 => 0.0,
        Objective::Softmax => (negatives * (-ahead).exp()).ln_1p(),
        Objective::Decoupled => negatives.ln() - ahead,
        // Known for the sigmoid only where scale and bias are learned, too.
        Objective::DecoupledWeighted { .. }
        | Objective::Debiased { .. }
        | Objective::HardNegatives { .. }
        | Objective::SupConOutside
        | Objective::SupConInside
        | Objective::Sigmoid { .. } => return None,
    };
    Some(loss.factor * nats)
}
