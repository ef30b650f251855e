//! Weights, transformed and packed for the products.
#![allow(unsafe_code, reason = "vectors and raw pointers; every reach is asserted before")]

use super::{GAP, OfTaps, PATCH, PRODUCTS, TAPS, both_ways, load, store};
use crate::ops::conv::correlate::{Block, SQUARE, Weights};
use crate::ops::conv::geometry::Pass;
use crate::ops::memory::buffer::Buffer;
use crate::ops::memory::vector::{self, Kernel, Vector};
use rayon::prelude::*;
use std::ops::Range;

/// The weights of each block: `[PRODUCTS, channels, width]`, and a gap after each product.
pub(super) fn transform(weights: &Weights, pass: &Pass, blocks: &[Block]) -> Vec<Buffer> {
    blocks
        .par_iter()
        .map(|block| {
            let channels = 0..weights.channels;
            let mut to = Buffer::any(PRODUCTS * (channels.len() * block.width + GAP));
            vector::run(Transform { weights, pass, block, channels, to: &mut to });
            to
        })
        .collect()
}

/// Some channels' weights of a block.
pub(super) struct Transform<'a> {
    pub(super) weights: &'a Weights<'a>,
    pub(super) pass: &'a Pass,
    pub(super) block: &'a Block,
    pub(super) channels: Range<usize>,
    pub(super) to: &'a mut [f32],
}

impl Kernel for Transform<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = self.block.width;
        let apart = self.channels.len() * width + GAP;
        assert!(width.is_multiple_of(V::LANES) && self.to.len() >= PRODUCTS * apart);
        let taps: [usize; TAPS * TAPS] =
            std::array::from_fn(|t| self.pass.tap(t / TAPS, t % TAPS, self.weights.kernel_columns));
        // Taps of some channels and columns, the columns last.
        let mut square = [[[0.0f32; SQUARE]; SQUARE]; TAPS * TAPS];
        for column in (0..width).step_by(SQUARE) {
            let columns = SQUARE.min(width - column);
            for channel in self.channels.clone().step_by(SQUARE) {
                let channels = channel..self.channels.end.min(channel + SQUARE);
                for c in 0..columns {
                    let there = column + c < self.block.columns;
                    let of_column = (self.block.first + column + c) * self.weights.of_column;
                    for (k, channel) in channels.clone().enumerate() {
                        let from = of_column + channel * self.weights.of_channel;
                        for (square, tap) in square.iter_mut().zip(taps) {
                            square[k][c] =
                                if there { self.weights.numbers[from + tap] } else { 0.0 };
                        }
                    }
                }
                for (k, channel) in channels.enumerate() {
                    for c in (0..columns).step_by(V::LANES) {
                        let to = (channel - self.channels.start) * width + column + c;
                        // SAFETY: by the assertion, and since a vector is no longer than a square
                        // is wide; the vectors are the caller's promise.
                        unsafe {
                            let from = square.as_ptr().cast::<f32>().add(k * SQUARE + c);
                            let taps = load(from, TAPS * SQUARE * SQUARE, SQUARE * SQUARE);
                            let to = self.to.as_mut_ptr().add(to);
                            store::<V, PATCH>(&both_ways(OfTaps, &taps), to, apart);
                        }
                    }
                }
            }
        }
    }
}
