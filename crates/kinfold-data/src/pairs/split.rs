//! What is trained on.
//!
//! Input: items. Output: the rows to train on and the rows to judge by; of a list of pairs, the pairs.

use crate::items::Items;
use crate::random::{Purpose, Random};
use std::collections::BTreeMap;

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
        let (most, mut split) = (held_out(items.listed.len(), share), Self::default());
        let mut test = vec![false; items.listed.len()];
        let (mut held, mut left) = (0, groups.len());
        for group in Random::new(0, Purpose::Split).order(groups.len()) {
            let group = &groups[group];
            if held + group.len() <= most && left > 1 {
                (held, left) = (held + group.len(), left - 1);
                group.iter().for_each(|&pair| test[pair] = true);
            }
        }
        let (mut of_train, mut of_test) = (vec![false; items.len()], vec![false; items.len()]);
        for (place, pair) in items.listed.iter().enumerate() {
            let (places, rows) = match test[place] {
                true => (&mut split.test_pairs, &mut of_test),
                false => (&mut split.train_pairs, &mut of_train),
            };
            places.push(place);
            (rows[pair.a], rows[pair.b]) = (true, true);
        }
        let rows = |of: Vec<bool>| (0..of.len()).filter(|&row| of[row]).collect();
        (split.train, split.test) = (rows(of_train), rows(of_test));
        split
    }
}

/// So many of `n`. A share such as 0.2 is no exact number; a product a little above a whole one is that one.
fn held_out(n: usize, share: f64) -> usize {
    (n as f64 * share - 1e-9).ceil() as usize
}
