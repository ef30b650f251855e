//! Processes that MPI has started, over rsmpi.
//!
//! Input and output: numbers and bytes. Each operation is one of MPI's collectives, and counts the bytes that
//! the ring algorithm has a process send, which are the fewest that there can be:
//!
//! ```text
//! gather, sum and scatter     (W − 1) / W  of all bytes          W processes
//! sum                         2 (W − 1) / W
//! ```

use kinfold_nn::ops::SumOverProcesses;
use mpi::Threading;
use mpi::collective::SystemOperation;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Equivalence, Root};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The most bytes of one message; MPI counts in 31 bits.
const MESSAGE: usize = 1 << 30;
/// How often a process that has nothing to do looks whether the others have come.
const LOOK: Duration = Duration::from_millis(5);

thread_local! {
    /// What ends MPI when it is dropped. It stays with the thread that began.
    static UNIVERSE: Cell<Option<Universe>> = const { Cell::new(None) };
}

#[derive(Debug)]
pub(super) struct World {
    rank: usize,
    count: usize,
    on_this_machine: usize,
    sent: AtomicU64,
}

impl World {
    /// All processes that were started together.
    pub(super) fn begin() -> Self {
        // One thread at a time calls; a backward pass need not run where the forward pass did.
        let begun = mpi::initialize_with_threading(Threading::Serialized);
        UNIVERSE.set(begun.map(|(universe, _)| universe));
        let world = world();
        Self {
            rank: world.rank() as usize,
            count: world.size() as usize,
            on_this_machine: world.split_shared(world.rank()).size() as usize,
            sent: AtomicU64::new(0),
        }
    }

    pub(super) fn rank(&self) -> usize {
        self.rank
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn on_this_machine(&self) -> usize {
        self.on_this_machine
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn abort(&self, code: i32) -> ! {
        world().abort(code)
    }

    /// Waits until every process is here, without keeping a processor busy.
    pub(super) fn wait_for_all(&self) {
        let mut waiting = world().immediate_barrier();
        while let Err(request) = waiting.test() {
            waiting = request;
            thread::sleep(LOOK);
        }
    }

    /// Puts the sums over all processes in the place of numbers.
    pub(super) fn sum_f32(&self, numbers: &mut [f32]) {
        self.sum_in_place(numbers);
    }

    fn sum_in_place<T: Equivalence + Clone>(&self, numbers: &mut [T]) {
        self.sends(2 * size_of_val(numbers));
        let here = numbers.to_vec();
        world().all_reduce_into(&here[..], numbers, SystemOperation::sum());
    }

    /// The numbers of all, one's after another's; `counts` says how many each has.
    pub(super) fn gather(&self, numbers: &[f32], counts: &[usize]) -> Vec<f32> {
        self.gathered(numbers, counts)
    }

    fn gathered<T: Equivalence + Clone + Default>(
        &self,
        numbers: &[T],
        counts: &[usize],
    ) -> Vec<T> {
        let mut all = vec![T::default(); counts.iter().sum()];
        if all.is_empty() {
            // Open MPI refuses to gather nothing.
            return all;
        }
        self.sends(size_of_val(&all[..]));
        let counts: Vec<i32> = counts.iter().map(|&count| count as i32).collect();
        let places: Vec<i32> = counts
            .iter()
            .scan(0, |place, count| {
                *place += count;
                Some(*place - count)
            })
            .collect();
        let mut parts = PartitionMut::new(&mut all[..], counts, places);
        world().all_gather_varcount_into(numbers, &mut parts);
        all
    }

    /// Blocks of one length, a process's after another's, are added up over processes; each gets its own.
    pub(super) fn sum_and_scatter(&self, blocks: &[f32]) -> Vec<f32> {
        self.sends(size_of_val(blocks));
        let mut own = vec![0.0; blocks.len() / self.count];
        world().reduce_scatter_block_into(blocks, &mut own[..], SystemOperation::sum());
        own
    }

    /// A text of each.
    pub(super) fn texts(&self, text: &str) -> Vec<String> {
        let mut lengths = vec![0u64; self.count];
        world().all_gather_into(&(text.len() as u64), &mut lengths[..]);
        let lengths: Vec<usize> = lengths.into_iter().map(|length| length as usize).collect();
        let all = self.gathered(text.as_bytes(), &lengths);
        let mut rest = &all[..];
        let mut next = |length: usize| {
            let (text, after) = rest.split_at(length);
            rest = after;
            String::from_utf8_lossy(text).into_owned()
        };
        lengths.into_iter().map(&mut next).collect()
    }

    /// What the first has, for all.
    pub(super) fn of_first(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        let world = world();
        let first = world.process_at_rank(0);
        let mut length = bytes.len() as u64;
        first.broadcast_into(&mut length);
        bytes.resize(length as usize, 0);
        bytes.chunks_mut(MESSAGE).for_each(|message| first.broadcast_into(message));
        bytes
    }

    /// Counts the part of some bytes that others do not have already.
    fn sends(&self, bytes: usize) {
        let others = bytes as u64 * (self.count as u64 - 1) / self.count as u64;
        self.sent.fetch_add(others, Ordering::Relaxed);
    }
}

impl SumOverProcesses for World {
    fn sum(&self, numbers: &mut [f64]) {
        self.sum_in_place(numbers);
    }
}

impl Drop for World {
    fn drop(&mut self) {
        drop(UNIVERSE.take());
    }
}

fn world() -> SimpleCommunicator {
    SimpleCommunicator::world()
}
