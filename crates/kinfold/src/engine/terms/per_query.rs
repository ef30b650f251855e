//! Negatives of one query alone, `[n · m, d]`: m dot products a row, and no matrix.
//!
//! Input: queries, their negatives, the rows' outcomes. Output: what these negatives add to a row's sums,
//! and gradients. All of it in f64, a row at a time.

use super::outcome::RowOutcome;
use super::rule::{PerQuerySums, RowRule, Terms};
use crate::embeddings::{Element, Real};
use crate::engine::rows::Rows;
use crate::engine::threads::Team;

/// Rows that a thread takes at a time.
const ROWS_A_TIME: usize = 16;

/// Queries, and the negatives of each: row i of `queries` has rows i·m to (i+1)·m of `negatives`.
#[derive(Clone, Copy)]
pub(crate) struct PerQuery<'p, T> {
    pub(crate) queries: &'p Rows<'p, T>,
    pub(crate) negatives: &'p Rows<'p, T>,
    /// 1/τ.
    pub(crate) scale: f64,
}

/// Where the gradients of [`PerQuery`] are added.
pub(crate) struct PerQueryGradients<'g, 'o, R> {
    pub(crate) queries: &'g mut [&'o mut [R]],
    /// Empty where they are not asked for.
    pub(crate) negatives: &'g mut [&'o mut [R]],
}

impl<T: Element> PerQuery<'_, T> {
    /// Negatives of each query, m.
    pub(crate) fn count(&self) -> usize {
        self.negatives.len() / self.queries.len()
    }

    fn logit(&self, row: usize, negative: usize) -> f64 {
        let at = row * self.count() + negative;
        self.scale * self.queries.similarity(row, self.negatives, at)
    }

    /// The sum of row i's logits with its own negatives.
    pub(crate) fn total(&self, i: usize) -> f64 {
        (0..self.count()).map(|at| self.logit(i, at)).sum()
    }

    /// What the negatives of each row add to its sums.
    pub(crate) fn sums(&self, terms: Terms, team: &Team) -> Vec<PerQuerySums> {
        let m = self.count();
        let powers = terms.powers();
        let nothing = PerQuerySums { largest: f64::NEG_INFINITY, ln_sums: [f64::NEG_INFINITY; 2] };
        let mut out = vec![nothing; self.queries.len()];
        team.each(out.chunks_mut(ROWS_A_TIME).enumerate(), |(part, out)| {
            let mut logits = vec![0.0; m];
            for (i, out) in out.iter_mut().enumerate().filter(|_| m > 0) {
                let row = part * ROWS_A_TIME + i;
                logits.iter_mut().enumerate().for_each(|(at, logit)| *logit = self.logit(row, at));
                let largest = logits.iter().fold(f64::NEG_INFINITY, |x, &y| x.max(y));
                let ln_sums = powers.map(|power| {
                    let sum: f64 = logits.iter().map(|s| (power * (s - largest)).exp()).sum();
                    sum.ln() + power * largest
                });
                *out = PerQuerySums { largest, ln_sums };
            }
        });
        out
    }

    /// Adds the gradients that come of these negatives. `linear` is what every candidate's logit weighs
    /// besides, for each row; empty for nothing.
    pub(crate) fn add_gradients(
        &self,
        rule: &RowRule<'_>,
        outcomes: &[RowOutcome],
        linear: &[f64],
        gradients: PerQueryGradients<'_, '_, T::Real>,
        team: &Team,
    ) {
        let (m, dim) = (self.count(), self.queries.dim());
        if m == 0 {
            return;
        }
        let terms = rule.terms();
        let powers = terms.powers();
        let PerQueryGradients { queries, negatives } = gradients;
        let negatives = negatives.chunks_mut(m).map(Some).chain(std::iter::repeat_with(|| None));
        team.each(queries.iter_mut().zip(negatives).enumerate(), |(row, (out, mut negatives))| {
            let outcome = &outcomes[row];
            let (mut query, mut negative) =
                (vec![T::Real::default(); dim], vec![T::Real::default(); dim]);
            let mut sum = vec![0.0; dim];
            self.queries.read(row, &mut query);
            for at in 0..m {
                let above = self.logit(row, at) - outcome.shift;
                let mut weight = outcome.factors[0] * (powers[0] * above).exp();
                if terms.two() {
                    weight += outcome.factors[1] * (powers[1] * above).exp();
                }
                weight += linear.get(row).copied().unwrap_or(0.0);
                self.negatives.read(row * m + at, &mut negative);
                sum.iter_mut().zip(&negative).for_each(|(sum, x)| *sum += weight * x.f64());
                if let Some(out) = negatives.as_mut().and_then(|out| out.get_mut(at)) {
                    let pairs = out.iter_mut().zip(&query);
                    pairs.for_each(|(out, x)| *out += T::Real::from_f64(weight * x.f64()));
                }
            }
            out.iter_mut().zip(&sum).for_each(|(out, &x)| *out += T::Real::from_f64(x));
        });
    }
}
