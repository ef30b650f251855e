//! What is done with one panel: a block's rows against a tile's width of columns.
//!
//! Comes in: dot products or terms of a panel. Goes out: the same panel, with what is no negative
//! hidden, or with weights for terms. A panel lies in the first cache.

use crate::embeddings::{Element, Real};
use crate::engine::kernels::{Left, Product};
use crate::engine::rows::Rows;
use crate::engine::strips::plan::{Candidates, DEPTH, Partner, Plan};
use crate::engine::strips::strip::Problem;
use crate::engine::terms::rule::Terms;
use std::ops::Range;

/// No tile is wider.
pub(crate) const MOST_WIDTH: usize = 32;

/// The sums over columns of panel `j`, or memory that nobody looks at.
pub(crate) fn asked<'s>(
    sums: &'s mut [f64],
    unasked: &'s mut [f64; MOST_WIDTH],
    j: usize,
    width: usize,
) -> &'s mut [f64] {
    if sums.is_empty() { &mut unasked[..width] } else { &mut sums[j * width..(j + 1) * width] }
}

/// Packs rows as an operand of a product, `[rows / height, dim, height]`, by way of `row`; columns are
/// packed so, too, with a tile's width for its height.
#[inline(always)]
pub(crate) fn pack<T: Element>(
    height: usize,
    rows: &Rows<'_, T>,
    which: Range<usize>,
    row: &mut [T::Real],
    packed: &mut [T::Real],
) {
    let dim = rows.dim();
    let (row, _) = row.split_at_mut(dim);
    packed.fill(T::Real::default());
    for (i, which) in which.enumerate() {
        rows.read(which, row);
        let panel = &mut packed[i / height * height * dim..][..height * dim];
        for (to, x) in panel[i % height..].iter_mut().step_by(height).zip(&*row) {
            *to = *x;
        }
    }
}

/// The dot products of packed rows with panel `j` of packed columns.
pub(crate) fn panel_product<T: Element>(
    p: &Problem<'_, T>,
    (left, dim): (&[T::Real], usize),
    columns: &[T::Real],
    j: usize,
    rows: usize,
    out: &mut [T::Real],
) {
    let Plan { height, width, .. } = p.plan;
    for from in (0..dim).step_by(DEPTH) {
        let product = Product {
            kind: Left::Packed,
            left: &left[from * height..],
            left_panels: rows.div_ceil(height),
            left_panel: dim * height,
            left_segment: 0,
            right: &columns[(j * dim + from) * width..],
            right_panels: 1,
            right_panel: 0,
            right_segment: 0,
            segments: 1,
            depth: DEPTH.min(dim - from),
            add: from > 0,
        };
        p.kernels.product(&product, out, p.plan.panel_len());
    }
}

/// Calls `each` with every number of a panel, where it is, and whether its column has the row's mark.
#[inline(always)]
pub(crate) fn self_and_others<T: Element>(
    p: &Problem<'_, T>,
    first: usize,
    j: usize,
    panel: &[T::Real],
    mut each: impl FnMut(usize, T::Real, bool),
) {
    let width = p.plan.width;
    let Some(marks) = p.beside.marks else { return };
    let columns = &marks.columns[j * width..(j + 1) * width];
    for (row, numbers) in panel.chunks(width).enumerate() {
        let own = marks.rows[first + row];
        for (column, (&x, &mark)) in numbers.iter().zip(columns).enumerate() {
            each(row * width + column, x, mark == own);
        }
    }
}

/// Calls `each` with the row of every number of a panel whose column has the row's mark.
#[inline(always)]
pub(crate) fn each_own<T: Element>(
    p: &Problem<'_, T>,
    first: usize,
    j: usize,
    panel: &mut [T::Real],
    mut each: impl FnMut(usize, &mut T::Real),
) {
    let width = p.plan.width;
    let Some(marks) = p.beside.marks else { return };
    let columns = &marks.columns[j * width..(j + 1) * width];
    for (row, numbers) in panel.chunks_mut(width).enumerate() {
        let own = marks.rows[first + row];
        for (x, _) in numbers.iter_mut().zip(columns).filter(|(_, mark)| **mark == own) {
            each(row, x);
        }
    }
}

/// Exponentials of a panel whose sums, which the kernel adds up as well, are of no use.
#[inline(always)]
pub(crate) fn exponentials_alone<T: Element>(
    p: &Problem<'_, T>,
    panel: &mut [T::Real],
    scale: T::Real,
    references: &[T::Real],
) {
    let Plan { width, lanes, .. } = p.plan;
    let (mut of_rows, mut of_columns) = ([T::Real::default(); 16], [0.0; MOST_WIDTH]);
    for (row, reference) in panel.chunks_mut(width).zip(references.chunks(1)) {
        let sums = (&mut of_rows[..lanes], &mut of_columns[..width]);
        p.kernels.exponentials(row, scale, reference, sums.0, sums.1);
    }
}

/// Turns a panel's terms into weights: each times what belongs to its row and to its column.
#[inline(always)]
pub(crate) fn weigh_panel<T: Element>(
    p: &Problem<'_, T>,
    first: usize,
    j: usize,
    panel: &mut [T::Real],
    (references, spare): (&[T::Real], &mut [T::Real]),
    of_rows: [&[T::Real]; 2],
    of_columns: [&[T::Real]; 2],
) {
    let Plan { width, block, .. } = p.plan;
    match p.plan.terms {
        Terms::One | Terms::Sigmoid(_) => p.kernels.weights(panel, of_rows[0], of_columns[0]),
        Terms::ByLabel => {
            let Some(marks) = p.beside.marks else { return };
            let columns = &marks.columns[j * width..(j + 1) * width];
            for (row, numbers) in panel.chunks_mut(width).enumerate() {
                let own = marks.rows[first + row];
                let [other_row, own_row] = of_rows.map(|factors| factors[row]);
                let [others, owns] = of_columns;
                let factors = columns.iter().zip(others.iter().zip(owns));
                for (x, (&mark, (&other, &same))) in numbers.iter_mut().zip(factors) {
                    *x = *x * if mark == own { own_row + same } else { other_row + other };
                }
            }
        }
        Terms::Powers(_) => {
            // What was kept are dot products: of these the terms once more.
            let (first, second) = p.plan.terms.powers();
            let spare = &mut spare[..panel.len()];
            spare.copy_from_slice(panel);
            for (which, power, x) in [(1, first, &mut *panel), (2, second, &mut *spare)] {
                let references = &references[which * block..][..of_rows[0].len()];
                let scale = T::Real::from_f64(power * p.beside.choosing.scale);
                exponentials_alone(p, x, scale, references);
                p.kernels.weights(x, of_rows[which - 1], of_columns[which - 1]);
            }
            panel.iter_mut().zip(spare).for_each(|(x, y)| *x += *y);
        }
    }
}

/// Minus infinity where a column of panel `j` is no negative of a row: its positive, itself, pairs
/// seen from the other side, columns of its own mark, columns that only fill the panel.
pub(crate) fn hide<T: Element>(
    problem: &Problem<'_, T>,
    panel: &mut [T::Real],
    first: usize,
    j: usize,
) {
    let p = &problem.plan;
    let width = p.width;
    let rows = first..first + panel.len() / width;
    let columns = j * width..(j + 1) * width;
    let hidden = T::Real::from_f64(f64::NEG_INFINITY);
    if columns.end > p.columns {
        for row in panel.chunks_mut(width) {
            row[p.columns - columns.start..].fill(hidden);
        }
    }
    if let Some(marks) = problem.beside.marks.filter(|marks| marks.hide) {
        let of_columns = &marks.columns[columns.clone()];
        for (row, &mark) in panel.chunks_mut(width).zip(&marks.rows[rows.clone()]) {
            for (x, &of_column) in row.iter_mut().zip(of_columns) {
                *x = if of_column == mark { hidden } else { *x };
            }
        }
    }
    // Column = row + above − below.
    let mut diagonal = |above: usize, below: usize| {
        let start = rows.start.max((columns.start + below).saturating_sub(above));
        let end = rows.end.min((columns.end + below).saturating_sub(above));
        for row in start..end {
            let column = row + above - below;
            panel[(row - rows.start) * width + column - columns.start] = hidden;
        }
    };
    match p.candidates {
        Candidates::Rectangle { offset } => diagonal(offset, 0),
        Candidates::Apart => {}
        Candidates::Triangle { partner } | Candidates::Square { partner } => {
            diagonal(0, 0);
            if let Partner::View(pairs) = partner {
                diagonal(pairs, 0);
                diagonal(0, pairs);
            }
        }
    }
    if let Candidates::Triangle { .. } = p.candidates {
        for row in rows.start.max(columns.start)..rows.end {
            let own = (row + 1).min(columns.end) - columns.start;
            panel[(row - rows.start) * width..][..own].fill(hidden);
        }
    }
    if let Candidates::Triangle { partner: Partner::Listed }
    | Candidates::Square { partner: Partner::Listed } = p.candidates
    {
        for row in rows.clone() {
            let column = problem.positive(row).filter(|column| columns.contains(column));
            if let Some(column) = column {
                panel[(row - rows.start) * width + column - columns.start] = hidden;
            }
        }
    }
}
