//! Inputs for tests: small, seeded, the same everywhere.
#![allow(dead_code, reason = "each test file takes what it needs")]

use kinfold::runtime::Instructions;
use kinfold::{ContrastiveLoss, Temperature};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub(crate) fn tau(t: f64) -> Temperature {
    Temperature::new(t).unwrap()
}

/// InfoNCE one way, both ways, and NT-Xent.
pub(crate) fn forms(t: f64) -> [ContrastiveLoss; 3] {
    [
        ContrastiveLoss::info_nce(tau(t)),
        ContrastiveLoss::clip(tau(t)),
        ContrastiveLoss::nt_xent(tau(t)),
    ]
}

/// `count` numbers that look normal (a sum of twelve uniforms, less six).
pub(crate) fn normal(seed: u64, count: usize) -> Vec<f64> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = || rng.next_u64() as f64 / u64::MAX as f64;
    (0..count).map(|_| (0..12).map(|_| uniform()).sum::<f64>() - 6.0).collect()
}

/// The n axes, whose matrix of cosines is the identity.
pub(crate) fn orthonormal(n: usize) -> Vec<f64> {
    let mut x = vec![0.0; n * n];
    (0..n).for_each(|i| x[i * n + i] = 1.0);
    x
}

/// ‖a − b‖ / ‖b‖, or ‖a‖ where b is 0.
pub(crate) fn relative_error(a: &[f64], b: &[f64]) -> f64 {
    let difference = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let size = b.iter().map(|b| b * b).sum::<f64>().sqrt();
    if size == 0.0 { difference } else { difference / size }
}

/// One part of how a loss is computed at a time.
pub(crate) trait Executed {
    fn with_threads(self, threads: usize) -> Self;
    fn with_memory_budget(self, bytes: usize) -> Self;
    fn with_instructions(self, instructions: Instructions) -> Self;
}

impl Executed for ContrastiveLoss {
    fn with_threads(self, threads: usize) -> Self {
        self.with_execution(self.execution().with_threads(threads))
    }

    fn with_memory_budget(self, bytes: usize) -> Self {
        self.with_execution(self.execution().with_memory_budget(bytes))
    }

    fn with_instructions(self, instructions: Instructions) -> Self {
        self.with_execution(self.execution().with_instructions(instructions))
    }
}
