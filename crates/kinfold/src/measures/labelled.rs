//! What labels say of embeddings: nearest neighbours, and one example or a few of a class.
//!
//! Input: embeddings `[n, d]` and a label for each. Output: accuracies, those of f64 throughout.

use super::check_count;
use super::neighbours::{ExactCosines, NUMBER, Neighbour, each_nearest};
use crate::Error;
use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::Cosines;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::BTreeMap;

/// Embeddings whose labels are known.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a, T> {
    pub(super) embeddings: Embeddings<'a, T>,
    pub(super) labels: &'a [u64],
}

impl<'a, T: Element> Labelled<'a, T> {
    /// A label for each of the rows.
    ///
    /// # Errors
    /// When there are no rows, or not as many labels as rows, or a number is not finite.
    pub fn new(embeddings: Embeddings<'a, T>, labels: &'a [u64]) -> Result<Self, Error> {
        if labels.len() != embeddings.rows() {
            return Err(Error::Rows {
                left: "labels",
                left_rows: labels.len(),
                right: "embeddings",
                right_rows: embeddings.rows(),
            });
        }
        if labels.is_empty() {
            return Err(Error::Empty { matrix: "embeddings", needed: 1 });
        }
        embeddings.check_finite("embeddings")?;
        Ok(Self { embeddings, labels })
    }
}

/// k-nearest-neighbour accuracy: the share of `test` whose label wins the vote of its `k` nearest in
/// `train`, each vote weighing `exp(cosine / 0.1)` (Wu et al. 2018; k = 200 is the custom, and k = 1
/// the plain nearest neighbour).
///
/// # Errors
/// When dimensions disagree or `k` is not between 1 and the rows of `train`.
pub fn knn_accuracy<T: Element>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
    k: usize,
) -> Result<f64, Error> {
    Ok(knn_accuracies(train, test, [k])?[0])
}

/// [`knn_accuracy`] for several numbers of neighbours, in the time of the largest.
///
/// # Errors
/// As [`knn_accuracy`].
pub fn knn_accuracies<T: Element, const N: usize>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
    ks: [usize; N],
) -> Result<[f64; N], Error> {
    ks.iter().try_for_each(|&k| check_count(NUMBER, k, train.labels.len()))?;
    check_dimension(train, test)?;
    let most = ks.into_iter().max().unwrap_or(1);
    let hits = each_nearest(test.embeddings, train.embeddings, most, |i, neighbours| {
        ks.map(|k| {
            let mut votes: BTreeMap<u64, f64> = BTreeMap::new();
            for &Neighbour { row, cosine } in &neighbours[..k] {
                *votes.entry(train.labels[row]).or_default() += ((cosine - 1.0) / 0.1).exp();
            }
            first_largest(votes.into_iter()) == Some(test.labels[i])
        })
    });
    let share = |which: usize| {
        hits.iter().filter(|hits| hits[which]).count() as f64 / test.labels.len() as f64
    };
    Ok(std::array::from_fn(share))
}

/// One-shot accuracy: with a single labelled example for each class, drawn from `train`, the share
/// of `test` whose nearest example has its label; the mean over `draws` draws seeded by `seed`.
///
/// # Errors
/// When dimensions disagree or `draws` is 0.
pub fn one_shot_accuracy<T: Element>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
    draws: usize,
    seed: u64,
) -> Result<f64, Error> {
    few_shot_accuracy(train, test, 1, draws, seed)
}

/// The same with at most `shots` labelled examples of each class, and of a class that has fewer all.
///
/// # Errors
/// When dimensions disagree or `shots` or `draws` is 0.
pub fn few_shot_accuracy<T: Element>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
    shots: usize,
    draws: usize,
    seed: u64,
) -> Result<f64, Error> {
    check_count("the number of examples of a class", shots, usize::MAX)?;
    check_count("the number of draws", draws, usize::MAX)?;
    check_dimension(train, test)?;
    let mut members: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for (row, &label) in train.labels.iter().enumerate() {
        members.entry(label).or_default().push(row);
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |n: usize| ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize;
    let mut some_of = |rows: &Vec<usize>| {
        let (mut rows, some) = (rows.clone(), shots.min(rows.len()));
        for place in 0..some {
            let drawn = place + below(rows.len() - place);
            rows.swap(place, drawn);
        }
        rows.truncate(some);
        rows
    };
    let examples: Vec<Vec<usize>> =
        (0..draws).map(|_| members.values().flat_map(&mut some_of).collect()).collect();
    let mut drawn: Vec<usize> = examples.concat();
    drawn.sort_unstable();
    drawn.dedup();
    let rows: Vec<T> = drawn.iter().flat_map(|&row| train.embeddings.row(row)).copied().collect();
    let places = |draw: &Vec<usize>| -> Vec<usize> {
        draw.iter().map(|row| drawn.partition_point(|other| other < row)).collect()
    };
    let draws: Vec<Vec<usize>> = examples.iter().map(places).collect();
    let drawn_rows = Embeddings::new(&rows, train.embeddings.dim())?;
    let cosines = ExactCosines::new(test.embeddings, drawn_rows);
    let hits = Cosines::with(drawn_rows).each_row(test.embeddings, |i, row| {
        let right = |draw: &&Vec<usize>| {
            let nearest = first_nearest(draw, row, |j| cosines.get(i, j), cosines.apart());
            train.labels[drawn[nearest]] == test.labels[i]
        };
        draws.iter().filter(right).count()
    });
    let hits: usize = hits.into_iter().sum();
    Ok(hits as f64 / (draws.len() * test.labels.len()) as f64)
}

/// The one of `some` columns of a row of cosines whose cosine, in f64, is the largest; the first of
/// equals. Exact cosines are asked for only of those that rounding could have put in another order.
fn first_nearest<R: Real>(
    some: &[usize],
    row: &[R],
    exact: impl Fn(usize) -> f64,
    apart: f64,
) -> usize {
    let largest = some.iter().fold(f64::NEG_INFINITY, |x, &j| x.max(row[j].f64()));
    let mut near = some.iter().copied().filter(|&j| row[j].f64() >= largest - apart);
    match (near.next(), near.next()) {
        (Some(only), None) => only,
        (first, second) => {
            let near = first.into_iter().chain(second).chain(near);
            first_largest(near.map(|j| (j, exact(j)))).unwrap_or(some[0])
        }
    }
}

/// The item with the largest number; the first of equals.
fn first_largest<I>(items: impl Iterator<Item = (I, f64)>) -> Option<I> {
    items
        .fold(None, |best: Option<(I, f64)>, item| match best {
            Some(best) if best.1 >= item.1 => Some(best),
            _ => Some(item),
        })
        .map(|best| best.0)
}

pub(super) fn check_dimension<T: Element>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
) -> Result<(), Error> {
    let (left_dim, right_dim) = (test.embeddings.dim(), train.embeddings.dim());
    if left_dim == right_dim {
        return Ok(());
    }
    let (left, right) = ("test embeddings", "training embeddings");
    Err(Error::Dimension { left, left_dim, right, right_dim })
}
