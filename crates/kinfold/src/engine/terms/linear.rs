//! The terms of a loss that are linear in the logits: the mean over a row's positives, where it has
//! several, and the mean over all its candidates, which label smoothing pulls up.
//!
//! A sum of logits is one logit of a sum, `Σ_j ⟨a, b_j⟩ = ⟨a, Σ_j b_j⟩`. So sums of embeddings, one over
//! all columns and one over each group, are all it takes: n · d operations, not n² · d. In f64.
//!
//! Input: a problem, its row rule, label smoothing. Output: what these terms add to losses and gradients.

use super::group_sums::{Group, GroupSums, add, dot};
use super::outcome::Outcome;
use super::per_query::PerQuery;
use super::rule::{Formula, RowRule};
use crate::embeddings::{Element, Real};
use crate::engine::candidates::groups::NONE;
use crate::engine::candidates::sides::{Problem, Side};
use crate::engine::problem::Region;
use crate::engine::rows::Rows;

/// The linear terms of one direction, rows against columns.
pub(crate) struct LinearTerms<'p, T: Element> {
    pub(crate) problem: Problem<'p, T>,
    pub(crate) rule: &'p RowRule<'p>,
    /// α, the part of the target that is spread over all candidates.
    pub(crate) smoothing: f64,
    /// The part of a row's loss that this direction is: one half where columns choose, too.
    pub(crate) share: f64,
}

/// The weights of a row's logits in its linear terms.
struct Weights {
    /// Of every candidate, for each row.
    all: Vec<f64>,
    /// Of every positive besides, where a row has several.
    positives: Vec<f64>,
}

/// What [`LinearTerms::add_column`] reads.
struct RowTotals {
    /// Rows, each times the weight of its candidates.
    all: GroupSums,
    /// Rows, each times the weight of its positives.
    positives: GroupSums,
}

impl<T: Element> LinearTerms<'_, T> {
    /// Adds to the losses, `L_i += α (mean_P s − mean_candidates s)`, and to the gradients of the linear
    /// terms: those of smoothing and, for rows with several positives, of `−mean_P s`, whose value is in
    /// their loss already. Returns the weight of every candidate of a row; empty for nothing.
    pub(crate) fn apply(
        &self,
        outcome: &mut Outcome,
        gradients: &mut [&mut [T::Real]],
    ) -> Vec<f64> {
        if self.smoothing == 0.0 && self.rule.formula != Formula::LabelsOutside {
            return Vec::new();
        }
        let weights = self.weights();
        if self.smoothing > 0.0 {
            self.add_losses(&weights, outcome);
        }
        if !gradients.is_empty() {
            self.add_gradients(&weights, gradients);
            let pairs = (0..self.rows().len()).filter_map(|i| {
                let j = self.problem.positive(i)?;
                // Where the positive is not among the candidates that are added up.
                let as_candidate = if self.positive_is_apart() { weights.all[i] } else { 0.0 };
                Some((i, j, self.smoothing * self.row_weight(i) + as_candidate))
            });
            let pairs: Vec<_> = pairs.collect();
            add_pair_gradients(self.problem.rows, self.problem.positives, pairs, gradients);
        }
        weights.all
    }

    /// Writes the mean logit of each row's positives into the rule's; see
    /// [`LabelPositives`](super::rule::LabelPositives).
    pub(crate) fn positive_means(problem: &Problem<'_, T>, rule: &mut RowRule<'_>) {
        let (columns, rows) = (problem.rows.rows, problem.rows.rows);
        let Some(groups) = problem.groups else { return };
        let sums = GroupSums::new(columns, &groups.columns[..columns.len()], |_| 1.0);
        let mut row = vec![T::Real::default(); rows.dim()];
        for (i, positives) in rule.labelled.iter_mut().enumerate() {
            rows.read(i, &mut row);
            let sum = match sums.group(groups.rows[i]) {
                Group::Sum(at) => dot(&row, sums.sum(at)) - rows.similarity(i, rows, i),
                Group::None | Group::One { .. } => 0.0,
            };
            positives.mean = rule.scale * sum / positives.count.max(1) as f64 - rule.margin;
        }
    }

    fn rows(&self) -> &Rows<'_, T> {
        self.problem.rows.rows
    }

    /// The groups of rows and of columns; empty without.
    fn groups(&self) -> (&[u32], &[u32]) {
        let columns = self.problem.shape.columns;
        self.problem.groups.map_or((&[], &[]), |groups| (&groups.rows, &groups.columns[..columns]))
    }

    /// Groups are ids: columns of the row's group are no candidates. Otherwise they are labels.
    fn duplicates(&self) -> bool {
        self.problem.groups.is_some_and(|groups| groups.duplicates)
    }

    fn positive_is_apart(&self) -> bool {
        self.duplicates() || matches!(self.problem.shape.region, Region::NegativesOnly { .. })
    }

    /// How many positives row i has.
    fn positives(&self, i: usize) -> usize {
        self.rule.labelled.get(i).map_or(1, |positives| positives.count)
    }

    /// How many candidates row i has, its positives among them.
    fn candidates(&self, i: usize) -> f64 {
        let negatives = self.rule.negatives(i).unwrap_or(0) + self.rule.per_query_count;
        (negatives + self.positives(i)) as f64
    }

    /// What row i's loss counts; 0 where it has no positive and so no loss.
    fn row_weight(&self, i: usize) -> f64 {
        let weight = self.rule.row_weights.get(i).copied().unwrap_or(1.0);
        if self.positives(i) == 0 { 0.0 } else { weight }
    }

    fn weights(&self) -> Weights {
        let n = self.rows().len();
        let of_all = |i| -self.smoothing * self.row_weight(i) / self.candidates(i).max(1.0);
        let of_positives = |i| match self.positives(i) {
            0 | 1 => 0.0,
            several => self.row_weight(i) * (self.smoothing - 1.0) / several as f64,
        };
        Weights { all: (0..n).map(of_all).collect(), positives: (0..n).map(of_positives).collect() }
    }

    fn add_losses(&self, weights: &Weights, outcome: &mut Outcome) {
        let Self { problem, rule, smoothing, share } = self;
        let sums = self.similarities();
        let per_query = problem.per_query.map(|negatives| PerQuery {
            queries: problem.rows.rows,
            negatives: negatives.rows,
            scale: rule.scale,
        });
        for i in (0..self.rows().len()).filter(|&i| self.positives(i) > 0) {
            let logit = problem.positive_similarity(i).map(|similarity| rule.scale * similarity);
            let of_several = rule.labelled.get(i).map(|positives| positives.mean);
            let mean = logit.map(|logit| logit - rule.margin).or(of_several).unwrap_or(0.0);
            let mut sum = rule.scale * sums.get(i).copied().unwrap_or(0.0);
            sum += match (self.positive_is_apart(), logit) {
                (true, Some(logit)) => logit - rule.margin,
                _ => -rule.margin * self.positives(i) as f64,
            };
            sum += per_query.map_or(0.0, |own| own.total(i));
            outcome.losses[i] += share * smoothing * (mean - sum / self.candidates(i));
            let pull = smoothing * self.row_weight(i) + weights.all[i] * self.positives(i) as f64;
            outcome.direct_log_scale -= rule.margin * pull;
        }
    }

    /// For each row, the sum of its similarities with all its candidates; empty without columns.
    fn similarities(&self) -> Vec<f64> {
        let Some(Side { rows: columns, .. }) = self.problem.columns else { return Vec::new() };
        let (rows, (of_rows, of_columns)) = (self.rows(), self.groups());
        let sums = GroupSums::new(columns, of_columns, |_| 1.0);
        let mut row = vec![T::Real::default(); rows.dim()];
        let sum = |i: usize| {
            rows.read(i, &mut row);
            let all = dot(&row, &sums.all);
            if self.duplicates() {
                all - match sums.group(of_rows[i]) {
                    Group::None => 0.0,
                    Group::One { row: j, .. } => rows.similarity(i, columns, j),
                    Group::Sum(at) => dot(&row, sums.sum(at)),
                }
            } else if self.problem.is_square() {
                all - rows.similarity(i, rows, i)
            } else {
                all
            }
        };
        (0..rows.len()).map(sum).collect()
    }

    /// Adds the gradients of rows and of the columns whose gradient is asked for. Where rows are compared
    /// with themselves these are the same.
    fn add_gradients(&self, weights: &Weights, gradients: &mut [&mut [T::Real]]) {
        let Some(Side { rows: columns, gradient: first_column }) = self.problem.columns else {
            return;
        };
        let Side { rows, gradient: first_row } = self.problem.rows;
        let (of_rows, of_columns) = self.groups();
        let sums = GroupSums::new(columns, of_columns, |_| 1.0);
        let totals = RowTotals {
            all: GroupSums::new(rows, of_rows, |i| weights.all[i]),
            positives: GroupSums::new(rows, of_rows, |i| weights.positives[i]),
        };
        let mut sum = vec![0.0; rows.dim()];
        let mut add_sum = |out: &mut [T::Real], add_to: &mut dyn FnMut(&mut [f64])| {
            sum.fill(0.0);
            add_to(&mut sum);
            out.iter_mut().zip(&sum).for_each(|(out, &x)| *out += T::Real::from_f64(x));
        };
        let mut row = vec![T::Real::default(); rows.dim()];
        for (i, out) in gradients[first_row..][..rows.len()].iter_mut().enumerate() {
            rows.read(i, &mut row);
            add_sum(out, &mut |sum| {
                self.add_row(i, &row, weights, &sums, sum);
                if self.problem.is_square() {
                    self.add_column(i, Some((&row, weights)), &totals, sum);
                }
            });
        }
        if !self.problem.is_square() {
            let columns = self.problem.shape.gradient_columns;
            for (j, out) in gradients[first_column..][..columns].iter_mut().enumerate() {
                add_sum(out, &mut |sum| self.add_column(j, None, &totals, sum));
            }
        }
    }

    /// Adds what row i, which is `row`, gets from its candidates.
    fn add_row(
        &self,
        i: usize,
        row: &[T::Real],
        weights: &Weights,
        columns: &GroupSums,
        sum: &mut [f64],
    ) {
        let (of_all, of_positives) = (weights.all[i], weights.positives[i]);
        add(sum, &columns.all, of_all);
        let group = self.groups().0.get(i).map_or(Group::None, |&group| columns.group(group));
        if self.duplicates() {
            match (group, self.problem.columns) {
                (Group::Sum(at), _) => add(sum, columns.sum(at), -of_all),
                (Group::One { row: j, .. }, Some(columns)) => {
                    let mut other = vec![T::Real::default(); row.len()];
                    columns.rows.read(j, &mut other);
                    add(sum, &other, -of_all);
                }
                _ => {}
            }
            return;
        }
        if self.problem.is_square() {
            add(sum, row, -of_all);
        }
        if let Group::Sum(at) = group {
            add(sum, columns.sum(at), of_positives);
            add(sum, row, -of_positives);
        }
    }

    /// Adds what column j gets from all rows that it is a candidate of. `itself` is the row that it is,
    /// where rows are compared with themselves.
    fn add_column(
        &self,
        j: usize,
        itself: Option<(&[T::Real], &Weights)>,
        totals: &RowTotals,
        sum: &mut [f64],
    ) {
        add(sum, &totals.all.all, 1.0);
        let group = self.groups().1.get(j).copied().unwrap_or(NONE);
        if self.duplicates() {
            match totals.all.group(group) {
                Group::Sum(at) => add(sum, totals.all.sum(at), -1.0),
                Group::One { row, coefficient } => {
                    let mut other = vec![T::Real::default(); sum.len()];
                    self.rows().read(row, &mut other);
                    add(sum, &other, -coefficient);
                }
                Group::None => {}
            }
        } else if let Some((row, weights)) = itself {
            add(sum, row, -weights.all[j]);
            if let Group::Sum(at) = totals.positives.group(group) {
                add(sum, totals.positives.sum(at), 1.0);
                add(sum, row, -weights.positives[j]);
            }
        }
    }
}

/// `∂a_i += weight b_j`, `∂b_j += weight a_i` for pairs (i, j, weight) of a row of `a` and one of `b`.
pub(crate) fn add_pair_gradients<T: Element>(
    a: Side<'_, T>,
    b: Side<'_, T>,
    pairs: impl IntoIterator<Item = (usize, usize, f64)>,
    gradients: &mut [&mut [T::Real]],
) {
    let (mut row, mut other) =
        (vec![T::Real::default(); a.rows.dim()], vec![T::Real::default(); a.rows.dim()]);
    for (i, j, weight) in pairs.into_iter().filter(|(_, _, weight)| *weight != 0.0) {
        a.rows.read(i, &mut row);
        b.rows.read(j, &mut other);
        for (at, x) in [(a.gradient + i, &other), (b.gradient + j, &row)] {
            // Of constants there is no gradient.
            let Some(out) = gradients.get_mut(at) else { continue };
            for (out, x) in out.iter_mut().zip(x) {
                *out += T::Real::from_f64(weight * x.f64());
            }
        }
    }
}
