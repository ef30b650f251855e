//! What is done with one panel of a block: its rows against a tile's width of columns.
//!
//! Input: the dot products or terms of a panel. Output: the same panel, with the columns that are no
//! negatives hidden, or with weights in place of terms. A panel lies in the first cache.

use super::packed_problem::PackedProblem;
use super::plan::Plan;
use crate::embeddings::{Element, Real};
use crate::engine::kernels::WIDEST_TILE;
use crate::engine::problem::{Partner, Region};
use crate::engine::terms::rule::Terms;
use std::ops::Range;

/// One panel of a block: its rows, the panel's number and its elements, `[rows, width]`.
pub(crate) struct Panel<'x, R> {
    /// The block's first row.
    pub(crate) first_row: usize,
    /// Which panel of columns.
    pub(crate) j: usize,
    pub(crate) elements: &'x mut [R],
}

/// What terms are multiplied by to become weights, `of_rows_i + of_columns_j`, for the first and second
/// terms.
#[derive(Clone, Copy)]
pub(crate) struct PanelFactors<'x, R> {
    pub(crate) of_rows: [&'x [R]; 2],
    pub(crate) of_columns: [&'x [R]; 2],
}

/// What two powers of the exponentials need besides the panel.
pub(crate) struct Powers<'x, R> {
    /// The rows' shifts, then those of the first and of the second power; each `[block rows]`.
    pub(crate) shifts: &'x [R],
    /// Room for a copy of the panel.
    pub(crate) copy: &'x mut [R],
}

impl<R: Real> Panel<'_, R> {
    fn rows<T: Element<Real = R>>(&self, p: &PackedProblem<'_, T>) -> Range<usize> {
        self.first_row..self.first_row + self.elements.len() / p.plan.width
    }

    fn columns<T: Element<Real = R>>(&self, p: &PackedProblem<'_, T>) -> Range<usize> {
        self.j * p.plan.width..(self.j + 1) * p.plan.width
    }

    /// Calls `each` with every element, where it is, and whether its column is of the row's group.
    #[inline(always)]
    pub(crate) fn each_by_group<T: Element<Real = R>>(
        &self,
        p: &PackedProblem<'_, T>,
        mut each: impl FnMut(usize, R, bool),
    ) {
        let width = p.plan.width;
        let Some(groups) = p.problem.groups else { return };
        let columns = &groups.columns[self.columns(p)];
        for (row, elements) in self.elements.chunks(width).enumerate() {
            let own = groups.rows[self.first_row + row];
            for (column, (&x, &group)) in elements.iter().zip(columns).enumerate() {
                each(row * width + column, x, group == own);
            }
        }
    }

    /// Calls `each` with every element whose column is of the row's group, and with the row.
    #[inline(always)]
    pub(crate) fn each_of_own_group<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        mut each: impl FnMut(usize, &mut R),
    ) {
        let Some(groups) = p.problem.groups else { return };
        let columns = &groups.columns[self.columns(p)];
        for (row, elements) in self.elements.chunks_mut(p.plan.width).enumerate() {
            let own = groups.rows[self.first_row + row];
            for (x, _) in elements.iter_mut().zip(columns).filter(|(_, group)| **group == own) {
                each(row, x);
            }
        }
    }

    /// Turns terms into weights: each times what belongs to its row and to its column.
    #[inline(always)]
    pub(crate) fn weigh<T: Element<Real = R>>(
        self,
        p: &PackedProblem<'_, T>,
        powers: Powers<'_, R>,
        factors: PanelFactors<'_, R>,
    ) {
        let Plan { width, block_rows, .. } = p.plan;
        let PanelFactors { of_rows, of_columns } = factors;
        match p.plan.terms {
            Terms::One | Terms::Sigmoid(_) => {
                p.kernels.weights(self.elements, of_rows[0], of_columns[0]);
            }
            Terms::ByLabel => {
                let Some(groups) = p.problem.groups else { return };
                let columns = &groups.columns[self.columns(p)];
                for (row, elements) in self.elements.chunks_mut(width).enumerate() {
                    let own = groups.rows[self.first_row + row];
                    let [other_row, own_row] = of_rows.map(|factors| factors[row]);
                    let [others, owns] = of_columns;
                    let factors = columns.iter().zip(others.iter().zip(owns));
                    for (x, (&group, (&other, &same))) in elements.iter_mut().zip(factors) {
                        *x = *x * if group == own { own_row + same } else { other_row + other };
                    }
                }
            }
            Terms::Powers(_) => {
                // What was kept are dot products: of these the terms once more.
                let powers_of = p.plan.terms.powers();
                let copy = &mut powers.copy[..self.elements.len()];
                copy.copy_from_slice(self.elements);
                for (which, x) in [&mut *self.elements, &mut *copy].into_iter().enumerate() {
                    let shifts = &powers.shifts[(which + 1) * block_rows..][..of_rows[0].len()];
                    let scale = R::from_f64(powers_of[which] * p.rule.scale);
                    exponentials_alone(p, x, scale, shifts);
                    p.kernels.weights(x, of_rows[which], of_columns[which]);
                }
                self.elements.iter_mut().zip(copy).for_each(|(x, y)| *x += *y);
            }
        }
    }

    /// Writes minus infinity where a column is no negative of a row: its positive, the row itself, pairs
    /// seen from the other side, columns of its own group, and columns that only fill the panel.
    pub(crate) fn hide<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let (rows, columns) = (self.rows(p), self.columns(p));
        let hidden = R::from_f64(f64::NEG_INFINITY);
        let width = p.plan.width;
        let panel = &mut *self.elements;
        if columns.end > p.plan.shape.columns {
            for row in panel.chunks_mut(width) {
                row[p.plan.shape.columns - columns.start..].fill(hidden);
            }
        }
        if let Some(groups) = p.problem.groups.filter(|groups| groups.duplicates) {
            let of_columns = &groups.columns[columns.clone()];
            for (row, &group) in panel.chunks_mut(width).zip(&groups.rows[rows.clone()]) {
                for (x, &of_column) in row.iter_mut().zip(of_columns) {
                    *x = if of_column == group { hidden } else { *x };
                }
            }
        }
        let region = p.plan.shape.region;
        match region {
            Region::Rectangle { offset } => self.hide_diagonal(p, offset, 0),
            Region::NegativesOnly { .. } => {}
            Region::Triangle { partner } | Region::Square { partner } => {
                self.hide_diagonal(p, 0, 0);
                match partner {
                    Partner::OtherView { pairs } => {
                        self.hide_diagonal(p, pairs, 0);
                        self.hide_diagonal(p, 0, pairs);
                    }
                    Partner::Listed => self.hide_listed(p),
                }
            }
        }
        if let Region::Triangle { .. } = region {
            for row in rows.start.max(columns.start)..rows.end {
                let own = (row + 1).min(columns.end) - columns.start;
                self.elements[(row - rows.start) * width..][..own].fill(hidden);
            }
        }
    }

    /// Hides the elements at column = row + `above` − `below`.
    fn hide_diagonal<T: Element<Real = R>>(
        &mut self,
        p: &PackedProblem<'_, T>,
        above: usize,
        below: usize,
    ) {
        let (rows, columns) = (self.rows(p), self.columns(p));
        let start = rows.start.max((columns.start + below).saturating_sub(above));
        let end = rows.end.min((columns.end + below).saturating_sub(above));
        for row in start..end {
            let at = (row - rows.start) * p.plan.width + row + above - below - columns.start;
            self.elements[at] = R::from_f64(f64::NEG_INFINITY);
        }
    }

    /// Hides the rows' positives one by one.
    fn hide_listed<T: Element<Real = R>>(&mut self, p: &PackedProblem<'_, T>) {
        let (rows, columns) = (self.rows(p), self.columns(p));
        for row in rows.clone() {
            let column = p.problem.positive_column(row).filter(|column| columns.contains(column));
            if let Some(column) = column {
                let at = (row - rows.start) * p.plan.width + column - columns.start;
                self.elements[at] = R::from_f64(f64::NEG_INFINITY);
            }
        }
    }
}

/// Whether [`Panel::hide`] finds something among some rows of panel `j`.
pub(crate) fn hides<T: Element>(p: &PackedProblem<'_, T>, rows: &Range<usize>, j: usize) -> bool {
    let columns = j * p.plan.width..(j + 1) * p.plan.width;
    let crosses =
        |above: usize| rows.start + above < columns.end && columns.start < rows.end + above;
    let groups = p.problem.groups.is_some_and(|groups| groups.duplicates);
    groups
        || columns.end > p.plan.shape.columns
        || match p.plan.shape.region {
            Region::Rectangle { offset } => crosses(offset),
            Region::NegativesOnly { .. } => false,
            Region::Triangle { partner: Partner::OtherView { pairs } } => {
                columns.start < rows.end || crosses(pairs)
            }
            Region::Square { partner: Partner::OtherView { pairs } } => {
                let below = rows.start < columns.end + pairs && columns.start + pairs < rows.end;
                crosses(0) || crosses(pairs) || below
            }
            Region::Triangle { .. } | Region::Square { .. } => true,
        }
}

/// Exponentials of a panel whose sums, which the kernel adds up as well, are of no use.
#[inline(always)]
pub(crate) fn exponentials_alone<T: Element>(
    p: &PackedProblem<'_, T>,
    panel: &mut [T::Real],
    scale: T::Real,
    shifts: &[T::Real],
) {
    let Plan { width, lanes, .. } = p.plan;
    let (mut row_sums, mut column_sums) = ([T::Real::default(); 16], [0.0; WIDEST_TILE]);
    for (row, shift) in panel.chunks_mut(width).zip(shifts.chunks(1)) {
        let (of_row, of_columns) = (&mut row_sums[..lanes], &mut column_sums[..width]);
        p.kernels.exponentials(row, scale, shift, of_row, of_columns);
    }
}
