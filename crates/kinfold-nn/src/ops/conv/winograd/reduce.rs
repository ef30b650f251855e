//! Gradients of weights by transformed tiles. A task has a group of images and some blocks of filters. It
//! takes some tiles at a time, multiplies their transforms, and adds the products, transformed back to
//! taps, to the sums of its group.
#![allow(unsafe_code, reason = "calls of the kernels; every reach is asserted before")]

use super::{GAP, OfTile, PATCH, PRODUCTS, TAPS, TASKS, TILE, TILES, Tile, Tiles, ToTaps};
use super::{both_ways, load, store};
use crate::ops::conv::correlate::Block;
use crate::ops::conv::geometry::Geometry;
use crate::ops::conv::kernel::{self, MOST_HEIGHT, Reduce};
use crate::ops::conv::reduce::{Sums, add_bias, tile};
use crate::ops::memory::buffer::{Buffer, scratch};
use crate::ops::memory::images::{Frame, Images};
use crate::ops::memory::vector::{self, Kernel, Vector, vectorized};
use rayon::prelude::*;
use std::ops::Range;

/// The most sums, one of each group and block; but there are groups enough for [`TASKS`].
const SUMS: usize = 16;
/// Channels whose products are kept at a time: a multiple of the height of every tile but the last.
const CHANNELS: usize = 48;

/// The sums of each group and, within it, of each block: weights are `[rows of taps, taps, channels,
/// width]`.
pub(crate) fn reduce(
    geometry: &Geometry,
    images: &Images,
    gradient: &Images,
    blocks: &[Block],
) -> Vec<Sums> {
    let pass = geometry.forward();
    let tiles = Tiles::new(geometry.images, geometry.channels, geometry.padding[0], &pass);
    let parts = geometry.images.div_ceil(tiles.together);
    let per_group = parts.div_ceil((SUMS / blocks.len()).max(TASKS)) * tiles.together;
    let groups = geometry.images.div_ceil(per_group);
    let per_task = blocks.len().div_ceil(TASKS.div_ceil(groups));
    let tasks: Vec<(usize, &[Block])> = (0..groups)
        .flat_map(|group| blocks.chunks(per_task).map(move |blocks| (group, blocks)))
        .collect();
    let size = pass.grid.map(|size| size.next_multiple_of(TILE));
    let job = Job { geometry, images, gradient, tiles: &tiles, size };
    let run = |(group, blocks): (usize, _)| {
        job.run(group * per_group..geometry.images.min((group + 1) * per_group), blocks)
    };
    tasks.into_par_iter().flat_map_iter(run).collect()
}

/// What all tasks share.
struct Job<'a> {
    geometry: &'a Geometry,
    images: &'a Images<'a>,
    gradient: &'a Images<'a>,
    tiles: &'a Tiles,
    /// Rows and columns of the output in whole tiles.
    size: [usize; 2],
}

/// The memory of a task.
struct Scratch<'a> {
    image: &'a mut [f32],
    gradients: &'a mut [f32],
    patches: &'a mut [f32],
    others: &'a mut [f32],
    products: &'a mut [f32],
}

impl Job<'_> {
    /// A task: the sums of a range of images for some blocks.
    fn run(&self, group: Range<usize>, blocks: &[Block]) -> Vec<Sums> {
        let (tiles, channels) = (self.tiles, self.geometry.channels);
        let zeros = |block: &Block| Sums {
            weights: Buffer::zeros(TAPS * TAPS * channels * block.width),
            bias: vec![0.0; block.width],
        };
        let mut sums: Vec<Sums> = blocks.iter().map(zeros).collect();
        let width: usize = blocks.iter().map(|block| block.width).sum();
        let widest = blocks.iter().map(|block| block.width).max().unwrap_or(0);
        let most = TILES.min(tiles.places.len());
        let gradients = tiles.together * self.size[0] * self.size[1] * width;
        let each = [most * tiles.width, most * width].map(|numbers| numbers + GAP);
        let [patches, others] = each.map(|numbers| PRODUCTS * numbers);
        let products = PRODUCTS * apart(widest);
        scratch(tiles.framed() + gradients + patches + others + products, |numbers| {
            let (image, numbers) = numbers.split_at_mut(tiles.framed());
            let (gradients, numbers) = numbers.split_at_mut(gradients);
            let (patches, numbers) = numbers.split_at_mut(patches);
            let (others, products) = numbers.split_at_mut(others);
            let mut scratch = Scratch { image, gradients, patches, others, products };
            for first in group.clone().step_by(tiles.together) {
                let some = first..group.end.min(first + tiles.together);
                self.add(some, blocks, width, &mut scratch, &mut sums);
            }
        });
        sums
    }

    /// Adds some images to the sums of the blocks, which are `width` columns together.
    fn add(
        &self,
        some: Range<usize>,
        blocks: &[Block],
        width: usize,
        scratch: &mut Scratch<'_>,
        sums: &mut [Sums],
    ) {
        let (tiles, channels, size) = (self.tiles, self.geometry.channels, self.size);
        let first = blocks[0].first;
        let Scratch { image, gradients, patches, others, products } = scratch;
        self.images.copy(some.clone(), 0..channels, &tiles.frame, tiles.width, image);
        let filters = first..first + width.min(self.geometry.filters - first);
        let whole = Frame { before: [0, 0], size };
        self.gradient.copy(some.clone(), filters, &whole, width, gradients);
        for tiles_of in tiles.of(some.len()) {
            vector::run(tiles.patches(image, tiles_of, patches));
            vector::run(Gradients { from: gradients, size, width, tiles: tiles_of, to: others });
            for (block, sums) in blocks.iter().zip(&mut *sums) {
                for channel in (0..channels).step_by(CHANNELS) {
                    let some = channel..channels.min(channel + CHANNELS);
                    vector::run(Products {
                        patches,
                        of_patch: tiles.width,
                        others,
                        of_other: width,
                        from: block.first - first,
                        tiles: tiles_of.len(),
                        channels: some.clone(),
                        block,
                        out: products,
                    });
                    let (width, sums) = (block.width, &mut sums.weights[..]);
                    vector::run(Finish { products, width, channels, some, sums });
                }
            }
        }
        let gradients = &gradients[..some.len() * size[0] * size[1] * width];
        for (block, sums) in blocks.iter().zip(sums) {
            vectorized(
                #[inline(always)]
                || add_bias(gradients, width, block.first - first, &mut sums.bias),
            );
        }
    }
}

/// Some tiles of the output's gradient.
struct Gradients<'a> {
    /// `[images, rows, columns, width]`, in whole tiles.
    from: &'a [f32],
    size: [usize; 2],
    width: usize,
    tiles: &'a [Tile],
    /// `[PRODUCTS, tiles, width]`, and a gap after each product, as in what follows.
    to: &'a mut [f32],
}

impl Kernel for Gradients<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Self { size, width, tiles, .. } = self;
        let apart = tiles.len() * width + GAP;
        assert!(width.is_multiple_of(V::LANES) && self.to.len() >= PRODUCTS * apart);
        for (t, tile) in tiles.iter().enumerate() {
            let pixel = (tile.image * size[0] + tile.row) * size[1] + tile.column;
            let last = pixel + (TILE - 1) * (size[1] + 1);
            assert!((last + 1) * width <= self.from.len());
            for column in (0..width).step_by(V::LANES) {
                // SAFETY: by the assertions; the vectors are the caller's promise.
                unsafe {
                    let from = self.from.as_ptr().add(pixel * width + column);
                    let tile = load::<V, TILE>(from, size[1] * width, width);
                    let to = self.to.as_mut_ptr().add(t * width + column);
                    store(&both_ways(OfTile, &tile), to, apart);
                }
            }
        }
    }
}

/// The products of some channels with a block of filters.
struct Products<'a> {
    /// `[PRODUCTS, tiles, of_patch]`.
    patches: &'a [f32],
    of_patch: usize,
    /// `[PRODUCTS, tiles, of_other]`, of which the block is from a number on.
    others: &'a [f32],
    of_other: usize,
    from: usize,
    tiles: usize,
    channels: Range<usize>,
    block: &'a Block,
    /// `[PRODUCTS, CHANNELS and some, block's width]`.
    out: &'a mut [f32],
}

impl Kernel for Products<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(mut self) {
        let (tiles, block) = (self.tiles, self.block);
        assert!(block.width == block.vectors * V::LANES);
        assert!(self.channels.end <= self.of_patch && self.channels.len() <= CHANNELS);
        assert!(self.from + block.width <= self.of_other && tiles <= TILES);
        assert!(PRODUCTS * (tiles * self.of_patch + GAP) <= self.patches.len());
        assert!(PRODUCTS * (tiles * self.of_other + GAP) <= self.others.len());
        assert!(PRODUCTS * apart(block.width) <= self.out.len());
        // SAFETY: by the assertions; the vectors are the caller's promise.
        unsafe {
            match (V::REGISTERS >= 32, block.vectors) {
                (true, 4) => self.block::<V, 6, 3, 1, 4>(),
                (true, 3) => self.block::<V, 8, 4, 2, 3>(),
                (true, 2) => self.block::<V, 12, 6, 3, 2>(),
                (false, 2) => self.block::<V, 6, 3, 1, 2>(),
                _ => self.block::<V, 12, 6, 3, 1>(),
            }
        }
    }
}

impl Products<'_> {
    #[inline(always)]
    unsafe fn block<V: Vector, const A: usize, const B: usize, const C: usize, const N: usize>(
        &mut self,
    ) {
        // A tile of registers reads no further than a gap, and writes no further than its height.
        const { assert!(CHANNELS.is_multiple_of(A) && A <= MOST_HEIGHT && A <= GAP) };
        let (width, channels) = (self.block.width, self.channels.len());
        let at: [usize; TILES] = std::array::from_fn(|t| t * self.of_patch);
        for product in 0..PRODUCTS {
            let patches = product * (self.tiles * self.of_patch + GAP) + self.channels.start;
            let others = product * (self.tiles * self.of_other + GAP) + self.from;
            let mut channel = 0;
            while channel < channels {
                let height = tile(channels - channel, [A, B, C]);
                let out = product * apart(width) + channel * width;
                let tile = Reduce {
                    image: self.patches[patches + channel..].as_ptr(),
                    at: &at[..self.tiles],
                    other: self.others[others..].as_ptr(),
                    stride: self.of_other,
                    out: self.out[out..].as_mut_ptr(),
                    add: false,
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
                channel += height;
            }
        }
    }
}

/// Numbers from one product to the next, with room for the rows that the last tile of registers has too
/// many.
fn apart(width: usize) -> usize {
    (CHANNELS + MOST_HEIGHT) * width + GAP
}

/// Adds the products of some channels, as taps, to the sums.
struct Finish<'a> {
    products: &'a [f32],
    width: usize,
    channels: usize,
    some: Range<usize>,
    /// `[taps, channels, width]`.
    sums: &'a mut [f32],
}

impl Kernel for Finish<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let (width, apart) = (self.width, apart(self.width));
        assert!(self.sums.len() == TAPS * TAPS * self.channels * width);
        assert!(self.some.end <= self.channels && self.some.len() <= CHANNELS);
        assert!(PRODUCTS * apart <= self.products.len() && width.is_multiple_of(V::LANES));
        for (k, channel) in self.some.enumerate() {
            for column in (0..width).step_by(V::LANES) {
                // SAFETY: by the assertions; the vectors are the caller's promise.
                unsafe {
                    let from = self.products.as_ptr().add(k * width + column);
                    let products = load::<V, PATCH>(from, PATCH * apart, apart);
                    let taps = both_ways(ToTaps, &products);
                    for row in 0..TAPS {
                        for x in 0..TAPS {
                            let tap = (row * TAPS + x) * self.channels + channel;
                            let to = self.sums.as_mut_ptr().add(tap * width + column);
                            taps[row][x].mul_add(V::splat(1.0), V::load(to)).store(to);
                        }
                    }
                }
            }
        }
    }
}
