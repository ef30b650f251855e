//! Whether a query finds its own key among all keys.
//!
//! Input: queries and keys, row i belonging to row i. Output: where each query's own key stands,
//! and what that comes to. Equals share their places: what is reported is the expectation over every
//! order of them, so that embeddings that are all alike find nothing.

use super::{check, same_dimension};
use crate::Error;
use crate::embeddings::{Element, Embeddings};
use crate::engine::Cosines;
use rayon::prelude::*;

/// Where a query's own key stands among the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rank {
    /// Keys that are more similar to the query.
    pub ahead: usize,
    /// Other keys that are exactly as similar.
    pub level: usize,
}

impl Rank {
    /// The place of number `own` of a row.
    pub(crate) fn of<R: PartialOrd + Copy>(row: &[R], own: usize) -> Self {
        let mine = row[own];
        let ahead = row.iter().filter(|x| **x > mine).count();
        let level = row.iter().filter(|x| **x == mine).count() - 1;
        Self { ahead, level }
    }

    /// How likely it is among the first `k`.
    fn within(self, k: usize) -> f64 {
        (k.saturating_sub(self.ahead) as f64 / (self.level + 1) as f64).min(1.0)
    }

    /// The share of `others` other keys that it is more similar than, from 0 to 1.
    pub(crate) fn share(self, others: usize) -> f64 {
        1.0 - (self.ahead as f64 + self.level as f64 / 2.0) / others.max(1) as f64
    }
}

/// Where each query's own key stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retrieval {
    /// One of each query.
    pub ranks: Vec<Rank>,
    /// Keys that there are to choose from.
    pub keys: usize,
}

impl Retrieval {
    fn mean(&self, of: impl Fn(Rank) -> f64 + Sync) -> f64 {
        let each: Vec<f64> = self.ranks.par_iter().map(|&rank| of(rank)).collect();
        each.iter().sum::<f64>() / each.len() as f64
    }

    /// Recall@k: the share of queries whose own key is among the `k` most similar.
    pub fn recall(&self, k: usize) -> f64 {
        self.mean(|rank| rank.within(k))
    }

    /// The mean of 1 / place.
    pub fn mean_reciprocal_rank(&self) -> f64 {
        self.mean(|Rank { ahead, level }| {
            let places = ahead + 1..=ahead + level + 1;
            places.map(|place| 1.0 / place as f64).sum::<f64>() / (level + 1) as f64
        })
    }

    /// How often a query is more similar to its own key than to another one: 1 is always and 0.5 is
    /// chance (the area under the ROC curve, query by query).
    pub fn separation(&self) -> f64 {
        self.mean(|rank| rank.share(self.keys - 1))
    }
}

/// Where each query's own key stands among all keys; there may be more keys than queries, and query i
/// belongs to key i.
///
/// # Errors
/// When there are no queries, or fewer keys than queries, or dimensions disagree, or a number is not
/// finite.
pub fn retrieval<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
) -> Result<Retrieval, Error> {
    same_dimension(&queries, &keys)?;
    check(&queries, "queries", 1)?;
    check(&keys, "keys", queries.rows())?;
    let ranks = Cosines::with(keys).each_row(queries, |i, row| Rank::of(row, i));
    Ok(Retrieval { ranks, keys: keys.rows() })
}
