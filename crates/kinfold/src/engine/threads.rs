//! How threads share work: each takes the next item when it has finished one, and no item's result
//! depends on which thread took it.
//!
//! Input: items, and work to do on each. A loss over a few hundred rows takes a fraction of a
//! millisecond and goes through half a dozen phases; waking a thread takes a tenth of that, and the
//! system may wake it on the caller's own core. So the caller's thread leads: it starts a phase at once
//! and never waits for helpers to arrive; at the end of a phase it waits for those that did. Helpers
//! come from the current rayon pool, stay awake between the phases of a call, and linger for a while
//! after it, because a loss is called once a step; meanwhile they serve the pool. Or they are another
//! library's threads, for as long as it lends them ([`on_threads_of`]).
#![allow(unsafe_code, reason = "helpers run what the leader's stack holds")]

use crate::engine::kernels::Work;
use crate::execution::Instructions;
use std::any::Any;
use std::cell::{Cell, RefCell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, yield_now};

/// Some threads, the caller's first, and the instructions they may use.
pub(crate) struct Team {
    instructions: Instructions,
    threads: usize,
    /// Where helpers wait for work; None where the caller works alone.
    floor: Option<Arc<Floor>>,
    /// Whether the helpers are another library's threads.
    lent: bool,
}

/// Floors between two calls.
static SPARE: Mutex<Vec<Arc<Floor>>> = Mutex::new(Vec::new());

thread_local! {
    /// Where threads that were lent to this one wait, while no team has them.
    static LENT: Cell<Option<Arc<Floor>>> = const { Cell::new(None) };
}

impl Team {
    /// The caller and so many helpers that they are `threads`: those that were lent to the caller, or
    /// else some of the current rayon pool.
    pub(crate) fn new(threads: usize, instructions: Instructions) -> Self {
        if threads <= 1 {
            return Self { instructions, threads: 1, floor: None, lent: false };
        }
        let lent = LENT.take();
        let is_lent = lent.is_some();
        let floor = lent.unwrap_or_else(|| lock(&SPARE).pop().unwrap_or_default());
        floor.begin(threads - 1);
        if !is_lent {
            floor.call(threads - 1);
        }
        Self { instructions, threads, floor: Some(floor), lent: is_lent }
    }

    /// How many there are.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Does `work` on every item, compiled for the instructions as far as it is inlined.
    pub(crate) fn each<I: Send>(
        &self,
        items: impl Iterator<Item = I> + Send,
        work: impl Fn(I) + Sync,
    ) {
        self.each_inlined(items, work);
    }

    /// [`each`](Self::each) with work that is inlined, however long it is.
    pub(crate) fn each_inlined<I: Send>(
        &self,
        items: impl Iterator<Item = I> + Send,
        work: impl Work<I>,
    ) {
        let work = |item| self.instructions.run(&work, item);
        let Some(floor) = &self.floor else {
            return items.for_each(work);
        };
        let queue = Mutex::new(items);
        floor.together(&|| {
            loop {
                let item = lock(&queue).next();
                match item {
                    Some(item) => work(item),
                    None => break,
                }
            }
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        if let Some(floor) = self.floor.take() {
            floor.turn(|phase| phase + BETWEEN);
            if self.lent {
                LENT.set(Some(floor));
            } else {
                lock(&SPARE).push(floor);
            }
        }
    }
}

/// Runs `call` on this thread, and whatever [losses](crate::ContrastiveLoss) it computes on threads of another
/// library's in place of the rayon pool's.
///
/// `fork` is that library's way to do something on several threads at once, this one among them, and to
/// return when all are done. Threads that have just done their own library's work often wait for more
/// by looking for it without pause, and two libraries' threads that do so on the same processors take
/// them from each other; besides, those threads are awake.
///
/// # Panics
/// With what `call` panics with.
///
/// # Examples
///
/// ```
/// use kinfold::runtime::{Execution, on_threads_of};
/// use kinfold::{ContrastiveLoss, Embeddings, Temperature};
///
/// let x: Vec<f32> = (0..64 * 8).map(|i| (i as f32).sin()).collect();
/// let x = Embeddings::new(&x, 8)?;
/// let two = Execution::new().with_threads(2);
/// let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?).with_execution(two);
/// let fork = |work: &(dyn Fn() + Sync)| {
///     std::thread::scope(|scope| {
///         scope.spawn(work);
///         work();
///     });
/// };
/// assert_eq!(on_threads_of(fork, || loss.value((x, x)))?, loss.value((x, x))?);
/// # Ok::<(), kinfold::Error>(())
/// ```
pub fn on_threads_of<R>(fork: impl FnOnce(&(dyn Fn() + Sync)), call: impl FnOnce() -> R) -> R {
    let (floor, leader) = (Arc::new(Floor::default()), thread::current().id());
    let (mut call, mut outcome) = (Some(call), None);
    let lead = OfLeader(RefCell::new(|| {
        let Some(call) = call.take() else { return };
        let before = LENT.replace(Some(Arc::clone(&floor)));
        outcome = Some(catch_unwind(AssertUnwindSafe(call)));
        LENT.set(before);
        floor.turn(|phase| phase | CLOSED);
    }));
    fork(&|| if thread::current().id() == leader { lead.run() } else { floor.help() });
    // Where there were no threads to lend, there may have been no call either.
    lead.run();
    outcome.expect("the call has been made").unwrap_or_else(|panic| resume_unwind(panic))
}

/// What is run on one thread alone, though all of a fork can see it.
struct OfLeader<F>(RefCell<F>);

// SAFETY: `on_threads_of` alone makes one, and runs it on its own thread alone.
unsafe impl<F> Sync for OfLeader<F> {}

impl<F: FnMut()> OfLeader<F> {
    fn run(&self) {
        self.0.borrow_mut()();
    }
}

/// Numbers of phases. A phase that helpers may enter has an odd one; the bit `BETWEEN` stands while
/// there is no call, `CLOSED` once there will be none, and the bits above count phases.
const PHASE: usize = 1;
const BETWEEN: usize = 2;
const CLOSED: usize = 4;
const NEXT: usize = 8;

/// How often a helper that waits looks again at once; then, after letting others run, how often
/// within a call before it sleeps, and how often between calls before it leaves: some twenty
/// microseconds, as many again, and a millisecond.
const LOOKS: usize = 1 << 10;
const YIELDS: usize = 1 << 5;
const LINGER: usize = 1 << 11;

/// Where a leader puts up the work of a phase and helpers find it.
#[derive(Default)]
struct Floor {
    phase: AtomicUsize,
    /// Helpers of the rayon pool here, or on their way.
    helpers: AtomicUsize,
    /// Helpers that a phase takes.
    seats: AtomicUsize,
    /// Helpers inside the phase.
    working: AtomicUsize,
    /// What the phase is, while its number is odd.
    job: UnsafeCell<Option<*const (dyn Fn() + Sync)>>,
    asleep: Mutex<usize>,
    wake: Condvar,
    /// What a helper's work panicked with, for the leader to pass on.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` alone is not `Send` and `Sync` by itself. The leader writes it between phases, when
// no helper reads it (see `together`), and what it points to is `Sync`.
unsafe impl Send for Floor {}
// SAFETY: as above.
unsafe impl Sync for Floor {}

impl Floor {
    /// A call begins: helpers that linger are asked to stay.
    fn begin(&self, seats: usize) {
        self.seats.store(seats, SeqCst);
        self.turn(|phase| (phase & !BETWEEN) + NEXT);
    }

    /// As many of the rayon pool's threads as are lacking are asked to come.
    fn call(self: &Arc<Self>, seats: usize) {
        for _ in self.helpers.load(SeqCst)..seats {
            self.helpers.fetch_add(1, SeqCst);
            let floor = Arc::clone(self);
            rayon::spawn(move || {
                floor.help();
                floor.helpers.fetch_sub(1, SeqCst);
            });
        }
    }

    /// Goes on to another phase, and wakes whoever sleeps until there is one.
    fn turn(&self, next: impl Fn(usize) -> usize) {
        self.phase.store(next(self.phase.load(SeqCst)), SeqCst);
        // A helper looks at the phase before it sleeps, and does both under this lock.
        if *lock(&self.asleep) > 0 {
            self.wake.notify_all();
        }
    }

    /// Runs `job` here and on every helper that comes, and returns when all of them are done.
    fn together(&self, job: &(dyn Fn() + Sync)) {
        /// Ends the phase, also where the leader's own work panics.
        struct Phase<'f>(&'f Floor);
        impl Drop for Phase<'_> {
            fn drop(&mut self) {
                self.0.phase.fetch_sub(PHASE, SeqCst);
                let mut looks = 0;
                while self.0.working.load(SeqCst) > 0 {
                    looks += 1;
                    if looks < LOOKS { std::hint::spin_loop() } else { yield_now() }
                }
            }
        }
        // SAFETY: only the lifetime changes. Helpers call the job between `working + 1` and
        // `working − 1`, and only if the phase's number still stands after the first; `Phase` takes
        // the number down and then waits for `working` to be 0, before this function returns.
        let job = unsafe {
            std::mem::transmute::<*const (dyn Fn() + Sync + '_), *const (dyn Fn() + Sync)>(job)
        };
        // SAFETY: no phase is on and no helper is working, so none reads the job.
        unsafe { *self.job.get() = Some(job) };
        let phase = Phase(self);
        self.turn(|phase| phase + NEXT + PHASE);
        // SAFETY: the reference it was made of is alive.
        unsafe { (*job)() };
        drop(phase);
        if let Some(panic) = lock(&self.panic).take() {
            resume_unwind(panic);
        }
    }

    /// The loop of a helper, until there has been no call for a while.
    fn help(&self) {
        let mut served = 0;
        while let Some(phase) = self.next(served) {
            let seat = self.working.fetch_add(1, SeqCst);
            if seat < self.seats.load(SeqCst) && self.phase.load(SeqCst) == phase {
                // SAFETY: the phase is on, and the leader waits for this helper before it changes
                // the job or lets go of what it points to.
                let work = || unsafe { (*self.job.get()).map(|job| (*job)()) };
                if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
                    *lock(&self.panic) = Some(panic);
                }
            }
            self.working.fetch_sub(1, SeqCst);
            served = phase;
        }
    }

    /// Waits for a phase other than the one `served`; none when there has been no call for a while.
    fn next(&self, served: usize) -> Option<usize> {
        let (mut looks, mut between) = (0, 0);
        loop {
            let phase = self.phase.load(SeqCst);
            if phase & CLOSED != 0 {
                return None;
            }
            if phase & PHASE != 0 && phase != served {
                return Some(phase);
            }
            looks += 1;
            if looks < LOOKS {
                std::hint::spin_loop();
            } else if phase & BETWEEN != 0 {
                between += 1;
                if between > LINGER {
                    return None;
                }
                // The pool may have other work, whatever it takes.
                if rayon::yield_now() != Some(rayon::Yield::Executed) {
                    yield_now();
                }
            } else if looks < LOOKS + YIELDS {
                yield_now();
            } else {
                let mut asleep = lock(&self.asleep);
                *asleep += 1;
                let unchanged = |_: &mut usize| self.phase.load(SeqCst) == phase;
                let asleep = self.wake.wait_while(asleep, unchanged);
                *asleep.unwrap_or_else(PoisonError::into_inner) -= 1;
                looks = 0;
            }
        }
    }
}

/// A lock; nothing that is held here is left half-done by a panic.
fn lock<X: ?Sized>(mutex: &Mutex<X>) -> MutexGuard<'_, X> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_in_every_phase() {
        for threads in 1..6 {
            let team = Team::new(threads, Instructions::Portable);
            for phase in 0..50 {
                let mut hits = [0; 23];
                team.each(hits.iter_mut().enumerate(), |(i, hit)| *hit += i + phase);
                assert!(hits.iter().enumerate().all(|(i, &hit)| hit == i + phase));
            }
        }
    }

    #[test]
    fn a_pause_between_phases_lets_helpers_sleep_and_wake() {
        let team = Team::new(3, Instructions::Portable);
        for _ in 0..5 {
            thread::sleep(std::time::Duration::from_millis(3));
            let sum = Mutex::new(0);
            team.each(0..100, |i| *lock(&sum) += i);
            assert_eq!(*lock(&sum), 4950);
        }
    }

    /// Three threads, the caller's among them.
    fn fork(work: &(dyn Fn() + Sync)) {
        thread::scope(|scope| {
            (0..2).for_each(|_| drop(scope.spawn(work)));
            work();
        });
    }

    #[test]
    fn lent_threads_work_and_are_given_back() {
        let leader = thread::current().id();
        let others = Mutex::new(0);
        for _ in 0..20 {
            let sum = Mutex::new(0);
            on_threads_of(fork, || {
                assert_eq!(thread::current().id(), leader);
                for _ in 0..5 {
                    // One team after the other, as a value and then its gradient have.
                    let team = Team::new(3, Instructions::Portable);
                    assert!(team.lent);
                    team.each(0..100, |i| {
                        *lock(&sum) += i;
                        assert!(
                            rayon::current_thread_index().is_none(),
                            "the pool has no part in it"
                        );
                        if thread::current().id() != leader {
                            *lock(&others) += 1;
                        } else {
                            yield_now();
                        }
                    });
                }
            });
            assert_eq!(*lock(&sum), 5 * 4950);
        }
        assert!(*lock(&others) > 0);
        assert!(!Team::new(3, Instructions::Portable).lent);
    }

    #[test]
    fn a_library_that_lends_nothing_leaves_the_call_to_the_caller() {
        let sum = Mutex::new(0);
        let call = || Team::new(3, Instructions::Portable).each(0..100, |i| *lock(&sum) += i);
        on_threads_of(|work| work(), call);
        on_threads_of(|_| (), call);
        assert_eq!(*lock(&sum), 2 * 4950);
    }

    #[test]
    fn a_panic_on_lent_threads_reaches_the_caller() {
        let call = || {
            on_threads_of(fork, || {
                let team = Team::new(3, Instructions::Portable);
                team.each(0..8, |i| assert!(i != 5, "item {i}"));
            });
        };
        assert!(catch_unwind(call).is_err());
        assert!(catch_unwind(|| on_threads_of(fork, || panic!("outside"))).is_err());
        on_threads_of(fork, || Team::new(3, Instructions::Portable).each(0..8, |_| ()));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        for at in 0..8 {
            let team = Team::new(3, Instructions::Portable);
            let work = || team.each(0..8, |i| assert!(i != at, "item {i}"));
            assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
            let sum = Mutex::new(0);
            team.each(0..8, |i| *lock(&sum) += i);
            assert_eq!(*lock(&sum), 28);
        }
    }
}
