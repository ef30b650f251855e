//! The strip loop: every loss, without the n × n matrix.
//!
//! Comes in: checked embeddings and a loss. Goes out: its value and gradients. It never fails and
//! never sees a loss's name beyond its [`Form`].
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
mod block;
mod gemm;
mod kernels;
mod plan;
mod rows;
mod strip;
mod threads;

use crate::embeddings::{Element, Embeddings, Real};
use crate::loss::{Form, GradientMut, InfoNce, Statistics, Value};
pub use aligned::release_memory;
pub use gemm::Gemm;
pub(crate) use kernels::Arithmetic;
pub use kernels::Instructions;
use plan::{Candidates, Plan};
use rows::Rows;
use strip::{Problem, Reference, Side};
use threads::Team;

/// Bytes within which exponentials are kept between passes.
pub(crate) const DEFAULT_MEMORY_BUDGET: usize = 512 << 20;

/// Waking a thread takes as long as so many terms of the dot products.
const WORTH_THREADS: usize = 1 << 20;

/// The loss, and where memory for it is given the gradients, of inputs that have been checked.
pub(crate) fn run<T: Element>(
    loss: &InfoNce,
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    gradient: Option<GradientMut<'_, T::Real>>,
) -> Value {
    let threads = if loss.threads == 0 { rayon::current_num_threads() } else { loss.threads };
    let (n, m, d) = (queries.rows(), keys.rows(), queries.dim());
    let small = n.saturating_mul(m).saturating_mul(d) < WORTH_THREADS;
    let team = Team::new(if small { 1 } else { threads }, loss.instructions);
    let statistics = statistics::<T>(loss, n, m, d, gradient.is_some());
    let out = gradient.map_or_else(Vec::new, |gradient| {
        gradient.queries.chunks_mut(d).chain(gradient.keys.chunks_mut(d)).collect()
    });
    let mut run = Run { loss, team: &team, out };
    run.clear();
    let (mean, log_scale) = if loss.form() == Form::NtXent {
        let views = Rows::stacked(queries, keys, loss.similarity(), &team);
        (run.mean(&views, &views), run.through_comparison(&views, None))
    } else {
        let (a, b) = Rows::two(queries, keys, loss.similarity(), &team);
        (run.mean(&a, &b), run.through_comparison(&a, Some(&b)))
    };
    Value { mean, log_scale, statistics }
}

/// Bytes that [`run`] needs beyond inputs and outputs.
pub(crate) fn scratch_bytes<T: Element>(
    loss: &InfoNce,
    queries: usize,
    keys: usize,
    dim: usize,
) -> usize {
    statistics::<T>(loss, queries, keys, dim, true).scratch_bytes
}

/// See [`cost::products`](crate::cost::products).
pub(crate) fn products<T: Element>(loss: &InfoNce, queries: usize, keys: usize, dim: usize) -> f64 {
    let (plan, kept) = planned::<T>(loss, queries, keys, dim, true);
    let stored = |strips| (0..strips).map(|s| plan.stored_len(s) as f64).sum::<f64>();
    let again = 1.0 - stored(kept) / stored(plan.strips());
    match loss.form() {
        Form::OneWay => 3.0,
        Form::BothWays => 3.0 + again,
        Form::NtXent => (3.0 + again) / 2.0,
    }
}

/// How `loss` will be computed, unless its reference turns out not to be safe.
fn statistics<T: Element>(
    loss: &InfoNce,
    queries: usize,
    keys: usize,
    dim: usize,
    gradient: bool,
) -> Statistics {
    let (plan, kept) = planned::<T>(loss, queries, keys, dim, gradient);
    Statistics {
        kept_exponentials: gradient && kept > 0,
        scratch_bytes: plan.bytes::<T::Real>(kept),
    }
}

/// How `loss` will be cut up, and how many strips of exponentials will be kept.
fn planned<T: Element>(
    loss: &InfoNce,
    queries: usize,
    keys: usize,
    dim: usize,
    gradient: bool,
) -> (Plan, usize) {
    let kernels = T::Real::kernels(loss.instructions);
    let all = queries + keys;
    let (shape, candidates) = match loss.form() {
        Form::OneWay | Form::BothWays => {
            ((queries, keys, dim), Candidates::Rectangle { offset: loss.offset })
        }
        Form::NtXent => ((all, all, dim), Candidates::Triangle { pairs: queries }),
    };
    let plan = Plan::new(kernels, shape, candidates, gradient);
    let kept = match loss.form() {
        Form::OneWay => 0,
        Form::BothWays | Form::NtXent => plan.kept::<T::Real>(loss.memory_budget),
    };
    (plan, kept)
}

/// One computation.
struct Run<'l, 'o, R> {
    loss: &'l InfoNce,
    team: &'l Team,
    /// The gradient of each query and then of each key; empty for the value alone.
    out: Vec<&'o mut [R]>,
}

impl<'l, R: Real> Run<'l, '_, R> {
    fn clear(&mut self) {
        self.out.iter_mut().for_each(|row| row.fill(R::default()));
    }

    /// The loss of rows `a` and columns `b`, which for NT-Xent are the same stacked views. The
    /// gradients that are left in `out` are those by the rows as they are compared, and lack the
    /// factor 1/τ and the mean's.
    fn mean<T: Element<Real = R>>(&mut self, a: &Rows<'_, T>, b: &Rows<'_, T>) -> f64 {
        let loss = self.loss;
        let n = a.len();
        if loss.candidates(b.len()) <= 1 || (loss.form() == Form::NtXent && n == 2) {
            return 0.0; // No negatives.
        }
        let (c, least) = self.reference(a, b);
        let fast = match loss.form() {
            Form::OneWay => {
                let candidates = Candidates::Rectangle { offset: loss.offset };
                let problem = self.problem((a, 0), (b, n), candidates, false);
                problem.one_way(Reference::Common(c), least, &mut self.out)
            }
            Form::BothWays => {
                let candidates = Candidates::Rectangle { offset: 0 };
                let problem = self.problem((a, 0), (b, n), candidates, false);
                problem.shared(c, least, loss.memory_budget, &mut self.out)
            }
            Form::NtXent => {
                let problem =
                    self.problem((a, 0), (a, 0), Candidates::Triangle { pairs: n / 2 }, false);
                problem.shared(c, least, loss.memory_budget, &mut self.out)
            }
        };
        fast.unwrap_or_else(|| {
            self.clear();
            let mut one_way = |a, b, candidates| {
                let problem = self.problem(a, b, candidates, true);
                problem.one_way(Reference::RowMaximum, 0.0, &mut self.out).unwrap_or(f64::NAN)
            };
            match loss.form() {
                Form::OneWay => {
                    one_way((a, 0), (b, n), Candidates::Rectangle { offset: loss.offset })
                }
                Form::BothWays => {
                    let candidates = Candidates::Rectangle { offset: 0 };
                    let there = one_way((a, 0), (b, n), candidates);
                    0.5 * (there + one_way((b, n), (a, 0), candidates))
                }
                Form::NtXent => one_way((a, 0), (a, 0), Candidates::Square { pairs: n / 2 }),
            }
        })
    }

    /// A reference for all exponentials with which none can overflow, nor their sums and products;
    /// and the least sum of them that has not lost too much to underflow.
    fn reference<T: Element<Real = R>>(&self, a: &Rows<'_, T>, b: &Rows<'_, T>) -> (f64, f64) {
        // Exponents that numbers of this type have, and digits, in units of ln.
        let (range, digits) = if size_of::<R>() == 4 { (87.0, 18.0) } else { (708.0, 38.0) };
        let count = (a.len().max(b.len()) as f64).ln();
        let (of_a, of_b) = (a.longest(), b.longest());
        let bound = self.loss.temperature().scale() * of_a * of_b;
        let room = range - 8.0 - count - of_a.max(of_b).max(1.0).ln();
        ((bound - room).max(0.0), (count + digits - range).exp())
    }

    /// Rows `a` choose among columns `b`.
    fn problem<'p, T: Element<Real = R>>(
        &self,
        a: Side<'p, T>,
        b: Side<'p, T>,
        candidates: Candidates,
        stored: bool,
    ) -> Problem<'p, T>
    where
        'l: 'p,
    {
        let gradient = !self.out.is_empty();
        let kernels = R::kernels(self.loss.instructions);
        let shape = (a.0.len(), b.0.len(), a.0.dim());
        let plan = Plan::new(kernels, shape, candidates, gradient || stored);
        let scale = self.loss.temperature().scale();
        Problem::new(plan, kernels, self.team, scale, a, b, gradient)
    }

    /// Gradients by rows as they are compared become gradients by the rows themselves. Returns the
    /// derivative by log(1/τ).
    fn through_comparison<T: Element<Real = R>>(
        &mut self,
        a: &Rows<'_, T>,
        b: Option<&Rows<'_, T>>,
    ) -> f64 {
        if self.out.is_empty() {
            return 0.0;
        }
        let chosen = if self.loss.form() == Form::BothWays { 2 * a.len() } else { a.len() };
        let factor = self.loss.temperature().scale() / chosen as f64;
        const FEW: usize = 32;
        let (of_a, of_b) = self.out.split_at_mut(a.len());
        let mut along = vec![0.0; of_a.len() + of_b.len()];
        let (along_a, along_b) = along.split_at_mut(a.len());
        let parts_a = of_a.chunks_mut(FEW).zip(along_a.chunks_mut(FEW)).enumerate();
        let parts_b = of_b.chunks_mut(FEW).zip(along_b.chunks_mut(FEW)).enumerate();
        let parts = parts_a.map(|part| (a, part)).chain(parts_b.map(|part| (b.unwrap_or(a), part)));
        self.team.each(parts, |(rows, (part, (out, along)))| {
            for (i, (g, along)) in out.iter_mut().zip(along).enumerate() {
                *along = rows.through_comparison(part * FEW + i, g, factor);
            }
        });
        let of_rows = along[..a.len()].iter().sum::<f64>() * factor;
        // Stacked views have counted every pair of rows from both sides.
        if b.is_some() { of_rows } else { 0.5 * of_rows }
    }
}
