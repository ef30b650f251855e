//! What labels say of embeddings: nearest neighbours and one example a class.
//!
//! Comes in: embeddings `[n, d]` and a label for each. Goes out: accuracies. Cosines are computed in
//! f64, a row at a time.

use crate::Error;
use crate::embeddings::{Element, Embeddings, NORM_FLOOR, Real, norm};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

/// Embeddings whose labels are known.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a, T> {
    embeddings: Embeddings<'a, T>,
    labels: &'a [usize],
}

impl<'a, T: Element> Labelled<'a, T> {
    /// A label for each of the rows.
    ///
    /// # Errors
    /// When there are no rows, or not as many labels as rows, or a number is not finite.
    pub fn new(embeddings: Embeddings<'a, T>, labels: &'a [usize]) -> Result<Self, Error> {
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
    let most = train.labels.len();
    if k == 0 || k > most {
        return Err(Error::Count {
            what: "k, the number of neighbours,",
            given: k,
            least: 1,
            most,
        });
    }
    let classes = 1 + train.labels.iter().max().copied().unwrap_or(0);
    let hits = hits(train, test, |cosines, label| {
        let mut order: Vec<usize> = (0..cosines.len()).collect();
        // Ties go to the row that comes first, whatever the selection does.
        let nearer =
            |&a: &usize, &b: &usize| cosines[b].total_cmp(&cosines[a]).then_with(|| a.cmp(&b));
        order.select_nth_unstable_by(k - 1, nearer);
        order.truncate(k);
        order.sort_unstable_by(nearer);
        let mut votes = vec![0.0; classes];
        for j in order {
            votes[train.labels[j]] += ((cosines[j] - 1.0) / 0.1).exp();
        }
        usize::from(first_largest(votes.into_iter().enumerate()) == Some(label))
    })?;
    Ok(hits as f64 / test.labels.len() as f64)
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
    if draws == 0 {
        return Err(Error::Count {
            what: "the number of draws",
            given: 0,
            least: 1,
            most: usize::MAX,
        });
    }
    let classes = 1 + train.labels.iter().max().copied().unwrap_or(0);
    let mut members = vec![Vec::new(); classes];
    for (row, &label) in train.labels.iter().enumerate() {
        members[label].push(row);
    }
    members.retain(|rows| !rows.is_empty());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut below = |n: usize| ((u128::from(rng.next_u64()) * n as u128) >> 64) as usize;
    let examples: Vec<Vec<usize>> =
        (0..draws).map(|_| members.iter().map(|rows| rows[below(rows.len())]).collect()).collect();
    let hits = hits(train, test, |cosines, label| {
        let right = |draw: &&Vec<usize>| {
            let nearest = first_largest(draw.iter().map(|&j| (j, cosines[j])));
            nearest.is_some_and(|j| train.labels[j] == label)
        };
        examples.iter().filter(right).count()
    })?;
    Ok(hits as f64 / (draws * test.labels.len()) as f64)
}

/// The item with the largest number; the first of equals.
fn first_largest(items: impl Iterator<Item = (usize, f64)>) -> Option<usize> {
    items
        .fold(None, |best: Option<(usize, f64)>, item| match best {
            Some(best) if best.1 >= item.1 => Some(best),
            _ => Some(item),
        })
        .map(|best| best.0)
}

/// The sum, over the rows of `test`, of what `judge` says of a row's cosines with `train` and its
/// label.
fn hits<T: Element>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
    judge: impl Fn(&[f64], usize) -> usize + Sync,
) -> Result<usize, Error> {
    let (rows, queries) = (train.embeddings, test.embeddings);
    if rows.dim() != queries.dim() {
        return Err(Error::Dimension {
            left: "test embeddings",
            left_dim: queries.dim(),
            right: "training embeddings",
            right_dim: rows.dim(),
        });
    }
    let lengths: Vec<f64> = (0..rows.rows()).map(|j| norm(rows.row(j)).max(NORM_FLOOR)).collect();
    Ok((0..queries.rows())
        .into_par_iter()
        .map(|i| {
            let query = queries.row(i);
            let length = norm(query).max(NORM_FLOOR);
            let cosines: Vec<f64> = (0..rows.rows())
                .map(|j| {
                    let dot: f64 = rows
                        .row(j)
                        .iter()
                        .zip(query)
                        .map(|(a, b)| a.real().f64() * b.real().f64())
                        .sum();
                    dot / (lengths[j] * length)
                })
                .collect();
            judge(&cosines, test.labels[i])
        })
        .sum())
}
