//! Matryoshka: the losses over all prefixes at the price of little more than one (Kusupati et al. 2022).
//!
//! Input: a loss with prefixes, and a batch. Output: its value and gradients, or nothing where prefixes are
//! to be computed one by one.
//!
//! The dot products over a prefix are partial sums of those over all features, so they cost one product
//! together; [`block`] says how they become cosines, and how weights of all prefixes become the weights that
//! each segment of the features has. Sums of all prefixes must be complete before there are weights: a first
//! pass finds them, and a second computes the exponentials again, four products in all, or two for stacked
//! views.
//!
//! [`prefixes`] has the rows by prefix, [`packed`] their operands, [`strips`] the loops.

mod block;
mod packed;
mod prefixes;
mod problem;
mod strips;

use super::candidates::{query_key, stacked_views};
use super::compute::Computation;
use super::problem::{BatchCounts, Shape, computed_form};
use super::strips::packed_problem::PackedProblem;
use super::strips::plan::Plan;
use super::strips::strip::{CommonShift, Extent, Gradients};
use crate::embeddings::Element;
use crate::engine::kernels::Arithmetic;
use crate::engine::terms::outcome::Outcome;
use crate::engine::terms::rule::Terms;
use crate::loss::{Batch, ContrastiveLoss, Form, Objective, Statistics};
use packed::{FeaturePanels, PackedColumns};
use prefixes::{PrefixRows, segments};
use problem::Prefixes;
use strips::StripPlan;

/// Whether all prefixes of such a batch can be computed together.
pub(crate) fn together(loss: &ContrastiveLoss, counts: &BatchCounts) -> bool {
    let plain = loss.objective() == Objective::Softmax && loss.label_smoothing == 0.0;
    let candidates = loss.in_batch && !loss.within_views && counts.guide_dim == 0;
    plain && candidates && counts.per_query == 0 && !loss.execution.skips_unweighted
}

/// How [`outcome`] will be computed.
pub(crate) fn statistics<T: Element>(
    loss: &ContrastiveLoss,
    shape: &Shape,
    threads: usize,
    gradient: bool,
) -> Statistics {
    let kernels = <T::Real as Arithmetic>::kernels(loss.execution.instructions);
    let plan = Plan::new(kernels, *shape, Terms::One);
    let segments = segments(loss.matryoshka());
    let strips = StripPlan::new(&plan, segments.len(), threads);
    let scratch_bytes = strips::bytes::<T::Real>(strips, &segments, gradient);
    Statistics { kept_exponentials: false, scratch_bytes }
}

/// The outcome of a batch over all prefixes [`together`], of which `loss` has some; gradients are
/// overwritten. None where exponentials leave the range that one shift has room for.
pub(crate) fn outcome<T: Element>(
    computation: &Computation<'_>,
    batch: &Batch<'_, T>,
    shape: Shape,
    gradients: Gradients<'_, '_, T::Real>,
) -> Option<Outcome> {
    let Computation { loss, team, .. } = *computation;
    gradients.iter_mut().for_each(|row| row.fill(T::Real::default()));
    let batch = batch.prefix(shape.dim);
    let candidates = match loss.form() {
        Form::NtXent => stacked_views::candidates(loss, &batch, shape, team),
        Form::OneWay | Form::BothWays => query_key::candidates(loss, &batch, shape, team),
    };
    let problem = candidates.problem();
    let columns = problem.columns?;
    let rule = computation.row_rule(&candidates, &problem);
    let segments = segments(loss.matryoshka());
    let rows = PrefixRows::new(problem.rows.rows, &segments, team);
    let square = problem.is_square();
    let own = (!square).then(|| PrefixRows::new(columns.rows, &segments, team));
    let by_prefix = own.as_ref().unwrap_or(&rows);

    let kernels = <T::Real as Arithmetic>::kernels(loss.execution.instructions);
    let packed = PackedProblem::unpacked(problem, &rule, kernels, team);
    let [of_rows, of_columns] = [problem.rows, columns].map(|side| Extent::of(side.rows));
    let right_features = FeaturePanels::new(&segments, packed.plan.width);
    let gradient = !gradients.is_empty();
    let packed_columns =
        PackedColumns::new(&packed.plan, &right_features, by_prefix, gradient, team);
    let prefixes = Prefixes {
        segments: &segments,
        rows: &rows,
        columns: by_prefix,
        packed_columns,
        left_features: FeaturePanels::new(&segments, packed.plan.height),
        right_features,
        common: CommonShift::new::<T::Real>(rule.scale, of_rows, of_columns, 1.0),
        both: computed_form(loss) != Form::OneWay,
        packed,
    };
    let (outcomes, along) = prefixes.run(gradients)?;

    let mut outcome = Outcome::none(shape.rows);
    for (k, segment) in segments.iter().enumerate() {
        let of_prefix = match outcomes.columns.get(k) {
            Some(columns) => Outcome::of_both(&outcomes.rows[k], columns),
            None => Outcome::of(&outcomes.rows[k]),
        };
        outcome.add(&of_prefix, segment.weight);
    }
    if let Some(along) = along {
        let factor = computation.factor(&outcome.losses) * rule.scale;
        let of_rows = |i: usize| along.along(Some(i), square.then_some(i));
        // Stacked views count every pair of rows from both sides.
        let share = if square { 0.5 } else { 1.0 };
        let through_logits: f64 = (0..shape.rows).map(|i| of_rows(i).iter().sum::<f64>()).sum();
        outcome.log_scale = share * rule.scale * through_logits;
        let outs = &mut gradients[problem.rows.gradient..][..shape.rows];
        prefixes.through_lengths(&rows, outs, &of_rows, factor);
        if !square {
            let of_columns = |j: usize| along.along(None, Some(j));
            let outs = &mut gradients[columns.gradient..][..shape.gradient_columns];
            prefixes.through_lengths(by_prefix, outs, &of_columns, factor);
        }
    }
    computation.scale(&mut outcome);
    Some(outcome)
}
