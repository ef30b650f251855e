//! The processes of a run: one, or several that share each batch.
//!
//! Input: what each process has. Output: what they have together: sums, rows of all, one error for all. With
//! one process, everything is what it was. Several talk by MPI (the feature `mpi`), and each calls the same in
//! the same order.
//!
//! ```text
//! process                0              1              2
//! pairs of a batch       0 1 2          3 4 5          6 7           share
//! embeddings             0 … 7          0 … 7          0 … 7         gathered
//! losses of rows         0 1 2          3 4 5          6 7
//! gradients of rows      0 1 2          3 4 5          6 7           summed, and scattered
//! gradients of weights   all            all            all           summed
//! ```

mod agreement;
mod exchange;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(not(feature = "mpi"))]
mod without_mpi;

#[cfg(feature = "mpi")]
use mpi::World;
#[cfg(not(feature = "mpi"))]
use without_mpi::World;

use kinfold_nn::ops::SharedBatch;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The processes of a run, seen from one of them.
pub struct Processes {
    /// None where this process is alone.
    world: Option<Arc<World>>,
    spent: RefCell<Vec<(&'static str, f64)>>,
}

impl Processes {
    /// This process alone.
    pub fn alone() -> Self {
        Self { world: None, spent: RefCell::default() }
    }

    /// Those that were started together, by `mpirun` or a cluster's scheduler. It is to be called once, and
    /// the processes part when it is dropped.
    #[cfg(feature = "mpi")]
    pub fn of_mpi() -> Self {
        let world = World::begin();
        Self { world: (world.count() > 1).then(|| Arc::new(world)), spent: RefCell::default() }
    }

    /// Which of them this is, from 0.
    pub fn rank(&self) -> usize {
        self.world.as_ref().map_or(0, |world| world.rank())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.world.as_ref().map_or(1, |world| world.count())
    }

    /// How many of them are on this machine.
    pub fn on_this_machine(&self) -> usize {
        self.world.as_ref().map_or(1, |world| world.on_this_machine())
    }

    /// Whether this is the one that writes and evaluates.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether there are others.
    pub fn are_several(&self) -> bool {
        self.world.is_some()
    }

    /// Ends all of them at once, with this exit code: for what the others cannot be told in another way.
    pub fn abort(&self, code: i32) -> ! {
        match &self.world {
            Some(world) => world.abort(code),
            None => std::process::exit(code),
        }
    }

    /// Which of how many this is.
    pub(crate) fn place(&self) -> Place {
        Place { rank: self.rank(), count: self.count() }
    }

    /// This process's part of `n` pairs.
    pub fn share(&self, n: usize) -> Range<usize> {
        self.place().share(n)
    }

    /// The batch whose statistics batch norm takes, where this process's part may not count.
    pub(crate) fn shared_batch(&self, counts: bool) -> Option<SharedBatch> {
        let processes = self.world.clone()?;
        Some(SharedBatch { processes, counts })
    }

    /// `work`, whose seconds are added to those of this part of a step.
    pub(crate) fn timed<R>(&self, part: &'static str, work: impl FnOnce() -> R) -> R {
        let start = Instant::now();
        let result = work();
        let seconds = start.elapsed().as_secs_f64();
        let mut spent = self.spent.borrow_mut();
        match spent.iter_mut().find(|(known, _)| *known == part) {
            Some((_, sum)) => *sum += seconds,
            None => spent.push((part, seconds)),
        }
        result
    }

    /// The seconds of each part of a step so far, in the order of the parts.
    pub fn spent(&self) -> Vec<(&'static str, f64)> {
        self.spent.borrow().clone()
    }

    /// Bytes that this process has had to send so far. They are counted as the ring algorithm sends them, the fewest
    /// that there can be: of W processes, (W − 1) / W of all rows that are gathered, or summed and scattered, and
    /// twice that of what is summed.
    pub fn sent(&self) -> u64 {
        self.world.as_ref().map_or(0, |world| world.sent())
    }
}

/// The others would wait for ever for one that panics.
impl Drop for Processes {
    fn drop(&mut self) {
        if std::thread::panicking() && self.are_several() {
            self.abort(101);
        }
    }
}

/// Which of how many processes, and with that which pairs of a batch are its own. Parts differ by one pair at
/// most, and with fewer pairs than processes the last ones have none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    rank: usize,
    count: usize,
}

impl Place {
    pub(crate) fn share(self, n: usize) -> Range<usize> {
        let first = |rank: usize| (n * rank).div_ceil(self.count);
        first(self.rank)..first(self.rank + 1)
    }

    /// The pairs that are encoded here: a process that has none takes the first, for nothing.
    pub(crate) fn encoded(self, n: usize) -> Range<usize> {
        let own = self.share(n);
        if own.is_empty() { 0..n.min(1) } else { own }
    }

    /// How many of `n` pairs each process has.
    pub(crate) fn shares(self, n: usize) -> Vec<usize> {
        (0..self.count).map(|rank| Self { rank, ..self }.share(n).len()).collect()
    }

    /// The pairs of whoever has the most.
    pub(crate) fn largest_share(self, n: usize) -> usize {
        n.div_ceil(self.count)
    }
}

impl std::fmt::Debug for Processes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} of {}", self.rank(), self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_every_pair() {
        let alone = Processes::alone();
        assert_eq!((alone.share(7), alone.place().shares(7)), (0..7, vec![7]));
        assert!(alone.is_first() && !alone.are_several());
    }

    #[test]
    fn shares_are_the_batch_in_order_and_the_first_have_more() {
        for (n, count) in [(4097, 3), (8, 3), (3, 5), (0, 2), (6, 6), (1, 1)] {
            let place = |rank| Place { rank, count };
            let whole: Vec<usize> = (0..count).flat_map(|rank| place(rank).share(n)).collect();
            assert_eq!(whole, (0..n).collect::<Vec<_>>());
            let shares = place(0).shares(n);
            let (most, least) = (shares.iter().max(), shares.iter().min());
            assert_eq!(most.copied(), Some(place(0).largest_share(n)));
            assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{shares:?}");
            assert!(n == 0 || (shares[0] > 0 && !place(count - 1).encoded(n).is_empty()));
        }
    }
}
