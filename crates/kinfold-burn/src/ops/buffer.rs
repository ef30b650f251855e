//! Memory for numbers that begins where a cache line does, so that no vector lies across two.
#![allow(unsafe_code, reason = "a slice of lines is a slice of their numbers")]

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// A cache line of numbers.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Line([f32; Self::LEN]);

impl Line {
    const LEN: usize = 16;
    const ZERO: Self = Self([0.0; Self::LEN]);
}

// SAFETY: sixteen f32 in 64 bytes aligned to 64: no padding, and any bytes will do.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: see above.
unsafe impl bytemuck::Pod for Line {}

/// So many numbers.
#[derive(Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
    len: usize,
}

impl Buffer {
    pub(crate) fn zeros(len: usize) -> Self {
        Self { lines: bytemuck::zeroed_vec(len.div_ceil(Line::LEN)), len }
    }

    /// The same memory for `len` numbers, which are whatever was there before.
    fn reach(&mut self, len: usize) {
        let lines = len.div_ceil(Line::LEN);
        if self.lines.len() < lines {
            self.lines.resize(lines, Line::ZERO);
        }
        self.len = len;
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

/// Lends `work` numbers of this thread's own, which are whatever was there before.
pub(crate) fn scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffer = SCRATCH.take();
    buffer.reach(len);
    let result = work(&mut buffer);
    SCRATCH.set(buffer);
    result
}
