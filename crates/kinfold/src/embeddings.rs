//! A borrowed matrix of embeddings, `[n, d]`, one embedding a row.
//!
//! Input: a slice of f32, f64, f16 or bf16, its dimension and, where rows are further apart than
//! that, their stride. Output: a view whose shape is known to be sound. Shapes are checked here,
//! once; nothing behind this door checks a length again. It never copies.

use crate::Error;
pub use half::{bf16, f16};

/// A number that embeddings can be made of: `f32`, `f64`, [`struct@f16`] or [`bf16`].
pub trait Element: Copy + Send + Sync + sealed::Sealed + 'static {
    /// What it is computed in, and what gradients come out in: `f64` for `f64`, else `f32`.
    type Real: Real;
    /// This number, exactly.
    fn real(self) -> Self::Real;
}

/// A number that losses are computed in: `f32` or `f64`.
pub trait Real:
    Element<Real = Self>
    + Default
    + PartialOrd
    + std::fmt::Debug
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::AddAssign
    + crate::engine::Arithmetic
{
    /// Nearest number to `x`.
    fn from_f64(x: f64) -> Self;
    /// This number, exactly.
    fn f64(self) -> f64;
    /// `e` to the power of this number.
    fn exp(self) -> Self;
    /// Neither infinite nor NaN.
    fn finite(self) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

macro_rules! real {
    ($t:ty) => {
        impl Element for $t {
            type Real = $t;
            #[inline(always)]
            fn real(self) -> $t {
                self
            }
        }
        impl Real for $t {
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                x as $t
            }
            #[inline(always)]
            fn f64(self) -> f64 {
                f64::from(self)
            }
            #[inline(always)]
            fn exp(self) -> Self {
                self.exp()
            }
            #[inline(always)]
            fn finite(self) -> bool {
                self.is_finite()
            }
        }
    };
}
real!(f32);
real!(f64);

impl Element for f16 {
    type Real = f32;
    #[inline(always)]
    fn real(self) -> f32 {
        self.to_f32()
    }
}

impl Element for bf16 {
    type Real = f32;
    #[inline(always)]
    fn real(self) -> f32 {
        self.to_f32()
    }
}

/// A borrowed `[rows, dim]` matrix, one embedding a row.
#[derive(Debug, Clone, Copy)]
pub struct Embeddings<'a, T> {
    data: &'a [T],
    rows: usize,
    dim: usize,
    stride: usize,
}

impl<'a, T: Element> Embeddings<'a, T> {
    /// Rows of `dim` numbers, one after the other.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], and [`Error::Ragged`] when `data` is no whole number of rows.
    pub fn new(data: &'a [T], dim: usize) -> Result<Self, Error> {
        if dim == 0 {
            return Err(Error::ZeroDimension);
        }
        if !data.len().is_multiple_of(dim) {
            return Err(Error::Ragged { given: data.len(), dim });
        }
        Ok(Self { data, rows: data.len() / dim, dim, stride: dim })
    }

    /// [`new`](Self::new) where there can be nothing wrong with the shape.
    pub(crate) fn unchecked(data: &'a [T], dim: usize) -> Self {
        Self { data, rows: data.len() / dim, dim, stride: dim }
    }

    /// The first `rows` rows; all where there are fewer.
    pub(crate) fn first(self, rows: usize) -> Self {
        Self { rows: rows.min(self.rows), ..self }
    }

    /// The first `dim` features of each row; all where there are fewer.
    pub(crate) fn prefix(self, dim: usize) -> Self {
        Self { dim: dim.min(self.dim), ..self }
    }

    /// `rows` rows of `dim` numbers whose starts lie `stride` numbers apart.
    ///
    /// # Errors
    /// [`Error::ZeroDimension`], [`Error::Stride`] when rows would overlap, [`Error::Length`] when
    /// `data` ends before the last row does.
    pub fn strided(data: &'a [T], rows: usize, dim: usize, stride: usize) -> Result<Self, Error> {
        if dim == 0 {
            return Err(Error::ZeroDimension);
        }
        if stride < dim {
            return Err(Error::Stride { stride, dim });
        }
        let needed = match rows {
            0 => Some(0),
            n => (n - 1).checked_mul(stride).and_then(|start| start.checked_add(dim)),
        };
        match needed {
            Some(needed) if needed <= data.len() => Ok(Self { data, rows, dim, stride }),
            needed => Err(Error::Length {
                rows,
                dim,
                stride,
                needed: needed.unwrap_or(usize::MAX),
                given: data.len(),
            }),
        }
    }

    /// Number of embeddings, `n`.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in an embedding, `d`.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Numbers between the starts of two rows.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `i`, `[d]`.
    ///
    /// # Panics
    /// When `i` is not below [`rows`](Self::rows), as slices do.
    #[inline]
    pub fn row(&self, i: usize) -> &'a [T] {
        &self.data[i * self.stride..i * self.stride + self.dim]
    }

    /// Every number is finite, or an error that names `matrix`, row and column of the first that
    /// is not.
    pub(crate) fn check_finite(&self, matrix: &'static str) -> Result<(), Error> {
        let zero = T::Real::default();
        for row in 0..self.rows {
            // A sum of `0 · x` is 0 for finite numbers and NaN otherwise: one pass without branches.
            let poison = sum_of(self.row(row), self.row(row), |x, _| zero * x.real());
            if !poison.finite() {
                for (column, x) in self.row(row).iter().enumerate() {
                    if !x.real().finite() {
                        return Err(Error::NotFinite {
                            matrix,
                            row,
                            column,
                            value: x.real().f64(),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// A copy in f64, `[rows · dim]`, without gaps.
    pub fn to_f64(&self) -> Vec<f64> {
        (0..self.rows).flat_map(|i| self.row(i).iter().map(|x| x.real().f64())).collect()
    }
}

/// Cosine similarity divides by a norm no smaller than this.
pub const NORM_FLOOR: f64 = 1e-12;

/// `Σ term(a_l, b_l)`, in an order that vectors can follow.
#[inline(always)]
pub(crate) fn sum_of<A: Copy, B: Copy, R: Real>(a: &[A], b: &[B], term: impl Fn(A, B) -> R) -> R {
    const LANES: usize = 16;
    let mut sums = [R::default(); LANES];
    let ((a, a_tail), (b, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] += term(a[lane], b[lane]);
        }
    }
    for (sum, (&a, &b)) in sums.iter_mut().zip(a_tail.iter().zip(b_tail)) {
        *sum += term(a, b);
    }
    sums.iter().fold(R::default(), |total, &sum| total + sum)
}

/// The Euclidean norm of a row, in f64, without overflow or underflow on the way.
#[inline(always)]
pub(crate) fn norm<T: Element>(row: &[T]) -> f64 {
    let squares = sum_of(row, row, |x, y| x.real().f64() * y.real().f64());
    if squares.is_normal() && squares < f64::MAX && squares > 1e-280 {
        return squares.sqrt();
    }
    let largest = row.iter().fold(0.0f64, |m, x| m.max(x.real().f64().abs()));
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    largest * row.iter().map(|x| (x.real().f64() / largest).powi(2)).sum::<f64>().sqrt()
}
