//! What one thread does with one block of rows, for all prefixes at once.
//!
//! Input: a block of rows, and all columns, packed. Output: the block's sums for each prefix; or, once these
//! are complete, weights for the columns' gradient, the gradient of the block's rows, and what of both goes
//! into lengths.
//!
//! The cosine of a prefix is that of the one before it, rescaled, and the segment's own product:
//!
//! ```text
//! c^k_ij = ρ^k_i ρ^k_j c^(k−1)_ij + ⟨a_i, b_j⟩ over segment k        G^k = ∂L^k/∂c^k
//! W^k_ij = G^k_ij + ρ^(k+1)_i ρ^(k+1)_j W^(k+1)_ij                   ∂a, ∂b over segment k: W^k b, W^kᵀ a
//! ```

use super::problem::Prefixes;
use crate::embeddings::{Element, Real};
use crate::engine::kernels::{Layout, Operand, Product, SumsOf, WeightsOf};
use crate::engine::packed::{DEPTH, FeatureRows, pack};
use crate::engine::strips::panel::{Panel, hides};
use crate::engine::strips::plan::Plan;
use std::ops::Range;

/// What is computed.
#[derive(Clone, Copy)]
pub(crate) enum Pass<'p, R> {
    /// Sums of rows and columns.
    Sums,
    /// The gradient, by the weights that follow from the sums.
    Gradient(&'p Factors<R>),
}

/// What exponentials are multiplied by, `of_rows_i + of_columns_j`; for each prefix.
pub(crate) struct Factors<R> {
    /// As long as all panels, as those of columns are.
    pub(crate) of_rows: Vec<Vec<R>>,
    pub(crate) of_columns: Vec<Vec<R>>,
    /// The weight of each row's positive.
    pub(crate) of_positives: Vec<Vec<R>>,
}

/// A block of rows and the memory that belongs to it alone.
pub(crate) struct Block<'w, 'o, R> {
    pub(crate) rows: Range<usize>,
    /// The first panel that its strip stores.
    pub(crate) base: usize,
    /// Its weights, `[prefixes, panels, block rows, width]`; empty where only sums are wanted.
    pub(crate) matrix: &'w mut [R],
    pub(crate) scratch: Scratch<'w, R>,
    /// Sums of exponentials, or of `G c`: of its rows, `[prefixes, block rows]`, and its share of those of
    /// the columns, `[prefixes, panels, width]`.
    pub(crate) row_sums: &'w mut [f64],
    pub(crate) column_sums: &'w mut [f64],
    /// Its rows' gradient, to be added to.
    pub(crate) out: &'w mut [&'o mut [R]],
}

/// Memory for one block.
pub(crate) struct Scratch<'w, R> {
    /// Its rows, packed as the left operand of the logits.
    pub(crate) rows: &'w mut [R],
    /// The same for the columns' gradient, `[feature panels, block rows, height]`.
    pub(crate) row_features: &'w mut [R],
    /// `W b`, `[feature panels, block rows, width]`.
    pub(crate) row_gradients: &'w mut [R],
    /// A panel of cosines, and a copy of it.
    pub(crate) cosines: &'w mut [R],
    pub(crate) copy: &'w mut [R],
    /// A vector for each row and prefix.
    pub(crate) partial_sums: &'w mut [R],
    /// The shift of each row.
    pub(crate) shifts: &'w mut [R],
}

/// Calls a function with a tile's width, of which there are few, as a constant.
macro_rules! by_width {
    ($width:expr, $call:ident $arguments:tt) => {
        match $width {
            6 => $call::<R, 6> $arguments,
            8 => $call::<R, 8> $arguments,
            12 => $call::<R, 12> $arguments,
            16 => $call::<R, 16> $arguments,
            32 => $call::<R, 32> $arguments,
            other => unreachable!("no tile is {other} wide"),
        }
    };
}

impl<R: Real> Block<'_, '_, R> {
    #[inline(always)]
    pub(crate) fn run<T: Element<Real = R>>(mut self, p: &Prefixes<'_, T>, pass: Pass<'_, R>) {
        let Plan { chunk_panels, panels, height, .. } = p.packed.plan;
        pack(height, p.rows, self.rows.clone(), self.scratch.rows);
        self.scratch.shifts.fill(R::from_f64(p.common.shift));
        let first = p.packed.plan.first_panel(self.rows.start);
        let start = first / chunk_panels;
        for c in start..p.packed.plan.chunks() {
            let range = first.max(c * chunk_panels)..panels.min((c + 1) * chunk_panels);
            match pass {
                Pass::Sums => self.add_sums(p, range),
                Pass::Gradient(factors) => {
                    self.weigh(p, range.clone(), factors);
                    self.add_row_gradients(p, c, range, c > start);
                }
            }
        }
        if let Pass::Gradient(_) = pass {
            self.finish(p);
        }
    }

    /// The cosines of the block's rows and panel `j` over prefix `k`, given those over the one before it.
    #[inline(always)]
    fn advance<T: Element<Real = R>>(&mut self, p: &Prefixes<'_, T>, j: usize, k: usize) {
        let Plan { width, height, .. } = p.packed.plan;
        let (count, dim) = (self.rows.len(), p.rows.dim());
        let cosines = &mut *self.scratch.cosines;
        if k > 0 {
            let of_rows = &p.rows.ratios[k][self.rows.clone()];
            let of_columns = &p.columns.ratios[k][j * width..(j + 1) * width];
            by_width!(width, rescale(&mut cosines[..count * width], of_rows, of_columns));
        }
        let Range { start, end } = p.segments[k].features;
        for from in (start..end).step_by(DEPTH) {
            let depth = DEPTH.min(end - from);
            let product = Product {
                layout: Layout::Packed,
                left: Operand::panels(
                    &self.scratch.rows[from * height..],
                    count.div_ceil(height),
                    dim * height,
                ),
                right: Operand::panel(&p.packed_columns.for_logits[(j * dim + from) * width..]),
                segments: 1,
                depth,
                add: from > 0,
                next_right: DEPTH * width,
            };
            p.packed.kernels.product(&product, cosines, p.packed.plan.panel_len());
        }
    }

    /// Adds the sums of a chunk's exponentials: a vector of R for each row within the chunk, f64 across.
    #[inline(always)]
    fn add_sums<T: Element<Real = R>>(&mut self, p: &Prefixes<'_, T>, panels: Range<usize>) {
        let Plan { width, lanes, block_rows, .. } = p.packed.plan;
        let (count, each) = (self.rows.len(), p.segments.len());
        let partial_len = block_rows * lanes;
        self.scratch.partial_sums.fill(R::default());
        let all_columns = self.column_sums.len() / each;
        for j in panels {
            for k in 0..each {
                self.advance(p, j, k);
                let Scratch { cosines, copy, partial_sums, shifts, .. } = &mut self.scratch;
                let logits = visible(p, &self.rows, j, &cosines[..count * width], copy);
                let sums = SumsOf {
                    rows: &mut partial_sums[k * partial_len..][..count * lanes],
                    columns: &mut self.column_sums[k * all_columns + j * width..][..width],
                };
                p.packed.kernels.exponential_sums(logits, p.packed.scale, &shifts[..count], sums);
            }
        }
        self.add_partial_sums(p);
    }

    fn add_partial_sums<T: Element<Real = R>>(&mut self, p: &Prefixes<'_, T>) {
        let Plan { lanes, block_rows, .. } = p.packed.plan;
        let sums = self.row_sums.chunks_mut(block_rows);
        for (sums, partial) in sums.zip(self.scratch.partial_sums.chunks(block_rows * lanes)) {
            for (sum, partial) in sums.iter_mut().zip(partial.chunks(lanes)).take(self.rows.len()) {
                *sum += partial.iter().map(|x| x.f64()).sum::<f64>();
            }
        }
    }

    /// A chunk's weights `W^k`, and the sums of `G^k c^k` over rows and columns.
    #[inline(always)]
    fn weigh<T: Element<Real = R>>(
        &mut self,
        p: &Prefixes<'_, T>,
        panels: Range<usize>,
        factors: &Factors<R>,
    ) {
        let Plan { width, block_rows, lanes, .. } = p.packed.plan;
        let (count, each) = (self.rows.len(), p.segments.len());
        let (panel_len, stored) = (p.packed.plan.panel_len(), self.matrix.len() / each);
        let partial_len = block_rows * lanes;
        self.scratch.partial_sums.fill(R::default());
        let all_columns = self.column_sums.len() / each;
        for j in panels {
            let at = (j - self.base) * panel_len;
            for k in 0..each {
                self.advance(p, j, k);
                let Scratch { cosines, copy, partial_sums, shifts, .. } = &mut self.scratch;
                let cosines = &cosines[..count * width];
                let logits = visible(p, &self.rows, j, cosines, copy);
                let weights = &mut self.matrix[k * stored + at..][..count * width];
                let of = WeightsOf {
                    rows: &factors.of_rows[k][self.rows.clone()],
                    columns: &factors.of_columns[k][j * width..(j + 1) * width],
                };
                let of_columns = &mut self.column_sums[k * all_columns + j * width..][..width];
                let sums = SumsOf {
                    rows: &mut partial_sums[k * partial_len..][..count * lanes],
                    columns: &mut *of_columns,
                };
                let exponents = (p.packed.scale, &shifts[..count]);
                let both = [logits, cosines];
                p.packed.kernels.weighted_exponentials(weights, both, exponents, of, sums);
                for (i, row) in self.rows.clone().enumerate() {
                    let positive = p.packed.problem.positive_column(row);
                    if let Some(column) = positive.filter(|column| column / width == j) {
                        let (at, weight) =
                            (i * width + column % width, factors.of_positives[k][row]);
                        weights[at] = weight;
                        let along = weight.f64() * cosines[at].f64();
                        self.row_sums[k * block_rows + i] += along;
                        of_columns[column % width] += along;
                    }
                }
            }
            for k in (1..each).rev() {
                let (shorter, longer) = self.matrix.split_at_mut(k * stored);
                let longer = &longer[at..][..count * width];
                let shorter = &mut shorter[(k - 1) * stored + at..][..count * width];
                let of_rows = &p.rows.ratios[k][self.rows.clone()];
                let of_columns = &p.columns.ratios[k][j * width..(j + 1) * width];
                by_width!(width, add_rescaled(shorter, longer, of_rows, of_columns));
            }
        }
        self.add_partial_sums(p);
    }

    /// `row gradients (+)= W b` over chunk `c`, of which the panels in `panels` count.
    #[inline(always)]
    fn add_row_gradients<T: Element<Real = R>>(
        &mut self,
        p: &Prefixes<'_, T>,
        c: usize,
        panels: Range<usize>,
        add: bool,
    ) {
        let Plan { height, width, chunk_panels, .. } = p.packed.plan;
        let (panel_len, each) = (p.packed.plan.panel_len(), p.segments.len());
        let stored = self.matrix.len() / each;
        let right_stride = chunk_panels * width * width;
        let chunk = c * p.right_features.count() * right_stride;
        let skipped = (panels.start - c * chunk_panels) * width * width;
        for (k, features) in p.right_features.of_segment.iter().enumerate() {
            let left = &self.matrix[k * stored + (panels.start - self.base) * panel_len..];
            let from = chunk + features.start * right_stride + skipped;
            let right = &p.packed_columns.for_gradient[from..];
            let product = Product {
                layout: Layout::AsStored,
                left: Operand::panels(left, self.rows.len().div_ceil(height), height * width)
                    .segments(panel_len),
                right: Operand::panels(right, features.len(), right_stride).segments(width * width),
                segments: panels.len(),
                depth: width,
                add,
                next_right: right_stride,
            };
            let out = &mut self.scratch.row_gradients[features.start * panel_len..];
            p.packed.kernels.product(&product, out, panel_len);
        }
    }

    /// Adds the block's gradients to those of its rows, and packs the rows for those of the columns.
    #[inline(always)]
    fn finish<T: Element<Real = R>>(&mut self, p: &Prefixes<'_, T>) {
        let Plan { width, height, block_rows, .. } = p.packed.plan;
        let panel_len = p.packed.plan.panel_len();
        for (i, row) in self.rows.clone().enumerate() {
            let panels = self.scratch.row_gradients.chunks(panel_len);
            for (panel, features) in panels.zip(&p.right_features.features) {
                let sums = &panel[i * width..];
                let out = &mut self.out[i][features.clone()];
                out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += sum);
            }
            let panels = self.scratch.row_features.chunks_mut(block_rows * height);
            for (panel, features) in panels.zip(&p.left_features.features) {
                let (to, missing) =
                    panel[i * height..(i + 1) * height].split_at_mut(features.len());
                p.rows.read_part(row, features.start, to);
                missing.fill(R::default());
            }
        }
    }
}

/// The cosines of rows and panel `j`; where some are no negatives, in a copy in which these are minus
/// infinity.
#[inline(always)]
fn visible<'s, T: Element>(
    p: &Prefixes<'_, T>,
    rows: &Range<usize>,
    j: usize,
    cosines: &'s [T::Real],
    copy: &'s mut [T::Real],
) -> &'s [T::Real] {
    if !hides(&p.packed, rows, j) {
        return cosines;
    }
    let elements = &mut copy[..cosines.len()];
    elements.copy_from_slice(cosines);
    Panel { first_row: rows.start, j, elements: &mut *elements }.hide(&p.packed);
    elements
}

/// `panel[i][j] *= of_rows[i] · of_columns[j]`.
#[inline(always)]
fn rescale<R: Real, const W: usize>(panel: &mut [R], of_rows: &[R], of_columns: &[R]) {
    let (rows, _) = panel.as_chunks_mut::<W>();
    let Some(of_columns) = of_columns.first_chunk::<W>() else { return };
    for (row, &of_row) in rows.iter_mut().zip(of_rows) {
        for (x, &of_column) in row.iter_mut().zip(of_columns) {
            *x = *x * (of_row * of_column);
        }
    }
}

/// `to[i][j] += of_rows[i] · of_columns[j] · from[i][j]`.
#[inline(always)]
fn add_rescaled<R: Real, const W: usize>(
    to: &mut [R],
    from: &[R],
    of_rows: &[R],
    of_columns: &[R],
) {
    let ((to, _), (from, _)) = (to.as_chunks_mut::<W>(), from.as_chunks::<W>());
    let Some(of_columns) = of_columns.first_chunk::<W>() else { return };
    for ((to, from), &of_row) in to.iter_mut().zip(from).zip(of_rows) {
        for ((to, &from), &of_column) in to.iter_mut().zip(from).zip(of_columns) {
            *to += (of_row * of_column) * from;
        }
    }
}
