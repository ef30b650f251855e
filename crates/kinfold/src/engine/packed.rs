//! Packed operands: rows of a matrix laid out as the panels that a tile reads.
//!
//! Input: [`Rows`] as they are compared. Output: panels `[rows / height, dim, height]`, and the dot
//! products of two packed matrices.

use crate::embeddings::{Element, Real};
use crate::engine::kernels::{Kernels, Layout, Operand, Product};
use crate::engine::rows::Rows;
use std::ops::Range;

/// Inner indices of a product at a time (BLIS's k_c): what keeps a panel in the first cache.
pub(crate) const DEPTH: usize = 256;

/// Packs rows as the left operand of a product, for tiles of `height` rows; columns are packed the
/// same way, with a tile's width for its height. A row is read into `buffer`, which has room for one.
#[inline(always)]
pub(crate) fn pack<T: Element>(
    height: usize,
    rows: &Rows<'_, T>,
    which: Range<usize>,
    buffer: &mut [T::Real],
    packed: &mut [T::Real],
) {
    let dim = rows.dim();
    let (row, _) = buffer.split_at_mut(dim);
    packed.fill(T::Real::default());
    for (i, which) in which.enumerate() {
        rows.read(which, row);
        let panel = &mut packed[i / height * height * dim..][..height * dim];
        for (to, x) in panel[i % height..].iter_mut().step_by(height).zip(&*row) {
            *to = *x;
        }
    }
}

/// Rows and columns of one dimension, packed.
#[derive(Clone, Copy)]
pub(crate) struct PackedPair<'a, R> {
    pub(crate) dim: usize,
    pub(crate) rows: &'a [R],
    pub(crate) row_panels: usize,
    pub(crate) columns: &'a [R],
    pub(crate) column_panels: usize,
}

impl<R: Real> PackedPair<'_, R> {
    /// All dot products, `[column panels, rows, width]`, where a panel of `out` has `out_panel` numbers.
    pub(crate) fn dot_products(&self, kernels: &Kernels<R>, out: &mut [R], out_panel: usize) {
        let Self { dim, rows, row_panels, columns, column_panels } = *self;
        let Kernels { height, width, .. } = *kernels;
        for from in (0..dim).step_by(DEPTH) {
            let product = Product {
                layout: Layout::Packed,
                left: Operand::panels(&rows[from * height..], row_panels, dim * height),
                right: Operand::panels(&columns[from * width..], column_panels, dim * width),
                segments: 1,
                depth: DEPTH.min(dim - from),
                add: from > 0,
                next_right: DEPTH.min(dim - from) * width,
            };
            kernels.product(&product, out, out_panel);
        }
    }
}
