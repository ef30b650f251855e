//! How embeddings lie on the sphere.
//!
//! Input: embeddings, in pairs or alone. Output: how near pairs are, how evenly rows are spread,
//! and whether they lie in a point, in two clusters, or apart by where they come from.

use super::principal::{Centred, squares};
use super::{check, check_pairs};
use crate::Error;
use crate::embeddings::{Element, Embeddings, NORM_FLOOR, Real, norm};
use crate::engine::Cosines;
use rayon::prelude::*;
use std::collections::HashMap;

/// Row i divided by its length, in f64.
fn unit<T: Element>(x: &Embeddings<'_, T>, i: usize) -> impl Iterator<Item = f64> {
    let factor = norm(x.row(i)).max(NORM_FLOOR).recip();
    x.row(i).iter().map(move |x| x.real().f64() * factor)
}

/// All rows divided by their lengths, `[n · d]`.
pub(crate) fn unit_rows<T: Element>(x: Embeddings<'_, T>) -> Vec<f64> {
    (0..x.rows()).flat_map(|i| unit(&x, i)).collect()
}

fn mean_row<T: Element>(x: &Embeddings<'_, T>) -> Vec<f64> {
    let mut mean = vec![0.0; x.dim()];
    for i in 0..x.rows() {
        mean.iter_mut().zip(unit(x, i)).for_each(|(mean, x)| *mean += x);
    }
    mean.iter_mut().for_each(|mean| *mean /= x.rows() as f64);
    mean
}

/// How many rows are not all zeros.
fn directions<T: Element>(x: &Embeddings<'_, T>) -> usize {
    (0..x.rows()).filter(|&i| norm(x.row(i)) > 0.0).count()
}

/// Alignment, `mean ‖x − y‖²` over pairs of unit rows: from 0, where every pair coincides, to 4
/// (Wang and Isola 2020, α = 2).
///
/// # Errors
/// When rows or dimensions disagree, there are none, or a number is not finite.
pub fn alignment<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
) -> Result<f64, Error> {
    check_pairs(&queries, &keys)?;
    let n = queries.rows();
    let distance = |i| unit(&queries, i).zip(unit(&keys, i)).map(|(x, y)| (x - y).powi(2));
    Ok((0..n).map(|i| distance(i).sum::<f64>()).sum::<f64>() / n as f64)
}

/// Uniformity, `ln mean exp(−2‖x_i − x_j‖²)` over all i < j of unit rows: 0 where all coincide, and
/// about −4 where directions are spread evenly in many dimensions (Wang and Isola 2020, t = 2).
///
/// # Errors
/// When there are fewer than two rows, or a number is not finite.
pub fn uniformity<T: Element>(x: Embeddings<'_, T>) -> Result<f64, Error> {
    check(&x, "embeddings", 2)?;
    let n = x.rows();
    let lengths: Vec<f64> = (0..n).map(|i| f64::from(norm(x.row(i)) > 0.0)).collect();
    let sums = Cosines::with(x).each_row(x, |i, row| {
        let terms = row[i + 1..].iter().zip(&lengths[i + 1..]);
        terms.map(|(cosine, of_j)| (-2.0 * (lengths[i] + of_j - 2.0 * cosine.f64())).exp()).sum()
    });
    let pairs = n as f64 * (n - 1) as f64 / 2.0;
    Ok((sums.iter().sum::<f64>() / pairs).ln())
}

/// The mean cosine of all pairs of different rows: 0 where directions are spread evenly, 1 where all
/// have collapsed into one.
///
/// # Errors
/// When there are fewer than two rows, or a number is not finite.
pub fn mean_cosine<T: Element>(x: Embeddings<'_, T>) -> Result<f64, Error> {
    check(&x, "embeddings", 2)?;
    let n = x.rows() as f64;
    // Σ_{i≠j} ⟨x_i, x_j⟩ = ‖Σ x_i‖² − Σ ‖x_i‖².
    Ok((n * squares(&mean_row(&x)) - directions(&x) as f64 / n) / (n - 1.0))
}

/// The standard deviation of each dimension of the unit rows, `[d]`, times √d: 1 everywhere where
/// directions are spread evenly, 0 where a dimension does not vary.
///
/// # Errors
/// When there are no rows, or a number is not finite.
pub fn dimension_spread<T: Element>(x: Embeddings<'_, T>) -> Result<Vec<f64>, Error> {
    check(&x, "embeddings", 1)?;
    let mean = mean_row(&x);
    let mut variance = vec![0.0; x.dim()];
    for i in 0..x.rows() {
        let parts = variance.iter_mut().zip(unit(&x, i).zip(&mean));
        parts.for_each(|(variance, (x, mean))| *variance += (x - mean).powi(2));
    }
    let factor = x.dim() as f64 / x.rows() as f64;
    Ok(variance.iter().map(|variance| (variance * factor).sqrt()).collect())
}

/// How far queries and keys lie apart as wholes.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Gap {
    /// The distance between the means of the unit rows, from 0 to 2 (Liang et al. 2022).
    pub distance: f64,
    /// The share of the variance of all unit rows that tells queries from keys, from 0 to 1.
    pub share: f64,
}

/// The gap between the means of queries and keys.
///
/// # Errors
/// When rows or dimensions disagree, there are none, or a number is not finite.
pub fn modality_gap<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
) -> Result<Gap, Error> {
    check_pairs(&queries, &keys)?;
    let (q, k) = (mean_row(&queries), mean_row(&keys));
    let distance = q.iter().zip(&k).map(|(q, k)| (q - k).powi(2)).sum::<f64>();
    let middle: f64 = q.iter().zip(&k).map(|(q, k)| ((q + k) / 2.0).powi(2)).sum();
    let lengths = (directions(&queries) + directions(&keys)) as f64 / (2 * queries.rows()) as f64;
    let variance = lengths - middle;
    let share = if variance > 1e-12 { (distance / 4.0 / variance).min(1.0) } else { 0.0 };
    Ok(Gap { distance: distance.sqrt(), share })
}

/// How well two clusters describe all rows.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Clusters {
    /// The variance of the unit rows about their mean, from 0 to 1.
    pub variance: f64,
    /// The share of it that is between the two clusters, from 0 to 1.
    pub share: f64,
    /// The share of rows in the smaller cluster.
    pub smaller: f64,
}

/// Splits unit rows in two along the direction in which they vary most, where that explains most, and
/// says how much it explains.
///
/// # Errors
/// When there are fewer than two rows, or a number is not finite.
pub fn two_clusters<T: Element>(x: Embeddings<'_, T>) -> Result<Clusters, Error> {
    check(&x, "embeddings", 2)?;
    Ok(Centred::new(&unit_rows(x), x.dim()).two_clusters())
}

impl Centred {
    /// See [`two_clusters`].
    pub(crate) fn two_clusters(&self) -> Clusters {
        let n = self.len();
        let total = self.squares();
        let variance = total / n as f64;
        if variance <= 1e-12 {
            return Clusters { variance: 0.0, share: 0.0, smaller: 0.0 };
        }
        let (axis, _) = self.principal(self.farthest().to_vec(), &[], 30);
        let along = self.along(&axis);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| along[a].total_cmp(&along[b]).then(a.cmp(&b)));
        // Sums are 0 in all, so the first m rows' sum s explains s²/m + s²/(n − m).
        let (mut sum, mut best) = (0.0, (0.0, 1));
        for (m, &i) in (1..n).zip(&order) {
            sum += along[i];
            let explained = sum * sum * (1.0 / m as f64 + 1.0 / (n - m) as f64);
            if explained > best.0 {
                best = (explained, m);
            }
        }
        let m = best.1;
        let mut first = vec![0.0; n];
        order[..m].iter().for_each(|&i| first[i] = 1.0);
        let between = squares(&self.combined(&first)) * (1.0 / m as f64 + 1.0 / (n - m) as f64);
        Clusters {
            variance,
            share: (between / total).min(1.0),
            smaller: m.min(n - m) as f64 / n as f64,
        }
    }
}

/// How many rows are exactly the same as each row, itself included, `[n]`: 1 where it has no
/// duplicate. −0 counts as 0.
///
/// # Errors
/// When a number is not finite.
pub fn duplicates<T: Element>(x: Embeddings<'_, T>) -> Result<Vec<usize>, Error> {
    x.check_finite("embeddings")?;
    let bits = |i: usize| x.row(i).iter().map(|x| (x.real().f64() + 0.0).to_bits());
    // Rows by a hash of their own, so that no copy of them is kept; equals are then compared.
    let hash =
        |i| bits(i).fold(0xcbf2_9ce4_8422_2325_u64, |h, x| (h ^ x).wrapping_mul(HASH) ^ h >> 29);
    let hashes: Vec<u64> = (0..x.rows()).into_par_iter().map(hash).collect();
    let mut groups: HashMap<u64, Vec<usize>> = HashMap::new();
    for (i, &hash) in hashes.iter().enumerate() {
        groups.entry(hash).or_default().push(i);
    }
    let mut sizes = vec![1; x.rows()];
    // A hash that rows do not share by being equal is split up.
    for mut group in groups.into_values().filter(|group| group.len() > 1) {
        while let Some(&first) = group.first() {
            let (same, others): (Vec<_>, Vec<_>) =
                group.into_iter().partition(|&i| bits(i).eq(bits(first)));
            same.iter().for_each(|&i| sizes[i] = same.len());
            group = others;
        }
    }
    Ok(sizes)
}

const HASH: u64 = 0x9e37_79b9_7f4a_7c15;
