//! The kernels, written once over any vector. Everything here is inlined into the functions of an
//! instruction set, which is where the vectors turn into registers.

use super::table::{LINE_BYTES, Panel, TURN, Tile, Weighing};

/// A register of numbers.
///
/// # Safety
/// Every method needs the instructions of the set that the vector belongs to; `load`, `store` and
/// `prefetch` besides take pointers, the first two to `LANES` numbers.
pub(super) trait Vector: Copy {
    type Real: Constants;
    const LANES: usize;
    /// # Safety
    /// See the trait.
    unsafe fn load(from: *const Self::Real) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn store(self, to: *mut Self::Real);
    /// # Safety
    /// See the trait.
    unsafe fn splat(x: Self::Real) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn mul(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn div(self, other: Self) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn max(self, other: Self) -> Self;
    /// `self · factor + addend`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// `self · 2^k`, where k is the integer in the low bits of `rounded`, as adding
    /// [`Constants::ROUND`] leaves it there.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn times_two_to(self, rounded: Self) -> Self;
    /// `self` where `x ≥ least`, else 0.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn zero_below(self, x: Self, least: Self) -> Self;
    /// Asks for the cache line at `at`, which may lie anywhere.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn prefetch(_at: *const Self::Real) {}
    /// The same, into the second cache.
    ///
    /// # Safety
    /// See the trait.
    #[inline(always)]
    unsafe fn prefetch_far(_at: *const Self::Real) {}
}

/// What the exponential is made of: `exp(x) = 2^k · exp(r)`, `k = round(x / ln 2)`,
/// `r = x − k ln 2`, `exp(r) ≈ 1 + r + r² q(r)`, `|r| ≤ ln 2 / 2`.
pub(super) trait Constants: Copy + 'static {
    /// Numbers in a cache line.
    const LINE: usize = LINE_BYTES / size_of::<Self>();
    const ZERO: Self;
    const ONE: Self;
    const MINUS_ONE: Self;
    const LOG2_E: Self;
    /// Adding it rounds to an integer, which then stands in the lowest bits: 1.5 · 2^(digits).
    const ROUND: Self;
    const MINUS_ROUND: Self;
    /// ln 2 in two parts, the first so short that k times it is exact.
    const MINUS_LN2_HIGH: Self;
    const MINUS_LN2_LOW: Self;
    /// The logarithm of the least normal number, rounded up.
    const LEAST: Self;
    /// q, highest power first: the interpolation of (exp(r) − 1 − r) / r² at Chebyshev's nodes.
    const Q: &'static [Self];
    /// `artanh(t) / t` as a polynomial in t², highest power first, for t up to 1/3: Taylor's.
    const ARTANH: &'static [Self];
    /// As an f64.
    fn wide(self) -> f64;
}

impl Constants for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const MINUS_ONE: Self = -1.0;
    const LOG2_E: Self = std::f32::consts::LOG2_E;
    const ROUND: Self = 12_582_912.0;
    const MINUS_ROUND: Self = -12_582_912.0;
    const MINUS_LN2_HIGH: Self = -355.0 / 512.0;
    const MINUS_LN2_LOW: Self = 2.121_944_4e-4;
    const LEAST: Self = -87.336_54;
    // Relative error of exp(r) below 1.1e-8.
    const ARTANH: &'static [Self] =
        &[1.0 / 13.0, 1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0];
    const Q: &'static [Self] = &[1.392_618_4e-3, 8.363_179e-3, 4.166_655_6e-2, 1.666_657_6e-1, 0.5];
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Constants for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const MINUS_ONE: Self = -1.0;
    const LOG2_E: Self = std::f64::consts::LOG2_E;
    const ROUND: Self = 6_755_399_441_055_744.0;
    const MINUS_ROUND: Self = -6_755_399_441_055_744.0;
    const MINUS_LN2_HIGH: Self = -6.931_471_803_691_238e-1;
    const MINUS_LN2_LOW: Self = -1.908_214_929_270_587_7e-10;
    const LEAST: Self = -708.396_418_532_264;
    // Relative error of exp(r) below 2e-17.
    const ARTANH: &'static [Self] = &[
        1.0 / 33.0,
        1.0 / 31.0,
        1.0 / 29.0,
        1.0 / 27.0,
        1.0 / 25.0,
        1.0 / 23.0,
        1.0 / 21.0,
        1.0 / 19.0,
        1.0 / 17.0,
        1.0 / 15.0,
        1.0 / 13.0,
        1.0 / 11.0,
        1.0 / 9.0,
        1.0 / 7.0,
        1.0 / 5.0,
        1.0 / 3.0,
        1.0,
    ];
    const Q: &'static [Self] = &[
        2.510_039_581_085_093e-8,
        2.762_008_870_931_826_8e-7,
        2.755_726_843_071_169e-6,
        2.480_152_129_522_571_5e-5,
        1.984_126_986_308_324e-4,
        1.388_888_891_721_432_6e-3,
        8.333_333_333_330_05e-3,
        4.166_666_666_662_413e-2,
        1.666_666_666_666_666_9e-1,
        0.500_000_000_000_000_1,
    ];
    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
}

/// Adds a column of the left operand times a row of the right one.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn outer_product<V: Vector, const HEIGHT: usize, const VECTORS: usize, const ROW: usize>(
    left: *const V::Real,
    right: *const V::Real,
    sums: &mut [[V; VECTORS]; HEIGHT],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut of_right = [V::splat(V::Real::ZERO); VECTORS];
        for v in 0..VECTORS {
            of_right[v] = V::load(right.add(v * V::LANES));
        }
        for row in 0..HEIGHT {
            let of_left = V::splat(*left.add(row * ROW));
            for v in 0..VECTORS {
                sums[row][v] = of_left.mul_add(of_right[v], sums[row][v]);
            }
        }
    }
}

/// `HEIGHT` rows by `VECTORS` vectors of a product. Element (row, k) of the left operand lies at
/// `row · ROW + k · STEP`.
///
/// # Safety
/// The vector's instructions must be there, and the tile's pointers must reach as far as its
/// segments, depth and strides say; `out` must overlap no operand.
#[inline(always)]
pub(super) unsafe fn tile<
    V: Vector,
    const HEIGHT: usize,
    const VECTORS: usize,
    const ROW: usize,
    const STEP: usize,
>(
    tile: &Tile<V::Real>,
) {
    let width = VECTORS * V::LANES;
    // SAFETY: every address is one that the caller vouches for.
    unsafe {
        for row in 0..HEIGHT {
            for line in (0..width).step_by(V::Real::LINE) {
                V::prefetch(tile.out.add(row * width + line));
            }
        }
        let mut sums = [[V::splat(V::Real::ZERO); VECTORS]; HEIGHT];
        for segment in 0..tile.segments {
            let mut left = tile.left.add(segment * tile.left_segment);
            let mut right = tile.right.add(segment * tile.right_segment);
            let mut ahead = tile.ahead.wrapping_add(segment * tile.right_segment);
            for _ in 0..tile.depth / TURN {
                V::prefetch_far(ahead);
                ahead = ahead.wrapping_add(V::Real::LINE);
                for _ in 0..TURN {
                    outer_product::<V, HEIGHT, VECTORS, ROW>(left, right, &mut sums);
                    left = left.add(STEP);
                    right = right.add(width);
                }
            }
            for _ in 0..tile.depth % TURN {
                outer_product::<V, HEIGHT, VECTORS, ROW>(left, right, &mut sums);
                left = left.add(STEP);
                right = right.add(width);
            }
        }
        for row in 0..HEIGHT {
            for v in 0..VECTORS {
                let out = tile.out.add(row * width + v * V::LANES);
                let sum = if tile.add { V::load(out).add(sums[row][v]) } else { sums[row][v] };
                sum.store(out);
            }
        }
    }
}

/// `exp(x)` for x below about 88 (709 in f64); 0 below the least normal number.
///
/// # Safety
/// The vector's instructions must be there.
#[inline(always)]
unsafe fn exp<V: Vector>(x: V) -> V {
    // SAFETY: the caller's promise.
    unsafe {
        let rounded = x.mul_add(V::splat(V::Real::LOG2_E), V::splat(V::Real::ROUND));
        let k = rounded.add(V::splat(V::Real::MINUS_ROUND));
        let r = k.mul_add(V::splat(V::Real::MINUS_LN2_HIGH), x);
        let r = k.mul_add(V::splat(V::Real::MINUS_LN2_LOW), r);
        let mut q = V::splat(V::Real::Q[0]);
        for &coefficient in &V::Real::Q[1..] {
            q = q.mul_add(r, V::splat(coefficient));
        }
        let one = V::splat(V::Real::ONE);
        let exp = q.mul_add(r, one).mul_add(r, one);
        exp.times_two_to(rounded).zero_below(x, V::splat(V::Real::LEAST))
    }
}

/// Column sums stay in the type itself for no more than this many rows.
const ROWS_A_TIME: usize = 16;

/// See [`Kernels::exponentials`](super::table::Kernels::exponentials).
///
/// # Safety
/// The vector's instructions must be there, and the panel's pointers must reach as far as its
/// comments say.
#[inline(always)]
pub(super) unsafe fn exponentials<V: Vector, const VECTORS: usize, const STORE: bool>(
    panel: &Panel<V::Real>,
) {
    let width = VECTORS * V::LANES;
    // SAFETY: every address is one that the caller vouches for.
    unsafe {
        let scale = V::splat(panel.scale);
        let minus_one = V::splat(V::Real::MINUS_ONE);
        let mut row = 0;
        while row < panel.rows {
            let end = panel.rows.min(row + ROWS_A_TIME);
            let mut column_sums = [V::splat(V::Real::ZERO); VECTORS];
            while row < end {
                let minus_shift = V::splat(*panel.shifts.add(row)).mul(minus_one);
                let mut row_sum = V::load(panel.row_sums.add(row * V::LANES));
                for v in 0..VECTORS {
                    let at = panel.numbers.add(row * width + v * V::LANES);
                    let e = exp(V::load(at).mul_add(scale, minus_shift));
                    if STORE {
                        e.store(at);
                    }
                    row_sum = row_sum.add(e);
                    column_sums[v] = column_sums[v].add(e);
                }
                row_sum.store(panel.row_sums.add(row * V::LANES));
                row += 1;
            }
            add_to(panel.column_sums, &column_sums);
        }
    }
}

/// Adds vectors to sums in f64.
///
/// # Safety
/// The vector's instructions must be there, and `sums` must point to as many numbers.
#[inline(always)]
unsafe fn add_to<V: Vector, const VECTORS: usize>(sums: *mut f64, vectors: &[V; VECTORS]) {
    // No vector here has more lanes than that.
    let mut spilled = [V::Real::ZERO; 16];
    for v in 0..VECTORS {
        // SAFETY: every address is one that the caller vouches for.
        unsafe {
            vectors[v].store(spilled.as_mut_ptr());
            for lane in 0..V::LANES {
                *sums.add(v * V::LANES + lane) += spilled[lane].wide();
            }
        }
    }
}

/// See [`Kernels::weighted_exponentials`](super::table::Kernels::weighted_exponentials).
///
/// # Safety
/// The vector's instructions must be there, and the pointers must reach as far as their comments say.
#[inline(always)]
pub(super) unsafe fn weighted_exponentials<V: Vector, const VECTORS: usize>(
    work: &Weighing<V::Real>,
) {
    let width = VECTORS * V::LANES;
    let Panel { numbers, rows, scale, shifts, row_sums, column_sums } = work.panel;
    // SAFETY: every address is one that the caller vouches for.
    unsafe {
        let scale = V::splat(scale);
        let minus_one = V::splat(V::Real::MINUS_ONE);
        let mut of_columns = [V::splat(V::Real::ZERO); VECTORS];
        for v in 0..VECTORS {
            of_columns[v] = V::load(work.of_columns.add(v * V::LANES));
        }
        let mut row = 0;
        while row < rows {
            let end = rows.min(row + ROWS_A_TIME);
            let mut columns = [V::splat(V::Real::ZERO); VECTORS];
            while row < end {
                let minus_shift = V::splat(*shifts.add(row)).mul(minus_one);
                let of_row = V::splat(*work.of_rows.add(row));
                let mut row_sum = V::load(row_sums.add(row * V::LANES));
                for v in 0..VECTORS {
                    let at = row * width + v * V::LANES;
                    let e = exp(V::load(work.logits.add(at)).mul_add(scale, minus_shift));
                    let weight = e.mul(of_row.add(of_columns[v]));
                    weight.store(numbers.add(at));
                    let times = V::load(work.times.add(at));
                    row_sum = weight.mul_add(times, row_sum);
                    columns[v] = weight.mul_add(times, columns[v]);
                }
                row_sum.store(row_sums.add(row * V::LANES));
                row += 1;
            }
            add_to(column_sums, &columns);
        }
    }
}

/// See [`Kernels::sigmoids`](super::table::Kernels::sigmoids).
///
/// With `e = exp(−|x|)`, which cannot overflow: `σ(x) = 1 / (1 + e)` or `e / (1 + e)`, and
/// `ln(1 + exp(x)) = max(x, 0) + ln(1 + e)`, where `ln(1 + e) = 2 artanh(e / (2 + e))` keeps the
/// digits of a small e.
///
/// # Safety
/// The vector's instructions must be there, and the panel's pointers must reach as far as its
/// comments say; `weight_sums` must point to as many numbers as its row sums.
#[inline(always)]
pub(super) unsafe fn sigmoids<V: Vector, const VECTORS: usize>(
    panel: &Panel<V::Real>,
    weight_sums: *mut V::Real,
) {
    let width = VECTORS * V::LANES;
    // SAFETY: every address is one that the caller vouches for.
    unsafe {
        let scale = V::splat(panel.scale);
        let (zero, one) = (V::splat(V::Real::ZERO), V::splat(V::Real::ONE));
        let minus_one = V::splat(V::Real::MINUS_ONE);
        for row in 0..panel.rows {
            let minus_shift = V::splat(*panel.shifts.add(row)).mul(minus_one);
            let mut loss = V::load(panel.row_sums.add(row * V::LANES));
            let mut weight = V::load(weight_sums.add(row * V::LANES));
            for v in 0..VECTORS {
                let at = panel.numbers.add(row * width + v * V::LANES);
                let x = V::load(at).mul_add(scale, minus_shift);
                let e = exp(x.max(x.mul(minus_one)).mul(minus_one));
                let high = one.div(e.add(one));
                let low = e.mul(high);
                let sigmoid = low.add(high.add(low.mul(minus_one)).zero_below(x, zero));
                let t = e.div(e.add(one).add(one));
                let square = t.mul(t);
                let mut artanh = V::splat(V::Real::ARTANH[0]);
                for &coefficient in &V::Real::ARTANH[1..] {
                    artanh = artanh.mul_add(square, V::splat(coefficient));
                }
                let small = artanh.mul(t);
                sigmoid.store(at);
                loss = loss.add(x.max(zero).add(small).add(small));
                weight = weight.add(sigmoid);
            }
            loss.store(panel.row_sums.add(row * V::LANES));
            weight.store(weight_sums.add(row * V::LANES));
        }
    }
}

/// See [`Kernels::weights`](super::table::Kernels::weights).
///
/// # Safety
/// The vector's instructions must be there; `panel` must point to `rows` rows of a tile's width,
/// `of_rows` to `rows` numbers and `of_columns` to a tile's width of them.
#[inline(always)]
pub(super) unsafe fn weights<V: Vector, const VECTORS: usize>(
    panel: *mut V::Real,
    rows: usize,
    of_rows: *const V::Real,
    of_columns: *const V::Real,
) {
    // SAFETY: every address is one that the caller vouches for.
    unsafe {
        let mut columns = [V::splat(V::Real::ZERO); VECTORS];
        for v in 0..VECTORS {
            columns[v] = V::load(of_columns.add(v * V::LANES));
        }
        for row in 0..rows {
            let of_row = V::splat(*of_rows.add(row));
            for v in 0..VECTORS {
                let at = panel.add((row * VECTORS + v) * V::LANES);
                V::load(at).mul(of_row.add(columns[v])).store(at);
            }
        }
    }
}

/// See [`Kernels::maxima`](super::table::Kernels::maxima).
///
/// # Safety
/// The vector's instructions must be there; `panel` must point to `rows` rows of a tile's width and
/// `maxima` to `rows` vectors.
#[inline(always)]
pub(super) unsafe fn maxima<V: Vector, const VECTORS: usize>(
    panel: *const V::Real,
    rows: usize,
    maxima: *mut V::Real,
) {
    // SAFETY: every address is one that the caller vouches for.
    unsafe {
        for row in 0..rows {
            let mut largest = V::load(maxima.add(row * V::LANES));
            for v in 0..VECTORS {
                largest = largest.max(V::load(panel.add((row * VECTORS + v) * V::LANES)));
            }
            largest.store(maxima.add(row * V::LANES));
        }
    }
}
