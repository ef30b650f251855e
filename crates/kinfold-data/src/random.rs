//! Random numbers that are a pure function of what they are for.
//!
//! Input: a seed, and a purpose such as (epoch, image, view). Output: a stream of its own. So
//! nothing depends on the order in which work is done, nor on how many threads do it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// What a stream is for.
#[derive(Debug, Clone, Copy)]
pub enum Purpose {
    /// Which images are held out.
    Split,
    /// Which of what is trained on is set aside to judge by meanwhile.
    Validation,
    /// The order of the images in an epoch.
    Order {
        /// Counted from 0.
        epoch: usize,
    },
    /// One view of one image in an epoch.
    View {
        /// Counted from 0.
        epoch: usize,
        /// Row of the image.
        image: usize,
        /// Of a pair 0 or 1.
        view: usize,
    },
    /// What the views of one image in an epoch have in common.
    Shared {
        /// Counted from 0.
        epoch: usize,
        /// Row of the image.
        image: usize,
    },
    /// Which classes meet in an epoch, and each anchor's partner.
    Visits {
        /// Counted from 0.
        epoch: usize,
    },
    /// The order in which the images of a class are anchors.
    Anchors {
        /// Place of the class among all.
        class: usize,
        /// How often all of them have been anchors before.
        cycle: usize,
    },
    /// The classes and images of a run of one-shot classification.
    OneShot {
        /// Counted from 0.
        run: usize,
    },
    /// One resample of what a mean is taken of.
    Bootstrap {
        /// Counted from 0.
        resample: usize,
    },
}

/// A stream of random numbers.
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of a seed for a purpose.
    pub fn new(seed: u64, purpose: Purpose) -> Self {
        let words = match purpose {
            Purpose::Split => [1, 0, 0],
            Purpose::Order { epoch } => [2, epoch as u64, 0],
            Purpose::View { epoch, image, view } => {
                // 3 or 4, and for further views of an image what no other purpose has.
                let view = view as u64;
                [3 + view % 2 + ((view / 2) << 8), epoch as u64, image as u64]
            }
            Purpose::Shared { epoch, image } => [10, epoch as u64, image as u64],
            Purpose::Visits { epoch } => [5, epoch as u64, 0],
            Purpose::Anchors { class, cycle } => [6, class as u64, cycle as u64],
            Purpose::OneShot { run } => [7, run as u64, 0],
            Purpose::Bootstrap { resample } => [8, resample as u64, 0],
            Purpose::Validation => [9, 0, 0],
        };
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_mut(8).zip([seed, words[0], words[1], words[2]]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform below `n`, for n far below 2⁶⁴.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.0.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform in [−1, 1).
    pub fn symmetric(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// `0..n` in random order (Fisher and Yates).
    pub fn order(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            order.swap(i, self.below(i + 1));
        }
        order
    }
}
