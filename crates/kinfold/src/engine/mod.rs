//! The strip loop: every loss, without the n × n matrix.
//!
//! Comes in: checked embeddings and a loss. Goes out: its value and gradients. It never fails and
//! never sees a loss's name beyond its [`Form`].
//!
//! ```text
//! for each strip of m rows of a:
//!     A  threads own rows:     S = a[strip] bᵀ / τ          a small GEMM per block of rows
//!                              W = weights of S             in place, row sums in f64
//!                              da[strip] = W b
//!     B  threads own columns:  db[block] += W[:, block]ᵀ a[strip]
//! ```
//!
//! Each output row is written by one thread in one fixed order, so the result has the same bits for
//! every number of threads. Memory beyond inputs and outputs: one strip of m·n weights and the
//! compared (normalised) copies of the inputs.
//!
//! One way is one such loop. Both ways are two, queries → keys and keys → queries. NT-Xent is one
//! over the stacked views against themselves, each row leaving itself out.

mod products;

use crate::embeddings::{Element, Embeddings, NORM_FLOOR, Real, norm};
use crate::loss::{Form, GradientMut, InfoNce, Similarity, Statistics, Value};
use products::{add_product, in_blocks, product};

/// Bytes within which exponentials are kept between passes.
pub(crate) const DEFAULT_MEMORY_BUDGET: usize = 256 << 20;

/// Rows in a strip, and rows or columns that a thread takes at a time. They do not depend on the
/// number of threads, so neither do the bits of the result.
const STRIP: usize = 256;
const BLOCK: usize = 64;

/// The loss, and where memory for it is given the gradients, of inputs that have been checked.
pub(crate) fn run<T: Element>(
    loss: &InfoNce,
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    gradient: Option<GradientMut<'_, T::Real>>,
) -> Value {
    let InfoNce { offset, threads, .. } = *loss;
    let similarity = loss.similarity();
    let (n, d) = (queries.rows(), queries.dim());
    let threads = if threads == 0 { rayon::current_num_threads() } else { threads };
    let (q, k) = (Compared::new(&queries, similarity), Compared::new(&keys, similarity));
    let mut sides = match gradient {
        None => (None, None),
        Some(gradient) => {
            gradient.queries.fill(T::Real::default());
            gradient.keys.fill(T::Real::default());
            (Some(gradient.queries), Some(gradient.keys))
        }
    };
    let choice =
        Choice { scale: loss.temperature().scale(), d, offset, pairs: None, weight: 1.0, threads };
    let (mean, log_scale) = match loss.form() {
        Form::OneWay => choice.run(&q.rows, &k.rows, &mut sides.0, &mut sides.1),
        Form::BothWays => {
            let half = Choice { weight: 0.5, ..choice };
            let there = half.run(&q.rows, &k.rows, &mut sides.0, &mut sides.1);
            let back = half.run(&k.rows, &q.rows, &mut sides.1, &mut sides.0);
            (there.0 + back.0, there.1 + back.1)
        }
        Form::NtXent => {
            let z = [q.rows.as_slice(), &k.rows].concat();
            let mut rows = sides.0.is_some().then(|| vec![T::Real::default(); z.len()]);
            let mut columns = rows.clone();
            let stacked = Choice { pairs: Some(n), ..choice };
            let sums = stacked.run(&z, &z, &mut rows.as_deref_mut(), &mut columns.as_deref_mut());
            if let (Some(rows), Some(columns), (Some(dq), Some(dk))) = (rows, columns, &mut sides) {
                let both = dq.iter_mut().chain(dk.iter_mut());
                for (g, (a, b)) in both.zip(rows.iter().zip(&columns)) {
                    *g = *a + *b;
                }
            }
            sums
        }
    };
    if let (Some(dq), Some(dk)) = sides {
        q.back(dq, d);
        k.back(dk, d);
    }
    let statistics = Statistics {
        kept_exponentials: false,
        scratch_bytes: scratch_bytes::<T>(loss, n, keys.rows(), d),
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
    let (rows, columns, copies) = match loss.form() {
        Form::OneWay | Form::BothWays => (queries, queries.max(keys), 1),
        Form::NtXent => (queries + keys, queries + keys, 4),
    };
    let numbers = STRIP.min(rows) * columns + copies * (queries + keys) * dim;
    numbers * size_of::<T::Real>() + (queries + keys) * size_of::<f64>()
}

/// Embeddings as they are compared, and what it takes to get gradients back through that.
struct Compared<R> {
    /// `[n, d]`, without gaps.
    rows: Vec<R>,
    /// The lengths that rows were divided by; empty for dot products.
    lengths: Vec<f64>,
}

impl<R: Real> Compared<R> {
    fn new<T: Element<Real = R>>(x: &Embeddings<'_, T>, similarity: Similarity) -> Self {
        let mut rows = Vec::with_capacity(x.rows() * x.dim());
        let mut lengths = Vec::new();
        for i in 0..x.rows() {
            let row = x.row(i);
            match similarity {
                Similarity::Dot => rows.extend(row.iter().map(|v| v.real())),
                Similarity::Cosine => {
                    let length = norm(row);
                    let divisor = length.max(NORM_FLOOR);
                    rows.extend(row.iter().map(|v| R::from_f64(v.real().f64() / divisor)));
                    lengths.push(length);
                }
            }
        }
        Self { rows, lengths }
    }

    /// `∂L/∂x = (g − ⟨g, u⟩ u) / ‖x‖`, in place; below the floor the divisor is a constant.
    fn back(&self, gradient: &mut [R], d: usize) {
        for (i, &length) in self.lengths.iter().enumerate() {
            let (g, u) = (&mut gradient[i * d..(i + 1) * d], &self.rows[i * d..(i + 1) * d]);
            let along = if length > NORM_FLOOR {
                g.iter().zip(u).map(|(g, u)| g.f64() * u.f64()).sum()
            } else {
                0.0
            };
            let divisor = length.max(NORM_FLOOR);
            for (g, u) in g.iter_mut().zip(u) {
                *g = R::from_f64((g.f64() - along * u.f64()) / divisor);
            }
        }
    }
}

/// Rows of `a` choose among rows of `b`.
#[derive(Clone, Copy)]
struct Choice {
    /// 1/τ.
    scale: f64,
    d: usize,
    offset: usize,
    /// For stacked views: the number of pairs. A row's positive is then the other view, and it
    /// leaves itself out.
    pairs: Option<usize>,
    /// What the mean counts for.
    weight: f64,
    threads: usize,
}

impl Choice {
    /// The weighted mean and its derivative with respect to log(1/τ); gradients are added up.
    fn run<R: Real>(
        &self,
        a: &[R],
        b: &[R],
        da: &mut Option<&mut [R]>,
        db: &mut Option<&mut [R]>,
    ) -> (f64, f64) {
        let Self { d, threads, .. } = *self;
        let (n, columns) = (a.len() / d, b.len() / d);
        let mut strip = vec![R::default(); STRIP.min(n) * columns];
        let mut sums = vec![(0.0, 0.0); n];
        for start in (0..n).step_by(STRIP) {
            let rows = STRIP.min(n - start);
            let a = &a[start * d..(start + rows) * d];
            let w = &mut strip[..rows * columns];

            // Phase A: threads own rows.
            let strip_sums = &mut sums[start..start + rows];
            let blocks = w
                .chunks_mut(BLOCK * columns)
                .zip(a.chunks(BLOCK * d))
                .zip(strip_sums.chunks_mut(BLOCK))
                .enumerate();
            in_blocks(threads, blocks, |(block, ((w, a), sums))| {
                product(w, a, b, d, R::from_f64(self.scale));
                for (i, (w, sum)) in w.chunks_mut(columns).zip(sums).enumerate() {
                    *sum = self.weights(w, start + block * BLOCK + i, n);
                }
            });
            if let Some(da) = da {
                let da = &mut da[start * d..(start + rows) * d];
                let blocks = da.chunks_mut(BLOCK * d).zip(w.chunks(BLOCK * columns));
                in_blocks(threads, blocks, |(da, w)| {
                    add_product(da, w, (columns, 1), b, d);
                });
            }
            // Phase B: threads own columns.
            if let Some(db) = db {
                let w = &*w;
                let blocks = db.chunks_mut(BLOCK * d).enumerate();
                in_blocks(threads, blocks, |(block, db)| {
                    add_product(db, &w[block * BLOCK..], (1, columns), a, d);
                });
            }
        }
        sums.iter().fold((0.0, 0.0), |total, sum| (total.0 + sum.0, total.1 + sum.1))
    }

    /// Row `i`'s logits become the weights of its gradient, `scale · ∂L/∂s`; its share of the loss
    /// and of the derivative with respect to log(1/τ) are returned.
    ///
    /// The positive is kept out of the sum it is compared with: `L = ln(1 + neg/pos)`, and its own
    /// weight is `−neg/(neg + pos)`, so that neither drowns in rounding when L is small.
    fn weights<R: Real>(&self, s: &mut [R], i: usize, n: usize) -> (f64, f64) {
        let (positive, own) = match self.pairs {
            None => (i + self.offset, None),
            Some(pairs) => ((i + pairs) % (2 * pairs), Some(i)),
        };
        let at = s[positive].f64();
        let is_negative = |j: usize| j != positive && Some(j) != own;
        let largest = (0..s.len()).filter(|&j| is_negative(j)).map(|j| s[j].f64());
        let c = largest.fold(at, f64::max);
        let (mut neg, mut moment) = (0.0, 0.0);
        for (j, s) in s.iter().enumerate().filter(|&(j, _)| is_negative(j)) {
            debug_assert!(j != positive);
            let e = (s.f64() - c).exp();
            neg += e;
            moment += e * (s.f64() - at);
        }
        let pos = (at - c).exp();
        let weight = self.weight / n as f64;
        let factor = weight * self.scale / (neg + pos);
        for j in 0..s.len() {
            s[j] = if is_negative(j) {
                R::from_f64((s[j].f64() - c).exp() * factor)
            } else {
                R::default()
            };
        }
        s[positive] = R::from_f64(-neg * factor);
        let loss = if neg <= pos {
            (neg / pos).ln_1p()
        } else {
            neg.ln() - (at - c) + (pos / neg).ln_1p()
        };
        (weight * loss, weight * moment / (neg + pos))
    }
}
