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

/// Rows whose features can be read as they are compared.
pub(crate) trait FeatureRows<R> {
    /// Features of a row.
    fn dim(&self) -> usize;

    /// As many features of row i as `out` has room for, beginning with `from`.
    fn read_part(&self, i: usize, from: usize, out: &mut [R]);
}

impl<T: Element> FeatureRows<T::Real> for Rows<'_, T> {
    fn dim(&self) -> usize {
        Rows::dim(self)
    }

    #[inline(always)]
    fn read_part(&self, i: usize, from: usize, out: &mut [T::Real]) {
        Rows::read_part(self, i, from, out);
    }
}

/// Packs rows as the left operand of a product, for tiles of `height` rows; columns are packed the
/// same way, with a tile's width for its height. What is missing of the last panel becomes zeros.
#[inline(always)]
pub(crate) fn pack<R: Real>(
    height: usize,
    rows: &impl FeatureRows<R>,
    which: Range<usize>,
    packed: &mut [R],
) {
    let dim = rows.dim();
    let panels = packed.chunks_exact_mut(height * dim);
    for (panel, first) in panels.zip(which.clone().step_by(height)) {
        for part in (0..height).step_by(SIDE) {
            let from = which.end.min(first + part);
            let count = SIDE.min(height - part);
            for features in parts_of(0..dim) {
                let square = Square::read(rows, from..which.end.min(from + count), &features);
                let panel = &mut panel[features.start * height + part..];
                square.write_columns(features.len(), count, height, panel);
            }
        }
    }
}

/// `features` in parts that a [`Square`] takes.
#[inline(always)]
pub(crate) fn parts_of(features: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = features.end;
    features.step_by(FEATURES).map(move |from| from..end.min(from + FEATURES))
}

/// Rows that are turned into columns at a time.
pub(crate) const SIDE: usize = 4;

/// A few features of a few rows, on their way from memory, where rows lie one below the other, to a
/// panel, where they lie side by side.
pub(crate) struct Square<R>([[R; FEATURES]; SIDE]);

/// Features of a square: a multiple of every tile's width.
const FEATURES: usize = 96;

impl<R: Real> Square<R> {
    /// Rows as they are compared; zeros for those that are missing.
    #[inline(always)]
    pub(crate) fn read(
        rows: &impl FeatureRows<R>,
        which: Range<usize>,
        features: &Range<usize>,
    ) -> Self {
        let mut square = [[R::default(); FEATURES]; SIDE];
        for (row, which) in square.iter_mut().zip(which) {
            rows.read_part(which, features.start, &mut row[..features.len()]);
        }
        Self(square)
    }

    /// One of the rows.
    pub(crate) fn row(&self, i: usize) -> &[R] {
        &self.0[i]
    }

    /// Writes `features` columns of `rows` numbers, whose starts lie `stride` numbers apart.
    #[inline(always)]
    pub(crate) fn write_columns(&self, features: usize, rows: usize, stride: usize, out: &mut [R]) {
        let turned = if rows == SIDE { features / SIDE * SIDE } else { 0 };
        let [a, b, c, d] = &self.0;
        for from in (0..turned).step_by(SIDE) {
            // The compiler makes shuffles of this.
            for k in from..from + SIDE {
                out[k * stride..][..SIDE].copy_from_slice(&[a[k], b[k], c[k], d[k]]);
            }
        }
        for k in turned..features {
            for (out, row) in out[k * stride..][..rows].iter_mut().zip(&self.0) {
                *out = row[k];
            }
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
