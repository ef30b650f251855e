//! Every row chooses among all others: two views stacked, or rows with labels.

use crate::embeddings::{Element, Real};
use crate::engine::candidates::groups::{self, Marks, NONE, Small};
use crate::engine::strips::plan::{Candidates, Partner};
use crate::engine::strips::run::{Run, Sides};
use crate::engine::terms::group_sums::Even;
use crate::engine::terms::linear::{Linear, Places};
use crate::engine::terms::rule::{Count, Rule};
use crate::engine::{Outcome, positive_weights};
use crate::loss::{Batch, Objective};

impl<R: Real> Run<'_, '_, R> {
    /// Every row chooses among all others.
    pub(crate) fn among_themselves<T: Element<Real = R>>(
        &mut self,
        batch: &Batch<'_, T>,
    ) -> Outcome {
        let loss = self.loss;
        let z = self.rows(batch.queries, batch.keys);
        let (n, pairs) = (z.len(), batch.queries.rows());
        let of_rows = |of: &[u64]| Small::new().all((0..n).map(|i| of[i % pairs]));
        let labels = batch.labels.map(of_rows);
        let ids = batch.ids.map(of_rows);
        let panels = n.next_multiple_of(R::kernels(loss.instructions).width);
        let same = labels.as_ref().or(ids.as_ref());
        let marks = same.map(|m| Marks::new(m.clone(), m.clone(), panels, ids.is_some()));

        let mut partners = Vec::new();
        let (choosing, partner) = match &labels {
            Some(labels) => {
                let (listed, labelled, negatives) = groups::by_label(labels);
                partners = listed;
                let mut choosing = self.choosing(negatives);
                choosing.labelled = labelled;
                (choosing, Partner::Listed)
            }
            None => {
                let negatives = match &marks {
                    None => Count::Same(n - 2),
                    // Itself and its positive have the row's own id.
                    Some(marks) => Count::Each(marks.others(n)),
                };
                (self.choosing(negatives), Partner::View(pairs))
            }
        };
        let mut choosing = choosing;
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            let weights = positive_weights(pairs, sigma, |i| z.similarity(i, &z, i + pairs));
            choosing.positive_weights = [&weights[..], &weights[..]].concat();
        }
        let empty: &[u32] = &[];
        let of_marks = same.map_or((empty, empty), |m| (&m[..], &m[..]));
        let even = Even { a: &z, b: &z, itself: true, marks: of_marks, hide: ids.is_some() };
        let scale = choosing.scale;
        if choosing.rule == Rule::LabelsOutside {
            let sums = even.similarities_of_positives();
            for (labelled, sum) in choosing.labelled.iter_mut().zip(sums) {
                let count = labelled.positives.max(1) as f64;
                labelled.mean = scale * sum / count - choosing.margin;
            }
        }
        let sides = Sides {
            choosing: &choosing,
            partners: &partners,
            positives: None,
            marks: marks.as_ref(),
            guide: None,
            longest_own: 0.0,
        };
        let triangle = Candidates::Triangle { partner };
        let (chosen, _) = self.chosen((&z, 0), (&z, 0), triangle, n, &sides);
        let mut outcome = Outcome::of(&chosen);
        let linear = Linear {
            choosing: &choosing,
            a: &z,
            even: Some(even),
            positive: &|i| {
                let partner = match partner {
                    Partner::View(pairs) => (i + pairs) % n,
                    Partner::Listed => *partners.get(i).filter(|&&j| j != NONE)? as usize,
                };
                Some((partner, scale * z.similarity(i, &z, partner)))
            },
            positives: &z,
            apart: ids.is_some(),
            own: None,
            places: Places { of_a: 0, of_b: 0, moving: 0, of_positives: 0 },
            share: 1.0,
        };
        self.pull_linear(&linear, &mut outcome);
        self.through_comparison(&[(&z, n)], &mut outcome, (n, 0.5));
        outcome
    }
}
