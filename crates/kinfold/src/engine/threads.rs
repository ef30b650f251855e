//! How threads share work: each takes the next item when it is done with one, and no item's result
//! depends on who took it.

use std::sync::{Mutex, PoisonError};

/// Runs `work` on every item, on at most `threads` threads of the current rayon pool.
pub(super) fn each<I: Send>(
    threads: usize,
    mut items: impl Iterator<Item = I> + Send,
    work: impl Fn(I) + Sync,
) {
    if threads <= 1 {
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
        for _ in 1..threads {
            scope.spawn(|_| drain());
        }
        drain();
    });
}

/// Runs `work` inside the current rayon pool, so that it is entered once and not for every [`each`].
pub(super) fn inside<O: Send>(threads: usize, work: impl FnOnce() -> O + Send) -> O {
    if threads <= 1 { work() } else { rayon::scope(|_| work()) }
}
