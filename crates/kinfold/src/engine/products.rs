//! The small matrix products of a strip, each on one thread, and how threads share blocks of them.
#![allow(unsafe_code, reason = "gemm takes raw pointers; every length is asserted beside the call")]

use crate::embeddings::Real;
use rayon::prelude::*;

/// Runs `work` on every item, on at most `threads` threads of the current rayon pool.
pub(super) fn in_blocks<I: Send>(
    threads: usize,
    items: impl Iterator<Item = I>,
    work: impl Fn(I) + Sync + Send,
) {
    if threads <= 1 {
        return items.for_each(work);
    }
    let mut items: Vec<I> = items.collect();
    let share = items.len().div_ceil(threads).max(1);
    items.par_drain(..).with_min_len(share).for_each(work);
}

/// `out[m, n] = scale · a[m, d] · b[n, d]ᵀ`.
pub(super) fn product<R: Real>(out: &mut [R], a: &[R], b: &[R], d: usize, scale: R) {
    let (m, n) = (a.len() / d, b.len() / d);
    assert!(a.len() == m * d && b.len() == n * d && out.len() == m * n);
    let (d_stride, n_stride) = (d as isize, n as isize);
    // SAFETY: with the strides given, element (i, j) of `out` is at i·n + j < m·n, element (i, l) of
    // `a` at i·d + l < m·d and element (l, j) of `bᵀ` at j·d + l < n·d: all within the slices by the
    // assertion. `out` is borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            n,
            d,
            out.as_mut_ptr(),
            1,
            n_stride,
            false,
            a.as_ptr(),
            1,
            d_stride,
            b.as_ptr(),
            d_stride,
            1,
            R::default(),
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// `out[m, d] += w[m, n] · x[n, d]`, where element (i, j) of `w` lies at `i·strides.0 + j·strides.1`
/// (so that `w` may be read transposed).
pub(super) fn add_product<R: Real>(
    out: &mut [R],
    w: &[R],
    strides: (usize, usize),
    x: &[R],
    d: usize,
) {
    let (m, n) = (out.len() / d, x.len() / d);
    assert!(out.len() == m * d && x.len() == n * d && m > 0 && n > 0);
    assert!((m - 1) * strides.0 + (n - 1) * strides.1 < w.len());
    // SAFETY: element (i, l) of `out` is at i·d + l < m·d, element (j, l) of `x` at j·d + l < n·d,
    // and the last element of `w` at (m−1)·strides.0 + (n−1)·strides.1 < its length, all by the
    // assertions. `out` is borrowed mutably, so it overlaps neither input.
    unsafe {
        gemm::gemm(
            m,
            d,
            n,
            out.as_mut_ptr(),
            1,
            d as isize,
            true,
            w.as_ptr(),
            strides.1 as isize,
            strides.0 as isize,
            x.as_ptr(),
            1,
            d as isize,
            R::from_f64(1.0),
            R::from_f64(1.0),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
