//! Between which values a loss can lie, and what that says of the temperature.
//!
//! Input: a loss and a number of pairs. Output: nats, and temperatures. It never sees embeddings.

use super::{ContrastiveLoss, Form, Objective};

impl ContrastiveLoss {
    /// The least value that `pairs` pairs of unit embeddings can reach, in any dimension: every pair
    /// identical and every negative at the simplex's cosine. In nats. None for objectives whose least
    /// value has no closed form, or depends on labels.
    ///
    /// The n directions then form a regular simplex, whose cosines are −1/(n−1), in n − 1 or more
    /// dimensions: `ln(1 + m·exp(−n/((n−1)τ)))` with m negatives a row for the softmax,
    /// `ln m − n/((n−1)τ)` for the decoupled loss. The simplex is optimal by the argument of Wang and
    /// Isola (2020) and Graf et al. (2021). A margin m takes m/τ off the positive's logit.
    pub fn floor(&self, pairs: usize) -> Option<f64> {
        if !self.matryoshka().is_empty() {
            let each = self.matryoshka().iter().map(|prefix| self.of_prefix(prefix).floor(pairs));
            return each.sum();
        }
        if self.label_smoothing != 0.0 || self.within_views || !self.in_batch {
            return None;
        }
        let n = pairs as f64;
        let negatives = match self.form() {
            Form::OneWay | Form::BothWays => n - 1.0,
            Form::NtXent => 2.0 * n - 2.0,
        };
        // How far the positive's logit is above a negative's.
        let ahead = (n / (n - 1.0) - self.margin) * self.temperature().scale();
        let nats = match self.objective() {
            Objective::Softmax | Objective::Decoupled if pairs < 2 => 0.0,
            Objective::Softmax => (negatives * (-ahead).exp()).ln_1p(),
            Objective::Decoupled => negatives.ln() - ahead,
            // Known for the sigmoid only where scale and bias are learned, too.
            Objective::DecoupledWeighted { .. }
            | Objective::Debiased { .. }
            | Objective::HardNegatives { .. }
            | Objective::Rince { .. }
            | Objective::SupConOutside
            | Objective::SupConInside
            | Objective::Sigmoid { .. } => return None,
        };
        Some(self.factor * nats)
    }
}

/// InfoNCE of n pairs that coincide while their directions are spread evenly over the sphere of `dim`
/// dimensions, as the best embeddings of many pairs are (Wang and Isola 2020):
/// `ln(1 + (n−1) e^(−1/τ) E e^(cos/τ))`. Up to dim + 1 pairs reach the simplex instead, and its floor.
pub(crate) fn even(pairs: usize, dim: usize, temperature: f64) -> f64 {
    let (n, scale) = (pairs as f64, temperature.recip());
    if pairs <= dim + 1 {
        return ((n - 1.0) * (-n / (n - 1.0) * scale).exp()).ln_1p();
    }
    ((n - 1.0) * (log_mean_exp_cosine(dim, scale) - scale).exp()).ln_1p()
}

/// `ln E exp(κ cos)` for a random direction in d dimensions: `ln ₀F₁(; d/2; κ²/4)`, whose terms are
/// all positive.
fn log_mean_exp_cosine(dim: usize, kappa: f64) -> f64 {
    /// More terms than any κ up to 1e5 needs; beyond, the answer is κ to within rounding.
    const MOST_TERMS: usize = 200_000;
    const LARGE: f64 = 1e200;
    let (half, x) = (dim as f64 / 2.0, kappa * kappa / 4.0);
    let (mut term, mut sum, mut log) = (1.0f64, 1.0f64, 0.0f64);
    for k in 0..MOST_TERMS {
        let ratio = x / ((k as f64 + 1.0) * (half + k as f64));
        term *= ratio;
        sum += term;
        if ratio < 0.5 && term < sum * f64::EPSILON {
            break;
        }
        if sum > LARGE {
            (term, sum, log) = (term / LARGE, sum / LARGE, log + LARGE.ln());
        }
    }
    (log + sum.ln()).min(kappa)
}

/// The highest temperature at which the floor of InfoNCE over `pairs` pairs is at most `nats`.
pub(crate) fn temperature_for_floor(pairs: usize, nats: f64) -> f64 {
    let n = pairs as f64;
    n / (n - 1.0) / ((n - 1.0) / nats.exp_m1()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Temperature;

    #[test]
    fn the_temperature_for_a_floor_has_that_floor() {
        for n in [2, 32, 256, 4096, 1_000_000] {
            let temperature = temperature_for_floor(n, 0.1);
            let loss = ContrastiveLoss::info_nce(Temperature::new(temperature).expect("above 0"));
            let floor = loss.floor(n).expect("known");
            assert!((floor - 0.1).abs() < 1e-9, "{n}: {floor}");
        }
        assert!((temperature_for_floor(256, 0.1) - 0.129).abs() < 5e-4);
    }

    #[test]
    fn the_mean_over_the_sphere_is_what_is_known_of_it() {
        // cosh κ in one dimension, sinh κ / κ in three.
        for kappa in [0.1, 1.0, 10.0, 300.0] {
            let one = kappa + (0.5 * (1.0 + f64::exp(-2.0 * kappa))).ln();
            assert!((log_mean_exp_cosine(1, kappa) - one).abs() < 1e-12 * (1.0 + one), "{kappa}");
            let three = kappa - kappa.ln() + (0.5 * (1.0 - f64::exp(-2.0 * kappa))).ln();
            assert!((log_mean_exp_cosine(3, kappa) - three).abs() < 1e-11 * (1.0 + three.abs()));
        }
        assert!(log_mean_exp_cosine(2, 1e7) <= 1e7);
    }

    #[test]
    fn even_directions_are_between_floor_and_ceiling() {
        for (n, d) in [(10, 2), (256, 16), (5000, 256), (100, 200)] {
            for t in [0.02, 0.1, 1.0] {
                let loss = ContrastiveLoss::info_nce(Temperature::new(t).expect("above 0"));
                let (least, even) = (loss.floor(n).expect("known"), even(n, d, t));
                assert!(least <= even && even < (n as f64).ln(), "{n} {d} {t}: {least} {even}");
                assert_eq!(least == even, n <= d + 1);
            }
        }
    }
}
