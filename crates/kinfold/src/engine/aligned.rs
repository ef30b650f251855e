//! Buffers that start at a cache line, so that no vector load of a tile crosses two lines.
//!
//! A loss is called once per step, always with the same shapes. For small batches, fresh pages from
//! the system would cost as much as the mathematics. So freed buffers go to a [`Pool`] and serve the
//! next call; a process keeps at most [`POOL_BYTES`] of them for each type of number.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Bytes of a cache line.
const LINE: usize = 64;

/// Bytes of free buffers that a process keeps, for each type of number.
const POOL_BYTES: usize = 64 << 20;

/// Free buffers, none of them empty.
#[derive(Debug)]
pub struct Pool<R>(Mutex<Vec<Vec<R>>>);

impl<R> Pool<R> {
    const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// The smallest buffer of at least `len` numbers, unless it has more than twice as many.
    fn take(&self, len: usize) -> Option<Vec<R>> {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |x: &Vec<R>| (len..=2 * len).contains(&x.len());
        let best = (0..free.len()).filter(|&i| fits(&free[i])).min_by_key(|&i| free[i].len())?;
        Some(free.swap_remove(best))
    }

    /// Keeps `buffer`, and drops the oldest ones for which there is no room then.
    fn put(&self, buffer: Vec<R>) {
        let most = POOL_BYTES / size_of::<R>();
        if buffer.is_empty() || buffer.len() > most {
            return;
        }
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
        while free.iter().map(Vec::len).sum::<usize>() > most {
            free.remove(0);
        }
    }

    fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// A number whose buffers have a [`Pool`].
pub trait Pooled: Copy + Default + 'static {
    /// The process's pool of such buffers.
    #[doc(hidden)]
    fn pool() -> &'static Pool<Self>;
}

macro_rules! pooled {
    ($t:ty) => {
        impl Pooled for $t {
            fn pool() -> &'static Pool<Self> {
                static POOL: Pool<$t> = Pool::new();
                &POOL
            }
        }
    };
}
pooled!(f32);
pooled!(f64);

/// Returns the memory that is kept for the next call to the system: at most 64 MiB for each of f32
/// and f64.
pub fn release_memory() {
    f32::pool().clear();
    f64::pool().clear();
}

/// A buffer that starts at a cache line.
pub(crate) struct Aligned<R: Pooled> {
    memory: Vec<R>,
    start: usize,
    len: usize,
}

impl<R: Pooled> Aligned<R> {
    /// A buffer that is yet to be written: it holds what a former owner left, or zeros.
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
        let memory = match R::pool().take(room) {
            Some(mut memory) => {
                if zeros {
                    memory.fill(R::default());
                }
                memory
            }
            // The system's zero pages, which are mapped only when they are touched.
            None => vec![R::default(); room],
        };
        let start = memory.as_ptr().align_offset(LINE).min(memory.len() - len);
        Self { memory, start, len }
    }
}

impl<R: Pooled> Drop for Aligned<R> {
    fn drop(&mut self) {
        R::pool().put(std::mem::take(&mut self.memory));
    }
}

impl<R: Pooled> Deref for Aligned<R> {
    type Target = [R];
    fn deref(&self) -> &[R] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl<R: Pooled> DerefMut for Aligned<R> {
    fn deref_mut(&mut self) -> &mut [R] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
