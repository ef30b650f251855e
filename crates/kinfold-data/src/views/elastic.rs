//! Elastic deformation (Simard, Steinkraus and Platt 2003): pixels move at random, and pixels that are near
//! each other move alike.
//!
//! Input: random numbers, and how far pixels move and how far apart they move alike, in pixels. Output: where
//! each pixel of an image moves to.
//!
//! Simard's field is noise under a Gaussian. Here it is noise on a coarse grid under a cubic B-spline, which is
//! within a few percent of that Gaussian and needs eight products a pixel for any width of it.

use crate::random::Random;

/// The standard deviation of a uniform number in [−1, 1) under the spline, over all places.
const SPREAD: f32 = 0.276_56;

/// By how many Gaussian standard deviations the points of the grid are apart: a cubic B-spline's own is
/// 1/√3 of its spacing.
const SPACING: f32 = 1.732_050_8;

/// How far each pixel of an image moves, `(x, y)` in pixels, row by row.
pub(super) struct Field {
    size: usize,
    moves: Vec<[f32; 2]>,
}

/// Random numbers on the coarse grid, each in [−1, 1).
pub(super) struct Noise {
    across: usize,
    points: Vec<[f32; 2]>,
}

/// How many points of the grid lie along a side of `size` pixels, the ones beyond its edges included.
fn points(size: usize, spacing: f32) -> usize {
    ((size as f32 - 1.0) / spacing) as usize + 4
}

impl Noise {
    /// For an image of `size` pixels a side; `smoothness` is the Gaussian's standard deviation, in pixels.
    pub(super) fn new(random: &mut Random, size: usize, smoothness: f32) -> Self {
        let across = points(size, SPACING * smoothness);
        let mut point = || [random.symmetric(), random.symmetric()];
        Self { across, points: (0..across * across).map(|_| point()).collect() }
    }

    /// This noise and another of the same grid, each times its part.
    pub(super) fn mixed(mut self, own: f32, other: &Self, part: f32) -> Self {
        for (point, other) in self.points.iter_mut().zip(&other.points) {
            for (x, other) in point.iter_mut().zip(other) {
                *x = own * *x + part * other;
            }
        }
        self
    }
}

impl Field {
    /// `amplitude` is the standard deviation of how far a pixel moves along each axis, in pixels, by noise that
    /// is all one's own.
    pub(super) fn new(noise: &Noise, size: usize, smoothness: f32, amplitude: f32) -> Self {
        let spacing = SPACING * smoothness;
        let places: Vec<_> = (0..size).map(|i| place(i as f32 / spacing)).collect();
        let factor = amplitude / SPREAD;
        let mut moves = Vec::with_capacity(size * size);
        let mut row = vec![[0.0; 2]; noise.across];
        for (top, down) in &places {
            for (i, sum) in row.iter_mut().enumerate() {
                *sum = [0.0; 2];
                for (k, weight) in down.iter().enumerate() {
                    let [x, y] = noise.points[(top + k) * noise.across + i];
                    *sum = [sum[0] + weight * x, sum[1] + weight * y];
                }
            }
            moves.extend(places.iter().map(|(left, across)| {
                let mut sum = [0.0; 2];
                for (weight, [x, y]) in across.iter().zip(&row[*left..*left + 4]) {
                    sum = [sum[0] + weight * x, sum[1] + weight * y];
                }
                sum.map(|x| factor * x)
            }));
        }
        Self { size, moves }
    }

    /// How far a place within the image moves; a place beyond its edges moves as the edge does.
    pub(super) fn at(&self, x: f32, y: f32) -> [f32; 2] {
        let last = self.size as f32 - 1.0;
        // Near enough between pixels, too: the field hardly changes from one to the next.
        let pixel = |x: f32| (x.clamp(0.0, last) + 0.5) as usize;
        self.moves[pixel(y) * self.size + pixel(x)]
    }
}

/// The first of the four points about a place on the grid's axis, and their weights.
fn place(x: f32) -> (usize, [f32; 4]) {
    let first = x as usize;
    let t = x - first as f32;
    let (t2, t3) = (t * t, t * t * t);
    let weights = [
        (1.0 - t) * (1.0 - t) * (1.0 - t) / 6.0,
        (3.0 * t3 - 6.0 * t2 + 4.0) / 6.0,
        (-3.0 * t3 + 3.0 * t2 + 3.0 * t + 1.0) / 6.0,
        t3 / 6.0,
    ];
    (first, weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn field(run: usize, size: usize, smoothness: f32) -> Field {
        let mut random = Random::new(0, Purpose::OneShot { run });
        Field::new(&Noise::new(&mut random, size, smoothness), size, smoothness, 1.0)
    }

    /// Over many fields a pixel's moves have the amplitude asked for, and those of two pixels correlate as
    /// under Simard's Gaussian: e^(−d² / 4σ²) at a distance of d.
    #[test]
    fn moves_are_as_far_and_as_alike_as_asked() {
        let (size, smoothness, runs) = (40, 4.0f32, 400);
        let (mut square, mut count) = (0.0, 0.0);
        let distances = [2usize, 4, 8, 16];
        let mut products = [0.0; 4];
        for run in 0..runs {
            let field = field(run, size, smoothness);
            for y in (0..size).step_by(3) {
                for x in (0..size - 16).step_by(3) {
                    let [a, b] = field.moves[y * size + x].map(f64::from);
                    square += (a * a + b * b) / 2.0;
                    count += 1.0;
                    for (product, d) in products.iter_mut().zip(distances) {
                        let [c, d] = field.moves[y * size + x + d].map(f64::from);
                        *product += (a * c + b * d) / 2.0;
                    }
                }
            }
        }
        let variance: f64 = square / count;
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
        for (product, d) in products.into_iter().zip(distances) {
            let gaussian = (-(d as f64 / f64::from(smoothness)).powi(2) / 4.0).exp();
            let found = product / count / variance;
            assert!((found - gaussian).abs() < 0.06, "{found} {gaussian} at {d}");
        }
    }

    #[test]
    fn weights_of_points_sum_to_one() {
        for i in 0..100 {
            let (first, weights) = place(i as f32 * 0.137);
            assert_eq!(first, (i as f32 * 0.137) as usize);
            assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
