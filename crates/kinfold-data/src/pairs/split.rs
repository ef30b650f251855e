//! What is trained on.
//!
//! Input: items. Output: the rows to train on and the rows to judge by; of a list of pairs, the pairs.

use crate::items::Items;
use crate::random::{Purpose, Random};
use std::collections::{BTreeMap, BTreeSet};

/// What is trained on and what is held out to judge by.
#[derive(Debug, Clone, Default)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to judge by, or without labels to look at; they are not trained on.
    pub test: Vec<usize>,
    /// Of a list of pairs, the places of those to train on.
    pub train_pairs: Vec<usize>,
    /// Of a list of pairs, the places of those held out.
    pub test_pairs: Vec<usize>,
}

impl Split {
    /// What the data itself holds out; else this share of the rows, rounded up, by a shuffle that is always
    /// the same. Of a list of pairs, none is.
    pub fn new(items: &Items, share: f64) -> Self {
        if !items.held_out.is_empty() {
            let (test, train) = (0..items.len()).partition(|row| items.held_out.contains(row));
            return Self { train, test, ..Self::default() };
        }
        if items.is_list() || share == 0.0 {
            let train_pairs = (0..items.listed.len()).collect();
            return Self { train: (0..items.len()).collect(), train_pairs, ..Self::default() };
        }
        let order = Random::new(0, Purpose::Split).order(items.len());
        let (test, train) = order.split_at(held_out(items.len(), share).min(items.len() - 1));
        Self { train: train.to_vec(), test: test.to_vec(), ..Self::default() }
    }

    /// This share of the pairs of a list, in whole groups by a shuffle that is always the same, as near as
    /// they come to it; at least one group is trained on. A row that is in pairs of both sides is among the
    /// rows of both.
    pub fn of_pairs(items: &Items, share: f64) -> Self {
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, pair) in items.listed.iter().enumerate() {
            groups.entry(pair.group).or_default().push(place);
        }
        let groups: Vec<Vec<usize>> = groups.into_values().collect();
        let most = held_out(items.listed.len(), share);
        let mut test = vec![false; items.listed.len()];
        let (mut held, mut left) = (0, groups.len());
        for group in Random::new(0, Purpose::Split).order(groups.len()) {
            let group = &groups[group];
            if held + group.len() <= most && left > 1 {
                (held, left) = (held + group.len(), left - 1);
                group.iter().for_each(|&pair| test[pair] = true);
            }
        }
        let (test, train) = (0..items.listed.len()).partition(|&place| test[place]);
        Self::of_places(items, train, test)
    }

    /// All pairs of this share of a list's first members, its queries, by a shuffle that is always the same;
    /// at least one query is trained on. What a query belongs to may be trained on with others, but a pair
    /// whose second member is a query held out is in neither part.
    pub fn of_queries(items: &Items, share: f64) -> Self {
        let all: Vec<usize> = (0..items.listed.len()).collect();
        let queries = queries_of(items, &all);
        let out = drawn(items, &queries, held_out(queries.len(), share), Purpose::Split);
        let (test, rest): (Vec<usize>, Vec<usize>) =
            all.into_iter().partition(|&place| out[items.listed[place].a]);
        let train = rest.into_iter().filter(|&place| !out[items.listed[place].b]).collect();
        Self::of_places(items, train, test)
    }

    fn of_places(items: &Items, train_pairs: Vec<usize>, test_pairs: Vec<usize>) -> Self {
        let rows = |places: &[usize]| {
            let mut named = vec![false; items.len()];
            for &place in places {
                let pair = items.listed[place];
                (named[pair.a], named[pair.b]) = (true, true);
            }
            (0..named.len()).filter(|&row| named[row]).collect()
        };
        Self { train: rows(&train_pairs), test: rows(&test_pairs), train_pairs, test_pairs }
    }

    /// What is trained on, cut in two: what still is, and a share, at most so many, to judge by meanwhile, as its
    /// test part. Of a list it is queries with all their pairs, else rows.
    pub fn with_validation(&self, items: &Items, share: f64, most: usize) -> Self {
        if items.is_list() {
            let queries = queries_of(items, &self.train_pairs);
            let count = held_out(queries.len(), share).min(most);
            let out = drawn(items, &queries, count, Purpose::Validation);
            let (test, train) =
                self.train_pairs.iter().partition(|&&place| out[items.listed[place].a]);
            return Self::of_places(items, train, test);
        }
        let n = self.train.len();
        let order = Random::new(0, Purpose::Validation).order(n);
        let count = held_out(n, share).min(most).min(n.saturating_sub(1));
        let (test, train) = order.split_at(count);
        let rows = |places: &[usize]| places.iter().map(|&place| self.train[place]).collect();
        Self { train: rows(train), test: rows(test), ..Self::default() }
    }
}

/// The first members of some pairs, each once.
fn queries_of(items: &Items, places: &[usize]) -> Vec<usize> {
    let queries: BTreeSet<usize> = places.iter().map(|&place| items.listed[place].a).collect();
    queries.into_iter().collect()
}

/// For each row whether it is among so many queries that are drawn, of which one is left.
fn drawn(items: &Items, queries: &[usize], count: usize, purpose: Purpose) -> Vec<bool> {
    let mut out = vec![false; items.len()];
    let count = count.min(queries.len().saturating_sub(1));
    for place in Random::new(0, purpose).order(queries.len()).into_iter().take(count) {
        out[queries[place]] = true;
    }
    out
}

/// So many of `n`. A share such as 0.2 is no exact number; a product a little above a whole one is that one.
fn held_out(n: usize, share: f64) -> usize {
    (n as f64 * share - 1e-9).ceil() as usize
}
