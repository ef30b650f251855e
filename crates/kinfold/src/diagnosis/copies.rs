//! Rows that cannot be told apart: exact copies, near ones, and whole clusters of them.
//!
//! Input: pairs, the sampled ones first. Output: [`Duplicates`]. Near copies are those that are nearer
//! than so many points in so few dimensions come to lie by chance: in two dimensions every row has a
//! neighbour at a cosine of 0.999, and is no copy of it.

use super::parts::{Duplicates, Points};
use super::sampling::Pairs;
use super::walk::{Seen, mean, median};
use crate::Error;
use crate::embeddings::{Element, Embeddings, Real, norm};
use crate::engine::Cosines;
use crate::measures::{Centred, duplicates, largest, unit_rows};

/// Cosines from here on may be near copies.
const NEAR: f64 = 0.999;
/// Rows within such a cosine of each other, their mean subtracted, are one point, and what else is within
/// the other is about it.
const POINT: f64 = 0.98;
const ABOUT: f64 = 0.9;
/// By the distances of these neighbours is judged how near the first one should be.
const NEIGHBOURS: [usize; 2] = [10, 20];
/// A neighbour is no chance where one in a hundred would be so near.
const CHANCE: f64 = 0.01;

/// What is seen of one key among all.
struct Row {
    /// Within the cosine, itself included.
    near: usize,
    /// Angles to the nearest other key and to the two neighbours, nearer ones first.
    nearest: f64,
    farther: [f64; 2],
}

pub(super) fn duplicated<T: Element>(
    pairs: &Pairs<'_, T>,
    seen: &Seen,
    labels: Option<&[u64]>,
) -> Result<Duplicates, Error> {
    let (of_queries, of_keys) = (duplicates(pairs.queries)?, duplicates(pairs.keys)?);
    let share = |copies: &[usize]| mean(copies.iter().map(|&copies| f64::from(copies > 1)));
    let rows = Cosines::with(pairs.keys).each_row(pairs.keys.first(pairs.rows), |_, row| see(row));
    let copied = near_copies(&rows, &of_keys);
    // A row is its own neighbour, but for a row of zeros, and its exact copies are.
    let others = rows.iter().zip(&of_keys).zip(&copied);
    let others =
        others.map(|((row, &exact), &near)| if near { row.near.max(exact) } else { exact });
    let zero = |x: Embeddings<'_, T>| (0..x.rows()).filter(|&i| norm(x.row(i)) == 0.0).count();
    Ok(Duplicates {
        queries: share(&of_queries),
        keys: share(&of_keys),
        floor: mean(of_keys.iter().map(|&copies| (copies as f64).ln())),
        near: mean(copied.iter().map(|&near| f64::from(near))),
        near_floor: mean(others.map(|others| (others as f64).ln())),
        queries_among_keys: mean(seen.rows.iter().map(|row| f64::from(row.copied))),
        points: points(pairs.keys.first(pairs.rows), labels),
        zero_rows: zero(pairs.queries) + zero(pairs.keys),
    })
}

fn see<R: Real>(row: &[R]) -> Row {
    let within = row.iter().filter(|cosine| cosine.f64() >= NEAR).count().max(1);
    // The first is the row itself, or as good as it.
    let nearest = largest(row, (NEIGHBOURS[1] + 1).min(row.len()));
    let angle = |k: usize| nearest[k.min(nearest.len() - 1)].0.f64().clamp(-1.0, 1.0).acos();
    Row { near: within, nearest: angle(1), farther: NEIGHBOURS.map(angle) }
}

/// `labels` of these rows, and of more.
fn points<T: Element>(x: Embeddings<'_, T>, labels: Option<&[u64]>) -> Points {
    let (rows, dim) = (x.rows(), x.dim());
    let centred = Centred::new(&unit_rows(x), dim).rows;
    let centred = Embeddings::unchecked(&centred, dim);
    // At its point, about it, and at it with its label.
    let seen = Cosines::with(centred).each_row(centred, |i, row| {
        let mut counts = [0; 3];
        for j in 0..rows {
            // A row at the mean is with itself alone.
            let cosine = if j == i { 1.0 } else { row[j].f64() };
            let at = cosine >= POINT;
            let same = labels.is_some_and(|labels| labels[j] == labels[i]);
            let so = [at, cosine >= ABOUT, at && same];
            counts.iter_mut().zip(so).for_each(|(count, so)| *count += usize::from(so));
        }
        counts
    });
    let all = |k: usize| seen.iter().map(|counts| counts[k]).sum::<usize>() as f64;
    let mut sizes: Vec<usize> = seen.iter().map(|counts| counts[0]).collect();
    sizes.sort_unstable();
    Points {
        rows,
        count: seen.iter().map(|counts| 1.0 / counts[0] as f64).sum(),
        at_one: sizes[rows / 2],
        separate: all(0) / all(1),
        labelled: labels.map(|_| all(2) / all(0)),
    }
}

/// Which rows have a copy that is not exact. Were a row's neighbours strewn evenly in `d` dimensions, the
/// `k`-th would be at an angle that grows as `k^(1/d)`: so the distances of the tenth and the twentieth
/// tell the dimension, and that how near the first one comes by chance.
fn near_copies(rows: &[Row], exact: &[usize]) -> Vec<bool> {
    let ratios: Vec<f64> = rows
        .iter()
        .filter(|row| row.farther[0] > 0.0)
        .map(|row| row.farther[1] / row.farther[0])
        .collect();
    let ratio = if ratios.is_empty() { 1.0 } else { median(ratios) }.max(1.0 + 1e-9);
    // The share of a neighbour's angle below which it is no chance.
    let share = (CHANCE / NEIGHBOURS[0] as f64).powf(ratio.ln() / 2f64.ln());
    let copied =
        |(row, &exact): (&Row, &usize)| row.near > exact && row.nearest < share * row.farther[0];
    rows.iter().zip(exact).map(copied).collect()
}
