//! The nearest keys of each query, and whether some keys are everybody's neighbours.
//!
//! Input: queries `[n, d]` and keys `[m, d]`. Output: neighbours by cosine, or how unevenly the keys are
//! found (Radovanović et al. 2010).

use super::{check, check_count, same_dimension};
use crate::Error;
use crate::embeddings::{Element, Embeddings, NORM_FLOOR, Real, norm, sum_of};
use crate::engine::{Cosines, Work};
use crate::execution::Instructions;
use rayon::prelude::*;
use std::cmp::Ordering;

/// What `k` is called where it cannot be.
pub(super) const NUMBER: &str = "k, the number of neighbours,";

/// A key that is near a query.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its row among the keys.
    pub row: usize,
    /// Its cosine with the query.
    pub cosine: f64,
}

/// The `k` nearest keys of each query by cosine, `[n][k]`: the nearest first, and of equals the first
/// row. Every key is compared, so nothing is missed.
///
/// The cosines are blocked products in the type of the embeddings; those that rounding could have put
/// in another order are computed again in f64, so that the answer is that of f64 throughout.
///
/// # Errors
/// When `k` is not between 1 and the number of keys, dimensions disagree, or a number is not finite.
pub fn nearest<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    k: usize,
) -> Result<Vec<Vec<Neighbour>>, Error> {
    check_count(NUMBER, k, keys.rows())?;
    same_dimension(&queries, &keys)?;
    check(&queries, "queries", 0)?;
    check(&keys, "keys", 1)?;
    Ok(each_nearest(queries, keys, k, |_, neighbours| neighbours.to_vec()))
}

/// What `look` says of each query, given its number and its [`nearest`] keys.
pub(super) fn each_nearest<T: Element, O: Send>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    k: usize,
    look: impl Fn(usize, &[Neighbour]) -> O + Sync,
) -> Vec<O> {
    let cosines = ExactCosines::new(queries, keys);
    let apart = cosines.apart();
    Cosines::with(keys).each_row(queries, |i, row| {
        let kth = largest(row, k).last().map_or(f64::NEG_INFINITY, |(cosine, _)| cosine.f64());
        let near = (0..row.len()).filter(|&j| row[j].f64() >= kth - apart);
        let mut near: Vec<Neighbour> = near.map(|row| Neighbour { row, cosine: 0.0 }).collect();
        cosines.set(i, &mut near);
        near.sort_unstable_by(|a, b| b.cosine.total_cmp(&a.cosine).then(a.row.cmp(&b.row)));
        near.truncate(k);
        look(i, &near)
    })
}

/// The `k` largest numbers of a row and where they stand: the largest first, and of equals the first.
/// No number is NaN, and `k` is at least 1.
pub(crate) fn largest<R: PartialOrd + Copy>(row: &[R], k: usize) -> Vec<(R, usize)> {
    let order = |a: &(R, usize), b: &(R, usize)| {
        b.0.partial_cmp(&a.0).unwrap_or(Ordering::Equal).then(a.1.cmp(&b.1))
    };
    // Twice as many are gathered before the smaller half is dropped: a few steps for each number.
    let mut best = Vec::with_capacity((2 * k).min(row.len()));
    let mut least = None;
    for (j, &x) in row.iter().enumerate() {
        if least.is_some_and(|least| x <= least) {
            continue;
        }
        best.push((x, j));
        if best.len() == 2 * k {
            least = Some(best.select_nth_unstable_by(k - 1, order).1.0);
            best.truncate(k);
        }
    }
    best.sort_unstable_by(order);
    best.truncate(k);
    best
}

/// Cosines of queries with keys in f64, one at a time.
pub(super) struct ExactCosines<'a, T> {
    queries: Embeddings<'a, T>,
    keys: Embeddings<'a, T>,
    query_lengths: Vec<f64>,
    key_lengths: Vec<f64>,
}

impl<'a, T: Element> ExactCosines<'a, T> {
    pub(super) fn new(queries: Embeddings<'a, T>, keys: Embeddings<'a, T>) -> Self {
        let lengths = |x: Embeddings<'a, T>| {
            (0..x.rows()).into_par_iter().map(|i| norm(x.row(i)).max(NORM_FLOOR)).collect()
        };
        Self { queries, keys, query_lengths: lengths(queries), key_lengths: lengths(keys) }
    }

    /// Those of the rows of `near`.
    fn set(&self, query: usize, near: &mut [Neighbour]) {
        Instructions::best().run(self, (query, near));
    }

    #[inline(always)]
    pub(super) fn get(&self, query: usize, key: usize) -> f64 {
        let term = |a: T, b: T| a.real().f64() * b.real().f64();
        let dot = sum_of(self.keys.row(key), self.queries.row(query), term);
        dot / (self.key_lengths[key] * self.query_lengths[query])
    }

    /// How far apart two cosines of blocked products may be that are equal: each of them is off by at
    /// most a unit of rounding for each product and sum of unit rows.
    pub(super) fn apart(&self) -> f64 {
        let unit = if size_of::<T::Real>() == 4 { f64::from(f32::EPSILON) } else { f64::EPSILON };
        2.0 * unit * (self.keys.dim() + 8) as f64
    }
}

impl<T: Element> Work<(usize, &mut [Neighbour])> for ExactCosines<'_, T> {
    #[inline(always)]
    fn run(&self, (query, near): (usize, &mut [Neighbour])) {
        for neighbour in near {
            neighbour.cosine = self.get(query, neighbour.row);
        }
    }
}

/// How unevenly the keys are found.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Hubness {
    /// Neighbours that were counted of each query.
    pub neighbours: usize,
    /// The skewness of how often each key is among them: about 0 where all are found alike, and above
    /// 3 or so where a few keys are found everywhere.
    pub skewness: f64,
    /// How often the most found key is among them, in times of the mean.
    pub largest: f64,
    /// The share of keys that nobody finds.
    pub never: f64,
}

impl Hubness {
    /// Of how often each key was found.
    pub(crate) fn of(neighbours: usize, found: &[u32]) -> Self {
        let n = found.len() as f64;
        let mean = found.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let moment =
            |power: i32| found.iter().map(|&x| (f64::from(x) - mean).powi(power)).sum::<f64>() / n;
        let variance = moment(2);
        let largest = found.iter().max().map_or(0.0, |&most| f64::from(most));
        Self {
            neighbours,
            skewness: if variance > 0.0 { moment(3) / variance.powf(1.5) } else { 0.0 },
            largest: if mean > 0.0 { largest / mean } else { 0.0 },
            never: found.iter().filter(|&&x| x == 0).count() as f64 / n,
        }
    }
}

/// How often each key is among the `k` nearest of a query, and how uneven that is.
///
/// # Errors
/// When there are no queries, `k` is not between 1 and the number of keys, dimensions disagree, or a
/// number is not finite.
pub fn hubness<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    k: usize,
) -> Result<Hubness, Error> {
    same_dimension(&queries, &keys)?;
    check(&queries, "queries", 1)?;
    check(&keys, "keys", 1)?;
    check_count(NUMBER, k, keys.rows())?;
    let nearest = Cosines::with(keys).each_row(queries, |_, row| largest(row, k));
    let mut found = vec![0; keys.rows()];
    nearest.iter().flatten().for_each(|&(_, j)| found[j] += 1);
    Ok(Hubness::of(k, &found))
}
