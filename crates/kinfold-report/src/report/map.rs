//! Embeddings on a plane.
//!
//! Input: unit embeddings `[n, d]`. Output: a place in the plane for each. Nothing is random: the
//! principal components are where t-SNE begins.

use crate::snapshots::dot;
use kinfold::Embeddings;
use kinfold::measures::principal_components;

/// Where embeddings lie on the plane.
#[derive(Debug, Clone)]
pub(super) struct Map {
    /// A place for each row, between 0 and 1 in both directions.
    pub(super) places: Vec<[f64; 2]>,
    /// The share of the variance that the first two principal components hold.
    pub(super) variance: f64,
}

/// Rows that have so many neighbours lie near them.
const PERPLEXITY: f64 = 30.0;
const ITERATIONS: usize = 500;
/// So long are pulls exaggerated, and by so much.
const EARLY: usize = 150;
const EXAGGERATION: f64 = 12.0;

/// t-SNE (van der Maaten and Hinton 2008), exact, from the first two principal components; none for
/// fewer than 8 rows, and where a number is not finite. It takes n² steps an iteration, so n should be
/// some hundreds.
pub(super) fn map(rows: &[f32], dim: usize) -> Option<Map> {
    let n = rows.len() / dim;
    if n < 8 {
        return None;
    }
    let axes = dim.min(2);
    let components = principal_components(Embeddings::new(rows, dim).ok()?, axes).ok()?;
    // Of embeddings of one dimension the second component is 0.
    let place = |row: &[f64]| [row[0], row.get(1).copied().unwrap_or(0.0)];
    let mut places: Vec<[f64; 2]> = components.places.chunks(axes).map(place).collect();
    let spread = places.iter().map(|p| p[0] * p[0]).sum::<f64>() / n as f64;
    let unit = 1e-2 / spread.sqrt().max(1e-12);
    places.iter_mut().flatten().for_each(|x| *x *= unit);
    descend(&mut places, &affinities(rows, dim));
    let variance = components.shares.iter().sum::<f64>().min(1.0);
    Some(Map { places: squared(places), variance })
}

/// How much two rows should be neighbours, `[n, n]`, summing to 1.
fn affinities(rows: &[f32], dim: usize) -> Vec<f64> {
    let n = rows.len() / dim;
    let row = |i: usize| &rows[i * dim..(i + 1) * dim];
    // Of unit rows the squared distance is 2 − 2 cosine.
    let far = |i: usize, j: usize| f64::from((2.0 - 2.0 * dot(row(i), row(j))).max(0.0));
    let target = PERPLEXITY.min((n - 1) as f64 / 3.0).max(2.0).ln();
    let mut given = vec![0.0; n * n];
    for i in 0..n {
        let distances: Vec<f64> = (0..n).map(|j| far(i, j)).collect();
        let nearest =
            (0..n).filter(|&j| j != i).map(|j| distances[j]).fold(f64::INFINITY, f64::min);
        let (mut least, mut most, mut scale) = (0.0, f64::INFINITY, 1.0);
        let given = &mut given[i * n..(i + 1) * n];
        for _ in 0..60 {
            let (mut sum, mut mean) = (0.0, 0.0);
            for j in 0..n {
                let away = distances[j] - nearest;
                given[j] = if j == i { 0.0 } else { (-scale * away).exp() };
                sum += given[j];
                mean += given[j] * away;
            }
            let entropy = f64::ln(sum) + scale * mean / sum;
            given.iter_mut().for_each(|p| *p /= sum);
            if (entropy - target).abs() < 1e-5 {
                break;
            }
            if entropy > target {
                least = scale;
                scale = if most.is_finite() { (scale + most) / 2.0 } else { 2.0 * scale };
            } else {
                most = scale;
                scale = (scale + least) / 2.0;
            }
        }
    }
    let both = |ij: usize| (given[ij] + given[ij % n * n + ij / n]) / (2 * n) as f64;
    (0..n * n).map(both).collect()
}

/// Moves places until near rows are near, by gradients with momentum and gains of their own.
fn descend(places: &mut [[f64; 2]], affinities: &[f64]) {
    let n = places.len();
    let rate = (n as f64 / EXAGGERATION / 4.0).max(50.0);
    let mut speed = vec![[0.0; 2]; n];
    let mut gains = vec![[1.0f64; 2]; n];
    let mut close = vec![0.0; n * n];
    for iteration in 0..ITERATIONS {
        let early = iteration < EARLY;
        let (pull, momentum) = if early { (EXAGGERATION, 0.5) } else { (1.0, 0.8) };
        let mut sum = 0.0;
        for i in 0..n {
            for j in 0..i {
                let (x, y) = (places[i][0] - places[j][0], places[i][1] - places[j][1]);
                let near = 1.0 / (1.0 + x * x + y * y);
                close[i * n + j] = near;
                close[j * n + i] = near;
                sum += 2.0 * near;
            }
        }
        let gradient: Vec<[f64; 2]> = (0..n)
            .map(|i| {
                let (mut gx, mut gy) = (0.0, 0.0);
                for j in 0..n {
                    let near = close[i * n + j];
                    let force = 4.0 * (pull * affinities[i * n + j] - near / sum) * near;
                    gx += force * (places[i][0] - places[j][0]);
                    gy += force * (places[i][1] - places[j][1]);
                }
                [gx, gy]
            })
            .collect();
        for i in 0..n {
            for axis in 0..2 {
                let (slope, moving) = (gradient[i][axis], &mut speed[i][axis]);
                let gain = &mut gains[i][axis];
                *gain = if slope * *moving < 0.0 { *gain + 0.2 } else { (*gain * 0.8).max(0.01) };
                *moving = momentum * *moving - rate * *gain * slope;
                places[i][axis] += *moving;
            }
        }
    }
}

/// Moved and scaled into the unit square, both directions alike.
fn squared(places: Vec<[f64; 2]>) -> Vec<[f64; 2]> {
    let end = |axis: usize, of: fn(f64, f64) -> f64, start: f64| {
        places.iter().map(|place| place[axis]).fold(start, of)
    };
    let low = [0, 1].map(|axis| end(axis, f64::min, f64::INFINITY));
    let high = [0, 1].map(|axis| end(axis, f64::max, f64::NEG_INFINITY));
    let side = (high[0] - low[0]).max(high[1] - low[1]).max(1e-12);
    let within = |x: f64, axis: usize| 0.5 + (x - (low[axis] + high[axis]) / 2.0) / side;
    places.iter().map(|p| [within(p[0], 0), within(p[1], 1)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshots::normalise;

    /// Three clusters of 20 about three axes of eight.
    fn clusters() -> Vec<f32> {
        let mut rows: Vec<f32> = (0..60 * 8)
            .map(|at| {
                let (row, column) = (at / 8, at % 8);
                let noise = ((at * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.3;
                noise + if column == row / 20 { 1.0 } else { 0.0 }
            })
            .collect();
        normalise(&mut rows, 8);
        rows
    }

    #[test]
    fn clusters_stay_apart_on_the_plane() {
        let map = map(&clusters(), 8).expect("enough rows");
        let far = |i: usize, j: usize| {
            let (a, b) = (map.places[i], map.places[j]);
            (a[0] - b[0]).hypot(a[1] - b[1])
        };
        for i in 0..60 {
            let nearest =
                (0..60).filter(|&j| j != i).min_by(|&a, &b| far(i, a).total_cmp(&far(i, b)));
            assert_eq!(nearest.expect("others") / 20, i / 20, "{i}");
        }
        assert!(map.places.iter().flatten().all(|x| (-1e-9..=1.0 + 1e-9).contains(x)));
        // Three clusters span a plane, and noise lies beside it.
        assert!((0.75..0.99).contains(&map.variance), "{}", map.variance);
    }

    #[test]
    fn one_point_or_few_rows_are_no_trouble() {
        assert!(map(&[1.0; 7], 1).is_none());
        let line = map(&[1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0], 1).expect("enough rows");
        assert!(line.variance == 1.0 && line.places.iter().flatten().all(|x| x.is_finite()));
        let map = map(&[0.5; 4 * 10], 4).expect("enough rows");
        assert!(map.places.iter().flatten().all(|x| x.is_finite()));
        assert_eq!(map.variance, 0.0);
    }
}
