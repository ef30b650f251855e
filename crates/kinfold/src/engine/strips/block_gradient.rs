//! Phase A, second part: a block's terms become weights, and the weights its rows' gradient.
//!
//! Input: a block whose terms are in its part of the matrix, and the factors that they are multiplied by.
//! Output: weights in their place; the gradient of the block's rows; its rows packed for phase B.

use super::block::{Block, Factors};
use super::packed_problem::PackedProblem;
use super::panel::{Panel, PanelFactors, Powers};
use super::plan::Plan;
use crate::embeddings::{Element, Real};
use crate::engine::kernels::{Layout, Operand, Product, WIDEST_TILE};
use crate::engine::terms::outcome::RowOutcome;
use std::ops::Range;

impl<R: Real> Block<'_, '_, R> {
    /// Turns a chunk's terms into weights, one way.
    pub(super) fn weigh_by_rows<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        panels: Range<usize>,
    ) {
        let base = self.base(&p.plan);
        let none = [R::default(); WIDEST_TILE];
        for j in panels.clone() {
            let at = self.panel_at(&p.plan, j, base);
            let (first, second) = self.scratch.factors.split_at(p.plan.block_rows);
            let rows = self.positives.len();
            let factors = PanelFactors {
                of_rows: [&first[..rows], &second[..rows]],
                of_columns: [&none[..p.plan.width]; 2],
            };
            let powers = Powers { shifts: self.scratch.shifts, copy: self.scratch.panel_copy };
            let panel = Panel { first_row: self.first_row, j, elements: &mut self.matrix[at] };
            panel.weigh(p, powers, factors);
        }
        self.set_positives(p, panels, |block, i| R::from_f64(block.outcomes[i].positive));
    }

    /// Turns a chunk's terms into weights, where columns choose, too.
    pub(super) fn weigh<'f, T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        panels: Range<usize>,
        factors: &'f Factors<R>,
    ) {
        let width = p.plan.width;
        let base = self.base(&p.plan);
        let rows = self.first_row..self.first_row + self.rows();
        let part = |factors: &'f [Vec<R>; 2], range: Range<usize>| {
            let [first, second] = factors;
            [&first[range.clone()], second.get(range).unwrap_or(&[])]
        };
        for j in panels.clone() {
            let at = self.panel_at(&p.plan, j, base);
            let of_panel = PanelFactors {
                of_rows: part(&factors.of_rows, rows.clone()),
                of_columns: part(&factors.of_columns, j * width..(j + 1) * width),
            };
            let powers = Powers { shifts: self.scratch.shifts, copy: self.scratch.panel_copy };
            let panel = Panel { first_row: self.first_row, j, elements: &mut self.matrix[at] };
            panel.weigh(p, powers, of_panel);
        }
        self.set_positives(p, panels, |block, i| factors.of_positives[block.first_row + i]);
    }

    /// Writes the weights of the positives among some panels.
    #[inline(always)]
    fn set_positives<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        panels: Range<usize>,
        weight: impl Fn(&Self, usize) -> R,
    ) {
        for i in 0..self.rows() {
            let positive = p.problem.positive_column(self.first_row + i);
            if let Some(column) = positive.filter(|c| panels.contains(&(c / p.plan.width))) {
                self.set(&p.plan, i, column, weight(self, i));
            }
        }
    }

    /// Writes the weight of the block's row i and `column`.
    fn set(&mut self, p: &Plan, i: usize, column: usize, weight: R) {
        let panel = (column / p.width - self.base(p)) * p.panel_len();
        self.matrix[panel + i * p.width + column % p.width] = weight;
    }

    /// `row gradients (+)= W b` over chunk `c`, of which the panels in `panels` count.
    pub(super) fn add_row_gradients<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        c: usize,
        panels: Range<usize>,
        add: bool,
    ) {
        let Plan { height, width, chunk_panels, right_feature_panels, .. } = p.plan;
        let panel_len = p.plan.panel_len();
        let skipped = (panels.start - c * chunk_panels) * width * width;
        let left = &self.matrix[(panels.start - self.base(&p.plan)) * panel_len..];
        let right = &p.columns.for_gradient[c * p.plan.chunk_features_len() + skipped..];
        let (left_panels, left_stride) = (self.rows().div_ceil(height), height * width);
        let right_stride = chunk_panels * width * width;
        let product = Product {
            layout: Layout::AsStored,
            left: Operand::panels(left, left_panels, left_stride).segments(panel_len),
            right: Operand::panels(right, right_feature_panels, right_stride)
                .segments(width * width),
            segments: panels.len(),
            depth: width,
            add,
            next_right: right_stride,
        };
        p.kernels.product(&product, self.scratch.row_gradients, panel_len);
    }

    /// One way, where terms were multiplied with the columns before their factor was known.
    #[inline(always)]
    pub(super) fn finish_at_once<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let (width, dim) = (p.plan.width, p.plan.shape.dim);
        let panel_len = p.plan.panel_len();
        for i in 0..self.rows() {
            let RowOutcome { factors: [factor, _], positive, .. } = self.outcomes[i];
            // W_ip = factor · of_positive, like all other weights.
            let (factor, of_positive) =
                if factor == 0.0 { (0.0, positive) } else { (factor, positive / factor) };
            let only_positive = factor == 0.0;
            let (mut factor, of_positive) = (R::from_f64(factor), R::from_f64(of_positive));
            if factor == R::default() {
                // No negative has a weight; the positive may have one all the same.
                self.clear(&p.plan, i);
                let panels = self.scratch.row_gradients.chunks_mut(panel_len);
                panels.for_each(|panel| panel[i * width..(i + 1) * width].fill(R::default()));
                factor = R::from_f64(if only_positive { 1.0 } else { 0.0 });
            }
            let column = p.problem.positive_column(self.first_row + i);
            if let Some(column) = column {
                self.set(&p.plan, i, column, of_positive);
            }
            // out += factor · (Σ_negatives E b + of_positive · b_positive)
            for l in (0..dim).step_by(width) {
                let sums = &self.scratch.row_gradients[l / width * panel_len + i * width..];
                let out = &mut self.out[i][l..dim.min(l + width)];
                match column {
                    Some(column) => {
                        let positive = &p.features_of(column, l / width)[..width];
                        for ((out, &sum), &b) in out.iter_mut().zip(sums).zip(positive) {
                            *out += factor * (sum + of_positive * b);
                        }
                    }
                    None => {
                        out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += factor * sum);
                    }
                }
            }
            self.pack_features(p, i, factor);
        }
    }

    /// Takes away all weights of the block's row i.
    fn clear(&mut self, p: &Plan, i: usize) {
        for panel in self.matrix.chunks_mut(p.panel_len()) {
            panel[i * p.width..(i + 1) * p.width].fill(R::default());
        }
    }

    #[inline(always)]
    pub(super) fn finish_weighted<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let (width, dim) = (p.plan.width, p.plan.shape.dim);
        for i in 0..self.rows() {
            for l in (0..dim).step_by(width) {
                let from = l / width * p.plan.panel_len() + i * width;
                let sums = &self.scratch.row_gradients[from..];
                let out = &mut self.out[i][l..dim.min(l + width)];
                out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += sum);
            }
            self.pack_features(p, i, R::from_f64(1.0));
        }
    }

    /// Packs the block's row i, times `factor`, as the left operand of the columns' gradient.
    #[inline(always)]
    fn pack_features<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        i: usize,
        factor: R,
    ) {
        let Plan { height, block_rows, .. } = p.plan;
        let (row, _) = self.scratch.rows.split_at_mut(p.plan.shape.dim);
        p.problem.rows.rows.read(self.first_row + i, row);
        let panels = self.scratch.row_features.chunks_mut(block_rows * height);
        for (panel, row) in panels.zip(row.chunks(height)) {
            let to = &mut panel[i * height..(i + 1) * height];
            to[row.len()..].fill(R::default());
            to.iter_mut().zip(row).for_each(|(to, &x)| *to = factor * x);
        }
    }
}
