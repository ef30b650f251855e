//! Buffers that begin where a cache line does, so that no vector of a tile lies across two.
//!
//! A loss is called once a step, always with the same shapes, and for small ones asking the system
//! for fresh pages each time would cost as much as the mathematics. So buffers that are done with
//! are kept for the next call, up to [`SPARE_BYTES`] in a process.

use crate::engine::kernels::Arithmetic;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

const LINE: usize = 64;

/// Bytes of spare buffers that a process keeps, for each type of number.
pub(crate) const SPARE_BYTES: usize = 64 << 20;

/// Buffers that nobody uses, none of them empty.
#[derive(Debug)]
pub struct Spare<R>(Mutex<Vec<Vec<R>>>);

impl<R> Spare<R> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The smallest buffer of at least `len` numbers, unless it is far too large.
    fn take(&self, len: usize) -> Option<Vec<R>> {
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |x: &Vec<R>| (len..=2 * len).contains(&x.len());
        let best = (0..spare.len()).filter(|&i| fits(&spare[i])).min_by_key(|&i| spare[i].len())?;
        Some(spare.swap_remove(best))
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Keeps `buffer`, and lets go of the oldest ones for which there is no room then.
    fn put(&self, buffer: Vec<R>) {
        let most = SPARE_BYTES / size_of::<R>();
        if buffer.is_empty() || buffer.len() > most {
            return;
        }
        let mut spare = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(buffer);
        while spare.iter().map(Vec::len).sum::<usize>() > most {
            spare.remove(0);
        }
    }
}

/// Gives back to the system the memory that is kept for the next call, at most 64 MiB for each of
/// f32 and f64.
pub fn release_memory() {
    f32::spare().clear();
    f64::spare().clear();
}

/// So many numbers.
pub(crate) struct Aligned<R: Arithmetic> {
    memory: Vec<R>,
    start: usize,
    len: usize,
}

impl<R: Arithmetic + Default> Aligned<R> {
    /// Numbers that are yet to be written: whatever was there before, or zeros.
    pub(crate) fn any(len: usize) -> Self {
        Self::new(len, false)
    }

    pub(crate) fn zeros(len: usize) -> Self {
        Self::new(len, true)
    }

    fn new(len: usize, zeros: bool) -> Self {
        if len == 0 {
            return Self { memory: Vec::new(), start: 0, len };
        }
        let room = len + LINE / size_of::<R>();
        let memory = match R::spare().take(room) {
            Some(mut memory) => {
                if zeros {
                    memory.fill(R::default());
                }
                memory
            }
            // The system's zeros, which come only as they are touched.
            None => vec![R::default(); room],
        };
        let start = memory.as_ptr().align_offset(LINE).min(memory.len() - len);
        Self { memory, start, len }
    }
}

impl<R: Arithmetic> Drop for Aligned<R> {
    fn drop(&mut self) {
        R::spare().put(std::mem::take(&mut self.memory));
    }
}

impl<R: Arithmetic> Deref for Aligned<R> {
    type Target = [R];
    fn deref(&self) -> &[R] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<R: Arithmetic> DerefMut for Aligned<R> {
    fn deref_mut(&mut self) -> &mut [R] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
