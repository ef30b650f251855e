//! How much memory images may take: decoded ones that are kept, and those that are being decoded.
//!
//! Input: bytes. Output: whether so many more still fit, or room for them as soon as there is some. Files
//! of plain pixels and the image cache share one budget.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that may still be kept in memory.
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Whether there is room for so many bytes; they are then spent.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let less = |left: u64| left.checked_sub(bytes);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// Bytes that are in use for a while; who asks for more than are free waits.
pub(crate) struct Room {
    all: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

/// Bytes in use until this is dropped.
pub(crate) struct Taken<'r> {
    room: &'r Room,
    bytes: u64,
}

impl Room {
    pub(crate) const fn new(all: u64) -> Self {
        Self { all, free: Mutex::new(all), freed: Condvar::new() }
    }

    /// None where there are never so many.
    pub(crate) fn take(&self, bytes: u64) -> Option<Taken<'_>> {
        if bytes > self.all {
            return None;
        }
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free < bytes)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= bytes;
        Some(Taken { room: self, bytes })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        *self.room.free.lock().unwrap_or_else(PoisonError::into_inner) += self.bytes;
        self.room.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn threads_share_a_room() {
        let (room, used, most) = (Room::new(10), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for bytes in [3, 7, 4, 10, 1, 6, 5, 2] {
                let (room, used, most) = (&room, &used, &most);
                scope.spawn(move || {
                    let _taken = room.take(bytes).expect("no more than all");
                    let now = used.fetch_add(bytes, Ordering::SeqCst) + bytes;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    used.fetch_sub(bytes, Ordering::SeqCst);
                });
            }
        });
        assert!(most.into_inner() <= 10);
        assert!(room.take(11).is_none() && room.take(10).is_some());
    }
}
