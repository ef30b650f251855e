//! A part of a picture, scaled to a square.
//!
//! Input: bytes `[height, width, channels]` and a [`Crop`]. Output: planes `[channels, size,
//! size]` of [0, 1]. Nothing outside the crop is read. The definition is torchvision's
//! `resized_crop` with bilinear interpolation and `antialias=True`: a triangle as wide as two
//! pixels of the coarser grid, in each direction on its own.

use super::Picture;
use super::crop::Crop;

/// For each place of the output, which inputs it is a weighted mean of: `[size, count]`.
struct Taps {
    first: Vec<usize>,
    weights: Vec<f32>,
    /// The same for each output, so that loops have one length; weights that are not needed are 0.
    count: usize,
}

impl Taps {
    /// From `length` places to `size`; the weights of an output sum to `unit`.
    fn new(length: usize, size: usize, unit: f64) -> Self {
        let scale = length as f64 / size as f64;
        let reach = scale.max(1.0);
        let range = |i: usize| {
            let centre = scale * (i as f64 + 0.5);
            let first = (centre - reach + 0.5).max(0.0) as usize;
            (centre, first, ((centre + reach + 0.5) as usize).min(length))
        };
        let count = (0..size).map(range).map(|(_, first, end)| end - first).max().unwrap_or(0);
        let mut taps = Self { first: vec![0; size], weights: vec![0.0; size * count], count };
        let mut row = vec![0.0; count];
        for (i, weights) in taps.weights.chunks_mut(count).enumerate() {
            let (centre, first, end) = range(i);
            let start = first.min(length - count);
            row.fill(0.0);
            for at in first..end {
                row[at - start] = (1.0 - (at as f64 + 0.5 - centre).abs() / reach).max(0.0);
            }
            let sum: f64 = row.iter().sum();
            for (to, from) in weights.iter_mut().zip(&row) {
                *to = (from / sum * unit) as f32;
            }
            taps.first[i] = start;
        }
        taps
    }

    /// Of output `i`.
    fn of(&self, i: usize) -> (usize, &[f32]) {
        (self.first[i], &self.weights[i * self.count..(i + 1) * self.count])
    }
}

/// The crop at `size` × `size`, mirrored left to right if `flip`.
pub(super) fn resize(picture: &Picture<'_>, crop: Crop, size: usize, flip: bool, out: &mut [f32]) {
    let down = Taps::new(crop.height, size, 1.0 / f64::from(picture.white));
    let mut across = Taps::new(crop.width, size, 1.0);
    if flip {
        across.first.reverse();
        across.weights.reverse();
        across.weights.chunks_mut(across.count).for_each(<[f32]>::reverse);
    }
    let (channels, width) = (picture.channels, crop.width * picture.channels);
    let row = |y: usize| {
        let start = ((crop.top + y) * picture.width + crop.left) * channels;
        &picture.pixels[start..start + width]
    };
    // Columns first, as their sums run along whole rows of bytes; then rows. One number more than a
    // row has, because pixels of three channels are read four numbers at a time.
    let mut strip = vec![0.0; width + 1];
    let mut wide = vec![[0.0; 4]; size];
    let mut rows: Vec<(f32, &[u8])> = Vec::with_capacity(down.count);
    for y in 0..size {
        let (first, weights) = down.of(y);
        rows.clear();
        rows.extend(
            weights
                .iter()
                .enumerate()
                .filter(|(_, w)| **w > 0.0)
                .map(|(i, &w)| (w, row(first + i))),
        );
        mean_of_rows(&rows, &mut strip[..width]);
        match channels {
            1 => across_grey(&strip, &across, &mut out[y * size..(y + 1) * size]),
            _ => across_colour(&strip, &across, &mut wide, out, y),
        }
    }
}

/// Numbers that are held in registers while the rows are gone through.
const BLOCK: usize = 16;

/// `out[i] = Σ weight · row[i]`.
fn mean_of_rows(rows: &[(f32, &[u8])], out: &mut [f32]) {
    let length = out.len();
    if length < BLOCK {
        for (i, out) in out.iter_mut().enumerate() {
            *out = rows.iter().map(|(weight, row)| weight * f32::from(row[i])).sum();
        }
        return;
    }
    for start in (0..length).step_by(BLOCK) {
        // The last block overlaps the one before it, which is quicker than a loop for the rest.
        let start = start.min(length - BLOCK);
        let mut sums = [0.0; BLOCK];
        for (weight, row) in rows {
            for (sum, &byte) in sums.iter_mut().zip(&row[start..start + BLOCK]) {
                *sum += weight * f32::from(byte);
            }
        }
        out[start..start + BLOCK].copy_from_slice(&sums);
    }
}

/// One row of one channel.
fn across_grey(strip: &[f32], taps: &Taps, out: &mut [f32]) {
    for (x, out) in out.iter_mut().enumerate() {
        let (first, weights) = taps.of(x);
        let sum: f32 = weights.iter().zip(&strip[first..]).map(|(w, p)| w * p).sum();
        // Rounding may lead beyond white.
        *out = sum.min(1.0);
    }
}

/// Row `y` of three channels, through `wide`, which has room for a pixel per place.
fn across_colour(strip: &[f32], taps: &Taps, wide: &mut [[f32; 4]], out: &mut [f32], y: usize) {
    // The compiler unrolls what has a known length; these are the usual ones.
    match taps.count {
        1 => across_pixels::<1>(strip, taps, wide),
        2 => across_pixels::<2>(strip, taps, wide),
        3 => across_pixels::<3>(strip, taps, wide),
        4 => across_pixels::<4>(strip, taps, wide),
        5 => across_pixels::<5>(strip, taps, wide),
        _ => across_any(strip, taps, wide),
    }
    let size = wide.len();
    for (channel, plane) in out.chunks_exact_mut(size * size).enumerate() {
        // Rounding may lead beyond white.
        let row = plane[y * size..(y + 1) * size].iter_mut();
        row.zip(&*wide).for_each(|(to, from)| *to = from[channel].min(1.0));
    }
}

/// [`across_any`] for `COUNT` taps.
fn across_pixels<const COUNT: usize>(strip: &[f32], taps: &Taps, wide: &mut [[f32; 4]]) {
    let (weights, _) = taps.weights.as_chunks::<COUNT>();
    for ((out, &first), weights) in wide.iter_mut().zip(&taps.first).zip(weights) {
        let pixels = &strip[3 * first..3 * first + 3 * COUNT + 1];
        let mut sums = [0.0; 4];
        for i in 0..COUNT {
            for lane in 0..4 {
                sums[lane] += weights[i] * pixels[3 * i + lane];
            }
        }
        *out = sums;
    }
}

/// A pixel's three numbers, and one that is not used, fill a register.
fn across_any(strip: &[f32], taps: &Taps, wide: &mut [[f32; 4]]) {
    let weights = taps.weights.chunks_exact(taps.count);
    for ((out, &first), weights) in wide.iter_mut().zip(&taps.first).zip(weights) {
        let mut sums = [0.0; 4];
        for (pixel, weight) in strip[3 * first..].windows(4).step_by(3).zip(weights) {
            for lane in 0..4 {
                sums[lane] += weight * pixel[lane];
            }
        }
        *out = sums;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the definition: each output is the mean of the crop under the product of two triangles.
    fn reference(picture: &Picture<'_>, crop: Crop, size: usize, flip: bool) -> Vec<f64> {
        let triangle = |at: usize, i: usize, length: usize| {
            let scale = length as f64 / size as f64;
            (1.0 - (at as f64 + 0.5 - scale * (i as f64 + 0.5)).abs() / scale.max(1.0)).max(0.0)
        };
        let mut out = Vec::new();
        for i in 0..picture.channels * size * size {
            let (channel, y, x) = (i / (size * size), i / size % size, i % size);
            let x = if flip { size - 1 - x } else { x };
            let (mut sum, mut weights) = (0.0, 0.0);
            for v in 0..crop.height {
                for u in 0..crop.width {
                    let weight = triangle(v, y, crop.height) * triangle(u, x, crop.width);
                    let at = (crop.top + v) * picture.width + crop.left + u;
                    sum += weight * f64::from(picture.pixels[at * picture.channels + channel]);
                    weights += weight;
                }
            }
            out.push(sum / weights / 255.0);
        }
        out
    }

    #[test]
    fn every_scale_agrees_with_the_definition() {
        for channels in [1, 3] {
            let (width, height) = (37, 29);
            let pixels: Vec<u8> =
                (0..width * height * channels).map(|i| (i * i * 31 % 251) as u8).collect();
            let picture = Picture::new(&pixels, width, height, channels).expect("fits");
            let crops = [[0, 0, 37, 29], [3, 2, 8, 8], [30, 20, 3, 9], [5, 5, 1, 1], [1, 3, 36, 5]];
            for [left, top, width, height] in crops {
                let crop = Crop { left, top, width, height };
                for (size, flip) in [(8, false), (8, true), (5, true), (33, false), (1, true)] {
                    let mut out = vec![9.0; channels * size * size];
                    resize(&picture, crop, size, flip, &mut out);
                    for (ours, right) in out.iter().zip(reference(&picture, crop, size, flip)) {
                        assert!((f64::from(*ours) - right).abs() < 2e-6, "{crop:?} {size} {flip}");
                    }
                }
            }
        }
    }

    #[test]
    fn white_stays_within_one() {
        let pixels = [255; 3 * 31 * 17];
        let picture = Picture::new(&pixels, 31, 17, 3).expect("fits");
        let mut out = vec![0.0; 3 * 23 * 23];
        resize(&picture, Crop { left: 0, top: 0, width: 31, height: 17 }, 23, false, &mut out);
        assert!(out.iter().all(|&p| p <= 1.0 && p > 1.0 - 1e-6));
    }
}
