//! Which pairs are compared with all others.
//!
//! Input: n pairs, a number, a seed. Output: the same pairs with the sampled ones first, copied
//! only where not all are sampled.

use crate::embeddings::{Element, Embeddings};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Pairs with the sampled ones first.
pub(super) struct Pairs<'a, T> {
    pub(super) queries: Embeddings<'a, T>,
    pub(super) keys: Embeddings<'a, T>,
    /// How many are sampled.
    pub(super) rows: usize,
}

impl<T: Element> Pairs<'_, T> {
    pub(super) fn n(&self) -> usize {
        self.keys.rows()
    }
}

/// Random numbers of a diagnosis, a stream for each purpose.
pub(super) struct Random(ChaCha8Rng);

impl Random {
    pub(super) fn new(seed: u64, purpose: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(purpose);
        Self(rng)
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Every row once, the first `drawn` of them in random order.
    pub(super) fn order(&mut self, n: usize, drawn: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        // So many steps of Fisher and Yates's shuffle.
        for i in 0..drawn {
            order.swap(i, i + self.below(n - i));
        }
        order
    }

    /// About normal: twelve uniforms, less six.
    pub(super) fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.0.next_u32() as f64 / u32::MAX as f64).sum::<f64>() - 6.0
    }
}

/// Every row once, `sampled` random ones first; both parts in order. None where all are sampled.
pub(super) fn order(n: usize, sampled: usize, seed: u64) -> Option<Vec<usize>> {
    if sampled >= n {
        return None;
    }
    let mut order = Random::new(seed, 1).order(n, sampled);
    let (first, others) = order.split_at_mut(sampled);
    first.sort_unstable();
    others.sort_unstable();
    Some(order)
}

/// The rows in that order, one after the other.
pub(super) fn gather<T: Element>(x: &Embeddings<'_, T>, order: &[usize]) -> Vec<T> {
    order.iter().flat_map(|&i| x.row(i).iter().copied()).collect()
}
