//! The order in which pairs are seen.
//!
//! Input: pairs, a batch size, a seed and an epoch. Output: the batches of the epoch, a pure function
//! of these.

use super::pairing::{Kind, Pair, Pairs};
use crate::items::Listed;
use crate::random::{Purpose, Random};
use std::mem;

impl Pairs {
    /// The batches of an epoch, each of `batch` pairs.
    pub fn batches(&self, batch: usize, seed: u64, epoch: usize) -> Vec<Vec<Pair>> {
        let order = |n: usize| Random::new(seed, Purpose::Order { epoch }).order(n * self.poses);
        let pairs: Vec<Pair> = match &self.kind {
            Kind::Rows(rows) => {
                let pair = |i: usize| {
                    let (row, pose) = (rows[i % rows.len()], i / rows.len());
                    let key = pose * self.rows + row;
                    Pair { a: row, b: row, pose, group: key, key, place: 0 }
                };
                order(rows.len()).into_iter().map(pair).collect()
            }
            Kind::Listed { pairs: rows, places } => {
                let pair = |(key, i): (usize, usize)| {
                    let (Listed { a, b, group, .. }, pose) = (rows[i % rows.len()], i / rows.len());
                    let (group, place) = (group * self.poses + pose, places[i % rows.len()]);
                    Pair { a, b, pose, group, key, place }
                };
                order(rows.len()).into_iter().enumerate().map(pair).collect()
            }
            Kind::Classes { rows, rounds, mixed } => {
                let pairs = self.visits(rows, *rounds, seed, epoch);
                if !mixed {
                    return apart(pairs, batch, rows.len() * self.poses);
                }
                pairs
            }
        };
        pairs.chunks_exact(batch.max(1)).map(<[Pair]>::to_vec).collect()
    }

    /// Round after round, a pair of every class.
    fn visits(&self, rows: &[Vec<usize>], rounds: usize, seed: u64, epoch: usize) -> Vec<Pair> {
        let n = rows.len() * self.poses;
        let mut random = Random::new(seed, Purpose::Visits { epoch });
        let mut orders: Vec<Option<(usize, Vec<usize>)>> = vec![None; n];
        let mut pairs = Vec::with_capacity(n * rounds);
        for round in 0..rounds {
            for class in random.order(n) {
                let (rows, pose) = (&rows[class / self.poses], class % self.poses);
                // Counted over all epochs, so that no image of a class is forgotten.
                let visit = epoch * rounds + round;
                let cycle = visit / rows.len();
                if orders[class].as_ref().is_none_or(|(of, _)| *of != cycle) {
                    let purpose = Purpose::Anchors { class, cycle };
                    orders[class] = Some((cycle, Random::new(seed, purpose).order(rows.len())));
                }
                let anchor =
                    orders[class].as_ref().map_or(0, |(_, order)| order[visit % rows.len()]);
                // Any of the others, equally often.
                let other = (anchor + 1 + random.below(rows.len() - 1)) % rows.len();
                let (a, b) = (rows[anchor], rows[other]);
                pairs.push(Pair { a, b, pose, group: class, key: pairs.len(), place: 0 });
            }
        }
        pairs
    }
}

/// Batches without two pairs of one group, of pairs that come in rounds of every group. A pair whose
/// group is in the batch already, from the round before, waits for the next one. As no batch is
/// larger than a round, each is full before its second round is over, and nothing waits longer.
fn apart(pairs: Vec<Pair>, batch: usize, groups: usize) -> Vec<Vec<Pair>> {
    let (mut batches, mut current, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
    let mut taken = vec![false; groups];
    for pair in pairs {
        if mem::replace(&mut taken[pair.group], true) {
            waiting.push(pair);
        } else {
            current.push(pair);
        }
        if current.len() == batch {
            batches.push(mem::replace(&mut current, mem::take(&mut waiting)));
            taken.fill(false);
            for pair in &current {
                taken[pair.group] = true;
            }
        }
    }
    batches
}
