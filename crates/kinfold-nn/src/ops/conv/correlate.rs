//! Correlation of framed images with packed weights: the output of a convolution, and the gradient of its
//! input. Every thread takes some images at a time, copies them into a frame of zeros in its own cache and
//! goes through them by blocks of columns.
#![allow(unsafe_code, reason = "calls of the kernels; every reach is asserted before")]

use super::geometry::{Geometry, Pass};
use super::kernel::{self, Correlate, MOST_HEIGHT};
use crate::ops::memory::buffer::{Buffer, scratch};
use crate::ops::memory::images::{Frame, Images};
use crate::ops::memory::vector::{self, Kernel, Vector};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of a block of weights that stay in the first-level cache while pixels pass by.
pub(super) const CACHED: usize = 8192;

/// Weights with their strides: `[filters, channels, taps]` in memory, to be summed over channels or over
/// filters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights<'a> {
    pub(crate) numbers: &'a [f32],
    /// Channels that are summed over.
    pub(crate) channels: usize,
    pub(crate) of_channel: usize,
    /// Channels of the output.
    pub(crate) columns: usize,
    pub(crate) of_column: usize,
    /// Columns of the kernel.
    pub(crate) kernel_columns: usize,
}

impl<'a> Weights<'a> {
    /// The weights that give the output.
    pub(crate) fn forward(numbers: &'a [f32], geometry: &Geometry) -> Self {
        let taps = geometry.kernel[0] * geometry.kernel[1];
        Self {
            numbers,
            channels: geometry.channels,
            of_channel: taps,
            columns: geometry.filters,
            of_column: geometry.channels * taps,
            kernel_columns: geometry.kernel[1],
        }
    }

    /// The weights that give the gradient of the input.
    pub(crate) fn backward(numbers: &'a [f32], geometry: &Geometry) -> Self {
        let forward = Self::forward(numbers, geometry);
        Self {
            channels: forward.columns,
            of_channel: forward.of_column,
            columns: forward.channels,
            of_column: forward.of_channel,
            ..forward
        }
    }
}

/// A block of columns that a kernel computes together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) first: usize,
    pub(crate) columns: usize,
    pub(crate) vectors: usize,
    pub(crate) width: usize,
}

/// The blocks of so many columns, as even as they can be.
pub(crate) fn blocks(columns: usize) -> Vec<Block> {
    let shape = vector::shape();
    let most = kernel::most_vectors(shape.registers);
    let vectors = columns.div_ceil(shape.lanes);
    let count = vectors.div_ceil(most);
    let mut first = 0;
    (0..count)
        .map(|i| {
            let vectors = vectors / count + usize::from(i < vectors % count);
            let width = vectors * shape.lanes;
            let block = Block { first, columns: width.min(columns - first), vectors, width };
            first += width;
            block
        })
        .collect()
}

/// The weights of a pass: for each block `[taps, channels, width]`.
fn pack(weights: &Weights, pass: &Pass, blocks: &[Block]) -> Vec<Buffer> {
    let [rows, columns] = pass.taps;
    let taps: Vec<usize> = (0..rows * columns)
        .map(|t| pass.tap(t / columns, t % columns, weights.kernel_columns))
        .collect();
    blocks
        .par_iter()
        .map(|block| {
            let mut packed = Buffer::any(taps.len() * weights.channels * block.width);
            if block.columns < block.width {
                packed.fill(0.0);
            }
            for columns in (0..block.columns).step_by(SQUARE) {
                for channels in (0..weights.channels).step_by(SQUARE) {
                    let columns = columns..block.columns.min(columns + SQUARE);
                    let channels = channels..weights.channels.min(channels + SQUARE);
                    pack_square(weights, &taps, block, columns, channels, &mut packed);
                }
            }
            packed
        })
        .collect()
}

/// Columns, and channels, that are packed together, so that what is read and what is written lies in the
/// first-level cache.
pub(super) const SQUARE: usize = 16;

fn pack_square(
    weights: &Weights,
    taps: &[usize],
    block: &Block,
    columns: Range<usize>,
    channels: Range<usize>,
    packed: &mut [f32],
) {
    let count = columns.len();
    let mut square = [[0.0; SQUARE]; SQUARE];
    for (t, &tap) in taps.iter().enumerate() {
        for (c, column) in columns.clone().enumerate() {
            let from = (block.first + column) * weights.of_column + tap;
            let from = &weights.numbers[from + channels.start * weights.of_channel..];
            let every = from.iter().step_by(weights.of_channel);
            for (row, x) in square.iter_mut().zip(every).take(channels.len()) {
                row[c] = *x;
            }
        }
        for (row, channel) in square.iter().zip(channels.clone()) {
            let to = (t * weights.channels + channel) * block.width + columns.start;
            packed[to..to + count].copy_from_slice(&row[..count]);
        }
    }
}

/// A correlation of images with weights.
pub(crate) struct Correlation<'a> {
    pub(crate) images: &'a Images<'a>,
    /// Of each image, with its padding.
    pub(crate) frame: &'a Frame,
    pub(crate) weights: &'a Weights<'a>,
    pub(crate) bias: Option<&'a [f32]>,
    /// Images that a task takes together.
    pub(crate) together: usize,
    /// Rows and columns of the output.
    pub(crate) out_size: [usize; 2],
}

/// A pass with its places and packed weights.
struct Packed {
    pass: Pass,
    places: Vec<(usize, usize)>,
    weights: Vec<Buffer>,
}

/// Correlates the images with the weights of each pass, and writes the output
/// `[n, rows, columns, weights' columns]`. Pixels that no pass writes stay as they are.
pub(crate) fn correlate(correlation: &Correlation<'_>, passes: Vec<Pass>, out: &mut [f32]) {
    let Correlation { images, frame, weights, together, out_size, .. } = *correlation;
    let [count, channels, ..] = images.shape;
    let columns = weights.columns;
    let per_image = out_size[0] * out_size[1] * columns;
    if per_image == 0 || count == 0 {
        return;
    }
    let blocks = blocks(columns);
    let pack = |pass: Pass| Packed {
        places: pass.places(together, frame, channels, out_size, columns),
        weights: pack(weights, &pass, &blocks),
        pass,
    };
    let packed: Vec<Packed> = passes.into_iter().map(pack).collect();
    let start = correlation.start(&blocks);
    let framed = frame.size[0] * frame.size[1] * channels;
    out.par_chunks_mut(together * per_image).enumerate().for_each(|(i, out)| {
        let first = i * together;
        let some = first..count.min(first + together);
        scratch(some.len() * framed, |image| {
            images.copy(some.clone(), 0..channels, frame, channels, image);
            for Packed { pass, places, weights } in &packed {
                let pixels = some.len() * pass.grid[0] * pass.grid[1];
                vector::run(Part {
                    image,
                    row: frame.size[1] * channels,
                    channels,
                    pass,
                    places: &places[..pixels],
                    blocks: &blocks,
                    weights,
                    start: &start,
                    out: &mut *out,
                });
            }
        });
    });
}

impl Correlation<'_> {
    /// What the sums of all blocks' columns start from: the bias, or 0.
    pub(super) fn start(&self, blocks: &[Block]) -> Buffer {
        let mut start = Buffer::zeros(blocks.iter().map(|block| block.width).sum());
        if let Some(bias) = self.bias {
            start[..self.weights.columns].copy_from_slice(bias);
        }
        start
    }
}

/// One pass over some images.
struct Part<'a> {
    image: &'a [f32],
    /// Numbers of a row of the framed image.
    row: usize,
    channels: usize,
    pass: &'a Pass,
    places: &'a [(usize, usize)],
    blocks: &'a [Block],
    weights: &'a [Buffer],
    start: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Part<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let (segment, last) = (self.pass.taps[1] * self.channels, self.pass.taps[0] - 1);
        let reach =
            |place: &(usize, usize)| place.0 + last * self.row + segment <= self.image.len();
        assert!(self.places.iter().all(reach), "a pixel's taps lie in its image");
        for (i, block) in self.blocks.iter().enumerate() {
            let end = block.first + block.columns;
            assert!(self.places.iter().all(|place| place.1 + end <= self.out.len()));
            assert!(self.weights[i].len() == (last + 1) * segment * block.width);
            assert!(block.first + block.width <= self.start.len());
            assert!(block.width == block.vectors * V::LANES);
            // SAFETY: by the assertions, taps, weights and output reach as far as they are read
            // and written; the vectors are the caller's promise.
            unsafe {
                match (V::REGISTERS >= 32, block.vectors) {
                    (true, 4) => self.block::<V, 6, 4>(i, block),
                    (true, 3) => self.block::<V, 8, 3>(i, block),
                    (true, 2) => self.block::<V, 12, 2>(i, block),
                    (false, 2) => self.block::<V, 6, 2>(i, block),
                    _ => self.block::<V, 12, 1>(i, block),
                }
            }
        }
    }
}

impl Part<'_> {
    /// All pixels by one block of columns, so many taps at a time that their weights stay in the
    /// first cache.
    #[inline(always)]
    unsafe fn block<V: Vector, const HEIGHT: usize, const VECTORS: usize>(
        &mut self,
        at: usize,
        block: &Block,
    ) {
        const { assert!(HEIGHT <= MOST_HEIGHT) };
        let (rows, segment) = (self.pass.taps[0], self.pass.taps[1] * self.channels);
        let most = CACHED / block.width;
        let (steps, segments, depth) = if rows * segment <= most {
            (1, rows, segment)
        } else {
            let parts = segment.div_ceil(most);
            (rows * parts, 1, segment.div_ceil(parts))
        };
        let per_row = segment.div_ceil(depth);
        for step in 0..steps {
            let (row, from) = (step / per_row, step % per_row * depth);
            let weights = &self.weights[at][(row * segment + from) * block.width..];
            let tile = Correlate {
                image: self.image[row * self.row + from..].as_ptr(),
                segments,
                segment: self.row,
                depth: depth.min(segment - from),
                weights: weights.as_ptr(),
                start: if step == 0 {
                    self.start[block.first..].as_ptr()
                } else {
                    std::ptr::null()
                },
                out: self.out[block.first..].as_mut_ptr(),
                columns: block.columns,
            };
            for places in self.places.chunks(HEIGHT) {
                let (mut from, mut to) = ([0; HEIGHT], [0; HEIGHT]);
                for i in 0..HEIGHT {
                    // The last pixel again where there are no more: it is computed, and written, twice.
                    (from[i], to[i]) = places[i.min(places.len() - 1)];
                }
                // SAFETY: asserted by the caller.
                unsafe { kernel::correlate::<V, HEIGHT, VECTORS>(&tile, &from, &to) };
            }
        }
    }
}
