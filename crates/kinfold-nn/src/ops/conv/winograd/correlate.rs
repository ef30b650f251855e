//! Outputs, and gradients of the input, by transformed tiles. Every thread takes some images at a time,
//! copies them into a frame of zeros, and goes through their tiles, so many at a time that the
//! intermediate results stay in its own cache.
#![allow(unsafe_code, reason = "calls of the kernels; every reach is asserted before")]

use super::weights::{Transform, transform};
use super::{GAP, PATCH, PRODUCTS, TASKS, TILE, TILES, Tile, Tiles, ToTile, both_ways, load};
use crate::ops::conv::correlate::{Block, CACHED, Correlation, Weights, blocks};
use crate::ops::conv::geometry::Pass;
use crate::ops::conv::kernel::{self, Correlate, store_part};
use crate::ops::memory::buffer::{Buffer, Shared, scratch};
use crate::ops::memory::vector::{self, Kernel, Vector};
use rayon::prelude::*;
use std::ops::Range;

/// Numbers of the widest block.
const WIDEST: usize = 64;
/// Channels whose weights are transformed at a time, where a task does that for itself: the weights of one
/// product stay in the first-level cache.
const DEPTH: usize = CACHED / WIDEST;

/// As [`correlate`](crate::ops::conv::correlate::correlate), for one pass of 3×3 taps at stride 1 that
/// writes every pixel.
pub(crate) fn correlate(correlation: &Correlation<'_>, pass: &Pass, out: &mut [f32]) {
    let Correlation { images, frame, weights, .. } = *correlation;
    let [count, channels, ..] = images.shape;
    assert!(out.len() == count * pass.grid[0] * pass.grid[1] * weights.columns);
    let tiles = Tiles::new(count, channels, frame.before, pass);
    let blocks = blocks(weights.columns);
    let groups = count.div_ceil(tiles.together);
    let per_task = blocks.len().div_ceil(TASKS.div_ceil(groups));
    let tasks: Vec<(usize, usize)> = (0..groups)
        .flat_map(|group| (0..blocks.len()).step_by(per_task).map(move |block| (group, block)))
        .collect();
    let job = Job {
        correlation,
        pass,
        tiles: &tiles,
        blocks: &blocks,
        // Weights that one group alone reads need not go through memory: they would be four times as
        // many numbers as before.
        transformed: (groups > 1).then(|| transform(weights, pass, &blocks)),
        start: correlation.start(&blocks),
        out: Shared(out.as_mut_ptr()),
    };
    tasks.into_par_iter().for_each(|(group, block)| {
        job.run(group, block..blocks.len().min(block + per_task));
    });
}

/// What all tasks share.
struct Job<'a> {
    correlation: &'a Correlation<'a>,
    pass: &'a Pass,
    tiles: &'a Tiles,
    blocks: &'a [Block],
    transformed: Option<Vec<Buffer>>,
    start: Buffer,
    out: Shared,
}

impl Job<'_> {
    /// A task: the outputs of a group of images, in the columns of some blocks.
    fn run(&self, group: usize, blocks: Range<usize>) {
        let (tiles, size) = (self.tiles, self.pass.grid);
        let Correlation { images, weights: Weights { columns, .. }, .. } = *self.correlation;
        let [count, channels, ..] = images.shape;
        let first = group * tiles.together;
        let some = first..count.min(first + tiles.together);
        let most = TILES.min(tiles.places.len());
        let each = [most * tiles.width, most * WIDEST, DEPTH * WIDEST];
        let [patches, products, few] = each.map(|numbers| PRODUCTS * (numbers + GAP));
        scratch(tiles.framed() + patches + products + few, |numbers| {
            let (image, numbers) = numbers.split_at_mut(tiles.framed());
            let (patches, numbers) = numbers.split_at_mut(patches);
            let (products, few) = numbers.split_at_mut(products);
            images.copy(some.clone(), 0..channels, &tiles.frame, tiles.width, image);
            for some in tiles.of(some.len()) {
                vector::run(tiles.patches(image, some, patches));
                for at in blocks.clone() {
                    self.multiply(at, some.len(), patches, products, few);
                    vector::run(Finish {
                        products,
                        tiles: some,
                        block: &self.blocks[at],
                        start: &self.start,
                        // SAFETY: the first image is one of those that `out` has numbers of.
                        out: unsafe { self.out.0.add(first * size[0] * size[1] * columns) },
                        size,
                        columns: *columns,
                    });
                }
            }
        });
    }

    /// The products of the patches of some tiles with the weights of block `at`. Where these are not
    /// transformed yet, `few` has room for those of some channels.
    fn multiply(
        &self,
        at: usize,
        tiles: usize,
        patches: &[f32],
        products: &mut [f32],
        few: &mut [f32],
    ) {
        let (block, width) = (&self.blocks[at], self.tiles.width);
        let Correlation { images, weights, .. } = *self.correlation;
        let channels = images.shape[1];
        let mut multiply = |channels: Range<usize>, weights: &[f32]| {
            let out = &mut *products;
            vector::run(Products { patches, width, tiles, channels, block, weights, out });
        };
        if let Some(transformed) = &self.transformed {
            return multiply(0..channels, &transformed[at]);
        }
        for first in (0..channels).step_by(DEPTH) {
            let channels = first..channels.min(first + DEPTH);
            let (pass, some, to) = (self.pass, channels.clone(), &mut *few);
            vector::run(Transform { weights, pass, block, channels: some, to });
            multiply(channels, few);
        }
    }
}

/// The products of all tiles with the weights of some channels in a block. The first channels begin the
/// sums, the others are added.
struct Products<'a> {
    /// `[PRODUCTS, tiles, width]`, and a gap after each product, as in what follows.
    patches: &'a [f32],
    width: usize,
    tiles: usize,
    channels: Range<usize>,
    block: &'a Block,
    /// `[PRODUCTS, channels, block's width]`.
    weights: &'a [f32],
    /// `[PRODUCTS, tiles, block's width]`.
    out: &'a mut [f32],
}

impl Kernel for Products<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let Self { tiles, width, .. } = self;
        let (block, depth) = (self.block, self.channels.len());
        assert!(tiles > 0 && self.channels.end <= width);
        assert!(block.width == block.vectors * V::LANES && block.width <= WIDEST);
        assert!(self.patches.len() >= PRODUCTS * (tiles * width + GAP));
        assert!(self.weights.len() >= PRODUCTS * (depth * block.width + GAP));
        assert!(self.out.len() >= PRODUCTS * (tiles * block.width + GAP));
        // SAFETY: by the assertions; the vectors are the caller's promise.
        unsafe {
            match (V::REGISTERS >= 32, block.vectors) {
                (true, 4) => self.block::<V, 6, 4>(),
                (true, 3) => self.block::<V, 8, 3>(),
                (true, 2) => self.block::<V, 12, 2>(),
                (false, 2) => self.block::<V, 6, 2>(),
                _ => self.block::<V, 12, 1>(),
            }
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const HEIGHT: usize, const VECTORS: usize>(&mut self) {
        let (width, depth) = (self.block.width, self.channels.len());
        let zeros = [0.0; WIDEST];
        let most = CACHED / width;
        for product in 0..PRODUCTS {
            let patches = &self.patches[product * (self.tiles * self.width + GAP)..];
            let weights = &self.weights[product * (depth * width + GAP)..];
            let out = self.out[product * (self.tiles * width + GAP)..].as_mut_ptr();
            for first in (0..depth).step_by(most) {
                let channel = self.channels.start + first;
                let tile = Correlate {
                    image: patches[channel..].as_ptr(),
                    segments: 1,
                    segment: 0,
                    depth: most.min(depth - first),
                    weights: weights[first * width..].as_ptr(),
                    start: if channel == 0 { zeros.as_ptr() } else { std::ptr::null() },
                    out,
                    columns: width,
                };
                for at in (0..self.tiles).step_by(HEIGHT) {
                    let (mut from, mut to) = ([0; HEIGHT], [0; HEIGHT]);
                    for i in 0..HEIGHT {
                        // The last tile again where there are no more: it is computed twice.
                        let tile = (at + i).min(self.tiles - 1);
                        (from[i], to[i]) = (tile * self.width, tile * width);
                    }
                    // SAFETY: asserted by the caller.
                    unsafe { kernel::correlate::<V, HEIGHT, VECTORS>(&tile, &from, &to) };
                }
            }
        }
    }
}

/// The products of a block as tiles of the output.
struct Finish<'a> {
    products: &'a [f32],
    tiles: &'a [Tile],
    block: &'a Block,
    /// What is added to each column.
    start: &'a [f32],
    /// The output of the tiles' first image, `[rows, columns]` pixels of so many numbers.
    out: *mut f32,
    size: [usize; 2],
    columns: usize,
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let ([height, width], block) = (self.size, self.block);
        let apart = self.tiles.len() * block.width + GAP;
        let [right, down] = [1, width].map(|pixels| pixels * self.columns);
        assert!(self.tiles.iter().all(|tile| tile.row < height && tile.column < width));
        assert!(self.products.len() >= PRODUCTS * apart && block.width.is_multiple_of(V::LANES));
        assert!(block.first + block.width <= self.start.len());
        assert!(block.first + block.columns <= self.columns);
        for (t, tile) in self.tiles.iter().enumerate() {
            let (rows, columns) = (height - tile.row, width - tile.column);
            let pixel = (tile.image * height + tile.row) * width + tile.column;
            for column in (0..block.width).step_by(V::LANES) {
                // SAFETY: by the assertions; that the output has the tiles' images, and the vectors,
                // are the caller's promise.
                unsafe {
                    let from = self.products.as_ptr().add(t * block.width + column);
                    let products = load::<V, PATCH>(from, PATCH * apart, apart);
                    let mut numbers = both_ways(ToTile, &products);
                    let start = V::load(self.start.as_ptr().add(block.first + column));
                    for row in 0..TILE {
                        for x in 0..TILE {
                            numbers[row][x] = numbers[row][x].mul_add(V::splat(1.0), start);
                        }
                    }
                    let to = self.out.add(pixel * right + block.first + column);
                    let left = block.columns - column;
                    if rows >= TILE && columns >= TILE && left >= V::LANES {
                        for row in 0..TILE {
                            for x in 0..TILE {
                                numbers[row][x].store(to.add(row * down + x * right));
                            }
                        }
                    } else {
                        for row in 0..TILE.min(rows) {
                            for x in 0..TILE.min(columns) {
                                let to = to.add(row * down + x * right);
                                store_part(&[numbers[row][x]], to, left.min(V::LANES));
                            }
                        }
                    }
                }
            }
        }
    }
}
