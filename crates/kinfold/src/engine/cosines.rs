//! Cosines of rows with columns, a whole row of them at a time, for measures.
//!
//! Input: two matrices. Output: whatever a closure says of each row's cosines with all columns.
//! There is never more than a block of rows per thread: no matrix of all cosines. The same two rows
//! have the same bits wherever they stand, so exact duplicates tie exactly.

use crate::embeddings::{Element, Embeddings};
use crate::engine::aligned::Aligned;
use crate::engine::kernels::{Arithmetic, Kernels};
use crate::engine::packed::{PackedPair, pack};
use crate::engine::rows::{Comparison, Rows};
use crate::engine::threads::Team;
use crate::execution::Instructions;
use rayon::prelude::*;

/// About so many rows are in a thread's hands at a time, and so many columns go by in the cache.
const ROWS: usize = 96;
const COLUMNS: usize = 512;

/// Columns, packed, for rows to be compared with.
pub(crate) struct Cosines<T: Element> {
    kernels: &'static Kernels<T::Real>,
    packed: Aligned<T::Real>,
    columns: usize,
    dim: usize,
}

/// What one thread works in.
struct Scratch<R: Arithmetic> {
    left: Aligned<R>,
    strip: Aligned<R>,
    cosines: Vec<R>,
}

impl<T: Element> Cosines<T> {
    pub(crate) fn with(columns: Embeddings<'_, T>) -> Self {
        let kernels = T::Real::kernels(Instructions::best());
        let (n, dim) = (columns.rows(), columns.dim());
        let rows = unit(columns);
        let panels = n.div_ceil(kernels.width);
        let mut packed = Aligned::any(panels * kernels.width * dim);
        packed.par_chunks_mut(kernels.width * dim).enumerate().for_each(|(j, packed)| {
            let from = j * kernels.width;
            pack(kernels.width, &rows, from..(from + kernels.width).min(n), packed);
        });
        Self { kernels, packed, columns: n, dim }
    }

    /// What `look` says of each row, given its number and its cosines with all columns. `rows` have
    /// the columns' dimension.
    pub(crate) fn each_row<O: Send>(
        &self,
        rows: Embeddings<'_, T>,
        look: impl Fn(usize, &[T::Real]) -> O + Sync,
    ) -> Vec<O> {
        let (n, rows) = (rows.rows(), unit(rows));
        let block = self.block();
        let scratch = || Scratch {
            left: Aligned::any(block * self.dim),
            strip: Aligned::any(self.packed.len() / self.dim * block),
            cosines: vec![T::Real::default(); self.columns],
        };
        let blocks: Vec<Vec<O>> = (0..n.div_ceil(block))
            .into_par_iter()
            .map_init(scratch, |scratch, b| {
                let rows_here = b * block..((b + 1) * block).min(n);
                let Scratch { left, strip, cosines } = scratch;
                pack(self.kernels.height, &rows, rows_here.clone(), left);
                self.product(left, strip);
                let judged = rows_here.map(|i| {
                    self.gather(strip, i % block, cosines);
                    look(i, cosines)
                });
                judged.collect()
            })
            .collect();
        blocks.into_iter().flatten().collect()
    }

    /// Rows of a block: whole tiles.
    fn block(&self) -> usize {
        let height = self.kernels.height;
        height * (ROWS / height).max(1)
    }

    fn product(&self, left: &[T::Real], strip: &mut [T::Real]) {
        let Kernels { height, width, .. } = *self.kernels;
        let (dim, block) = (self.dim, self.block());
        let panels = (COLUMNS / width).max(1);
        let columns = self.packed.chunks(panels * width * dim);
        for (right, out) in columns.zip(strip.chunks_mut(panels * width * block)) {
            let pair = PackedPair {
                dim,
                rows: left,
                row_panels: block / height,
                columns: right,
                column_panels: right.len() / (width * dim),
            };
            pair.dot_products(self.kernels, out, block * width);
        }
    }

    /// Row `r` of the block, out of the panels.
    fn gather(&self, strip: &[T::Real], r: usize, cosines: &mut [T::Real]) {
        let width = self.kernels.width;
        let panels = strip.chunks(self.block() * width);
        for (cosines, panel) in cosines.chunks_mut(width).zip(panels) {
            cosines.copy_from_slice(&panel[r * width..][..cosines.len()]);
        }
    }
}

fn unit<T: Element>(x: Embeddings<'_, T>) -> Rows<'_, T> {
    let team = Team::new(rayon::current_num_threads(), Instructions::best());
    Rows::new(x, None, Comparison::COSINE, &team)
}
