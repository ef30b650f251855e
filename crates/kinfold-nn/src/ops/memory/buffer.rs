//! Memory for numbers: aligned to cache lines, so that no vector lies across two; scratch memory of a
//! thread; and a pointer that threads share.
//!
//! A step of training asks for the same memory as the one before, and fresh pages from the system cost up
//! to a third of its time. So memory that is dropped, of tensors too, is kept for the next operation, up
//! to [`SPARE_BYTES`] in a process.
#![allow(unsafe_code, reason = "a slice of lines is a slice of their numbers, and of bytes")]

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};
use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Bytes of spare memory that a process keeps.
const SPARE_BYTES: usize = 1 << 30;
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

/// Memory that is not in use, the oldest first.
static SPARE: Mutex<Vec<Vec<Line>>> = Mutex::new(Vec::new());

fn spare() -> std::sync::MutexGuard<'static, Vec<Vec<Line>>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives back to the system the memory that is kept for the next operation, at most 1 GiB.
pub fn release_memory() {
    spare().clear();
}

/// Owned numbers.
#[derive(Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
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
        let fits = |x: &Vec<Line>| (lines..=lines + lines / 4).contains(&x.len());
        if lines * size_of::<Line>() >= LEAST_BYTES {
            let mut spare = spare();
            // The newest is the likeliest to lie in a cache.
            if let Some(found) = spare.iter().rposition(fits) {
                return Self { lines: spare.remove(found), len };
            }
        }
        Self { lines: bytemuck::zeroed_vec(lines), len }
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
        let bytes = |lines: &Vec<Line>| lines.len() * size_of::<Line>();
        if !(LEAST_BYTES..=SPARE_BYTES).contains(&bytes(&self.lines)) {
            return;
        }
        let mut spare = spare();
        spare.push(std::mem::take(&mut self.lines));
        let mut total: usize = spare.iter().map(bytes).sum();
        while total > SPARE_BYTES {
            total -= bytes(&spare.remove(0));
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
