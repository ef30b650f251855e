//! Whether some keys are everybody's neighbours.
//!
//! Comes in: queries and keys. Goes out: how unevenly the keys are found (Radovanović et al. 2010).

use super::{check, same_dimension};
use crate::Error;
use crate::embeddings::{Element, Embeddings};
use crate::engine::Cosines;

/// The largest numbers of a row and where they stand; of equals, the first.
#[derive(Debug)]
pub(crate) struct Largest<R> {
    /// The largest first.
    pub(crate) best: Vec<(R, usize)>,
    k: usize,
}

impl<R: PartialOrd + Copy> Largest<R> {
    pub(crate) fn of(row: &[R], k: usize) -> Self {
        let mut largest = Self { best: Vec::with_capacity(k + 1), k };
        row.iter().enumerate().for_each(|(j, &x)| largest.see(x, j));
        largest
    }

    fn see(&mut self, x: R, j: usize) {
        let Self { best, k } = self;
        if best.len() == *k && best.last().is_none_or(|last| x <= last.0) {
            return;
        }
        let at = best.iter().rposition(|other| other.0 >= x).map_or(0, |at| at + 1);
        best.insert(at, (x, j));
        best.truncate(*k);
    }
}

/// How unevenly the keys are found.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Hubness {
    /// Neighbours that were counted of each query.
    pub neighbours: usize,
    /// The skewness of how often each key is among them: about 0 where all are found alike, and above
    /// 3 or so where a few keys are found everywhere.
    pub skewness: f64,
    /// How often the most found key is among them, in times of the mean.
    pub largest: f64,
    /// The share of keys that nobody finds.
    pub never: f64,
}

impl Hubness {
    /// Of how often each key was found.
    pub(crate) fn of(neighbours: usize, found: &[u32]) -> Self {
        let n = found.len() as f64;
        let mean = found.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
        let moment =
            |power: i32| found.iter().map(|&x| (f64::from(x) - mean).powi(power)).sum::<f64>() / n;
        let variance = moment(2);
        let largest = found.iter().max().map_or(0.0, |&most| f64::from(most));
        Self {
            neighbours,
            skewness: if variance > 0.0 { moment(3) / variance.powf(1.5) } else { 0.0 },
            largest: if mean > 0.0 { largest / mean } else { 0.0 },
            never: found.iter().filter(|&&x| x == 0).count() as f64 / n,
        }
    }
}

/// How often each key is among the `k` nearest of a query, and how uneven that is.
///
/// # Errors
/// When there are no queries, `k` is not between 1 and the number of keys, dimensions disagree, or a
/// number is not finite.
pub fn hubness<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    k: usize,
) -> Result<Hubness, Error> {
    same_dimension(&queries, &keys)?;
    check(&queries, "queries", 1)?;
    check(&keys, "keys", 1)?;
    let most = keys.rows();
    if k == 0 || k > most {
        let what = "k, the number of neighbours,";
        return Err(Error::Count { what, given: k, least: 1, most });
    }
    let nearest = Cosines::with(keys).each_row(queries, |_, row| Largest::of(row, k).best);
    let mut found = vec![0; most];
    nearest.iter().flatten().for_each(|&(_, j)| found[j] += 1);
    Ok(Hubness::of(k, &found))
}
