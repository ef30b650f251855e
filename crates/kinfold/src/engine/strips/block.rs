//! Phase A: what one thread does with one block of rows.
//!
//! Input: a block of rows, and all columns, packed. Output: the block's part of the matrix, with weights
//! for phase B; its row sums and its share of the column sums; the gradient of its rows. While a chunk of
//! columns is worked on, everything it takes lies in the second cache.

use super::packed_problem::PackedProblem;
use super::panel::{Panel, exponentials_alone};
use super::plan::Plan;
use crate::embeddings::{Element, Real};
use crate::engine::kernels::WIDEST_TILE;
use crate::engine::packed::{PackedPair, pack};
use crate::engine::terms::outcome::RowOutcome;
use crate::engine::terms::rule::{RowSums, Terms};
use std::ops::Range;

/// What is subtracted from logits before they are exponentiated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shift {
    /// One number for all: exponentials serve rows and columns alike.
    Common(f64),
    /// The largest negative of each row: always safe, one way only.
    RowMaximum,
}

/// What phase A computes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pass<'p, R> {
    /// One way: sums and outcomes of rows and, as their weights are known with these, the gradient.
    OneWay { shift: Shift, gradient: bool },
    /// Sums of rows and columns only. The terms are kept for the second pass, or overwritten.
    Sums { shift: f64, keep: bool },
    /// The gradient, with weights `E_ij · (of_rows_i + of_columns_j)`, of terms that were kept, or
    /// computed again.
    Weighted { shift: f64, kept: bool, factors: &'p Factors<R> },
}

/// What terms are multiplied by where both their row and their column choose, first and second ones; the
/// second are empty where there is one sum.
#[derive(Debug)]
pub(crate) struct Factors<R> {
    /// As long as all panels, as those of columns are.
    pub(crate) of_rows: [Vec<R>; 2],
    pub(crate) of_columns: [Vec<R>; 2],
    /// The weight of each row's positive.
    pub(crate) of_positives: Vec<R>,
}

/// A block of rows and the memory that belongs to it alone.
pub(crate) struct Block<'w, 'o, R> {
    pub(crate) first_row: usize,
    /// The first row of its strip.
    pub(crate) strip_start: usize,
    /// Its part of the matrix, `[panels, block rows, width]`: dot products, then terms, then weights.
    pub(crate) matrix: &'w mut [R],
    pub(crate) scratch: Scratch<'w, R>,
    /// Sums over negatives, `[rows]`; the second are empty where there is one sum.
    pub(crate) row_sums: [&'w mut [f64]; 2],
    /// The logits of its rows' positives, `[rows]`.
    pub(crate) positives: &'w mut [f64],
    /// Its rows' outcomes, `[rows]`, one way.
    pub(crate) outcomes: &'w mut [RowOutcome],
    /// Its share of the sums over columns, `[panels, width]`; empty one way.
    pub(crate) column_sums: [&'w mut [f64]; 2],
    /// Its rows' gradient, to be added to; empty for the value alone.
    pub(crate) out: &'w mut [&'o mut [R]],
}

/// Memory for one block; [`Plan`] says of what length.
pub(crate) struct Scratch<'w, R> {
    /// Its rows, packed as the left operand of the logits.
    pub(crate) rows: &'w mut [R],
    /// The guide's rows, packed likewise.
    pub(crate) guide_rows: &'w mut [R],
    /// Its rows, packed as the left operand of the columns' gradient.
    pub(crate) row_features: &'w mut [R],
    /// `W b`, added up over chunks.
    pub(crate) row_gradients: &'w mut [R],
    /// A vector for each row, for sums and maxima within a chunk.
    pub(crate) partial_sums: &'w mut [R],
    pub(crate) panel_copy: &'w mut [R],
    /// Of each row; then those of both powers or, by label, that of the row's own label.
    pub(crate) shifts: &'w mut [R],
    /// What each row's terms are multiplied by, and its second terms.
    pub(crate) factors: &'w mut [R],
}

impl<R: Real> Block<'_, '_, R> {
    /// Does what `pass` says.
    #[inline(always)]
    pub(crate) fn run<T: Element<Real = R>>(mut self, p: &PackedProblem<'_, T>, pass: Pass<'_, R>) {
        let Plan { chunk_panels, panels, .. } = p.plan;
        let first_panel = p.plan.first_panel(self.first_row);
        let chunks = (first_panel / chunk_panels..p.plan.chunks())
            .map(|c| (c, first_panel.max(c * chunk_panels)..panels.min((c + 1) * chunk_panels)));
        if !matches!(pass, Pass::Weighted { kept: true, .. }) {
            self.pack_rows(p);
        }
        if !matches!(pass, Pass::Weighted { .. }) {
            for (i, positive) in self.positives.iter_mut().enumerate() {
                *positive = p.positive_logit(self.first_row + i);
            }
        }
        match pass {
            Pass::OneWay { shift, gradient } => {
                match shift {
                    Shift::Common(c) => self.shift_all(p, c),
                    Shift::RowMaximum => self.shift_by_maxima(p, first_panel..panels),
                }
                let ready = shift == Shift::RowMaximum;
                let at_once = gradient && p.plan.terms.single_pass();
                for (c, range) in chunks.clone() {
                    self.terms(p, range.clone(), p.plan.shape.whole_strips, ready);
                    if at_once {
                        self.add_row_gradients(p, c, range, c > 0);
                    }
                }
                self.set_outcomes(p);
                if at_once {
                    self.finish_at_once(p);
                } else if gradient {
                    for (i, outcome) in self.outcomes.iter().enumerate() {
                        self.scratch.factors[i] = R::from_f64(outcome.factors[0]);
                        self.scratch.factors[p.plan.block_rows + i] =
                            R::from_f64(outcome.factors[1]);
                    }
                    for (c, range) in chunks {
                        self.weigh_by_rows(p, range.clone());
                        self.add_row_gradients(p, c, range, c > 0);
                    }
                    self.finish_weighted(p);
                }
            }
            Pass::Sums { shift, keep } => {
                self.shift_all(p, shift);
                for (_, range) in chunks {
                    self.terms(p, range, keep, false);
                }
            }
            Pass::Weighted { shift, kept, factors } => {
                self.shift_all(p, shift);
                let start = first_panel / chunk_panels;
                for (c, range) in chunks {
                    if !kept {
                        self.terms(p, range.clone(), true, false);
                    }
                    self.weigh(p, range.clone(), factors);
                    self.add_row_gradients(p, c, range, c > start);
                }
                self.finish_weighted(p);
            }
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.positives.len()
    }

    /// Where panel `j` lies in the block's part of the matrix, which begins with panel `base`.
    pub(super) fn panel_at(&self, p: &Plan, j: usize, base: usize) -> Range<usize> {
        (j - base) * p.panel_len()..(j - base) * p.panel_len() + self.rows() * p.width
    }

    /// The first panel that the strip stores.
    pub(super) fn base(&self, p: &Plan) -> usize {
        p.first_panel(self.strip_start)
    }

    /// Packs the block's rows as the left operand of the logits.
    #[inline(always)]
    fn pack_rows<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let Scratch { rows: packed, guide_rows, .. } = &mut self.scratch;
        let rows = self.first_row..self.first_row + self.positives.len();
        pack(p.plan.height, p.problem.rows.rows, rows.clone(), packed);
        if let Some(guide) = p.problem.guide {
            pack(p.plan.height, &guide.rows, rows, guide_rows);
        }
    }

    /// One shift for all rows.
    fn shift_all<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>, shift: f64) {
        let shift = match p.plan.terms {
            // A negative shift makes the sigmoid's logit larger by the bias.
            Terms::Sigmoid(bias) => -bias,
            Terms::One | Terms::ByLabel | Terms::Powers(_) => shift,
        };
        self.scratch.shifts.fill(R::from_f64(shift));
        if matches!(p.plan.terms, Terms::Powers(_)) {
            self.shift_powers(p);
        }
    }

    /// The shifts of both powers, from the rows' shifts.
    fn shift_powers<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let powers = p.plan.terms.powers();
        let (shifts, of_powers) = self.scratch.shifts.split_at_mut(p.plan.block_rows);
        for (power, of_power) in powers.iter().zip(of_powers.chunks_mut(p.plan.block_rows)) {
            for (to, shift) in of_power.iter_mut().zip(&*shifts) {
                *to = R::from_f64(power * shift.f64());
            }
        }
    }

    /// The dot products with panel `j`, minus infinity where the column is no negative of the row.
    fn dot_products<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        j: usize,
        base: usize,
    ) {
        let Plan { width, height, .. } = p.plan;
        let (panel_len, rows) = (p.plan.panel_len(), self.rows());
        let out = &mut self.matrix[(j - base) * panel_len..][..panel_len];
        let pair = PackedPair {
            dim: p.plan.shape.dim,
            rows: &*self.scratch.rows,
            row_panels: rows.div_ceil(height),
            columns: &p.columns.for_logits[j * p.plan.shape.dim * width..],
            column_panels: 1,
        };
        pair.dot_products(p.kernels, out, panel_len);
        let elements = &mut out[..rows * width];
        Panel { first_row: self.first_row, j, elements }.hide(p);
        if let Some(guide) = p.problem.guide {
            let dim = p.plan.shape.guide_dim;
            let pair = PackedPair {
                dim,
                rows: &*self.scratch.guide_rows,
                columns: &p.guide_columns[j * dim * width..],
                ..pair
            };
            let similarities = &mut *self.scratch.panel_copy;
            pair.dot_products(p.kernels, similarities, panel_len);
            let thresholds = &guide.thresholds[self.first_row..];
            let judged = similarities.chunks(width).zip(thresholds);
            for (row, (similarities, &threshold)) in out.chunks_mut(width).take(rows).zip(judged) {
                for (x, &similarity) in row.iter_mut().zip(similarities) {
                    *x = if similarity > threshold { R::from_f64(f64::NEG_INFINITY) } else { *x };
                }
            }
        }
    }

    /// Each row's largest logit among its negatives becomes its shift; by label, also that among its own
    /// label.
    fn shift_by_maxima<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        panels: Range<usize>,
    ) {
        let block_rows = p.plan.block_rows;
        let (base, rows, len) = (self.base(&p.plan), self.rows(), p.plan.partial_len());
        let by_label = p.plan.terms == Terms::ByLabel;
        self.scratch.partial_sums.fill(R::from_f64(f64::NEG_INFINITY));
        for j in panels {
            self.dot_products(p, j, base);
            let at = self.panel_at(&p.plan, j, base);
            let panel = Panel { first_row: self.first_row, j, elements: &mut self.matrix[at] };
            let (of_others, of_own) = self.scratch.partial_sums.split_at_mut(block_rows * len);
            if by_label {
                let larger = |x: R, y: R| if x > y { x } else { y };
                panel.each_by_group(p, |at, x, own| {
                    let maxima = if own { &mut *of_own } else { &mut *of_others };
                    maxima[at] = larger(x, maxima[at]);
                });
            } else {
                p.kernels.maxima(panel.elements, &mut of_others[..rows * len]);
            }
        }
        let largest = |x: &[R]| x.iter().fold(x[0], |m, &x| if x > m { x } else { m });
        // Without negatives, whatever number; there is nothing to exponentiate.
        let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
        for i in 0..rows {
            let per_query = p.rule.per_query.get(self.first_row + i);
            let per_query = per_query.map_or(f64::NEG_INFINITY, |negatives| negatives.largest);
            let maximum = largest(&self.scratch.partial_sums[i * len..(i + 1) * len]);
            let shift = finite((p.scale * maximum).f64().max(per_query));
            self.scratch.shifts[i] = R::from_f64(shift);
            if by_label {
                let of_own = &self.scratch.partial_sums[(block_rows + i) * len..][..len];
                let shift = finite((p.scale * largest(of_own)).f64());
                self.scratch.shifts[block_rows + i] = R::from_f64(shift);
            }
        }
        if matches!(p.plan.terms, Terms::Powers(_)) {
            self.shift_powers(p);
        }
    }

    /// Turns a chunk's dot products, computed here unless they are `ready`, into terms, and adds up
    /// their sums: a vector of R for each row within the chunk, f64 across chunks. With two powers the dot
    /// products stay, and terms are made again when they are weighed.
    fn terms<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        panels: Range<usize>,
        stored: bool,
        ready: bool,
    ) {
        let Plan { width, block_rows, .. } = p.plan;
        let base = if stored { self.base(&p.plan) } else { panels.start };
        self.scratch.partial_sums.fill(R::default());
        // One way, sums over columns are not needed.
        let mut unused = [[0.0; WIDEST_TILE]; 2];
        for j in panels {
            if !ready {
                self.dot_products(p, j, base);
            }
            let at = self.panel_at(&p.plan, j, base);
            let [first_unused, second_unused] = &mut unused;
            let [first, second] = &mut self.column_sums;
            let column_sums = [
                column_sums(first, first_unused, j, width),
                column_sums(second, second_unused, j, width),
            ];
            let panel = Panel { first_row: self.first_row, j, elements: &mut self.matrix[at] };
            panel_terms(p, panel, &mut self.scratch, column_sums);
        }
        let len = p.plan.partial_len();
        let (first, second) = self.scratch.partial_sums.split_at(block_rows * len);
        for (sums, partial) in self.row_sums.iter_mut().zip([first, second]) {
            for (sum, partial) in sums.iter_mut().zip(partial.chunks(len)) {
                *sum += partial.iter().map(|x| x.f64()).sum::<f64>();
            }
        }
    }

    /// One way: the rows' sums are complete, and so their outcomes are known.
    fn set_outcomes<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let by_label = p.plan.terms == Terms::ByLabel;
        for i in 0..self.rows() {
            let shift = |at: usize| self.scratch.shifts[at].f64();
            let second = if by_label { shift(p.plan.block_rows + i) } else { shift(i) };
            let [first_sums, second_sums] = &self.row_sums;
            let sums = RowSums {
                sums: [first_sums[i], second_sums.get(i).copied().unwrap_or(0.0)],
                shifts: [shift(i), second],
            };
            let row = self.first_row + i;
            let positive = p.problem.positive(row).map(|_| self.positives[i]);
            self.outcomes[i] = p.rule.outcome(row, sums, positive);
        }
    }
}

/// The sums over columns of panel `j`, or a scratch buffer where they are not needed.
fn column_sums<'s>(
    sums: &'s mut [f64],
    unused: &'s mut [f64; WIDEST_TILE],
    j: usize,
    width: usize,
) -> &'s mut [f64] {
    if sums.is_empty() { &mut unused[..width] } else { &mut sums[j * width..(j + 1) * width] }
}

/// Turns a panel's dot products into terms, and adds them to the partial sums of its rows and to the sums
/// of its columns.
#[inline(always)]
fn panel_terms<T: Element>(
    p: &PackedProblem<'_, T>,
    mut panel: Panel<'_, T::Real>,
    scratch: &mut Scratch<'_, T::Real>,
    column_sums: [&mut [f64]; 2],
) {
    let Plan { width, block_rows, .. } = p.plan;
    let rows = panel.elements.len() / width;
    let len = p.plan.partial_len();
    let (first_rows, second_rows) = scratch.partial_sums.split_at_mut(block_rows * len);
    let [first_columns, second_columns] = column_sums;
    let shifts = &scratch.shifts[..rows];
    match p.plan.terms {
        Terms::One => {
            let first_rows = &mut first_rows[..rows * len];
            p.kernels.exponentials(panel.elements, p.scale, shifts, first_rows, first_columns);
        }
        Terms::Sigmoid(_) => {
            let losses = &mut first_rows[..rows * len];
            let weights = &mut second_rows[..rows * len];
            p.kernels.sigmoids(panel.elements, p.scale, shifts, losses, weights);
        }
        Terms::Powers(_) => {
            let sums = [(first_rows, first_columns), (second_rows, second_columns)];
            let powers = p.plan.terms.powers();
            for (which, (of_rows, of_columns)) in sums.into_iter().enumerate() {
                let copy = &mut scratch.panel_copy[..panel.elements.len()];
                copy.copy_from_slice(panel.elements);
                let shifts = &scratch.shifts[(which + 1) * block_rows..][..rows];
                let scale = T::Real::from_f64(powers[which] * p.rule.scale);
                p.kernels.exponentials(copy, scale, shifts, &mut of_rows[..rows * len], of_columns);
            }
        }
        Terms::ByLabel => {
            // The row's own label has a shift of its own.
            let own_shifts = &scratch.shifts[block_rows..];
            let unscaled = T::Real::from_f64(p.rule.scale.recip());
            panel.each_of_own_group(p, |row, x| {
                *x += unscaled * (shifts[row] - own_shifts[row]);
            });
            // The kernel would add up both groups together.
            exponentials_alone(p, panel.elements, p.scale, shifts);
            let zero = T::Real::default();
            panel.each_by_group(p, |at, x, own| {
                let (other, own) = if own { (zero, x) } else { (x, zero) };
                first_rows[at] += other;
                second_rows[at] += own;
                first_columns[at % width] += other.f64();
                second_columns[at % width] += own.f64();
            });
        }
    }
}
