//! The two products that convolution is made of, a tile of registers at a time. Both read images
//! where they lie, channels last and with their padding; no matrix of patches is ever written.
//!
//! ```text
//! correlate    out[pixel, n]   = Σ_k image[at(pixel) + k] · weights[k, n]       pixels by columns
//! reduce       out[k, n]      += Σ_pixel image[at(pixel) + k] · other[pixel, n]  taps by columns
//! ```
//!
//! k runs over a segment: the channels of the taps of one row of the kernel, which lie side by side.
#![allow(unsafe_code, reason = "vectors and raw pointers; every reach is asserted by the callers")]

use crate::ops::memory::vector::Vector;

/// The most vectors of a block of columns.
pub(crate) fn most_vectors(registers: usize) -> usize {
    if registers >= 32 { 4 } else { 2 }
}

/// The most pixels of a tile.
pub(crate) const MOST_HEIGHT: usize = 12;

/// A tile of pixels by columns.
pub(crate) struct Correlate {
    pub(crate) image: *const f32,
    /// Runs of the inner index, and the distance between them in the image.
    pub(crate) segments: usize,
    pub(crate) segment: usize,
    pub(crate) depth: usize,
    /// `[segments · depth, width]`.
    pub(crate) weights: *const f32,
    /// The first values of the sums, `[width]`; null to add to `out`.
    pub(crate) start: *const f32,
    pub(crate) out: *mut f32,
    /// Columns of the output, which may be fewer than the tile's.
    pub(crate) columns: usize,
}

/// `HEIGHT` pixels: read at `from` in the image, and written at `to` in the output.
///
/// # Safety
/// The vector's instructions must be there, and the tile's pointers must reach as far as its fields
/// and `from` and `to` say.
#[inline(always)]
pub(crate) unsafe fn correlate<V: Vector, const HEIGHT: usize, const VECTORS: usize>(
    tile: &Correlate,
    from: &[usize; HEIGHT],
    to: &[usize; HEIGHT],
) {
    let width = VECTORS * V::LANES;
    // SAFETY: the caller vouches for every address.
    unsafe {
        let mut sums = begin(tile, to);
        let mut weights = tile.weights;
        for segment in 0..tile.segments {
            let image = tile.image.add(segment * tile.segment);
            let mut rows = [image; HEIGHT];
            for row in 0..HEIGHT {
                rows[row] = image.add(from[row]);
            }
            for k in 0..tile.depth {
                let mut right = [V::splat(0.0); VECTORS];
                for v in 0..VECTORS {
                    right[v] = V::load(weights.add(v * V::LANES));
                }
                for row in 0..HEIGHT {
                    let left = V::splat(*rows[row].add(k));
                    for v in 0..VECTORS {
                        sums[row][v] = left.mul_add(right[v], sums[row][v]);
                    }
                }
                weights = weights.add(width);
            }
        }
        for row in 0..HEIGHT {
            let out = tile.out.add(to[row]);
            if tile.columns == width {
                for v in 0..VECTORS {
                    sums[row][v].store(out.add(v * V::LANES));
                }
            } else {
                store_part::<V, VECTORS>(&sums[row], out, tile.columns);
            }
        }
    }
}

/// The first values of a tile's sums: the start of each column, or what the output has.
///
/// # Safety
/// As [`correlate`].
#[inline(always)]
unsafe fn begin<V: Vector, const HEIGHT: usize, const VECTORS: usize>(
    tile: &Correlate,
    to: &[usize; HEIGHT],
) -> [[V; VECTORS]; HEIGHT] {
    // SAFETY: the caller vouches for every address.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; HEIGHT];
        if !tile.start.is_null() {
            for v in 0..VECTORS {
                let start = V::load(tile.start.add(v * V::LANES));
                for row in 0..HEIGHT {
                    sums[row][v] = start;
                }
            }
        } else if tile.columns == VECTORS * V::LANES {
            for row in 0..HEIGHT {
                for v in 0..VECTORS {
                    sums[row][v] = V::load(tile.out.add(to[row] + v * V::LANES));
                }
            }
        } else {
            for row in 0..HEIGHT {
                sums[row] = load_part::<V, VECTORS>(tile.out.add(to[row]), tile.columns);
            }
        }
        sums
    }
}

/// A tile of taps by columns: `out[row, column] = Σ_pixel image[at[pixel] + row] · other[pixel, column]`,
/// added to what is there if `add`.
pub(crate) struct Reduce<'a> {
    pub(crate) image: *const f32,
    pub(crate) at: &'a [usize],
    /// `[pixels, stride]`.
    pub(crate) other: *const f32,
    pub(crate) stride: usize,
    /// `[HEIGHT, width]`.
    pub(crate) out: *mut f32,
    pub(crate) add: bool,
}

/// # Safety
/// The vector's instructions must be there, and the tile's pointers must reach as far as its fields
/// say.
#[inline(always)]
pub(crate) unsafe fn reduce<V: Vector, const HEIGHT: usize, const VECTORS: usize>(tile: &Reduce) {
    // SAFETY: the caller vouches for every address.
    unsafe {
        let mut sums = [[V::splat(0.0); VECTORS]; HEIGHT];
        let mut other = tile.other;
        for &at in tile.at {
            let image = tile.image.add(at);
            let mut right = [V::splat(0.0); VECTORS];
            for v in 0..VECTORS {
                right[v] = V::load(other.add(v * V::LANES));
            }
            for row in 0..HEIGHT {
                let left = V::splat(*image.add(row));
                for v in 0..VECTORS {
                    sums[row][v] = left.mul_add(right[v], sums[row][v]);
                }
            }
            other = other.add(tile.stride);
        }
        let one = V::splat(1.0);
        for row in 0..HEIGHT {
            for v in 0..VECTORS {
                let out = tile.out.add((row * VECTORS + v) * V::LANES);
                if tile.add {
                    sums[row][v] = sums[row][v].mul_add(one, V::load(out));
                }
                sums[row][v].store(out);
            }
        }
    }
}

/// The first `columns` numbers at `from`, and zeros.
#[inline(always)]
unsafe fn load_part<V: Vector, const VECTORS: usize>(
    from: *const f32,
    columns: usize,
) -> [V; VECTORS] {
    let mut numbers = [0.0; 64];
    let mut vectors;
    // SAFETY: the caller vouches for `columns` numbers; a block is no wider than the array.
    unsafe {
        std::ptr::copy_nonoverlapping(from, numbers.as_mut_ptr(), columns.min(64));
        vectors = [V::splat(0.0); VECTORS];
        for v in 0..VECTORS {
            vectors[v] = V::load(numbers.as_ptr().add(v * V::LANES));
        }
    }
    vectors
}

/// Writes the first `columns` numbers of `vectors`.
#[inline(always)]
pub(crate) unsafe fn store_part<V: Vector, const VECTORS: usize>(
    vectors: &[V; VECTORS],
    to: *mut f32,
    columns: usize,
) {
    let mut numbers = [0.0; 64];
    // SAFETY: the caller vouches for `columns` numbers; a block is no wider than the array.
    unsafe {
        for v in 0..VECTORS {
            vectors[v].store(numbers.as_mut_ptr().add(v * V::LANES));
        }
        std::ptr::copy_nonoverlapping(numbers.as_ptr(), to, columns.min(64));
    }
}
