//! How threads share work: each takes the next item when it is done with one, and no item's result
//! depends on who took it.

use super::kernels::Instructions;
use std::sync::{Mutex, PoisonError};

/// Some threads of the current rayon pool, and the instructions they may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Team {
    pub(super) threads: usize,
    pub(super) instructions: Instructions,
}

impl Team {
    /// Runs `work` on every item. What is inlined into it is compiled for the instructions.
    pub(super) fn each<I: Send>(
        self,
        mut items: impl Iterator<Item = I> + Send,
        work: impl Fn(I) + Sync,
    ) {
        let work = |item| self.instructions.run(|| work(item));
        if self.threads <= 1 {
            return items.for_each(work);
        }
        let queue = Mutex::new(items.by_ref());
        let drain = || {
            loop {
                // Poisoned only when another thread panics, which rayon passes on at the end.
                let item = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                match item {
                    Some(item) => work(item),
                    None => break,
                }
            }
        };
        rayon::scope(|scope| {
            for _ in 1..self.threads {
                scope.spawn(|_| drain());
            }
            drain();
        });
    }

    /// Runs `work` inside the current rayon pool, so that it is entered once and not for every
    /// [`each`](Self::each).
    pub(super) fn inside<O: Send>(self, work: impl FnOnce() -> O + Send) -> O {
        if self.threads <= 1 { work() } else { rayon::scope(|_| work()) }
    }
}
