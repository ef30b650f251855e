//! In how many dimensions embeddings really lie.
//!
//! Input: embeddings. Output: their singular values, and the effective rank that these make
//! (Roy and Vetterli 2007; RankMe, Garrido et al. 2023). Computed in f64 by the eigenvalues of the
//! smaller of `XᵀX` and `XXᵀ`, so that a singular value below 1e-8 of the largest is not told from 0.

use super::check;
use crate::Error;
use crate::embeddings::{Element, Embeddings, sum_of};
use rayon::prelude::*;

/// The effective rank, `exp(−Σ p ln p)` with `p = σ / Σσ` over the singular values σ of the rows as
/// they are: 1 where all lie on one line, and the dimension d (or n, where that is less) where no
/// direction has more than another. It is what RankMe measures, uncentred.
///
/// # Errors
/// When there are no rows, or a number is not finite.
pub fn effective_rank<T: Element>(x: Embeddings<'_, T>) -> Result<f64, Error> {
    Ok(rank_of(&singular_values(x)?))
}

/// The effective rank that singular values make; 0 where all are 0.
pub(crate) fn rank_of(singular_values: &[f64]) -> f64 {
    let sum: f64 = singular_values.iter().sum();
    if sum == 0.0 {
        return 0.0;
    }
    let parts = singular_values.iter().map(|x| x / sum).filter(|p| *p > 0.0);
    parts.map(|p| -p * p.ln()).sum::<f64>().exp()
}

/// The singular values of the rows, `[min(n, d)]`, the largest first.
///
/// # Errors
/// When there are no rows, or a number is not finite.
pub fn singular_values<T: Element>(x: Embeddings<'_, T>) -> Result<Vec<f64>, Error> {
    check(&x, "embeddings", 1)?;
    let (n, d) = (x.rows(), x.dim());
    let largest = x.to_f64().iter().fold(0.0f64, |m, x| m.max(x.abs()));
    if largest == 0.0 {
        return Ok(vec![0.0; n.min(d)]);
    }
    // So that no square overflows or is lost.
    let rows: Vec<f64> = x.to_f64().iter().map(|x| x / largest).collect();
    let (mut gram, side) =
        if n < d { (gram_of_rows(&rows, d), n) } else { (gram_of_columns(&rows, d), d) };
    let mut values = eigenvalues(&mut gram, side);
    values.sort_by(|a, b| b.total_cmp(a));
    // What rounding leaves of a zero.
    let least = values[0] * side as f64 * f64::EPSILON;
    let singular = |x: f64| if x > least { x.sqrt() * largest } else { 0.0 };
    Ok(values.into_iter().map(singular).collect())
}

/// `XXᵀ`, `[n, n]`, where n < d.
fn gram_of_rows(rows: &[f64], d: usize) -> Vec<f64> {
    let n = rows.len() / d;
    let row = |i: usize| &rows[i * d..(i + 1) * d];
    let product = |i, j| sum_of(row(i), row(j), |x, y| x * y);
    (0..n * n).into_par_iter().map(|ij| product(ij / n, ij % n)).collect()
}

/// `XᵀX`, `[d, d]`.
fn gram_of_columns(rows: &[f64], d: usize) -> Vec<f64> {
    const TOGETHER: usize = 16;
    let mut gram = vec![0.0; d * d];
    gram.par_chunks_mut(TOGETHER * d).enumerate().for_each(|(part, gram)| {
        for row in rows.chunks(d) {
            let mine = &row[part * TOGETHER..];
            for (gram, x) in gram.chunks_mut(d).zip(mine) {
                gram.iter_mut().zip(row).for_each(|(gram, y)| *gram += x * y);
            }
        }
    });
    gram
}

/// The eigenvalues of a symmetric matrix `[n, n]`, in no order; the matrix is overwritten.
fn eigenvalues(matrix: &mut [f64], n: usize) -> Vec<f64> {
    let (mut diagonal, mut beside) = tridiagonal(matrix, n);
    ql(&mut diagonal, &mut beside);
    diagonal
}

/// Householder reflections: the diagonal, and what stands beside it with a 0 at the end.
fn tridiagonal(a: &mut [f64], n: usize) -> (Vec<f64>, Vec<f64>) {
    /// Below, waking threads takes longer than the work.
    const WORTH_THREADS: usize = 128;
    let mut beside = vec![0.0; n];
    let (mut v, mut w) = (vec![0.0; n], vec![0.0; n]);
    for k in 0..n.saturating_sub(1) {
        let m = n - k - 1;
        let (v, w) = (&mut v[..m], &mut w[..m]);
        v.copy_from_slice(&a[k * n + k + 1..(k + 1) * n]);
        let length = sum_of(v, v, |x, y| x * y).sqrt();
        let target = if v[0] > 0.0 { -length } else { length };
        beside[k] = target;
        v[0] -= target;
        let size = sum_of(v, v, |x, y| x * y).sqrt();
        if size == 0.0 {
            continue;
        }
        v.iter_mut().for_each(|x| *x /= size);
        // A ← H A H with H = 1 − 2vvᵀ.
        let below = &mut a[(k + 1) * n..];
        let each = if m < WORTH_THREADS { m } else { m.div_ceil(16) };
        w.par_iter_mut().with_min_len(each).enumerate().for_each(|(i, w)| {
            *w = sum_of(&below[i * n + k + 1..(i + 1) * n], v, |x, y| x * y);
        });
        let along = sum_of(v, w, |x, y| x * y);
        w.iter_mut().zip(&*v).for_each(|(w, v)| *w = 2.0 * (*w - along * v));
        let (v, w) = (&*v, &*w);
        below.par_chunks_mut(n).with_min_len(each).enumerate().for_each(|(i, row)| {
            let (vi, wi) = (v[i], w[i]);
            let row = row[k + 1..].iter_mut().zip(v.iter().zip(w));
            row.for_each(|(a, (v, w))| *a -= vi * w + wi * v);
        });
    }
    ((0..n).map(|i| a[i * n + i]).collect(), beside)
}

/// Eigenvalues of a symmetric tridiagonal matrix, by QL with implicit shifts; they replace `d`.
fn ql(d: &mut [f64], e: &mut [f64]) {
    /// It takes two or three.
    const MOST_ROUNDS: usize = 60;
    let n = d.len();
    for l in 0..n {
        for _ in 0..MOST_ROUNDS {
            let small = |m: &usize| e[*m].abs() <= f64::EPSILON * (d[*m].abs() + d[*m + 1].abs());
            let m = (l..n - 1).find(small).unwrap_or(n - 1);
            if m == l {
                break;
            }
            let mut g = (d[l + 1] - d[l]) / (2.0 * e[l]);
            let r = g.hypot(1.0);
            g = d[m] - d[l] + e[l] / (g + r.copysign(g));
            let (mut s, mut c, mut p) = (1.0, 1.0, 0.0);
            let mut ended = true;
            for i in (l..m).rev() {
                let (f, b) = (s * e[i], c * e[i]);
                let r = f.hypot(g);
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= p;
                    e[m] = 0.0;
                    ended = false;
                    break;
                }
                (s, c) = (f / r, g / r);
                g = d[i + 1] - p;
                let r = (d[i] - g) * s + 2.0 * c * b;
                p = s * r;
                d[i + 1] = g + p;
                g = c * r - b;
            }
            if ended {
                d[l] -= p;
                e[l] = g;
                e[m] = 0.0;
            }
        }
    }
}
