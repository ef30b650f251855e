//! Where the nearest keys are, if not in the rows of their queries.
//!
//! Input: pairs, the sampled ones first, and what was seen of each query. Output: [`Elsewhere`]. A file
//! that was sorted, shifted or shuffled leaves traces: the nearest key is at one distance from its query,
//! or it is nearer than any other query, as only a partner is.

use super::parts::Elsewhere;
use super::sampling::{Pairs, Random, gather};
use super::walk::{Seen, mean};
use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::Cosines;
use std::collections::HashMap;

/// The most rows that similarities are compared over.
const COMPARED: usize = 512;

/// `row` is where a pair stood before the sampled ones came first.
pub(super) fn elsewhere<T: Element>(
    pairs: &Pairs<'_, T>,
    seen: &Seen,
    labels: Option<&[u64]>,
    row: impl Fn(usize) -> usize,
    seed: u64,
) -> Elsewhere {
    let (n, rows) = (pairs.n(), seen.rows.len());
    let mut offsets: HashMap<i64, usize> = HashMap::new();
    let (mut reversed, mut same_label) = (0, 0);
    for (i, seen) in seen.rows.iter().enumerate() {
        let (at, nearest) = (row(i), row(seen.nearest_at));
        *offsets.entry(nearest as i64 - at as i64).or_default() += 1;
        reversed += usize::from(nearest + at == n - 1);
        same_label += usize::from(labels.is_some_and(|of| of[i] == of[seen.nearest_at]));
    }
    offsets.remove(&0);
    let mut offsets: Vec<(usize, i64)> =
        offsets.into_iter().map(|(by, count)| (count, by)).collect();
    // Of equally frequent ones, the shortest.
    offsets.sort_by_key(|&(count, by)| (std::cmp::Reverse(count), by.abs(), by));
    let frequent = |k: usize| offsets.get(k).copied().unwrap_or_default();
    let share = |count: usize| count as f64 / rows as f64;

    Elsewhere {
        partners: partners(pairs, seen),
        offset: frequent(0).1,
        offset_share: share(frequent(0).0),
        next_share: share(frequent(1).0),
        reversed: share(reversed),
        same_label: labels.map(|_| share(same_label)),
        correlation: correlation(pairs, rows, seed),
    }
}

/// The share of rows whose nearest other row of the other side is nearer than that of their own, of queries
/// or of keys, whichever is less: of one side alone it may be so because the other lies more densely.
fn partners<T: Element>(pairs: &Pairs<'_, T>, seen: &Seen) -> f64 {
    let nearest = |from: Embeddings<'_, T>, among: Embeddings<'_, T>| {
        Cosines::with(among).each_row(from.first(pairs.rows), |i, row| {
            let others = row[..i].iter().chain(&row[i + 1..]);
            others.map(|x| x.f64()).fold(f64::NEG_INFINITY, f64::max)
        })
    };
    let nearer = |across: Vec<f64>, within: Vec<f64>| {
        let both = across.into_iter().zip(within);
        mean(both.map(|(across, within)| f64::from(across > within)))
    };
    let (queries, keys) = (pairs.queries, pairs.keys);
    // What is nearest to queries across has been seen.
    let seen = seen.rows.iter().map(|row| row.nearest).collect();
    let of_queries = nearer(seen, nearest(queries, queries));
    of_queries.min(nearer(nearest(keys, queries), nearest(keys, keys)))
}

/// The correlation of cosines among queries with those among keys, over pairs of different rows, less what
/// it is of rows in another order.
fn correlation<T: Element>(pairs: &Pairs<'_, T>, rows: usize, seed: u64) -> f64 {
    let m = rows.min(COMPARED);
    // Spread over the sample, which may be sorted by class.
    let chosen: Vec<usize> = (0..m).map(|i| i * rows / m).collect();
    let among = |x: &Embeddings<'_, T>| -> Vec<f64> {
        let some = gather(x, &chosen);
        let some = Embeddings::unchecked(&some, x.dim());
        let cosines = Cosines::with(some)
            .each_row(some, |_, row| row.iter().map(|x| x.f64()).collect::<Vec<_>>());
        cosines.concat()
    };
    let (queries, keys) = (among(&pairs.queries), among(&pairs.keys));
    let order = Random::new(seed, 3).order(m, m);
    let own: Vec<usize> = (0..m).collect();
    of_rows(&queries, &keys, &own) - of_rows(&queries, &keys, &order)
}

/// The correlation of `x[i][j]` with `y[order[i]][order[j]]` over different i and j.
fn of_rows(x: &[f64], y: &[f64], order: &[usize]) -> f64 {
    let m = order.len();
    let at = |k: usize| (k / m, k % m);
    let different = (0..m * m).filter(|&k| at(k).0 != at(k).1);
    let both: Vec<(f64, f64)> =
        different.map(|k| (x[k], y[order[at(k).0] * m + order[at(k).1]])).collect();
    let of = |f: fn(&(f64, f64)) -> f64| mean(both.iter().map(f));
    let (a, b) = (of(|x| x.0), of(|x| x.1));
    let (aa, bb, ab) = (of(|x| x.0 * x.0), of(|x| x.1 * x.1), of(|x| x.0 * x.1));
    let spread = ((aa - a * a).max(0.0) * (bb - b * b).max(0.0)).sqrt();
    if spread > 1e-12 { (ab - a * b) / spread } else { 0.0 }
}
