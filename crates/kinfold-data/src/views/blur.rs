//! Gaussian blur.
//!
//! Input: planes `[channels, size, size]` of [0, 1], a radius and σ in pixels. Output: the
//! same planes, blurred in place; beyond an edge they are mirrored about its pixel. It never takes
//! more memory than the kernel's rows. The definition is torchvision's `gaussian_blur` with a
//! kernel of 2 · radius + 1.

/// Weights of the centre and of each distance up to the radius; they and their mirror images sum to
/// 1.
///
/// Those too small to move a number in [0, 1] by more than its rounding are left off, which for a
/// small σ is most of them.
fn weights(radius: usize, sigma: f64) -> Vec<f32> {
    let bell = |k: usize| super::exp(-((k * k) as f64) / (2.0 * sigma * sigma));
    let sum = 1.0 + 2.0 * (1..=radius).map(bell).sum::<f64>();
    let all = (0..=radius).map(|k| bell(k) / sum);
    all.take_while(|&weight| weight > f64::from(f32::EPSILON) / 4.0).map(|w| w as f32).collect()
}

/// The place that `at` stands for when 0..size goes on mirrored: −1 is 1, `size` is `size − 2`.
fn mirrored(at: isize, size: usize) -> usize {
    let last = size as isize - 1;
    (last - (last - at.abs()).abs()) as usize
}

/// Numbers that are held in registers while the weights are gone through.
const BLOCK: usize = 16;

/// Blurs planes of `size` × `size`; the radius must be below `size`.
pub(super) fn blur(planes: &mut [f32], size: usize, radius: usize, sigma: f64) {
    let weights = weights(radius.min(size - 1), sigma);
    if weights.len() > 1 {
        planes.chunks_mut(size * size).for_each(|plane| blur_plane(plane, size, &weights));
    }
}

fn blur_plane(plane: &mut [f32], size: usize, weights: &[f32]) {
    let reach = weights.len() - 1;
    let width = size.next_multiple_of(BLOCK);
    // The rows around the one that is written, blurred across: row y lies at y modulo their number.
    let count = 2 * reach + 1;
    let mut ring = vec![0.0; count * width];
    let mut row = vec![0.0; width + 2 * reach];
    let mut pairs = vec![(0, 0, 0.0); reach];
    let mut sums = vec![0.0; width];
    let mut ready = 0;
    for y in 0..size {
        // A row is read before anything is written to it: rows up to y + reach come first.
        while ready < size.min(y + reach + 1) {
            widened(&plane[ready * size..(ready + 1) * size], reach, &mut row);
            for (k, pair) in (1..).zip(&mut pairs) {
                *pair = (reach - k, reach + k, weights[k]);
            }
            let at = ready % count * width;
            weigh(&row, reach, weights[0], &pairs, &mut ring[at..at + width]);
            ready += 1;
        }
        let at = |row: isize| mirrored(row, size) % count * width;
        let y = y as isize;
        for (k, pair) in (1..).zip(&mut pairs) {
            *pair = (at(y - k), at(y + k), weights[k as usize]);
        }
        weigh(&ring, at(y), weights[0], &pairs, &mut sums);
        let y = y as usize;
        for (to, from) in plane[y * size..(y + 1) * size].iter_mut().zip(&sums) {
            // Rounding may lead beyond white.
            *to = from.min(1.0);
        }
    }
}

/// A row with its mirror images on both sides.
fn widened(from: &[f32], reach: usize, to: &mut [f32]) {
    let size = from.len();
    to[reach..reach + size].copy_from_slice(from);
    for k in 1..=reach {
        to[reach - k] = from[mirrored(-(k as isize), size)];
        to[reach + size - 1 + k] = from[mirrored((size - 1 + k) as isize, size)];
    }
}

/// `out[i] = weight · from[centre + i] + Σ weight · (from[one + i] + from[other + i])`.
fn weigh(from: &[f32], centre: usize, weight: f32, pairs: &[(usize, usize, f32)], out: &mut [f32]) {
    for (start, out) in (0..).step_by(BLOCK).zip(out.chunks_exact_mut(BLOCK)) {
        let block = |at: usize| &from[at + start..at + start + BLOCK];
        let mut sums = [0.0; BLOCK];
        for (sum, value) in sums.iter_mut().zip(block(centre)) {
            *sum = weight * value;
        }
        for &(one, other, weight) in pairs {
            let (one, other) = (block(one), block(other));
            for i in 0..BLOCK {
                sums[i] += weight * (one[i] + other[i]);
            }
        }
        out.copy_from_slice(&sums);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the definition, in two dimensions at once, with every weight.
    fn reference(plane: &[f32], size: usize, radius: usize, sigma: f64) -> Vec<f64> {
        let radius = radius as isize;
        let bell = |k: isize| (-((k * k) as f64) / (2.0 * sigma * sigma)).exp();
        let sum: f64 = (-radius..=radius).map(bell).sum();
        let mirrored = |mut at: isize| loop {
            match at {
                _ if at < 0 => at = -at,
                _ if at >= size as isize => at = 2 * (size as isize - 1) - at,
                _ => return at as usize,
            }
        };
        let at = |y: isize, x: isize| f64::from(plane[mirrored(y) * size + mirrored(x)]);
        let one = |i: usize| {
            let (y, x) = ((i / size) as isize, (i % size) as isize);
            let row =
                |v: isize| (-radius..=radius).map(|u| bell(u) * at(y + v, x + u)).sum::<f64>();
            (-radius..=radius).map(|v| bell(v) * row(v)).sum::<f64>() / (sum * sum)
        };
        (0..size * size).map(one).collect()
    }

    #[test]
    fn every_kernel_agrees_with_the_definition() {
        for (size, radius) in [(12, 11), (32, 1), (17, 3), (40, 2), (2, 1), (33, 11)] {
            for sigma in [0.1, 0.3, 0.8, 2.0] {
                let plane: Vec<f32> =
                    (0..size * size).map(|i| (i * i * 37 % 101) as f32 / 100.0).collect();
                let mut ours = plane.repeat(2);
                blur(&mut ours, size, radius, sigma);
                let right = reference(&plane, size, radius, sigma).repeat(2);
                for (i, (ours, right)) in ours.iter().zip(right).enumerate() {
                    let gap = (f64::from(*ours) - right).abs();
                    assert!(gap < 2e-6, "{size} {radius} {sigma} at {i}: {ours} {right}");
                }
            }
        }
    }

    #[test]
    fn nothing_to_do_changes_nothing() {
        let plane = [0.1, 0.2, 0.3, 0.4];
        for (radius, sigma) in [(0, 2.0), (1, 0.1)] {
            let mut ours = plane;
            blur(&mut ours, 2, radius, sigma);
            assert_eq!(ours, plane);
        }
    }

    #[test]
    fn white_stays_white() {
        let mut plane = vec![1.0; 30 * 30];
        blur(&mut plane, 30, 11, 1.7);
        assert!(plane.iter().all(|&p| p <= 1.0 && p > 1.0 - 1e-6));
    }
}
