//! The strip loop: every loss, without the n × n matrix.
//!
//! Comes in: a checked batch and a loss. Goes out: its value and gradients. It never fails. The strips
//! ([strip], [block]) never see which loss they serve: they add up [`Terms`](terms::rule::Terms) of the
//! logits, ask a [`Rule`](terms::rule::Rule) what a row's sums come to, and weigh the terms with that.
//!
//! # The sums
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
//! rows too (both ways, NT-Xent), they do so by the same exponentials: `W_ij = E_ij (u_i + v_j)`,
//! with v_j from the sum over column j.
//!
//! The other losses of the family go the same way, with other terms and other rules ([rule]); what is
//! linear in the logits (several positives, label smoothing) needs no matrix at all ([even]), nor do
//! negatives that a query has for itself ([own]).
//!
//! # The loop
//!
//! Queries are gone through in strips of m rows, [strip] has the loop:
//!
//! ```text
//! phase A, threads own blocks of rows        (block.rs)
//!     for each chunk of columns:
//!         E  = exp(a bᵀ / τ − c)             while it lies in the second cache: sums of rows, columns
//!         ∂a += W b                          where W is known
//! phase B, threads own panels of columns
//!         ∂bᵀ += aᵀ W
//! ```
//!
//! One way, a row's weights are known with its sum: one pass, three products of n × n × d. Where
//! columns choose too, sums must be complete before there are weights: a first pass finds them, and
//! a second computes the exponentials again (four products), or finds them where the first has left
//! them, as far as the memory budget reaches (three). For NT-Xent the matrix of logits is symmetric,
//! and only its upper triangle is visited (two products, or one and a half).
//!
//! Each number is written by one thread in one fixed order, so the result has the same bits for
//! every number of threads. Products and exponentials are in the type itself, sums of exponentials
//! across chunks, the positives and everything that happens to a row once in f64.
//!
//! # The reference c
//!
//! One c for all exponentials is what lets rows and columns share them. Lengths bound the logits:
//! `|s_ij| ≤ max‖a‖ max‖b‖ / τ`. c is chosen such that nothing can overflow by that bound, 0 where
//! possible; whether too much has underflowed is seen in the sums, afterwards. Where it has (with
//! f32 and cosines, below τ ≈ 0.011 or so), the loss is computed anew with the largest negative of
//! each row as that row's own reference, one way at a time. That is always safe.

mod aligned;
mod candidates;
mod cosines;
mod gemm;
mod kernels;
mod rows;
mod strips;
mod terms;
mod threads;

use crate::embeddings::Element;
use crate::loss::{
    Batch, ContrastiveLoss, Form, GradientMut, Negatives, Objective, Statistics, Value,
};
pub use aligned::release_memory;
pub(crate) use cosines::Cosines;
pub use gemm::Gemm;
pub(crate) use kernels::Arithmetic;
pub use kernels::Instructions;
use strips::plan::{Candidates, Partner, Plan, Shape};
use strips::run::Run;
use terms::rule::{Choosing, Chosen, Count, Rule, Sums};
use threads::Team;
pub use threads::on_threads_of;

/// Bytes within which exponentials are kept between passes.
pub(crate) const DEFAULT_MEMORY_BUDGET: usize = 512 << 20;

/// Waking a thread takes as long as so many terms of the dot products, n · m · d: with fewer, a loss is
/// computed on the caller's thread.
pub const WORTH_THREADS: usize = 1 << 20;

/// The loss, and where memory for it is given the gradients, of a batch that has been checked.
pub(crate) fn run<T: Element>(
    loss: &ContrastiveLoss,
    batch: &Batch<'_, T>,
    gradient: Option<GradientMut<'_, T::Real>>,
) -> Value {
    let threads = if loss.threads == 0 { rayon::current_num_threads() } else { loss.threads };
    let (n, d) = (batch.queries.rows(), batch.queries.dim());
    let explicit = match batch.negatives {
        Negatives::None => 0,
        Negatives::Shared(x) => x.rows(),
        Negatives::PerQuery(x) => x.rows().div_ceil(n),
    };
    let m = batch.keys.map_or(0, |keys| keys.rows()) + explicit;
    let small = n.saturating_mul(m.max(n)).saturating_mul(d) < WORTH_THREADS;
    let team = Team::new(if small { 1 } else { threads }, loss.instructions);
    let statistics = statistics::<T>(loss, n, m, d, gradient.is_some());
    let out = gradient.map_or_else(Vec::new, |gradient| {
        let GradientMut { queries, keys, negatives } = gradient;
        let rows = queries.chunks_mut(d).chain(keys.chunks_mut(d)).chain(negatives.chunks_mut(d));
        rows.collect()
    });
    let mut run = Run { loss, team: &team, out, row_weights: batch.row_weights.unwrap_or(&[]) };
    run.clear();
    let outcome = if loss.within_views {
        candidates::within_views::run(&mut run, batch)
    } else if loss.form() == Form::NtXent {
        run.among_themselves(batch)
    } else {
        run.across(batch)
    };
    run.value(outcome, statistics)
}

/// What a computation came to, before rows are averaged and gradients go back through the
/// normalisation.
struct Outcome {
    /// Each row's loss.
    losses: Vec<f64>,
    /// `Σ s ∂L/∂s` over all logits, without their margins, and what is to be added for these.
    log_scale: f64,
    explicit: f64,
    bias: f64,
}

impl Outcome {
    fn of(chosen: &[Chosen]) -> Self {
        Self {
            losses: chosen.iter().map(|chosen| chosen.loss).collect(),
            log_scale: 0.0,
            explicit: chosen.iter().map(|chosen| chosen.explicit).sum(),
            bias: chosen.iter().map(|chosen| chosen.bias).sum(),
        }
    }

    /// The mean of both ways, whose gradients are added up and halved at the end.
    fn both(there: &[Chosen], back: &[Chosen]) -> Self {
        let (there, back) = (Self::of(there), Self::of(back));
        let losses = there.losses.iter().zip(&back.losses).map(|(a, b)| 0.5 * (a + b)).collect();
        Self {
            losses,
            log_scale: 0.0,
            explicit: there.explicit + back.explicit,
            bias: there.bias + back.bias,
        }
    }
}

/// Bytes that [`run`] needs beyond inputs and outputs.
pub(crate) fn scratch_bytes<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
) -> usize {
    statistics::<T>(loss, queries, keys, dim, true).scratch_bytes
}

/// See [`cost::products`](crate::cost::products).
pub(crate) fn products<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
) -> f64 {
    let (plan, kept) = planned::<T>(loss, queries, keys, dim, true);
    let stored = |strips| (0..strips).map(|s| plan.stored_len(s) as f64).sum::<f64>();
    let again = 1.0 - stored(kept) / stored(plan.strips());
    match passes(loss) {
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
    let choosing = Choosing::new(loss, Count::Same(negatives), &[]);
    let each = match loss.objective() {
        Objective::Sigmoid { bias } => terms::rule::softplus(scale + bias),
        _ => 1.0,
    };
    let first = negatives as f64 * each;
    let sums = Sums { reference: scale, other: scale, first, second: first };
    // Smoothing pulls up the mean of all candidates, of which the positive alone has a margin.
    let others = negatives as f64 / candidates as f64;
    choosing.choose(0, sums, Some(scale)).loss - loss.label_smoothing * choosing.margin * others
}

/// Which way the loss is gone about: every pair on its own is the same both ways.
fn passes(loss: &ContrastiveLoss) -> Form {
    if loss.objective().is_sigmoid() { Form::OneWay } else { loss.form() }
}

/// How `loss` will be computed, unless its reference turns out not to be safe.
fn statistics<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
    gradient: bool,
) -> Statistics {
    let (plan, kept) = planned::<T>(loss, queries, keys, dim, gradient);
    let copies = if loss.within_views {
        // Rows and columns as they are compared, and their gradients.
        2 * (plan.rows + plan.columns) * plan.dim * size_of::<T::Real>()
    } else {
        0
    };
    // What is linear in the logits takes sums in f64: of the columns, of the rows and of the rows as
    // positives, one for each mark that occurs twice.
    let linear = loss.label_smoothing > 0.0 || Rule::new(loss.objective()) == Rule::LabelsOutside;
    let sums =
        if linear { (plan.columns + 2 * plan.rows) / 2 * plan.dim * size_of::<f64>() } else { 0 };
    Statistics {
        kept_exponentials: gradient && kept > 0,
        scratch_bytes: plan.bytes::<T::Real>(kept) + copies + sums,
    }
}

/// How `loss` will be cut up, and how many strips of exponentials will be kept.
fn planned<T: Element>(
    loss: &ContrastiveLoss,
    queries: usize,
    keys: usize,
    dim: usize,
    gradient: bool,
) -> (Plan, usize) {
    let kernels = T::Real::kernels(loss.instructions);
    let all = queries + keys;
    let rectangle = Candidates::Rectangle { offset: loss.offset };
    let triangle = Candidates::Triangle { partner: Partner::View(queries) };
    let (rows, columns, dim, candidates) = match loss.form() {
        Form::OneWay if loss.within_views => (queries, 2 * queries + keys, 2 * dim, rectangle),
        Form::OneWay | Form::BothWays => (queries, keys, dim, rectangle),
        Form::NtXent => (all, all, dim, triangle),
    };
    let terms = Rule::new(loss.objective()).terms(loss.margin);
    let stored = gradient;
    let shape = Shape { rows, columns, dim, candidates, terms, guide: 0, moving: columns, stored };
    let plan = Plan::new(kernels, shape);
    let kept = match passes(loss) {
        Form::OneWay => 0,
        Form::BothWays | Form::NtXent => plan.kept::<T::Real>(loss.memory_budget),
    };
    (plan, kept)
}
/// What the decoupled loss multiplies the positives by: `2 − n·softmax_i(similarity_i / σ)`.
fn positive_weights(n: usize, sigma: f64, similarity: impl Fn(usize) -> f64) -> Vec<f64> {
    let scaled: Vec<f64> = (0..n).map(|i| similarity(i) / sigma).collect();
    let largest = scaled.iter().fold(f64::NEG_INFINITY, |x, &y| x.max(y));
    let sum: f64 = scaled.iter().map(|s| (s - largest).exp()).sum();
    scaled.iter().map(|s| 2.0 - n as f64 * (s - largest).exp() / sum).collect()
}
