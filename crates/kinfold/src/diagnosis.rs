//! Where a loss stands between its floor and its ceiling.
//!
//! Comes in: a form, a number of pairs, a temperature. Goes out: nats. It never sees embeddings yet.

use crate::loss::{Form, Temperature};

/// The least value that `pairs` pairs of unit embeddings can reach: `ln(1 + m·exp(−n/((n−1)τ)))`
/// with m negatives a row, where every pair is identical and the n directions form a regular
/// simplex, whose cosines are −1/(n−1). Reached in n − 1 or more dimensions. In nats.
///
/// The simplex is optimal by the argument of Wang and Isola (2020) and Graf et al. (2021).
pub fn floor(form: Form, pairs: usize, temperature: Temperature) -> f64 {
    if pairs < 2 {
        return 0.0;
    }
    let n = pairs as f64;
    let negatives = match form {
        Form::OneWay | Form::BothWays => n - 1.0,
        Form::NtXent => 2.0 * n - 2.0,
    };
    (negatives * (-n / ((n - 1.0) * temperature.get())).exp()).ln_1p()
}
