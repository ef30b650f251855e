//! Queries choose among keys and explicit negatives, and both ways keys among queries.

use crate::embeddings::{Element, Real};
use crate::engine::candidates::groups::{Marks, NONE, Small};
use crate::engine::candidates::guide::Judge;
use crate::engine::rows::Rows;
use crate::engine::strips::plan::Candidates;
use crate::engine::strips::run::{Run, Sides};
use crate::engine::terms::group_sums::Even;
use crate::engine::terms::linear::{Linear, Places};
use crate::engine::terms::per_query;
use crate::engine::terms::rule::{Choosing, Count};
use crate::engine::{Outcome, positive_weights};
use crate::loss::{Batch, ContrastiveLoss, Form, Negatives, Objective};

/// The matrices of a batch as they are compared.
struct Matrices<'a, T> {
    queries: Rows<'a, T>,
    keys: Rows<'a, T>,
    /// Explicit negatives, shared or of each query.
    explicit: Option<Rows<'a, T>>,
    per_query: bool,
    /// Keys and shared negatives, where queries choose among both.
    stacked: Option<Rows<'a, T>>,
}

impl<'a, T: Element> Matrices<'a, T> {
    fn new(run: &Run<'_, '_, T::Real>, batch: &Batch<'a, T>) -> Self {
        let keys = batch.keys.unwrap_or(batch.queries);
        let explicit = batch.negatives.given();
        let per_query = matches!(batch.negatives, Negatives::PerQuery(_));
        let stacked = explicit.filter(|_| !per_query && run.loss.in_batch);
        Self {
            queries: run.rows(batch.queries, None),
            keys: run.rows(keys, None),
            explicit: explicit.map(|x| run.rows(x, None)),
            per_query,
            stacked: stacked.map(|x| run.rows(keys, Some(x))),
        }
    }

    /// What queries choose among, if anything, and where among all gradients theirs begin.
    fn columns(&self, in_batch: bool) -> (Option<&Rows<'a, T>>, usize) {
        let (n, keys) = (self.queries.len(), self.keys.len());
        match &self.stacked {
            Some(stacked) => (Some(stacked), n),
            None if in_batch => (Some(&self.keys), n),
            None if self.per_query => (None, n + keys),
            None => (self.explicit.as_ref().filter(|x| x.len() > 0), n + keys),
        }
    }

    /// Negatives of each query alone.
    fn own(&self) -> Option<&Rows<'a, T>> {
        self.explicit.as_ref().filter(|_| self.per_query)
    }

    /// The cosine, or dot product, of query i and its key.
    fn positive(&self, loss: &ContrastiveLoss, i: usize) -> f64 {
        self.queries.similarity(i, &self.keys, loss.offset + i)
    }

    /// In the order of the gradients, with their rows.
    fn all(&self) -> Vec<(&Rows<'a, T>, usize)> {
        let explicit = self.explicit.iter();
        let all = [&self.queries, &self.keys].into_iter().chain(explicit);
        all.map(|rows| (rows, rows.len())).collect()
    }
}

impl<R: Real> Run<'_, '_, R> {
    pub(crate) fn across<T: Element<Real = R>>(&mut self, batch: &Batch<'_, T>) -> Outcome {
        let loss = self.loss;
        let matrices = Matrices::new(self, batch);
        let Matrices { queries: a, keys: k, .. } = &matrices;
        let (n, (b, of_b)) = (a.len(), matrices.columns(loss.in_batch));
        let columns = b.map_or(0, Rows::len);
        let marks = batch.ids.map(|ids| self.marks(ids, n, columns, k.len()));
        let judge = batch.guide.map(|guide| Judge::new(self, &guide));
        let negatives = match &marks {
            _ if judge.is_some() => Count::Unknown,
            None => Count::Same(columns - usize::from(loss.in_batch)),
            // The positive has the row's own id.
            Some(marks) => Count::Each(marks.others(columns)),
        };
        let mut choosing = self.choosing(negatives);
        if let Some(own) = matrices.own() {
            choosing.own = per_query::sums(a, own, choosing.scale, choosing.terms(), self.team);
            choosing.own_count = own.len() / n;
        }
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            choosing.positive_weights = positive_weights(n, sigma, |i| matrices.positive(loss, i));
        }

        let logit = |i: usize| choosing.scale * matrices.positive(loss, i);
        let (chosen, back) = match b {
            None => ((0..n).map(|i| choosing.choose_alone(i, logit(i))).collect(), Vec::new()),
            Some(b) => {
                let sides = Sides {
                    choosing: &choosing,
                    partners: &[],
                    positives: (!loss.in_batch).then_some((k, loss.offset)),
                    marks: marks.as_ref(),
                    guide: judge.as_ref().map(|j| (&j.rows, &j.columns, &j.thresholds[..])),
                    longest_own: matrices.own().map_or(0.0, Rows::longest),
                };
                let candidates = match loss.in_batch {
                    true => Candidates::Rectangle { offset: loss.offset },
                    false => Candidates::Apart,
                };
                let moving = self.out.len().saturating_sub(of_b).min(columns);
                self.chosen((a, 0), (b, of_b), candidates, moving, &sides)
            }
        };
        let mut outcome =
            if back.is_empty() { Outcome::of(&chosen) } else { Outcome::both(&chosen, &back) };
        let even = self.pull_across(&matrices, &choosing, marks.as_ref(), &mut outcome);
        if !self.out.is_empty() {
            if !loss.in_batch {
                let pulls = chosen.iter().enumerate();
                let pulls = pulls.map(|(i, chosen)| (i, loss.offset + i, chosen.positive));
                self.pull_pairs((a, 0), (k, n), pulls);
            }
            if let Some(own) = matrices.own() {
                let (of_a, rest) = self.out.split_at_mut(n);
                let of_own = &mut rest[k.len()..];
                per_query::gradients(
                    (a, own),
                    &choosing,
                    (&chosen, &even),
                    of_a,
                    of_own,
                    self.team,
                );
            }
        }
        self.through_comparison(&matrices.all(), &mut outcome, (n, 1.0));
        outcome
    }

    /// Label smoothing, of queries and both ways of keys. Returns what it weighs each candidate of a
    /// query by.
    fn pull_across<T: Element<Real = R>>(
        &mut self,
        matrices: &Matrices<'_, T>,
        choosing: &Choosing<'_>,
        marks: Option<&Marks>,
        outcome: &mut Outcome,
    ) -> Vec<f64> {
        let loss = self.loss;
        let Matrices { queries: a, keys: k, .. } = matrices;
        let (n, (b, of_b)) = (a.len(), matrices.columns(loss.in_batch));
        let moving = self.out.len().saturating_sub(of_b).min(b.map_or(0, Rows::len));
        let (of_rows, of_columns) = marks.map_or((&[][..], &[][..]), |m| (&m.rows, &m.columns));
        let (hide, both) = (marks.is_some(), loss.form() == Form::BothWays);
        let even = |a, b, marks| Even { a, b, itself: false, marks, hide };
        let there = Linear {
            choosing,
            a,
            even: b.map(|b| even(a, b, (of_rows, of_columns))),
            positive: &|i| Some((loss.offset + i, choosing.scale * matrices.positive(loss, i))),
            positives: k,
            apart: hide || !loss.in_batch,
            own: matrices.own(),
            places: Places { of_a: 0, of_b, moving, of_positives: n },
            share: if both { 0.5 } else { 1.0 },
        };
        let weights = self.pull_linear(&there, outcome);
        if both {
            let back = Linear {
                a: k,
                even: Some(even(k, a, (of_columns, of_rows))),
                positives: a,
                places: Places { of_a: n, of_b: 0, moving: n, of_positives: 0 },
                ..there
            };
            self.pull_linear(&back, outcome);
        }
        weights
    }

    /// Ids of queries, keys and shared negatives.
    fn marks(&self, ids: &[u64], n: usize, columns: usize, keys: usize) -> Marks {
        let mut small = Small::new();
        let all = small.all(ids.iter().copied());
        let rows = all[self.loss.offset..self.loss.offset + n].to_vec();
        let from = if self.loss.in_batch { 0 } else { keys };
        let mut of_columns = all[from.min(all.len())..].to_vec();
        of_columns.resize(columns, NONE);
        let panels = columns.next_multiple_of(R::kernels(self.loss.instructions).width);
        Marks::new(rows, of_columns, panels, true)
    }
}
