//! One computation: from a checked batch to its losses and gradients.
//!
//! Input: a loss, a batch, its shape, and the gradients' rows. Output: an [`Outcome`]; gradients with respect
//! to the embeddings as they were given.

use crate::embeddings::Element;
use crate::engine::candidates::groups;
use crate::engine::candidates::sides::{Candidates, Problem};
use crate::engine::candidates::within_views::WithinViews;
use crate::engine::candidates::{query_key, stacked_views};
use crate::engine::problem::{Partner, Region, Shape, computed_form};
use crate::engine::rows::Rows;
use crate::engine::strips::passes::Passes;
use crate::engine::strips::strip::{Gradients, Outcomes};
use crate::engine::terms::linear::{LinearTerms, add_pair_gradients};
use crate::engine::terms::outcome::Outcome;
use crate::engine::terms::per_query::{PerQuery, PerQueryGradients};
use crate::engine::terms::rule::{Formula, LabelPositives, RowRule};
use crate::engine::threads::Team;
use crate::loss::{Batch, ContrastiveLoss, Form, Objective, ParameterGradient, Statistics, Value};

/// Rows that a thread takes at a time.
const ROWS_A_TIME: usize = 32;

/// A loss, the threads to compute it on, and what rows count.
#[derive(Clone, Copy)]
pub(crate) struct Computation<'l> {
    pub(crate) loss: &'l ContrastiveLoss,
    pub(crate) team: &'l Team,
    /// Empty for 1.
    pub(crate) row_weights: &'l [f64],
}

impl Computation<'_> {
    /// Computes a batch. `gradients` are the rows of those of queries, keys and, where asked for, explicit
    /// negatives; empty for the value alone. They are overwritten.
    pub(crate) fn run<T: Element>(
        &self,
        batch: &Batch<'_, T>,
        shape: Shape,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Outcome {
        let Self { loss, team, .. } = *self;
        gradients.iter_mut().for_each(|row| row.fill(T::Real::default()));
        if loss.within_views {
            return self.within_views(batch, shape, gradients);
        }
        let candidates = match loss.form() {
            Form::NtXent => stacked_views::candidates(loss, batch, shape, team),
            Form::OneWay | Form::BothWays => query_key::candidates(loss, batch, shape, team),
        };
        let problem = candidates.problem();
        let rule = self.row_rule(&candidates, &problem);
        let outcomes = self.outcomes(&problem, &rule, gradients);
        let mut outcome = match outcomes.columns.is_empty() {
            true => Outcome::of(&outcomes.rows),
            false => Outcome::of_both(&outcomes.rows, &outcomes.columns),
        };
        let linear = self.add_linear_terms(&problem, &rule, &mut outcome, gradients);
        if !gradients.is_empty() {
            self.add_separate_gradients(&problem, &rule, &outcomes, &linear, gradients);
        }
        // Stacked views count every pair of rows from both sides.
        let share = if problem.is_square() { 0.5 } else { 1.0 };
        let along = self.finish(candidates.matrices(), &mut outcome, gradients);
        outcome.log_scale += share * along;
        outcome
    }

    fn within_views<T: Element>(
        &self,
        batch: &Batch<'_, T>,
        shape: Shape,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Outcome {
        let Self { loss, team, .. } = *self;
        let laid_out = WithinViews::new(loss, batch, team);
        let candidates = laid_out.candidates(batch, shape, team);
        let problem = candidates.problem();
        let rule = self.row_rule(&candidates, &problem);
        let mut side_by_side = laid_out.side_by_side.gradients(!gradients.is_empty());
        let outcomes = self.outcomes(&problem, &rule, &mut side_by_side.all_rows());
        let mut outcome = Outcome::of(&outcomes.rows);
        // Every logit is linear in its row, so this is Σ s ∂L/∂s.
        outcome.log_scale = rule.scale * laid_out.side_by_side.along(&side_by_side);
        side_by_side.add_to(batch.queries.rows(), gradients);
        self.finish(laid_out.views.matrices(), &mut outcome, gradients);
        outcome
    }

    /// The rule for all rows of a problem.
    pub(crate) fn row_rule<T: Element>(
        &self,
        candidates: &Candidates<'_, T>,
        problem: &Problem<'_, T>,
    ) -> RowRule<'_> {
        let mut rule = RowRule::new(self.loss, candidates.negative_counts(), self.row_weights);
        if size_of::<T::Real>() == 4 {
            // With room for row weights, 1/τ and sums over a batch.
            rule.largest = f64::from(f32::MAX) * 1e-9;
        }
        if let Some(own) = per_query(problem, &rule) {
            rule.per_query = own.sums(rule.terms(), self.team);
            rule.per_query_count = own.count();
        }
        if let Objective::DecoupledWeighted { sigma } = self.loss.objective() {
            rule.positive_weights = positive_weights(problem, sigma);
        }
        if let (
            Region::Triangle { partner: Partner::Listed }
            | Region::Square { partner: Partner::Listed },
            Some(labels),
        ) = (problem.shape.region, problem.groups)
        {
            let positives = |same| LabelPositives { count: same - 1, mean: 0.0 };
            rule.labelled = labels.same().into_iter().map(positives).collect();
            if rule.formula == Formula::LabelsOutside {
                LinearTerms::positive_means(problem, &mut rule);
            }
        }
        rule
    }

    /// The outcomes of rows and, both ways, of columns.
    fn outcomes<T: Element>(
        &self,
        problem: &Problem<'_, T>,
        rule: &RowRule<'_>,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Outcomes {
        let Self { loss, team, .. } = *self;
        if let Some(columns) = problem.columns {
            return Passes { loss, team, rule, problem: *problem, columns }.run(gradients);
        }
        let outcome = |i: usize| {
            let positive = problem.positive_similarity(i).unwrap_or(0.0);
            rule.outcome_without_columns(i, rule.scale * positive)
        };
        Outcomes { rows: (0..problem.shape.rows).map(outcome).collect(), columns: Vec::new() }
    }

    /// The linear terms of rows and, both ways, of columns. Returns the weight of every candidate of a row;
    /// empty for nothing.
    fn add_linear_terms<T: Element>(
        &self,
        problem: &Problem<'_, T>,
        rule: &RowRule<'_>,
        outcome: &mut Outcome,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Vec<f64> {
        let both = self.loss.form() == Form::BothWays;
        let smoothing = self.loss.label_smoothing;
        let share = if both { 0.5 } else { 1.0 };
        let rows = LinearTerms { problem: *problem, rule, smoothing, share };
        let weights = rows.apply(outcome, gradients);
        if both {
            let groups = problem.groups.map(groups::Groups::swapped);
            let columns = LinearTerms { problem: problem.swapped(groups.as_ref()), ..rows };
            columns.apply(outcome, gradients);
        }
        weights
    }

    /// Gradients of what no strip has seen: positives that are no columns, negatives of one query alone.
    fn add_separate_gradients<T: Element>(
        &self,
        problem: &Problem<'_, T>,
        rule: &RowRule<'_>,
        outcomes: &Outcomes,
        linear: &[f64],
        gradients: Gradients<'_, '_, T::Real>,
    ) {
        if let Region::NegativesOnly { offset } = problem.shape.region {
            let pairs = outcomes.rows.iter().enumerate();
            let pairs = pairs.map(|(i, outcome)| (i, offset + i, outcome.positive));
            add_pair_gradients(problem.rows, problem.positives, pairs, gradients);
        }
        if let (Some(own), Some(side)) = (per_query(problem, rule), problem.per_query) {
            let (before, negatives) = gradients.split_at_mut(side.gradient);
            let queries = &mut before[..problem.shape.rows];
            let of_own = PerQueryGradients { queries, negatives };
            own.add_gradients(rule, &outcomes.rows, linear, of_own, self.team);
        }
    }

    /// From the sum of the rows' losses to their mean (or the sum, as the loss says), and from gradients
    /// with respect to rows as they are compared to those with respect to the rows themselves. `matrices`
    /// are in the order of the gradients. Returns `Σ ⟨x, ∂L/∂x⟩` over the rows that have a loss.
    fn finish<'r, T: Element>(
        &self,
        matrices: impl Iterator<Item = &'r Rows<'r, T>>,
        outcome: &mut Outcome,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> f64 {
        let factor = self.factor(&outcome.losses);
        self.scale(outcome);
        if gradients.is_empty() {
            return 0.0;
        }
        let factor = self.loss.temperature().scale() * factor;
        let mut along = vec![0.0; gradients.len()];
        let (mut outs, mut alongs) = (gradients, &mut along[..]);
        let mut parts = Vec::new();
        for rows in matrices {
            let count = rows.len().min(outs.len());
            let (out, along);
            (out, outs) = outs.split_at_mut(count);
            (along, alongs) = alongs.split_at_mut(count);
            let pieces = out.chunks_mut(ROWS_A_TIME).zip(along.chunks_mut(ROWS_A_TIME));
            parts.extend(pieces.enumerate().map(|piece| (rows, piece)));
        }
        self.team.each(parts.into_iter(), |(rows, (part, (out, along)))| {
            for (i, (g, along)) in out.iter_mut().zip(along).enumerate() {
                *along = rows.backward(part * ROWS_A_TIME + i, g, factor);
            }
        });
        along[..outcome.losses.len()].iter().sum::<f64>() * factor
    }

    /// From derivatives of the sum of the rows' losses to those of their mean, or of the sum, as the loss
    /// says.
    pub(crate) fn scale(&self, outcome: &mut Outcome) {
        let factor = self.factor(&outcome.losses);
        outcome.direct_log_scale *= factor;
        outcome.bias *= factor;
        outcome.log_scale *= factor;
    }

    /// What gradients are multiplied by beside 1/τ: for the mean over rows, and both ways of both.
    pub(crate) fn factor(&self, losses: &[f64]) -> f64 {
        let ways = if computed_form(self.loss) == Form::BothWays { 0.5 } else { 1.0 };
        ways * self.loss.factor * self.loss.reduced(1.0 / self.weight(losses), 1.0)
    }

    /// The sum of the rows' weights.
    fn weight(&self, losses: &[f64]) -> f64 {
        if self.row_weights.is_empty() {
            losses.len() as f64
        } else {
            self.row_weights.iter().sum()
        }
    }

    /// The value of an outcome, and its derivatives with respect to the loss's own parameters.
    pub(crate) fn value(
        &self,
        outcome: Outcome,
        statistics: Statistics,
    ) -> (Value, ParameterGradient) {
        let Outcome { losses, log_scale, direct_log_scale, bias } = outcome;
        let weight = self.weight(&losses);
        let weighted =
            |(i, loss): (usize, &f64)| loss * self.row_weights.get(i).copied().unwrap_or(1.0);
        let sum = self.loss.factor * losses.iter().enumerate().map(weighted).sum::<f64>();
        let value = Value {
            mean: sum / weight,
            sum,
            rows: losses.into_iter().map(|loss| self.loss.factor * loss).collect(),
            statistics,
        };
        (value, ParameterGradient { log_scale: log_scale + direct_log_scale, bias })
    }
}

/// The negatives of one query alone, where there are any.
fn per_query<'p, T: Element>(
    problem: &Problem<'p, T>,
    rule: &RowRule<'_>,
) -> Option<PerQuery<'p, T>> {
    let negatives = problem.per_query?.rows;
    Some(PerQuery { queries: problem.rows.rows, negatives, scale: rule.scale })
}

/// What the decoupled loss multiplies each row's positive by: `2 − n·softmax_i(similarity_i / σ)` over
/// the pairs, for both views of a pair.
fn positive_weights<T: Element>(problem: &Problem<'_, T>, sigma: f64) -> Vec<f64> {
    let pairs = if problem.is_square() { problem.shape.rows / 2 } else { problem.shape.rows };
    let similarity = |i| problem.positive_similarity(i).unwrap_or(0.0);
    let scaled: Vec<f64> = (0..pairs).map(|i| similarity(i) / sigma).collect();
    let largest = scaled.iter().fold(f64::NEG_INFINITY, |x, &y| x.max(y));
    let sum: f64 = scaled.iter().map(|s| (s - largest).exp()).sum();
    let weight = |s: &f64| 2.0 - pairs as f64 * (s - largest).exp() / sum;
    let weights: Vec<f64> = scaled.iter().map(weight).collect();
    weights.iter().copied().cycle().take(problem.shape.rows).collect()
}
