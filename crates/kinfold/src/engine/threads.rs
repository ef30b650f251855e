//! How threads share work: each takes the next item when it is done with one, and no item's result
//! depends on who took it.
//!
//! A loss over a few hundred rows takes a fraction of a millisecond, and goes through half a dozen
//! phases in it; waking a thread takes a tenth of that, and the system may wake it on the caller's own
//! core. So the caller's thread leads: it starts on a phase at once and never waits for a helper to
//! come, only, at a phase's end, for those that have. Helpers come from the current rayon pool, stay
//! awake between the phases of a call, and linger for a while after it, since a loss is called once a
//! step; meanwhile they do whatever else the pool has to do.
#![allow(unsafe_code, reason = "helpers run what the leader's stack holds")]

use super::kernels::{Instructions, Work};
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::yield_now;

/// Some threads, the caller's first, and the instructions they may use.
pub(super) struct Team {
    instructions: Instructions,
    /// Where helpers wait for work; none where the caller is alone.
    floor: Option<Arc<Floor>>,
}

/// Floors between two calls.
static SPARE: Mutex<Vec<Arc<Floor>>> = Mutex::new(Vec::new());

impl Team {
    /// The caller and so many helpers that they are `threads`, of the current rayon pool.
    pub(super) fn new(threads: usize, instructions: Instructions) -> Self {
        let floor = (threads > 1).then(|| {
            let floor = lock(&SPARE).pop().unwrap_or_default();
            floor.begin(threads - 1);
            floor
        });
        Self { instructions, floor }
    }

    /// Does `work` on every item, compiled for the instructions as far as it is inlined.
    pub(super) fn each<I: Send>(
        &self,
        items: impl Iterator<Item = I> + Send,
        work: impl Fn(I) + Sync,
    ) {
        self.each_inlined(items, work);
    }

    /// [`each`](Self::each) with work that is inlined, however long it is.
    pub(super) fn each_inlined<I: Send>(
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
            lock(&SPARE).push(floor);
        }
    }
}

/// Numbers of phases. A phase that helpers may enter has an odd one; the bit `BETWEEN` stands while
/// there is no call, and the bits above count phases.
const PHASE: usize = 1;
const BETWEEN: usize = 2;
const NEXT: usize = 4;

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
    /// Helpers here, or on their way.
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
    /// A call begins: helpers that linger are asked to stay, and as many as are lacking to come.
    fn begin(self: &Arc<Self>, seats: usize) {
        self.seats.store(seats, SeqCst);
        self.turn(|phase| (phase & !BETWEEN) + NEXT);
        for _ in self.helpers.load(SeqCst)..seats {
            self.helpers.fetch_add(1, SeqCst);
            let floor = Arc::clone(self);
            rayon::spawn(move || floor.help());
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
        // SAFETY: no phase is on and nobody is working, so no helper reads the job.
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

    /// What a helper does until nobody has called for a while.
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
        self.helpers.fetch_sub(1, SeqCst);
    }

    /// Waits for a phase other than the one `served`; none when there has been no call for a while.
    fn next(&self, served: usize) -> Option<usize> {
        let (mut looks, mut between) = (0, 0);
        loop {
            let phase = self.phase.load(SeqCst);
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
            std::thread::sleep(std::time::Duration::from_millis(3));
            let sum = Mutex::new(0);
            team.each(0..100, |i| *lock(&sum) += i);
            assert_eq!(*lock(&sum), 4950);
        }
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
