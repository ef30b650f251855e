//! The directions in which embeddings vary most.
//!
//! Input: embeddings. Output: principal components, by power iteration on the covariance without
//! building it. It suits a few components; for all of them see [`super::singular_values`].

use super::{check, check_count};
use crate::Error;
use crate::embeddings::{Element, Embeddings};
use rayon::prelude::*;

/// Rounds of power iteration for each component.
const ROUNDS: usize = 100;

/// The first principal components of embeddings `[n, d]`.
#[derive(Debug, Clone, PartialEq)]
pub struct PrincipalComponents {
    /// The axes, `[count · d]`: of length 1 and orthogonal to each other, that of most variance first.
    pub axes: Vec<f64>,
    /// The share of the variance along each axis, `[count]`, from 0 to 1; all 0 where rows do not vary.
    pub shares: Vec<f64>,
    /// The places of rows along the axes, `[n · count]`, from their mean.
    pub places: Vec<f64>,
}

/// The first `count` principal components of rows as they are, by power iteration.
///
/// Axes along which rows vary nearly alike are not told apart, and an axis along which they do not vary
/// is arbitrary. Nothing is random: the same rows have the same axes, signs included.
///
/// # Errors
/// When there are no rows, `count` is not between 1 and the dimension, or a number is not finite.
pub fn principal_components<T: Element>(
    x: Embeddings<'_, T>,
    count: usize,
) -> Result<PrincipalComponents, Error> {
    check_count("the number of components", count, x.dim())?;
    check(&x, "embeddings", 1)?;
    let centred = Centred::new(&x.to_f64(), x.dim());
    let total = centred.squares();
    let (mut axes, mut shares) = (Vec::<Vec<f64>>::new(), Vec::new());
    for _ in 0..count {
        // No axis that data knows of is orthogonal to it.
        let start = (0..x.dim()).map(|l| 1.0 + (l as f64 * 0.7).sin()).collect();
        let (axis, along) = centred.principal(start, &axes, ROUNDS);
        axes.push(axis);
        shares.push(if total > 0.0 { (along / total).clamp(0.0, 1.0) } else { 0.0 });
    }
    let rows = centred.rows.chunks(x.dim());
    let places = rows.flat_map(|row| axes.iter().map(|axis| dot(row, axis))).collect();
    Ok(PrincipalComponents { axes: axes.concat(), shares, places })
}

/// Rows without their mean.
pub(crate) struct Centred {
    pub(crate) rows: Vec<f64>,
    dim: usize,
    pub(crate) mean: Vec<f64>,
}

impl Centred {
    pub(crate) fn new(rows: &[f64], dim: usize) -> Self {
        let n = (rows.len() / dim) as f64;
        let mut mean = vec![0.0; dim];
        for row in rows.chunks(dim) {
            mean.iter_mut().zip(row).for_each(|(mean, x)| *mean += x);
        }
        mean.iter_mut().for_each(|mean| *mean /= n);
        let rows = rows.chunks(dim).flat_map(|row| row.iter().zip(&mean).map(|(x, m)| x - m));
        Self { rows: rows.collect(), dim, mean }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len() / self.dim
    }

    /// Σ ‖row‖².
    pub(super) fn squares(&self) -> f64 {
        self.rows.chunks(self.dim).map(squares).sum()
    }

    /// Σ coefficient · row.
    pub(crate) fn combined(&self, coefficients: &[f64]) -> Vec<f64> {
        let mut sum = vec![0.0; self.dim];
        for (row, c) in self.rows.chunks(self.dim).zip(coefficients) {
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += c * x);
        }
        sum
    }

    /// Each row along a direction.
    pub(super) fn along(&self, direction: &[f64]) -> Vec<f64> {
        self.rows.par_chunks(self.dim).map(|row| dot(row, direction)).collect()
    }

    /// The row farthest from the mean; of equals, the first.
    pub(super) fn farthest(&self) -> &[f64] {
        let farther = |best: (f64, _), row| match squares(row) {
            size if size > best.0 => (size, row),
            _ => best,
        };
        self.rows.chunks(self.dim).fold((-1.0, &[][..]), farther).1
    }

    /// The direction in which rows vary most, of those orthogonal to `others`, and the sum of squares
    /// along it: by power iteration from `start`.
    pub(super) fn principal(
        &self,
        start: Vec<f64>,
        others: &[Vec<f64>],
        rounds: usize,
    ) -> (Vec<f64>, f64) {
        let nothing = 1e-12 * self.squares();
        let (mut axis, mut along) = (start, 0.0);
        for _ in 0..rounds {
            for other in others {
                let shared = dot(&axis, other);
                axis.iter_mut().zip(other).for_each(|(x, o)| *x -= shared * o);
            }
            let unit = scaled(axis);
            let next = self.combined(&self.along(&unit));
            along = dot(&next, &unit);
            if along <= nothing {
                return (unit, along);
            }
            axis = next;
        }
        (scaled(axis), along)
    }
}

/// To length 1; zeros stay.
fn scaled(mut x: Vec<f64>) -> Vec<f64> {
    let length = squares(&x).sqrt().max(1e-300);
    x.iter_mut().for_each(|x| *x /= length);
    x
}

/// Summed in order, and not in the lanes of a vector: t-SNE begins from these places, and would make
/// another map of another rounding.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

pub(super) fn squares(x: &[f64]) -> f64 {
    dot(x, x)
}
