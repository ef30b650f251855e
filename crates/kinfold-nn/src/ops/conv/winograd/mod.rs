//! Winograd's algorithm for kernels of 3×3 taps at stride 1, F(4×4, 3×3) of Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks" (2016). A tile of 4×4 outputs reads a patch of 6×6
//! inputs; transformed, it is 36 products of numbers instead of 144:
//!
//! ```text
//! output        Y  = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A         d the patch, g the taps
//! of weights    dg = Gᵀ [ Σ (A dY Aᵀ) ⊙ (Bᵀ d B) ] G      over all tiles
//! ```
//!
//! Over channels each of the 36 is a product of matrices, tiles × channels by channels × filters. The
//! gradient of the input is a correlation like the output, with other weights.
//!
//! The rows of Bᵀ are polynomials that vanish at all but one of six points. With 0, ±3/4, ±3/2 and ∞
//! powers of the points stay near 1, and every number of A and B is exact in `f32`: rounding errors
//! are half of those with the usual 0, ±1, ±2 and ∞, a fifth for the largest. They are two to three
//! times those of sums over taps: 1e-6 (64 channels) to 2.5e-6 (512) of an output's norm. A number
//! that is not finite reaches the whole of its tiles.
#![allow(unsafe_code, reason = "vectors and raw pointers; every reach is asserted by the callers")]

mod correlate;
mod reduce;
mod weights;

pub(crate) use correlate::correlate;
pub(crate) use reduce::reduce;

use super::geometry::{Geometry, Pass};
use crate::ops::memory::images::Frame;
use crate::ops::memory::vector::{self, Kernel, Vector};

/// Rows and columns of a kernel, of a tile, and of the patch that a tile reads.
pub(crate) const TAPS: usize = 3;
pub(crate) const TILE: usize = 4;
pub(crate) const PATCH: usize = TILE + TAPS - 1;
/// Products of a tile.
pub(crate) const PRODUCTS: usize = PATCH * PATCH;

/// The points are 0, ±P, ±Q and ∞.
const P: f32 = 0.75;
const Q: f32 = 1.5;

/// Tiles that are gone through together, at most: transformed, those of 64 channels lie in the second
/// cache, and weights that are read for them once are worth it.
const TILES: usize = 64;
/// Tasks that there are at least, if there are blocks for them.
const TASKS: usize = 4;
/// Numbers between what belongs to one product and to the next, lest all of them fall on the same
/// lines of a cache; as many as a tile of registers may read too far.
const GAP: usize = 16;

/// Whether a correlation of so many images is faster this way; else, or where the pass is of another
/// kind, it is to be done directly.
pub(crate) fn correlates(images: usize, channels: usize, columns: usize, pass: &Pass) -> bool {
    let every_pixel = pass.step == [1, 1] && pass.out_step == [1, 1] && pass.to == [0, 0];
    every_pixel && pass.taps == [TAPS; 2] && gains(images, channels, columns, pass.grid)
}

/// The same of the gradient of a convolution's weights.
pub(crate) fn reduces(geometry: &Geometry) -> bool {
    let Geometry { images, channels, filters, kernel, stride, .. } = *geometry;
    let ours = kernel == [TAPS; 2] && stride == [1, 1];
    ours && gains(images, channels, filters, geometry.out())
}

/// Counts multiplications, with channels in whole vectors, and what else takes as long as so many: a
/// transform of a tile's channel, at either end, as 400, one of the taps of two channels as 600. (Times
/// of layers of 3 to 512 channels and images of 4×4 to 56×56, with vectors of 16.)
fn gains(images: usize, channels: usize, columns: usize, grid: [usize; 2]) -> bool {
    let lanes = vector::shape().lanes;
    let tiles = images * grid[0].div_ceil(TILE) * grid[1].div_ceil(TILE);
    let wide = [channels, columns].map(|count| count.next_multiple_of(lanes));
    let directly = images * grid[0] * grid[1] * TAPS * TAPS * channels * wide[1];
    let pairs = channels * wide[1];
    tiles * (PRODUCTS * pairs + 400 * (wide[0] + wide[1])) + 600 * pairs < directly
}

/// One tile: where its patch begins in the framed images, and its place in the output.
#[derive(Clone, Copy, Debug)]
struct Tile {
    from: usize,
    image: usize,
    row: usize,
    column: usize,
}

/// The tiles of a batch, some images at a time.
struct Tiles {
    /// Images that are gone through together, and tiles of each.
    together: usize,
    per_image: usize,
    /// The padded image, as far as tiles read it.
    frame: Frame,
    /// Numbers of a pixel of the framed image.
    width: usize,
    places: Vec<Tile>,
}

impl Tiles {
    /// Of images that a pass goes over, whose frame is `before` the image.
    fn new(images: usize, channels: usize, before: [usize; 2], pass: &Pass) -> Self {
        let tiles = pass.grid.map(|size| size.div_ceil(TILE));
        let per_image = tiles[0] * tiles[1];
        let together = TILES.div_ceil(per_image).min(images);
        let size = [0, 1].map(|i| pass.from[i] + TILE * tiles[i] + PATCH - TILE);
        let width = channels.next_multiple_of(vector::shape().lanes);
        let mut places = Vec::with_capacity(together * per_image);
        for image in 0..together {
            for row in (0..tiles[0]).map(|row| TILE * row) {
                for column in (0..tiles[1]).map(|column| TILE * column) {
                    let down = image * size[0] + pass.from[0] + row;
                    let from = (down * size[1] + pass.from[1] + column) * width;
                    places.push(Tile { from, image, row, column });
                }
            }
        }
        Self { together, per_image, frame: Frame { before, size }, width, places }
    }

    /// What transforms some tiles' patches, of images in their frame.
    fn patches<'a>(&self, image: &'a [f32], tiles: &'a [Tile], to: &'a mut [f32]) -> Patches<'a> {
        Patches { image, row: self.frame.size[1] * self.width, width: self.width, tiles, to }
    }

    /// Numbers of the framed images.
    fn framed(&self) -> usize {
        self.together * self.frame.size[0] * self.frame.size[1] * self.width
    }

    /// The tiles of so many images, in parts as even as they can be.
    fn of(&self, images: usize) -> impl Iterator<Item = &[Tile]> {
        let places = &self.places[..images * self.per_image];
        places.chunks(places.len().div_ceil(places.len().div_ceil(TILES)))
    }
}

/// Some tiles' patches.
struct Patches<'a> {
    image: &'a [f32],
    /// Numbers of a row of the framed image, and of a pixel.
    row: usize,
    width: usize,
    tiles: &'a [Tile],
    /// `[PRODUCTS, tiles, width]`, and a gap after each product.
    to: &'a mut [f32],
}

impl Kernel for Patches<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let apart = self.tiles.len() * self.width + GAP;
        let reach = (PATCH - 1) * self.row + PATCH * self.width;
        assert!(self.tiles.iter().all(|tile| tile.from + reach <= self.image.len()));
        assert!(self.width.is_multiple_of(V::LANES) && self.to.len() >= PRODUCTS * apart);
        for (t, tile) in self.tiles.iter().enumerate() {
            for channel in (0..self.width).step_by(V::LANES) {
                // SAFETY: by the assertions; the vectors are the caller's promise.
                unsafe {
                    let from = self.image.as_ptr().add(tile.from + channel);
                    let patch = load::<V, PATCH>(from, self.row, self.width);
                    let to = self.to.as_mut_ptr().add(t * self.width + channel);
                    store(&both_ways(OfPatch, &patch), to, apart);
                }
            }
        }
    }
}

/// A matrix, `N` by `M`, that vectors are multiplied with.
pub(crate) trait Matrix<const M: usize, const N: usize> {
    /// # Safety
    /// The vectors' instructions must be there.
    unsafe fn times<V: Vector>(x: [V; M]) -> [V; N];
}

/// Bᵀ.
pub(crate) struct OfPatch;
/// G.
pub(crate) struct OfTaps;
/// Aᵀ.
pub(crate) struct ToTile;
/// A.
pub(crate) struct OfTile;
/// Gᵀ.
pub(crate) struct ToTaps;

/// What the rows of Bᵀ are at their points, by which those of G are divided.
const AT_ZERO: f32 = P * P * Q * Q;
const AT_P: f32 = 2.0 * P * P * (P * P - Q * Q);
const AT_Q: f32 = 2.0 * Q * Q * (Q * Q - P * P);

impl Matrix<PATCH, PATCH> for OfPatch {
    #[inline(always)]
    unsafe fn times<V: Vector>(x: [V; PATCH]) -> [V; PATCH] {
        // SAFETY: the caller's promise.
        unsafe {
            let [p, q] = [V::splat(P), V::splat(Q)];
            let [minus_p, minus_q] = [V::splat(-P), V::splat(-Q)];
            let [minus_pp, minus_qq] = [V::splat(-P * P), V::splat(-Q * Q)];
            // (x² − P²)(x² − Q²), and what is left without either factor.
            let (low, middle) = (V::splat(P * P * Q * Q), V::splat(-P * P - Q * Q));
            let (even_p, odd_p) = (x[2].mul_add(minus_qq, x[4]), x[1].mul_add(minus_qq, x[3]));
            let (even_q, odd_q) = (x[2].mul_add(minus_pp, x[4]), x[1].mul_add(minus_pp, x[3]));
            [
                x[0].mul_add(low, x[2].mul_add(middle, x[4])),
                odd_p.mul_add(p, even_p),
                odd_p.mul_add(minus_p, even_p),
                odd_q.mul_add(q, even_q),
                odd_q.mul_add(minus_q, even_q),
                x[1].mul_add(low, x[3].mul_add(middle, x[5])),
            ]
        }
    }
}

impl Matrix<TAPS, PATCH> for OfTaps {
    #[inline(always)]
    unsafe fn times<V: Vector>(x: [V; TAPS]) -> [V; PATCH] {
        // SAFETY: the caller's promise.
        unsafe {
            let zero = V::splat(0.0);
            let scaled = |x: V, by: f32| x.mul_add(V::splat(by), zero);
            let even_p = x[2].mul_add(V::splat(P * P / AT_P), scaled(x[0], 1.0 / AT_P));
            let even_q = x[2].mul_add(V::splat(Q * Q / AT_Q), scaled(x[0], 1.0 / AT_Q));
            [
                scaled(x[0], 1.0 / AT_ZERO),
                x[1].mul_add(V::splat(P / AT_P), even_p),
                x[1].mul_add(V::splat(-P / AT_P), even_p),
                x[1].mul_add(V::splat(Q / AT_Q), even_q),
                x[1].mul_add(V::splat(-Q / AT_Q), even_q),
                x[2],
            ]
        }
    }
}

impl Matrix<PATCH, TILE> for ToTile {
    #[inline(always)]
    unsafe fn times<V: Vector>(x: [V; PATCH]) -> [V; TILE] {
        // SAFETY: the caller's promise.
        unsafe {
            let [one, minus, zero] = [V::splat(1.0), V::splat(-1.0), V::splat(0.0)];
            let (even_p, odd_p) = (x[2].mul_add(one, x[1]), x[2].mul_add(minus, x[1]));
            let (even_q, odd_q) = (x[4].mul_add(one, x[3]), x[4].mul_add(minus, x[3]));
            [
                sum(even_p, 1.0, even_q, 1.0, x[0]),
                sum(odd_p, P, odd_q, Q, zero),
                sum(even_p, P * P, even_q, Q * Q, zero),
                sum(odd_p, P * P * P, odd_q, Q * Q * Q, x[5]),
            ]
        }
    }
}

impl Matrix<TILE, PATCH> for OfTile {
    #[inline(always)]
    unsafe fn times<V: Vector>(x: [V; TILE]) -> [V; PATCH] {
        // SAFETY: the caller's promise.
        unsafe {
            let (even_p, odd_p) =
                (x[2].mul_add(V::splat(P * P), x[0]), x[3].mul_add(V::splat(P * P), x[1]));
            let (even_q, odd_q) =
                (x[2].mul_add(V::splat(Q * Q), x[0]), x[3].mul_add(V::splat(Q * Q), x[1]));
            [
                x[0],
                odd_p.mul_add(V::splat(P), even_p),
                odd_p.mul_add(V::splat(-P), even_p),
                odd_q.mul_add(V::splat(Q), even_q),
                odd_q.mul_add(V::splat(-Q), even_q),
                x[3],
            ]
        }
    }
}

impl Matrix<PATCH, TAPS> for ToTaps {
    #[inline(always)]
    unsafe fn times<V: Vector>(x: [V; PATCH]) -> [V; TAPS] {
        // SAFETY: the caller's promise.
        unsafe {
            let [one, minus, zero] = [V::splat(1.0), V::splat(-1.0), V::splat(0.0)];
            let (even_p, odd_p) = (x[2].mul_add(one, x[1]), x[2].mul_add(minus, x[1]));
            let (even_q, odd_q) = (x[4].mul_add(one, x[3]), x[4].mul_add(minus, x[3]));
            [
                sum(
                    even_p,
                    1.0 / AT_P,
                    even_q,
                    1.0 / AT_Q,
                    x[0].mul_add(V::splat(1.0 / AT_ZERO), zero),
                ),
                sum(odd_p, P / AT_P, odd_q, Q / AT_Q, zero),
                sum(even_p, P * P / AT_P, even_q, Q * Q / AT_Q, x[5]),
            ]
        }
    }
}

/// # Safety
/// The vectors' instructions must be there.
#[inline(always)]
unsafe fn sum<V: Vector>(x: V, by_x: f32, y: V, by_y: f32, rest: V) -> V {
    // SAFETY: the caller's promise.
    unsafe { x.mul_add(V::splat(by_x), y.mul_add(V::splat(by_y), rest)) }
}

/// `matrix · x · matrixᵀ`.
///
/// # Safety
/// The vectors' instructions must be there.
#[inline(always)]
pub(crate) unsafe fn both_ways<V: Vector, F: Matrix<M, N>, const M: usize, const N: usize>(
    _matrix: F,
    x: &[[V; M]; M],
) -> [[V; N]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let zero = V::splat(0.0);
        let mut half = [[zero; M]; N];
        for column in 0..M {
            let mut line = [zero; M];
            for row in 0..M {
                line[row] = x[row][column];
            }
            let line = F::times(line);
            for row in 0..N {
                half[row][column] = line[row];
            }
        }
        let mut whole = [[zero; N]; N];
        for row in 0..N {
            whole[row] = F::times(half[row]);
        }
        whole
    }
}

/// A square of vectors: rows lie `down` numbers apart, columns `right`.
///
/// # Safety
/// The vectors' instructions must be there, and the numbers.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector, const N: usize>(
    from: *const f32,
    down: usize,
    right: usize,
) -> [[V; N]; N] {
    // SAFETY: the caller's promise.
    unsafe {
        let mut square = [[V::splat(0.0); N]; N];
        for row in 0..N {
            for column in 0..N {
                square[row][column] = V::load(from.add(row * down + column * right));
            }
        }
        square
    }
}

/// Writes a square of vectors, one every `apart` numbers.
///
/// # Safety
/// The vectors' instructions must be there, and room for the numbers.
#[inline(always)]
pub(crate) unsafe fn store<V: Vector, const N: usize>(
    square: &[[V; N]; N],
    to: *mut f32,
    apart: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        for row in 0..N {
            for column in 0..N {
                square[row][column].store(to.add((row * N + column) * apart));
            }
        }
    }
}
