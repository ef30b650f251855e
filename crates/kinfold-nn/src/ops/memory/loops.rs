//! Passes over rows of numbers: element by element, and sums.
//!
//! Work is cut into blocks whose size follows from the shape alone, so that sums do not depend on the
//! number of threads.

use super::buffer::Buffer;
use super::vector::vectorized;
use rayon::prelude::*;

/// Numbers of a block of an element-wise pass, about: two blocks lie in a core's cache together.
const BLOCK: usize = 1 << 15;

/// Numbers that are added up side by side; the width of the widest vectors.
const LANES: usize = 16;

/// Rows of a block, for rows of `width` numbers.
pub(crate) fn block_rows(width: usize) -> usize {
    (BLOCK / width).max(1)
}

/// `out[i] = f(x[i])`.
pub(crate) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync) -> Buffer {
    let mut out = Buffer::any(x.len());
    out.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(out, x)| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(x).for_each(|(out, &x)| *out = f(x)),
        );
    });
    out
}

/// `out[i] = f(x[i], y[i])`.
pub(crate) fn zip(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Sync) -> Buffer {
    let mut out = Buffer::any(x.len());
    let inputs = x.par_chunks(BLOCK).zip(y.par_chunks(BLOCK));
    out.par_chunks_mut(BLOCK).zip(inputs).for_each(|(out, (x, y))| {
        vectorized(
            #[inline(always)]
            || out.iter_mut().zip(x.iter().zip(y)).for_each(|(out, (&x, &y))| *out = f(x, y)),
        );
    });
    out
}

/// `Σ f(x[i], y[i])`, [`LANES`] sums side by side.
#[inline(always)]
pub(crate) fn sum(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let (x_chunks, y_chunks) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest = x_chunks.remainder().iter().zip(y_chunks.remainder());
    for (lane, (&x, &y)) in rest.enumerate() {
        sums[lane] = f(x, y);
    }
    for (x, y) in x_chunks.zip(y_chunks) {
        for lane in 0..LANES {
            sums[lane] += f(x[lane], y[lane]);
        }
    }
    folded(sums, |a, b| a + b)
}

/// The largest number.
#[inline(always)]
pub(crate) fn largest(x: &[f32]) -> f32 {
    let mut most = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    for (lane, &x) in chunks.remainder().iter().enumerate() {
        most[lane] = x;
    }
    for x in chunks {
        for lane in 0..LANES {
            most[lane] = if x[lane] > most[lane] { x[lane] } else { most[lane] };
        }
    }
    folded(most, f32::max)
}

#[inline(always)]
fn folded(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = f(lanes[lane], lanes[lane + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// The sum of the rows of `x`, `[rows, width]`.
pub(crate) fn sum_of_rows(x: &[f32], width: usize) -> Vec<f32> {
    let blocks: Vec<Vec<f32>> = x
        .par_chunks(block_rows(width) * width)
        .map(|block| {
            let mut sums = vec![0.0; width];
            vectorized(
                #[inline(always)]
                || block.chunks_exact(width).for_each(|row| add(&mut sums, row)),
            );
            sums
        })
        .collect();
    total(blocks, width)
}

/// Sums of blocks, added in order.
pub(crate) fn total(blocks: Vec<Vec<f32>>, width: usize) -> Vec<f32> {
    let mut total = vec![0.0; width];
    blocks.iter().for_each(|block| add(&mut total, block));
    total
}

#[inline(always)]
pub(crate) fn add(sums: &mut [f32], row: &[f32]) {
    sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += x);
}

/// `exp(x)`, within 2 ulp; 0 where that is below the least normal number, and infinite above about
/// 88.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // exp(x) = 2^k · exp(r), k = round(x / ln 2), |r| ≤ ln 2 / 2. The engine of kinfold has the same over
    // its own vectors; this one is of plain numbers, for loops that the compiler vectorizes.
    const ROUND: f32 = 12_582_912.0;
    const Q: [f32; 5] = [1.392_618_4e-3, 8.363_179e-3, 4.166_655_6e-2, 1.666_657_6e-1, 0.5];
    let inside = x.clamp(-88.0, 88.75);
    let rounded = inside * std::f32::consts::LOG2_E + ROUND;
    let k = rounded - ROUND;
    // ln 2 in two parts, the first so short that k times it is exact.
    let r = inside - k * (355.0 / 512.0) + k * 2.121_944_4e-4;
    let mut q = Q[0];
    for coefficient in &Q[1..] {
        q = q * r + coefficient;
    }
    let near = 1.0 + (r + r * r * q);
    let exp = f32::from_bits(near.to_bits().wrapping_add(rounded.to_bits() << 23));
    if x < -87.336_54 {
        0.0
    } else if x > 88.722_83 {
        f32::INFINITY
    } else {
        exp
    }
}
