//! The oracle: the losses as a textbook writes them, dense, in f64.
//!
//! It builds the whole matrix of logits and keeps nothing clever, so that it can be read at one
//! sitting and believed. Everything else is tested against it. Not for use on large inputs.
//!
//! One care is taken beyond a textbook's: the positive is kept out of the sum it is compared with,
//! so that a loss of 1e-12 is right to many digits (`L = ln(1 + neg/pos)`), where `logsumexp − s_pos`
//! would return rounding noise.

use super::{Form, InfoNce, Similarity};
use crate::embeddings::{Element, Embeddings, NORM_FLOOR, norm};

/// The loss and its gradients, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// The mean over rows, in nats.
    pub mean: f64,
    /// Its gradient with respect to the queries, `[n, d]`.
    pub queries: Vec<f64>,
    /// Its gradient with respect to the keys, `[m, d]`.
    pub keys: Vec<f64>,
    /// Its derivative with respect to log(1/τ).
    pub log_scale: f64,
}

/// A dense matrix, row-major.
struct Matrix {
    data: Vec<f64>,
    columns: usize,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Self {
        Self { data: vec![0.0; rows * columns], columns }
    }
    fn rows(&self) -> usize {
        self.data.len() / self.columns
    }
    fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.columns..(i + 1) * self.columns]
    }
    fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.columns..(i + 1) * self.columns]
    }
    fn transposed(&self) -> Self {
        let mut out = Self::zeros(self.columns, self.rows());
        for i in 0..self.rows() {
            for j in 0..self.columns {
                out.row_mut(j)[i] = self.row(i)[j];
            }
        }
        out
    }
    /// `self · other`.
    fn times(&self, other: &Self) -> Self {
        let mut out = Self::zeros(self.rows(), other.columns);
        for i in 0..self.rows() {
            for j in 0..self.columns {
                for (sum, x) in out.row_mut(i).iter_mut().zip(other.row(j)) {
                    *sum += self.row(i)[j] * x;
                }
            }
        }
        out
    }
}

/// The loss and all its gradients for inputs that [`InfoNce::value`] would accept.
pub fn info_nce<T: Element>(
    loss: &InfoNce,
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
) -> Dense {
    let (similarity, offset) = (loss.similarity(), loss.offset);
    let n = queries.rows();
    let x = Matrix { data: queries.to_f64(), columns: queries.dim() };
    let y = Matrix { data: keys.to_f64(), columns: keys.dim() };
    let (q, k) = (compared(&x, similarity), compared(&y, similarity));

    // A candidate set per form: rows against columns, who is whose positive, who is left out.
    let scale = loss.temperature().scale();
    let (mean, mut dq, mut dk, log_scale) = match loss.form() {
        Form::OneWay => choose(&q, &k, scale, |i| i + offset, false),
        Form::BothWays => {
            let (there, dq_there, dk_there, scale_there) = choose(&q, &k, scale, |i| i, false);
            let (back, dk_back, dq_back, scale_back) = choose(&k, &q, scale, |i| i, false);
            let half = |a: &Matrix, b: &Matrix| Matrix {
                data: a.data.iter().zip(&b.data).map(|(a, b)| (a + b) / 2.0).collect(),
                columns: a.columns,
            };
            let (dq, dk) = (half(&dq_there, &dq_back), half(&dk_there, &dk_back));
            ((there + back) / 2.0, dq, dk, (scale_there + scale_back) / 2.0)
        }
        Form::NtXent => {
            let z = Matrix { data: [q.data, k.data].concat(), columns: q.columns };
            let (mean, rows, columns, log_scale) =
                choose(&z, &z, scale, |i| (i + n) % (2 * n), true);
            let mut both = rows.data.iter().zip(&columns.data).map(|(a, b)| a + b);
            let d = z.columns;
            let dq = Matrix { data: both.by_ref().take(n * d).collect(), columns: d };
            let dk = Matrix { data: both.collect(), columns: d };
            (mean, dq, dk, log_scale)
        }
    };
    if similarity == Similarity::Cosine {
        through_normalisation(&x, &mut dq);
        through_normalisation(&y, &mut dk);
    }
    Dense { mean, queries: dq.data, keys: dk.data, log_scale }
}

/// Rows as they are compared: of unit length for the cosine.
fn compared(x: &Matrix, similarity: Similarity) -> Matrix {
    let mut out = Matrix { data: x.data.clone(), columns: x.columns };
    if similarity == Similarity::Cosine {
        for i in 0..x.rows() {
            let length = norm(x.row(i)).max(NORM_FLOOR);
            out.row_mut(i).iter_mut().for_each(|v| *v /= length);
        }
    }
    out
}

/// Each row of `a` chooses its positive among the rows of `b`: mean cross-entropy, gradients with
/// respect to `a`, `b` and log(1/τ).
fn choose(
    a: &Matrix,
    b: &Matrix,
    scale: f64,
    positive: impl Fn(usize) -> usize,
    exclude_self: bool,
) -> (f64, Matrix, Matrix, f64) {
    let mut s = a.times(&b.transposed());
    s.data.iter_mut().for_each(|s| *s *= scale);

    let weight = 1.0 / a.rows() as f64;
    let mut ds = Matrix::zeros(a.rows(), b.rows());
    let (mut mean, mut log_scale) = (0.0, 0.0);
    for i in 0..a.rows() {
        let p = positive(i);
        let negatives = || (0..b.rows()).filter(|&j| j != p && !(exclude_self && j == i));
        let s = s.row(i);
        let c = negatives().map(|j| s[j]).fold(s[p], f64::max);
        let neg: f64 = negatives().map(|j| (s[j] - c).exp()).sum();
        let pos = (s[p] - c).exp();
        mean += weight
            * if neg <= pos {
                (neg / pos).ln_1p()
            } else {
                neg.ln() - (s[p] - c) + (pos / neg).ln_1p()
            };
        let ds = ds.row_mut(i);
        for j in negatives() {
            ds[j] = weight * (s[j] - c).exp() / (neg + pos);
            // Σ s ∂L/∂s, with the positive's share spread over the negatives it balances.
            log_scale += ds[j] * (s[j] - s[p]);
        }
        ds[p] = -weight * neg / (neg + pos);
    }
    let mut da = ds.times(b);
    let mut db = ds.transposed().times(a);
    da.data.iter_mut().chain(&mut db.data).for_each(|g| *g *= scale);
    (mean, da, db, log_scale)
}

/// From the gradient with respect to `u = x / max(‖x‖, ε)` to that with respect to `x`.
fn through_normalisation(x: &Matrix, gradient: &mut Matrix) {
    for i in 0..x.rows() {
        let length = norm(x.row(i));
        let g = gradient.row_mut(i);
        if length > NORM_FLOOR {
            let along: f64 = g.iter().zip(x.row(i)).map(|(g, x)| g * x / length).sum();
            for (g, x) in g.iter_mut().zip(x.row(i)) {
                *g = (*g - along * x / length) / length;
            }
        } else {
            g.iter_mut().for_each(|g| *g /= NORM_FLOOR);
        }
    }
}
