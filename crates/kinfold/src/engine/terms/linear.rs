//! What a loss has that is linear in the logits, and the pull of positives that no strip has seen.
//!
//! Comes in: rows, positives, label smoothing. Goes out: what that adds to losses and to gradients.

use crate::embeddings::{Element, Real};
use crate::engine::Outcome;
use crate::engine::rows::Rows;
use crate::engine::strips::run::Run;
use crate::engine::strips::strip::Side;
use crate::engine::terms::group_sums::{Coefficients, Even};
use crate::engine::terms::per_query;
use crate::engine::terms::rule::{Choosing, Rule};

/// What [`Run::pull_linear`] goes through.
#[derive(Clone, Copy)]
pub(crate) struct Linear<'p, 'a, T: Element> {
    pub(crate) choosing: &'p Choosing<'p>,
    pub(crate) a: &'p Rows<'a, T>,
    pub(crate) even: Option<Even<'p, 'a, T>>,
    /// Row i's positive, where it has one alone, and its logit without the margin.
    pub(crate) positive: &'p dyn Fn(usize) -> Option<(usize, f64)>,
    pub(crate) positives: &'p Rows<'a, T>,
    /// The positive is not among what `even` adds up.
    pub(crate) apart: bool,
    pub(crate) own: Option<&'p Rows<'a, T>>,
    pub(crate) places: Places,
    pub(crate) share: f64,
}

/// Where among all gradients those of rows, of columns and of positives begin, and of how many columns
/// they are asked for.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    pub(crate) of_a: usize,
    pub(crate) of_b: usize,
    pub(crate) moving: usize,
    pub(crate) of_positives: usize,
}

impl<R: Real> Run<'_, '_, R> {
    /// `out_i += weight b_p`, `out_p += weight a_i` for pairs (i, p, weight) of a row of `a` and one of
    /// `b`.
    pub(crate) fn pull_pairs<T: Element<Real = R>>(
        &mut self,
        (a, of_a): Side<'_, T>,
        (b, of_b): Side<'_, T>,
        pairs: impl Iterator<Item = (usize, usize, f64)>,
    ) {
        let (mut row, mut positive) = (vec![R::default(); a.dim()], vec![R::default(); a.dim()]);
        for (i, p, weight) in pairs.filter(|(_, _, weight)| *weight != 0.0) {
            a.read(i, &mut row);
            b.read(p, &mut positive);
            for (at, other) in [(of_a + i, &positive), (of_b + p, &row)] {
                for (out, x) in self.out[at].iter_mut().zip(other) {
                    *out += R::from_f64(weight * x.f64());
                }
            }
        }
    }

    /// What is linear in the logits: label smoothing, `L_i += α (mean_P s − mean_candidates s)`, and
    /// for rows with several positives `−mean_P s`, whose value is in their loss already. Returns what
    /// smoothing weighs each candidate of a row by.
    pub(crate) fn pull_linear<T: Element<Real = R>>(
        &mut self,
        linear: &Linear<'_, '_, T>,
        outcome: &mut Outcome,
    ) -> Vec<f64> {
        let Linear { choosing, a, even, positive, apart, own, places, share, .. } = linear;
        let smoothing = self.loss.label_smoothing;
        let several = choosing.rule == Rule::LabelsOutside;
        if smoothing == 0.0 && !several {
            return Vec::new();
        }
        let labelled = |i: usize| choosing.labelled.get(i).copied();
        let positives = |i: usize| labelled(i).map_or(1, |labelled| labelled.positives);
        let candidates = |i: usize| {
            let negatives = choosing.negatives(i).unwrap_or(0) + choosing.own_count;
            (negatives + positives(i)) as f64
        };
        let weight = |i: usize| {
            let weight = choosing.row_weights.get(i).copied().unwrap_or(1.0);
            if positives(i) == 0 { 0.0 } else { weight }
        };
        let of_all: Vec<f64> =
            (0..a.len()).map(|i| -smoothing * weight(i) / candidates(i).max(1.0)).collect();
        let of_several = |i: usize| match labelled(i) {
            Some(labelled) if labelled.positives > 1 => {
                weight(i) * (smoothing - 1.0) / labelled.positives as f64
            }
            _ => 0.0,
        };
        let of_positives: Vec<f64> = (0..a.len()).map(of_several).collect();

        if smoothing > 0.0 {
            let sums = even.as_ref().map_or_else(Vec::new, Even::similarities);
            for i in (0..a.len()).filter(|&i| positives(i) > 0) {
                let single = positive(i).map(|(_, logit)| logit - choosing.margin);
                let mean = single.or(labelled(i).map(|labelled| labelled.mean)).unwrap_or(0.0);
                let mut sum = choosing.scale * sums.get(i).copied().unwrap_or(0.0);
                sum += match (apart, single) {
                    (true, Some(logit)) => logit,
                    _ => -choosing.margin * positives(i) as f64,
                };
                sum += own.map_or(0.0, |own| per_query::total(a, own, choosing.scale, i));
                outcome.losses[i] += share * smoothing * (mean - sum / candidates(i));
                let pull = smoothing * weight(i) + of_all[i] * positives(i) as f64;
                outcome.explicit -= choosing.margin * pull;
            }
        }
        if self.out.is_empty() {
            return of_all;
        }
        if let Some(even) = even {
            let coefficients = Coefficients { of_all: &of_all, of_positives: &of_positives };
            let mut out: Vec<&mut [R]> = self.out.iter_mut().map(|row| &mut **row).collect();
            let (low, high) = out.split_at_mut(places.of_a.max(places.of_b));
            let n = a.len();
            if even.itself {
                even.gradients(&coefficients, &mut high[..n], &mut []);
            } else if places.of_a < places.of_b {
                let of_a = &mut low[places.of_a..places.of_a + n];
                even.gradients(&coefficients, of_a, &mut high[..places.moving]);
            } else {
                let of_b = &mut low[places.of_b..places.of_b + places.moving];
                even.gradients(&coefficients, &mut high[..n], of_b);
            }
        }
        let pulls = (0..a.len()).filter_map(|i| {
            let (p, _) = positive(i)?;
            let with_others = if *apart { of_all[i] } else { 0.0 };
            Some((i, p, smoothing * weight(i) + with_others))
        });
        let pulls: Vec<_> = pulls.collect();
        let (a, b) = ((*a, places.of_a), (linear.positives, places.of_positives));
        self.pull_pairs(a, b, pulls.into_iter());
        of_all
    }
}
