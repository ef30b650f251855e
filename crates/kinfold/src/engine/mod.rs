//! The engine: every loss and its gradients, without the n × m matrix of logits.
//!
//! Input: a loss, and a batch that has been checked. Output: its value and gradients. Nothing here fails.
//!
//! # The algorithm
//!
//! Rows a_i choose among columns b_j by their logits `s_ij = ⟨a_i, b_j⟩ / τ`. With the positive p(i)
//! kept out of the sum that it is compared with,
//!
//! ```text
//! E_ij  = exp(s_ij − c)                       0 where j is no negative of i
//! neg_i = Σ_j E_ij
//! L_i   = ln(1 + neg_i / exp(s_ip − c))
//! u_i   = 1 / (neg_i + exp(s_ip − c))
//!
//! ∂L_i/∂s_ij = W_ij = u_i E_ij   for negatives,   W_ip = −u_i neg_i   for the positive
//! ∂L/∂a = W b / τ                ∂L/∂b = Wᵀ a / τ                ∂L/∂ln(1/τ) = Σ_i ⟨a_i, ∂L/∂a_i⟩
//! ```
//!
//! so that neither a loss of 1e-12 nor its gradient drowns in rounding. Where columns choose among
//! rows, too (both ways, stacked views), they do so by the same exponentials: `W_ij = E_ij (u_i + v_j)`,
//! with v_j from the sum over column j.
//!
//! Other losses have other *terms* in place of E (two powers of it, a sigmoid), and another *row rule*
//! from sums to losses and weights; the loops are the same. What is linear in the logits (label
//! smoothing, the mean over several positives) and the negatives of one query alone need no matrix.
//!
//! # The loop
//!
//! Rows are gone through in strips. In each,
//!
//! ```text
//! phase A, threads own blocks of rows
//!     for each chunk of columns:
//!         E  = exp(a bᵀ / τ − c)             while it lies in the second cache: sums of rows, columns
//!         ∂a += W b                          where W is known
//! phase B, threads own panels of columns
//!         ∂bᵀ += aᵀ W
//! ```
//!
//! One way, a row's weights are known with its sum: one pass, three products of n × m × d. Where
//! columns choose, too, sums must be complete before there are weights: a first pass finds them, and
//! a second computes the exponentials again (four products), or finds them where the first has left
//! them, as far as the memory budget reaches (three). Stacked views have a symmetric matrix of logits,
//! of which only the upper triangle is visited (two products, or one and a half).
//!
//! # The shift c
//!
//! One c for all exponentials is what lets rows and columns share them. Lengths bound the logits:
//! `|s_ij| ≤ max‖a‖ max‖b‖ / τ`. By that bound c is chosen such that nothing can overflow, 0 where
//! possible; whether too much has underflowed is seen in the sums, afterwards. Where it has (with
//! f32 and cosines, below τ ≈ 0.011 or so), the loss is computed again with the largest negative of
//! each row as that row's own shift, one way at a time. That is always safe.
//!
//! # What makes it fast
//!
//! A product is blocked as in BLIS, and a tile of it is held in registers by a micro-kernel:
//!
//! ```text
//! BLIS   here
//! m_r    height         rows of a tile
//! n_r    width          columns of a tile, and of a panel
//! k_c    DEPTH          inner indices at a time
//! m_c    block_rows     rows of a block, which one thread works on
//! n_c    chunk_panels   panels of a chunk of columns, which stays in the second cache
//! ```
//!
//! Beyond BLIS: columns are packed once for all strips and passes; exponentials and weights are taken in
//! place while a panel lies in the first cache; and the layout that one product writes is one that the
//! next can read as either operand, so no weight is moved or transposed. A tile in the first two caches
//! is at the machine's limit, so while the tiles of a panel are worked on they ask for the next panel,
//! a line at a time, and a strip is small enough for the third.
//!
//! Each number is written by one thread in one fixed order, so the result has the same bits for every
//! number of threads. Products and exponentials are in the type itself; sums of exponentials across
//! chunks, the positives and everything that happens to a row once are in f64.
//!
//! # The rooms
//!
//! In the order in which they depend on each other, the lowest first:
//!
//! ```text
//! aligned        buffers, and the pool that keeps them between calls
//! kernels/       what knows about hardware: the micro-kernel, exponentials, weights
//! threads        how threads share work
//! rows           rows as they are compared: normalised, and gradients taken back through that
//! packed         rows and columns packed for the micro-kernel
//! problem        the shape of a problem: how many rows and columns, and which elements count
//! candidates/    who is a candidate for whom, a file for each form; groups (ids, labels), a guide
//! terms/         the row rule, linear terms, negatives of one query alone
//! strips/        the loop: plan, strip, block, panel
//! compute        one computation from a batch to its gradients, in the order of its steps
//! matryoshka/    the same over several prefixes of the features at once
//! cosines, gemm  other users of packed operands: measures, and the machine's speed
//! ```

mod aligned;
mod candidates;
mod compute;
mod cosines;
mod gemm;
mod kernels;
mod matryoshka;
mod packed;
mod problem;
mod rows;
mod strips;
mod terms;
mod threads;

use crate::embeddings::Element;
use crate::loss::{
    Batch, BatchShape, ContrastiveLoss, Form, GradientMut, Objective, ParameterGradient, Prefix,
    Statistics, Value,
};
pub use aligned::release_memory;
use candidates::sides::NegativeCounts;
use compute::Computation;
pub(crate) use cosines::Cosines;
pub use gemm::Gemm;
pub(crate) use kernels::{Arithmetic, Work};
use problem::{BatchCounts, Shape, computed_form};
use strips::plan::Plan;
use terms::rule::{Formula, RowRule, RowSums, softplus};
use threads::Team;
pub use threads::on_threads_of;

/// Waking a thread takes as long as so many terms of the dot products, n · m · d: with fewer, a loss is
/// computed on the caller's thread.
pub const WORTH_THREADS: usize = 1 << 20;

/// The loss of a batch that has been checked and, where there is memory for it, its gradients.
pub(crate) fn run<T: Element>(
    loss: &ContrastiveLoss,
    batch: &Batch<'_, T>,
    batch_shape: &BatchShape,
    mut gradient: Option<GradientMut<'_, T::Real>>,
) -> (Value, ParameterGradient) {
    let again = gradient.as_mut().map(|gradient| GradientMut {
        queries: &mut *gradient.queries,
        keys: &mut *gradient.keys,
        negatives: &mut *gradient.negatives,
    });
    match at_once(loss, batch, batch_shape, again) {
        Some(done) => done,
        None => prefix_by_prefix(loss, batch, batch_shape, gradient),
    }
}

/// The loss over each prefix for itself, added up.
fn prefix_by_prefix<T: Element>(
    loss: &ContrastiveLoss,
    batch: &Batch<'_, T>,
    batch_shape: &BatchShape,
    mut gradient: Option<GradientMut<'_, T::Real>>,
) -> (Value, ParameterGradient) {
    let [_, dim] = batch_shape.queries;
    let mut outs: Vec<&mut [T::Real]> = gradient.as_mut().map_or_else(Vec::new, |gradient| {
        let GradientMut { queries, keys, negatives } = gradient;
        vec![&mut **queries, &mut **keys, &mut **negatives]
    });
    outs.iter_mut().for_each(|out| out.fill(T::Real::default()));
    let rows = vec![0.0; batch_shape.rows(loss.form())];
    let statistics = Statistics { kept_exponentials: false, scratch_bytes: 0 };
    let mut value = Value { mean: 0.0, sum: 0.0, rows, statistics };
    let mut parameters = ParameterGradient::default();
    for prefix in loss.matryoshka() {
        let mut own: Vec<Vec<_>> =
            outs.iter().map(|out| vec![T::Real::default(); out.len() / dim * prefix.dim]).collect();
        let gradient = match &mut own[..] {
            [queries, keys, negatives] => Some(GradientMut { queries, keys, negatives }),
            _ => None,
        };
        let (cut, shape) = (batch.prefix(prefix.dim), batch_shape.prefix(prefix.dim));
        let one = at_once(&loss.of_prefix(prefix), &cut, &shape, gradient);
        let Some((one, of_parameters)) = one else { continue };
        value.mean += one.mean;
        value.sum += one.sum;
        value.rows.iter_mut().zip(&one.rows).for_each(|(all, one)| *all += one);
        let own_bytes = own.iter().map(|own| size_of_val(&own[..])).sum::<usize>();
        let scratch_bytes = one.statistics.scratch_bytes + own_bytes;
        value.statistics.scratch_bytes = value.statistics.scratch_bytes.max(scratch_bytes);
        parameters.log_scale += of_parameters.log_scale;
        parameters.bias += of_parameters.bias;
        for (out, own) in outs.iter_mut().zip(&own) {
            for (out, own) in out.chunks_mut(dim).zip(own.chunks(prefix.dim)) {
                out.iter_mut().zip(own).for_each(|(out, &own)| *out += own);
            }
        }
    }
    (value, parameters)
}

/// The loss in one computation; None where prefixes have to be computed one by one.
fn at_once<T: Element>(
    loss: &ContrastiveLoss,
    batch: &Batch<'_, T>,
    batch_shape: &BatchShape,
    gradient: Option<GradientMut<'_, T::Real>>,
) -> Option<(Value, ParameterGradient)> {
    let counts = BatchCounts::of(batch_shape);
    let prefixes = !loss.matryoshka().is_empty();
    if prefixes && !matryoshka::together(loss, &counts) {
        return None;
    }
    let team = Team::new(threads(loss, &counts), loss.execution.instructions);
    let asked = gradient.is_some();
    let mut gradients = gradient.map_or_else(Vec::new, |gradient| {
        let GradientMut { queries, keys, negatives } = gradient;
        let matrices = [queries, keys, negatives];
        matrices.into_iter().flat_map(|x| x.chunks_mut(counts.dim)).collect()
    });
    let shape = Shape::new(loss, &counts, asked);
    let shape = match gradients.len() {
        _ if !asked => shape,
        all if counts.keys > 0 && all == counts.queries => Shape { gradient_columns: 0, ..shape },
        all if all == counts.queries + counts.keys => shape.with_constant_negatives(&counts),
        _ => shape,
    };
    let row_weights = batch.row_weights.unwrap_or(&[]);
    let computation = Computation { loss, team: &team, row_weights };
    let outcome = match prefixes {
        true => matryoshka::outcome(&computation, batch, shape, &mut gradients)?,
        false => computation.run(batch, shape, &mut gradients),
    };
    Some(computation.value(outcome, statistics::<T>(loss, &shape, team.threads(), asked)))
}

/// The threads that a batch is worth.
fn threads(loss: &ContrastiveLoss, counts: &BatchCounts) -> usize {
    match loss.execution.threads {
        _ if counts.dot_product_terms() < WORTH_THREADS => 1,
        0 => rayon::current_num_threads(),
        threads => threads,
    }
}

/// Bytes that [`run`] needs beyond inputs and outputs.
pub(crate) fn scratch_bytes<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
) -> usize {
    let counts = BatchCounts::new(loss, queries, keys, dim);
    if !loss.matryoshka().is_empty() && !matryoshka::together(loss, &counts) {
        let one = |prefix: &Prefix| {
            let own = (queries + keys) * prefix.dim * size_of::<T::Real>();
            own + scratch_bytes::<T>(&loss.of_prefix(prefix), queries, keys, prefix.dim)
        };
        return loss.matryoshka().iter().map(one).max().unwrap_or_default();
    }
    let shape = Shape::new(loss, &counts, true);
    statistics::<T>(loss, &shape, threads(loss, &counts), true).scratch_bytes
}

/// See [`cost::products`](crate::cost::products).
pub(crate) fn products<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
) -> f64 {
    let counts = BatchCounts::new(loss, queries, keys, dim);
    if !loss.matryoshka().is_empty() {
        let part = |prefix: &Prefix| prefix.dim as f64 / dim as f64;
        if !matryoshka::together(loss, &counts) {
            let one = |prefix| {
                part(prefix) * products::<T>(&loss.of_prefix(prefix), queries, keys, prefix.dim)
            };
            return loss.matryoshka().iter().map(one).sum();
        }
        let each = if loss.form() == Form::NtXent { 2.0 } else { 4.0 };
        return each * loss.matryoshka().last().map_or(0.0, part);
    }
    let shape = Shape::new(loss, &counts, true);
    let (plan, kept) = planned::<T>(loss, &shape);
    let stored = |strips| (0..strips).map(|s| plan.strip_len(s) as f64).sum::<f64>();
    let again = 1.0 - stored(kept) / stored(plan.strips());
    match computed_form(loss) {
        // Rows and columns of twice the dimension, three times as many columns.
        Form::OneWay if loss.within_views => 18.0,
        Form::OneWay => 3.0,
        Form::BothWays => 3.0 + again,
        Form::NtXent => (3.0 + again) / 2.0,
    }
}

/// A row's loss where all cosines are 1; see [`ContrastiveLoss::ceiling`].
pub(crate) fn collapsed(loss: &ContrastiveLoss, pairs: usize) -> f64 {
    let candidates = loss.candidates(pairs).max(1);
    let scale = loss.temperature().scale();
    let negatives = candidates - 1;
    let rule = RowRule::new(loss, NegativeCounts::Same(negatives), &[]);
    let each = match loss.objective() {
        Objective::Sigmoid { bias } => softplus(scale + bias),
        _ => 1.0,
    };
    let sums = RowSums { sums: [negatives as f64 * each; 2], shifts: [scale; 2] };
    // Smoothing pulls up the mean of all candidates, of which the positive alone has a margin.
    let others = negatives as f64 / candidates as f64;
    rule.outcome(0, sums, Some(scale)).loss - loss.label_smoothing * rule.margin * others
}

/// How a loss will be computed, unless the common shift turns out not to be safe.
fn statistics<T: Element>(
    loss: &ContrastiveLoss,
    shape: &Shape,
    threads: usize,
    gradient: bool,
) -> Statistics {
    if !loss.matryoshka().is_empty() {
        return matryoshka::statistics::<T>(loss, shape, threads, gradient);
    }
    let Shape { rows, columns, dim, .. } = *shape;
    let (plan, kept) = planned::<T>(loss, shape);
    let copies = if loss.within_views {
        // Rows and columns side by side, and their gradients.
        2 * (rows + columns) * dim * size_of::<T::Real>()
    } else {
        0
    };
    // Linear terms take sums in f64: of the columns, of the rows and of the rows as positives, one for
    // each group that has several members.
    let formula = Formula::new(loss.objective());
    let linear = loss.label_smoothing > 0.0 || formula == Formula::LabelsOutside;
    let sums = if linear { (columns + 2 * rows) / 2 * dim * size_of::<f64>() } else { 0 };
    Statistics {
        kept_exponentials: gradient && kept > 0,
        scratch_bytes: plan.bytes::<T::Real>(kept) + copies + sums,
    }
}

/// How a loss will be cut up, and how many strips of exponentials will be kept.
fn planned<T: Element>(loss: &ContrastiveLoss, shape: &Shape) -> (Plan, usize) {
    let kernels = <T::Real as Arithmetic>::kernels(loss.execution.instructions);
    let plan = Plan::new(kernels, *shape, Formula::new(loss.objective()).terms(loss.margin));
    let kept = match computed_form(loss) {
        _ if loss.execution.skips_unweighted => 0,
        Form::OneWay => 0,
        Form::BothWays | Form::NtXent => plan.kept::<T::Real>(loss.execution.memory_budget),
    };
    (plan, kept)
}
