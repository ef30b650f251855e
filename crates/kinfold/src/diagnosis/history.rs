//! How a training went, in short.
//!
//! Input: the losses and gradient norms of its steps. Output: a [`History`].

use super::Training;
use super::parts::{GradientNorm, History};
use super::walk::{mean, median};

/// None where no step was taken.
pub(super) fn history(training: &Training<'_>) -> Option<History> {
    let Training { losses, gradient_norms, ceiling, .. } = *training;
    // A twentieth of the steps at a time, and at least three, so that no single batch counts.
    let part = losses.len().div_ceil(20).clamp(3.min(losses.len()), losses.len());
    let means: Vec<f64> =
        losses.rchunks_exact(part.max(1)).map(|part| mean(part.iter().copied())).collect();
    let (last, before_last) = (*means.first()?, *means.get(1).or(means.first())?);
    let gradient_norm = (gradient_norms.len() == losses.len()).then(|| GradientNorm {
        first: gradient_norms[0],
        early: median(gradient_norms[..part].to_vec()),
        most: gradient_norms.iter().copied().fold(0.0, f64::max),
        last: median(gradient_norms[losses.len() - part..].to_vec()),
    });
    Some(History {
        steps: losses.len(),
        ceiling,
        first: mean(losses[..part].iter().copied()),
        best: means.iter().copied().fold(f64::INFINITY, f64::min),
        last,
        before_last,
        highest: losses.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        gradient_norm,
        finite: losses.iter().chain(training.gradient_norms).all(|x| x.is_finite()),
    })
}
