//! One walk over the rows of cosines of queries with keys, and what is seen of each row.

use super::parts::{Distribution, FalseNegatives};
use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::Cosines;
use crate::measures::{Rank, largest};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Neighbours that hubness counts.
pub(super) const NEIGHBOURS: usize = 10;
/// Cosines from here on are those of a row with itself, but for rounding in f32.
const ITSELF: f64 = 1.0 - 1e-6;
/// Where so many others are nearly as near, in few dimensions, it is one of a crowd.
const BESIDE: f64 = 1.0 - 1e-4;
const CROWD: usize = 4;
/// Parts of a histogram.
const PARTS: usize = 80;

/// What a walk needs to know beside the embeddings.
pub(super) struct Walk<'a> {
    pub(super) temperature: f64,
    /// Each row's loss at that temperature.
    pub(super) losses: &'a [f64],
    /// Of every column.
    pub(super) labels: Option<&'a [u64]>,
    /// Neighbours are looked for among so many first columns.
    pub(super) among: usize,
}

/// What was seen of one row.
pub(super) struct Row {
    /// The cosine with the own key.
    own: f64,
    pub(super) rank: Rank,
    /// The most similar other key's cosine.
    pub(super) nearest: f64,
    /// The most similar key of all: its row; of equals the own.
    pub(super) nearest_at: usize,
    /// Another key is the query itself, and the own is not.
    pub(super) copied: bool,
    /// The most similar keys of the sample, and the first one's cosine.
    pub(super) top: Vec<u32>,
    pub(super) best: f64,
    /// The share of the push by the hardest hundredth.
    pub(super) hardest: f64,
    /// Of the others: the sum, the sum of squares, and the least.
    sum: f64,
    squares: f64,
    least: f64,
    /// Of those with the row's label: how many, and their share of the push.
    same: (usize, f64),
}

/// What was seen of all rows.
pub(super) struct Seen {
    pub(super) rows: Vec<Row>,
    /// Of the others' cosines.
    histogram: Vec<u64>,
    others: usize,
}

fn part(cosine: f64) -> usize {
    (((cosine + 1.0) / 2.0 * PARTS as f64).max(0.0) as usize).min(PARTS - 1)
}

impl Walk<'_> {
    pub(super) fn go<T: Element>(&self, keys: &Cosines<T>, queries: Embeddings<'_, T>) -> Seen {
        let histogram: Vec<AtomicU64> = (0..PARTS).map(|_| AtomicU64::new(0)).collect();
        let rows = keys.each_row(queries, |i, row| {
            let mut parts = [0u64; PARTS];
            let seen = self.see(i, row, &mut parts);
            // Whole numbers have the same sum in every order.
            for (all, part) in histogram.iter().zip(parts) {
                all.fetch_add(part, Ordering::Relaxed);
            }
            (seen, row.len())
        });
        let others = rows.first().map_or(0, |(_, columns)| columns - 1);
        Seen {
            rows: rows.into_iter().map(|(row, _)| row).collect(),
            histogram: histogram.into_iter().map(AtomicU64::into_inner).collect(),
            others,
        }
    }

    fn see<R: Real>(&self, i: usize, row: &[R], parts: &mut [u64; PARTS]) -> Row {
        let own = row[i].f64();
        let (mut sum, mut squares, mut least) = (0.0, 0.0, f64::INFINITY);
        for cosines in [&row[..i], &row[i + 1..]] {
            for cosine in cosines.iter().map(|x| x.f64()) {
                sum += cosine;
                squares += cosine * cosine;
                least = least.min(cosine);
                parts[part(cosine)] += 1;
            }
        }
        let mut others: Vec<R> = [&row[..i], &row[i + 1..]].concat();
        let hardest = others.len().div_ceil(100);
        let harder = |a: &R, b: &R| b.f64().total_cmp(&a.f64());
        others.select_nth_unstable_by(hardest - 1, harder);
        others.truncate(hardest);
        // In one order whatever the selection does.
        others.sort_unstable_by(harder);
        let nearest = others[0].f64();
        let beside = row.iter().filter(|cosine| cosine.f64() >= BESIDE).count();

        // Of all the row's push, whose logarithm its loss knows.
        let all = log_negatives(self.losses[i]);
        let push = |cosine: f64| ((cosine - own) / self.temperature - all).exp();
        let share = |push: f64| if all == f64::NEG_INFINITY { 1.0 } else { push.min(1.0) };
        let same = self.labels.map_or((0, 0.0), |labels| {
            let same = (0..row.len()).filter(|&j| j != i && labels[j] == labels[i]);
            same.fold((0, 0.0), |(count, sum), j| (count + 1, sum + push(row[j].f64())))
        });
        let top = largest(&row[..self.among], NEIGHBOURS.min(self.among));
        let rank = Rank::of(row, i);
        let nearest_at = if rank.ahead == 0 { i } else { largest(row, 1)[0].1 };
        Row {
            own,
            rank,
            nearest,
            nearest_at,
            copied: nearest >= ITSELF && own < ITSELF && beside < CROWD,
            best: top.first().map_or(own, |first| first.0.f64()),
            top: top.into_iter().map(|(_, j)| j as u32).collect(),
            hardest: share(others.iter().map(|x| push(x.f64())).sum()),
            sum,
            squares,
            least,
            same: (same.0, if same.0 == 0 { 0.0 } else { share(same.1) }),
        }
    }
}

impl Seen {
    pub(super) fn pairs(&self) -> Distribution {
        let mut histogram = vec![0; PARTS];
        self.rows.iter().for_each(|row| histogram[part(row.own)] += 1);
        let own = || self.rows.iter().map(|row| row.own);
        let middle = mean(own());
        Distribution {
            mean: middle,
            spread: mean(own().map(|x| (x - middle).powi(2))).sqrt(),
            least: own().fold(f64::INFINITY, f64::min),
            greatest: own().fold(f64::NEG_INFINITY, f64::max),
            histogram,
        }
    }

    pub(super) fn non_pairs(&self) -> Distribution {
        let count = self.rows.len() as f64 * self.others as f64;
        let middle = self.rows.iter().map(|row| row.sum).sum::<f64>() / count;
        let squares = self.rows.iter().map(|row| row.squares).sum::<f64>() / count;
        Distribution {
            mean: middle,
            spread: (squares - middle * middle).max(0.0).sqrt(),
            least: self.rows.iter().fold(f64::INFINITY, |least, row| least.min(row.least)),
            greatest: self.rows.iter().fold(f64::NEG_INFINITY, |most, row| most.max(row.nearest)),
            histogram: self.histogram.clone(),
        }
    }

    /// `labels` of every column.
    pub(super) fn false_negatives(&self, labels: &[u64]) -> FalseNegatives {
        let mut sizes: HashMap<u64, usize> = HashMap::new();
        labels.iter().for_each(|&label| *sizes.entry(label).or_default() += 1);
        let per_row = mean(self.rows.iter().map(|row| row.same.0 as f64));
        FalseNegatives {
            labels: sizes.len(),
            per_row,
            share: per_row / self.others as f64,
            push: mean(self.rows.iter().map(|row| row.same.1)),
            floor: mean(labels.iter().map(|label| (sizes[label] as f64).ln())),
        }
    }
}

/// `ln Σ exp((cos_ij − cos_ip)/τ)` over the negatives, of a row whose loss is `ln(1 + Σ …)`.
pub(super) fn log_negatives(loss: f64) -> f64 {
    loss + (-(-loss).exp_m1()).ln()
}

pub(super) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The median; of an even number the larger of the two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}
