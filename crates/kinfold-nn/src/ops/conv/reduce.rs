//! The gradients of a convolution's weights and bias: sums over all pixels of all images. Images are
//! divided into groups, filters into blocks. A task has a group and a block, and the sums of the groups
//! are added in their order. Both divisions depend on the sizes alone, so the sums have the same bits for
//! every number of threads.
#![allow(unsafe_code, reason = "calls of the kernels; every reach is asserted before")]

use super::correlate::{Block, blocks};
use super::geometry::Geometry;
use super::kernel::{self, MOST_HEIGHT, Reduce};
use crate::ops::memory::buffer::{Buffer, scratch};
use crate::ops::memory::images::{Frame, Images};
use crate::ops::memory::vector::{self, Kernel, Vector};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of a block of the output's gradient that stay in the first-level cache while taps pass by.
const CACHED: usize = 8192;
/// The least number of tasks, where there are images for them.
const TASKS: usize = 16;

/// The gradients of the weights `[filters, channels, rows, columns]` and of the bias `[filters]`.
pub(crate) fn reduce(
    geometry: &Geometry,
    images: &Images,
    gradient: &Images,
) -> (Buffer, Vec<f32>) {
    let blocks = blocks(geometry.filters);
    let (together, frame) = (geometry.together(), geometry.frame());
    let rows = Rows::new(geometry, &blocks);
    let parts = geometry.images.div_ceil(together);
    let groups = TASKS.div_ceil(blocks.len()).min(parts);
    let per_group = parts.div_ceil(groups.max(1)).max(1) * together;
    let groups = geometry.images.div_ceil(per_group);
    let pass = geometry.forward();
    let places = pass.places(together, &frame, geometry.channels, geometry.out(), 0);
    let at: Vec<usize> = places.into_iter().map(|place| place.0).collect();
    let tasks: Vec<(usize, usize)> =
        (0..groups).flat_map(|g| (0..blocks.len()).map(move |b| (g, b))).collect();
    let run = |(group, b): (usize, usize)| {
        let group = group * per_group..geometry.images.min((group + 1) * per_group);
        let task = Task { geometry, images, gradient, block: &blocks[b], padded: rows.padded[b] };
        task.run(group, &at)
    };
    let sums: Vec<Sums> = tasks.into_par_iter().map(run).collect();
    rows.gather(geometry, &blocks, &sums)
}

/// The sums of a block.
struct Task<'a> {
    geometry: &'a Geometry,
    images: &'a Images<'a>,
    gradient: &'a Images<'a>,
    block: &'a Block,
    /// Taps of a row of the kernel, in whole tiles.
    padded: usize,
}

impl Task<'_> {
    /// Over a group of images. Pixel i of images that are taken together begins `at[i]` in their frames.
    fn run(&self, group: Range<usize>, at: &[usize]) -> Sums {
        let Self { geometry, block, padded, .. } = *self;
        let Geometry { channels, kernel, .. } = *geometry;
        let (together, frame, out) = (geometry.together(), geometry.frame(), geometry.out());
        let mut sums = Sums {
            weights: Buffer::zeros(kernel[0] * padded * block.width),
            bias: vec![0.0; block.width],
        };
        for first in group.clone().step_by(together) {
            let some = first..group.end.min(first + together);
            let pixels = some.len() * out[0] * out[1];
            let framed = some.len() * frame.size[0] * frame.size[1] * channels;
            let framed = framed.next_multiple_of(16) + MOST_HEIGHT.next_multiple_of(16);
            scratch(framed + pixels * block.width, |numbers| {
                let (image, other) = numbers.split_at_mut(framed);
                self.images.copy(some.clone(), 0..channels, &frame, channels, image);
                let columns = block.first..block.first + block.columns;
                let whole = Frame { before: [0, 0], size: out };
                self.gradient.copy(some.clone(), columns, &whole, block.width, other);
                vector::run(Part {
                    image,
                    row: frame.size[1] * channels,
                    rows: kernel[0],
                    taps: kernel[1] * channels,
                    padded,
                    at: &at[..pixels],
                    other,
                    block,
                    sums: &mut sums,
                });
            });
        }
        sums
    }
}

/// The gradients out of the sums of all tasks, where rows of taps lie without gaps.
pub(super) fn gathered(geometry: &Geometry, blocks: &[Block], sums: &[Sums]) -> (Buffer, Vec<f32>) {
    let padded = vec![geometry.kernel[1] * geometry.channels; blocks.len()];
    Rows { padded }.gather(geometry, blocks, sums)
}

/// Channels whose gradients are moved together, so that they stay in the first-level cache.
const CHANNELS: usize = 16;

/// The sums of a task: `[kernel rows, taps of a row, width]` and `[width]`.
pub(super) struct Sums {
    pub(super) weights: Buffer,
    pub(super) bias: Vec<f64>,
}

/// The taps of a row of the kernel in tiles, by block.
struct Rows {
    padded: Vec<usize>,
}

impl Rows {
    fn new(geometry: &Geometry, blocks: &[Block]) -> Self {
        let taps = geometry.kernel[1] * geometry.channels;
        let registers = vector::shape().registers;
        let padded = |block: &Block| {
            let mut at = 0;
            while at < taps {
                at += tile(taps - at, heights(registers, block.vectors));
            }
            at
        };
        Self { padded: blocks.iter().map(padded).collect() }
    }

    /// Adds up the groups, and moves the sums to where they belong.
    fn gather(&self, geometry: &Geometry, blocks: &[Block], sums: &[Sums]) -> (Buffer, Vec<f32>) {
        let [rows, columns] = geometry.kernel;
        let channels = geometry.channels;
        let per_filter = channels * rows * columns;
        let mut weights = Buffer::any(geometry.filters * per_filter);
        // Blocks begin at multiples of a vector.
        let lanes = vector::shape().lanes;
        weights.par_chunks_mut(lanes * per_filter).enumerate().for_each(|(i, weights)| {
            let filter = lanes * i;
            let b = blocks.iter().rposition(|block| block.first <= filter).unwrap_or(0);
            let block = &blocks[b];
            // A few channels at a time are put together here, then copied filter by filter.
            let mut some = vec![0.0; lanes * CHANNELS * rows * columns];
            for first in (0..channels).step_by(CHANNELS) {
                let last = channels.min(first + CHANNELS);
                let each = (last - first) * rows * columns;
                for channel in first..last {
                    for t in 0..rows * columns {
                        let tap = t % columns * channels + channel;
                        let at = (t / columns * self.padded[b] + tap) * block.width;
                        let at = at + filter - block.first;
                        let mut total = [0.0f32; 16];
                        for sums in sums[b..].iter().step_by(blocks.len()) {
                            for (total, x) in total.iter_mut().zip(&sums.weights[at..at + lanes]) {
                                *total += x;
                            }
                        }
                        let to = some[(channel - first) * rows * columns + t..].iter_mut();
                        to.step_by(each).zip(&total[..lanes]).for_each(|(to, x)| *to = *x);
                    }
                }
                let from = first * rows * columns..last * rows * columns;
                for (weights, some) in weights.chunks_mut(per_filter).zip(some.chunks(each)) {
                    weights[from.clone()].copy_from_slice(some);
                }
            }
        });
        let mut bias = Vec::with_capacity(geometry.filters);
        for (b, block) in blocks.iter().enumerate() {
            for column in 0..block.columns {
                let parts = sums[b..].iter().step_by(blocks.len());
                bias.push(parts.map(|sums| sums.bias[column]).sum::<f64>() as f32);
            }
        }
        (weights, bias)
    }
}

/// The heights of tiles, by the vectors of a block.
fn heights(registers: usize, vectors: usize) -> [usize; 3] {
    match (registers >= 32, vectors) {
        (true, 4) => [6, 3, 1],
        (true, 3) => [8, 4, 2],
        (false, 2) => [6, 3, 1],
        _ => [12, 6, 3],
    }
}

/// The lowest tile that holds `taps`, or the highest there is.
pub(super) fn tile(taps: usize, heights: [usize; 3]) -> usize {
    heights.into_iter().rev().find(|&height| taps <= height).unwrap_or(heights[0])
}

/// Some images.
struct Part<'a> {
    image: &'a [f32],
    row: usize,
    rows: usize,
    taps: usize,
    padded: usize,
    at: &'a [usize],
    other: &'a [f32],
    block: &'a Block,
    sums: &'a mut Sums,
}

impl Kernel for Part<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let reach = (self.rows - 1) * self.row + self.padded;
        assert!(self.at.iter().all(|at| at + reach <= self.image.len()));
        assert!(self.other.len() == self.at.len() * self.block.width);
        assert!(self.sums.weights.len() == self.rows * self.padded * self.block.width);
        assert!(self.block.width == self.block.vectors * V::LANES);
        add_bias(self.other, self.block.width, 0, &mut self.sums.bias);
        // SAFETY: by the assertions, images, gradients and sums reach as far as they are read and
        // written; the vectors are the caller's promise.
        unsafe {
            match (V::REGISTERS >= 32, self.block.vectors) {
                (true, 4) => self.block::<V, 6, 3, 1, 4>(),
                (true, 3) => self.block::<V, 8, 4, 2, 3>(),
                (true, 2) => self.block::<V, 12, 6, 3, 2>(),
                (false, 2) => self.block::<V, 6, 3, 1, 2>(),
                _ => self.block::<V, 12, 6, 3, 1>(),
            }
        }
    }
}

/// Adds to the gradients of a block's bias those of the numbers from `first` on of each pixel.
#[inline(always)]
pub(super) fn add_bias(gradient: &[f32], pixel: usize, first: usize, bias: &mut [f64]) {
    for some in gradient.chunks(64 * pixel) {
        let mut sums = [0.0f32; 64];
        for pixel in some.chunks_exact(pixel) {
            for (sum, x) in sums.iter_mut().zip(&pixel[first..][..bias.len()]) {
                *sum += x;
            }
        }
        for (total, sum) in bias.iter_mut().zip(sums) {
            *total += f64::from(sum);
        }
    }
}

impl Part<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const A: usize, const B: usize, const C: usize, const N: usize>(
        &mut self,
    ) {
        let width = self.block.width;
        let most = CACHED / width;
        let chunks = self.at.chunks(most).zip(self.other.chunks(most * width));
        for (at, other) in chunks {
            for row in 0..self.rows {
                let mut tap = 0;
                while tap < self.taps {
                    let height = tile(self.taps - tap, [A, B, C]);
                    let sums = &mut self.sums.weights[(row * self.padded + tap) * width..];
                    let tile = Reduce {
                        image: self.image[row * self.row + tap..].as_ptr(),
                        at,
                        other: other.as_ptr(),
                        stride: width,
                        out: sums.as_mut_ptr(),
                        add: true,
                    };
                    // SAFETY: asserted by the caller.
                    unsafe {
                        if height == A {
                            kernel::reduce::<V, A, N>(&tile);
                        } else if height == B {
                            kernel::reduce::<V, B, N>(&tile);
                        } else {
                            kernel::reduce::<V, C, N>(&tile);
                        }
                    }
                    tap += height;
                }
            }
        }
    }
}
