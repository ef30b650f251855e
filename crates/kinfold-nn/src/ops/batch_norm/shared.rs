//! Batch norm over a batch that several processes hold parts of.
//!
//! Input: how numbers are added up over the processes, and what is to be done meanwhile. Output: what that
//! gives, where every batch norm takes the statistics of the whole batch. Moments and the sums of the backward
//! pass are added up, in f64, so that each process normalises as one would that held everything.

use super::passes::{Moments, Sums};
use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Arc;

/// Adds up numbers over processes. Each calls it as often, with as many numbers and in the same order.
pub trait SumOverProcesses: Debug + Send + Sync {
    /// Puts into each place the sum over all processes' numbers at that place.
    fn sum(&self, numbers: &mut [f64]);
}

/// A batch of which this process has a part.
#[derive(Clone, Debug)]
pub struct SharedBatch {
    /// What adds up over the processes that share it.
    pub processes: Arc<dyn SumOverProcesses>,
    /// Whether the part counts. One that does not, of a process that has nothing, must be there all the same:
    /// the others wait for what it adds.
    pub counts: bool,
}

thread_local! {
    static SHARED: RefCell<Option<SharedBatch>> = const { RefCell::new(None) };
}

/// `work`, with statistics of the whole batch in every batch norm that it computes in training, and later in
/// the backward pass through these. Without a shared batch it is `work` alone.
pub fn over_shared_batch<R>(shared: Option<SharedBatch>, work: impl FnOnce() -> R) -> R {
    /// Puts back what was before, also where `work` panics.
    struct Before(Option<SharedBatch>);
    impl Drop for Before {
        fn drop(&mut self) {
            SHARED.set(self.0.take());
        }
    }
    let _before = Before(SHARED.replace(shared));
    work()
}

/// The batch that is shared at the moment.
pub(super) fn shared_batch() -> Option<SharedBatch> {
    SHARED.with_borrow(Clone::clone)
}

impl SharedBatch {
    /// The moments of the whole batch, given those of `pixels` here; and how many pixels it has.
    pub(super) fn moments(&self, here: &[Moments], pixels: usize) -> (Arc<[Moments]>, f64) {
        let count = if self.counts { pixels as f64 } else { 0.0 };
        let sum = |m: &Moments| count * m.mean;
        let squares = |m: &Moments| count * (m.variance + m.mean * m.mean);
        let mut sums = vec![count];
        sums.extend(here.iter().flat_map(|m| [sum(m), squares(m)]));
        self.processes.sum(&mut sums);
        let (count, sums) = (sums[0], &sums[1..]);
        let moments = |sums: &[f64]| {
            let mean = sums[0] / count;
            Moments { mean, variance: (sums[1] / count - mean * mean).max(0.0) }
        };
        (sums.chunks_exact(2).map(moments).collect(), count)
    }

    /// The sums of the whole batch, given those of the part here.
    pub(super) fn sums(&self, here: &[Sums]) -> Vec<Sums> {
        // The gradients of a part that does not count are not 0: its statistics are those of the batch.
        let count = if self.counts { 1.0 } else { 0.0 };
        let both = |sums: &Sums| [count * sums.gamma, count * sums.beta];
        let mut sums: Vec<f64> = here.iter().flat_map(both).collect();
        self.processes.sum(&mut sums);
        sums.chunks_exact(2).map(|sums| Sums { gamma: sums[0], beta: sums[1] }).collect()
    }
}
