//! Matryoshka: a loss of the first features, and of more and more of them (Kusupati et al. 2022).
//!
//! Input: [`Prefix`]es. Output: a list of them that is in order, and as cheap to copy as a loss.

use super::objective::above_0;
use crate::Error;
use crate::conflict::Conflict;

/// The first `dim` features, and what the loss over them counts.
///
/// ```
/// use kinfold::{ContrastiveLoss, Embeddings, Prefix, Temperature};
///
/// let prefixes = [Prefix::new(1), Prefix { dim: 2, weight: 0.5 }];
/// let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?).with_matryoshka(&prefixes)?;
/// let queries = Embeddings::new(&[1.0f32, 0.1, -0.2, 1.0], 2)?;
/// let keys = Embeddings::new(&[1.0f32, 0.0, -0.3, 1.0], 2)?;
/// // Of each the cosine is taken anew: in one dimension it is 1 or −1.
/// let one = ContrastiveLoss::info_nce(Temperature::new(0.1)?);
/// let first = Embeddings::new(&[1.0f32, -1.0], 1)?;
/// let expected = one.value((first, first))?.mean + 0.5 * one.value((queries, keys))?.mean;
/// assert!((loss.value((queries, keys))?.mean - expected).abs() < 1e-6);
/// # Ok::<(), kinfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct Prefix {
    /// How many features, from the first on.
    pub dim: usize,
    /// What the loss over them is multiplied by, above 0.
    pub weight: f64,
}

impl Prefix {
    /// The first `dim` features, with a weight of 1.
    pub fn new(dim: usize) -> Self {
        Self { dim, weight: 1.0 }
    }
}

/// A loss has no more prefixes.
pub const MOST_PREFIXES: usize = 8;

/// Prefixes, the shortest first; none where the loss is over all features alone.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Vec<Prefix>", into = "Vec<Prefix>"))]
pub(crate) struct Matryoshka {
    prefixes: [Prefix; MOST_PREFIXES],
    count: usize,
}

impl Matryoshka {
    pub(crate) fn new(given: &[Prefix]) -> Result<Self, Error> {
        if given.len() > MOST_PREFIXES {
            let (what, given) = ("the number of prefixes", given.len());
            return Err(Error::Count { what, given, least: 0, most: MOST_PREFIXES });
        }
        let mut out = Self { count: given.len(), ..Self::default() };
        out.prefixes[..given.len()].copy_from_slice(given);
        out.prefixes[..given.len()].sort_by_key(|prefix| prefix.dim);
        for prefix in out.as_slice() {
            above_0("the weight of a prefix", prefix.weight)?;
            if prefix.dim == 0 {
                return Err(Error::ZeroDimension);
            }
        }
        match out.as_slice().windows(2).any(|two| two[0].dim == two[1].dim) {
            true => Err(Conflict::PrefixTwice.into()),
            false => Ok(out),
        }
    }

    pub(crate) fn as_slice(&self) -> &[Prefix] {
        &self.prefixes[..self.count]
    }

    /// Features of the longest prefix; 0 without any.
    pub(crate) fn longest(&self) -> usize {
        self.as_slice().last().map_or(0, |prefix| prefix.dim)
    }
}

impl TryFrom<Vec<Prefix>> for Matryoshka {
    type Error = Error;

    fn try_from(given: Vec<Prefix>) -> Result<Self, Error> {
        Self::new(&given)
    }
}

impl From<Matryoshka> for Vec<Prefix> {
    fn from(of: Matryoshka) -> Self {
        of.as_slice().to_vec()
    }
}
