//! Memory for numbers: aligned to cache lines, so that no vector lies across two; scratch memory of a
//! thread; and a pointer that threads share.
//!
//! A step of training asks for the same memory as the one before, and fresh pages from the system cost up
//! to a third of its time. So memory that is dropped, of tensors too, is kept for the next operation: as
//! much as there once was in use, and half more, since not every buffer fits the next.
#![allow(unsafe_code, reason = "a slice of lines is a slice of their numbers, and of bytes")]

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Buffers of fewer bytes are the system allocator's.
const LEAST_BYTES: usize = 1 << 15;

/// A cache line of numbers.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([f32; Self::LEN]);

impl Line {
    const LEN: usize = 16;
    const ZERO: Self = Self([0.0; Self::LEN]);
}

// SAFETY: sixteen f32 in 64 bytes aligned to 64: no padding, and any bytes will do.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: see above.
unsafe impl bytemuck::Pod for Line {}

/// The memory of a process's buffers.
struct Pool {
    /// Memory that is not in use, the oldest first.
    spare: Vec<Vec<Line>>,
    /// Lines in use, and the most that ever were.
    used: usize,
    most_used: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { spare: Vec::new(), used: 0, most_used: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Memory of at least so many lines, if there is some that is not much larger.
    fn take(&mut self, lines: usize) -> Option<Vec<Line>> {
        self.used += lines;
        self.most_used = self.most_used.max(self.used);
        let fits = |&i: &usize| (lines..=lines + lines / 4).contains(&self.spare[i].len());
        // Of the smallest, the newest is the likeliest to lie in a cache.
        let found =
            (0..self.spare.len()).rev().filter(fits).min_by_key(|&i| self.spare[i].len())?;
        Some(self.spare.remove(found))
    }

    /// Keeps memory of which so many lines were in use, and drops the oldest that is too much.
    fn put(&mut self, memory: Vec<Line>, used: usize) {
        self.used -= used;
        self.spare.push(memory);
        let mut all = self.used + self.spare.iter().map(Vec::len).sum::<usize>();
        while all > self.most_used + self.most_used / 2 {
            all -= self.spare.remove(0).len();
        }
    }
}

/// Gives back to the system the memory that is kept for the next operation, which is at most what
/// operations have needed so far.
pub fn release_memory() {
    let mut pool = pool();
    pool.spare.clear();
    pool.most_used = pool.used;
}

/// Owned numbers.
#[derive(Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
    /// Lines that the pool counts as used.
    counted: usize,
}

impl Buffer {
    pub(crate) fn zeros(len: usize) -> Self {
        let mut buffer = Self::any(len);
        buffer.fill(0.0);
        buffer
    }

    /// Numbers that are yet to be written: they have any values.
    pub(crate) fn any(len: usize) -> Self {
        let lines = len.div_ceil(Line::LEN);
        if lines * size_of::<Line>() < LEAST_BYTES {
            return Self { lines: bytemuck::zeroed_vec(lines), len, counted: 0 };
        }
        let kept = pool().take(lines);
        let lines_of = || bytemuck::zeroed_vec(lines);
        Self { lines: kept.unwrap_or_else(lines_of), len, counted: lines }
    }

    /// Makes the buffer `len` numbers long, which have any values.
    fn reach(&mut self, len: usize) {
        let lines = len.div_ceil(Line::LEN);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::ZERO);
        }
        self.len = len;
    }

    /// The memory of a tensor, which comes back here when the tensor is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        let len = self.len * size_of::<f32>();
        // SAFETY: every number is one, and there are `len` bytes of them.
        unsafe { Bytes::from_controller(Box::new(self), len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.counted > 0 {
            pool().put(std::mem::take(&mut self.lines), self.counted);
        }
    }
}

impl AllocationController for Buffer {
    fn alloc_align(&self) -> usize {
        align_of::<Line>()
    }
    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }
    unsafe fn memory_mut(
        &mut self,
        _: AccessPolicy,
    ) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.lines);
        // SAFETY: the caller promises to write initialised bytes only.
        Ok(unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) })
    }
    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.lines);
        // SAFETY: initialised bytes may be looked at as bytes that may not be.
        Ok(unsafe { &*(std::ptr::from_ref(bytes) as *const [MaybeUninit<u8>]) })
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.lines)[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut bytemuck::cast_slice_mut(&mut self.lines)[..self.len]
    }
}

thread_local! {
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// Lends `work` `len` numbers of this thread's own, which have any values.
pub(crate) fn scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.take();
    buffer.reach(len);
    let result = work(&mut buffer);
    SCRATCH.set(buffer);
    result
}

/// A pointer that threads share to write one buffer.
pub(crate) struct Shared(pub(crate) *mut f32);
// SAFETY: whoever writes through the pointer says why no two threads have the same number.
unsafe impl Sync for Shared {}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pool: &mut Pool, lines: usize) -> Vec<Line> {
        pool.take(lines).unwrap_or_else(|| vec![Line::ZERO; lines])
    }

    /// A step that asks for what the one before asked for gets the same memory, of the sizes that fit best.
    #[test]
    fn a_step_repeats_on_the_memory_of_the_one_before() {
        let mut pool = Pool { spare: Vec::new(), used: 0, most_used: 0 };
        let mut step = |fresh: &mut usize| {
            // A frame around an image is a little larger than the image itself.
            let sizes = [100, 112, 50, 100, 25, 112];
            let buffers: Vec<_> = sizes
                .iter()
                .map(|&lines| {
                    let kept = pool.take(lines);
                    *fresh += usize::from(kept.is_none());
                    kept.unwrap_or_else(|| vec![Line::ZERO; lines])
                })
                .collect();
            for (buffer, lines) in buffers.into_iter().zip(sizes) {
                pool.put(buffer, lines);
            }
        };
        let (mut first, mut second) = (0, 0);
        step(&mut first);
        step(&mut second);
        assert_eq!((first, second), (6, 0));
    }

    #[test]
    fn no_more_is_kept_than_was_needed_and_half_of_that() {
        let mut pool = Pool { spare: Vec::new(), used: 0, most_used: 0 };
        for lines in 1..200 {
            let (a, b) = (taken(&mut pool, 3 * lines), taken(&mut pool, lines));
            pool.put(a, 3 * lines);
            pool.put(b, lines);
            let kept: usize = pool.spare.iter().map(Vec::len).sum();
            assert_eq!(pool.used, 0);
            assert!(kept <= 4 * lines + 2 * lines, "{kept} of {}", pool.most_used);
        }
    }
}
