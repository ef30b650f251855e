//! Negatives that a query has for itself, `[n · m, d]`: m dot products a row, no matrix to speak of.
//!
//! Comes in: queries, their negatives, what their choices came to. Goes out: what these negatives add
//! to a row's sums, and gradients. All of it in f64, a row at a time.

use crate::embeddings::{Element, Real};
use crate::engine::rows::Rows;
use crate::engine::terms::rule::{Choosing, Chosen, Own, Terms};
use crate::engine::threads::Team;

/// Rows that a thread takes at a time.
const FEW: usize = 16;

/// What the negatives of each row of `a` add to its sums; row i has rows i·m to (i+1)·m of `own`.
pub(crate) fn sums<T: Element>(
    a: &Rows<'_, T>,
    own: &Rows<'_, T>,
    scale: f64,
    terms: Terms,
    team: &Team,
) -> Vec<Own> {
    let m = own.len() / a.len();
    let (first, second) = terms.powers();
    let nothing =
        Own { largest: f64::NEG_INFINITY, first: f64::NEG_INFINITY, second: f64::NEG_INFINITY };
    let mut out = vec![nothing; a.len()];
    team.each(out.chunks_mut(FEW).enumerate(), |(part, out)| {
        let mut logits = vec![0.0; m];
        for (i, out) in out.iter_mut().enumerate().filter(|_| m > 0) {
            let row = part * FEW + i;
            for (at, logit) in logits.iter_mut().enumerate() {
                *logit = scale * a.similarity(row, own, row * m + at);
            }
            let largest = logits.iter().fold(f64::NEG_INFINITY, |x, &y| x.max(y));
            let sum = |power: f64| {
                let sum: f64 = logits.iter().map(|s| (power * (s - largest)).exp()).sum();
                sum.ln() + power * largest
            };
            *out = Own { largest, first: sum(first), second: sum(second) };
        }
    });
    out
}

/// Adds the gradients that come of these negatives: to the queries' rows of `of_a`, and to the
/// negatives' rows of `of_own`, which is empty where nobody asks for them.
pub(crate) fn gradients<T: Element>(
    (a, own): (&Rows<'_, T>, &Rows<'_, T>),
    choosing: &Choosing<'_>,
    // What every candidate's logit weighs besides, for each row; empty for nothing.
    (chosen, even): (&[Chosen], &[f64]),
    of_a: &mut [&mut [T::Real]],
    of_own: &mut [&mut [T::Real]],
    team: &Team,
) {
    let (m, dim) = (own.len() / a.len(), a.dim());
    if m == 0 {
        return;
    }
    let terms = choosing.terms();
    let (first, second) = terms.powers();
    let of_own = of_own.chunks_mut(m).map(Some).chain(std::iter::repeat_with(|| None));
    team.each(of_a.iter_mut().zip(of_own).enumerate(), |(row, (of_a, mut of_own))| {
        let chosen = &chosen[row];
        let (mut query, mut negative) =
            (vec![T::Real::default(); dim], vec![T::Real::default(); dim]);
        let mut sum = vec![0.0; dim];
        a.read(row, &mut query);
        for at in 0..m {
            let logit = choosing.scale * a.similarity(row, own, row * m + at);
            let above = logit - chosen.reference;
            let mut weight = chosen.first * (first * above).exp();
            if terms.two() {
                weight += chosen.second * (second * above).exp();
            }
            weight += even.get(row).copied().unwrap_or(0.0);
            own.read(row * m + at, &mut negative);
            sum.iter_mut().zip(&negative).for_each(|(sum, x)| *sum += weight * x.f64());
            if let Some(out) = of_own.as_mut().and_then(|out| out.get_mut(at)) {
                let pairs = out.iter_mut().zip(&query);
                pairs.for_each(|(out, x)| *out += T::Real::from_f64(weight * x.f64()));
            }
        }
        of_a.iter_mut().zip(&sum).for_each(|(out, &x)| *out += T::Real::from_f64(x));
    });
}

/// The mean logit of row i's own negatives times their number.
pub(crate) fn total<T: Element>(a: &Rows<'_, T>, own: &Rows<'_, T>, scale: f64, i: usize) -> f64 {
    let m = own.len() / a.len();
    (0..m).map(|at| scale * a.similarity(i, own, i * m + at)).sum()
}
