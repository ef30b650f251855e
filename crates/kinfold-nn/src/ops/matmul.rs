//! Matrix products by the crate `gemm`, in blocks that free threads take.
//!
//! Input: matrices with any strides. Output: their product, row by row. The extent of a block follows
//! from the shape alone, and each is one call on one thread, so the bits do not depend on the number of
//! threads.
#![allow(unsafe_code, reason = "gemm takes pointers; every length is checked here")]

use super::memory::buffer::{Buffer, Shared};
use super::memory::vector::vectorized;
use rayon::prelude::*;
use std::array::from_fn;

/// Rows of a block, about: the more there are, the less is what a call copies of the right operand beside
/// what it computes. And the fewest, where there would be too few blocks.
const ROWS: usize = 512;
const FEWEST_ROWS: usize = 256;
/// Columns of a block, at least.
const COLUMNS: usize = 128;
/// As many blocks as there should be, where the product is large enough.
const BLOCKS: usize = 8;
/// Rows and columns of the kernel's tile: blocks are whole multiples, but for the last.
const TILE: (usize, usize) = (6, 64);
/// Products of fewer multiplications are one block.
const SMALL: usize = 1 << 18;

/// A matrix of borrowed numbers; element (row, column) is `data[row · down + column · right]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) down: usize,
    pub(crate) right: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, down: columns, right: 1 }
    }

    pub(crate) fn transposed(self) -> Self {
        let Self { data, rows, columns, down, right } = self;
        Self { data, rows: columns, columns: rows, down: right, right: down }
    }

    fn check(&self) {
        let Self { data, rows, columns, down, right } = *self;
        let last = (rows - 1) * down + (columns - 1) * right;
        assert!(last < data.len(), "{rows} × {columns} numbers, but {} are there", data.len());
    }
}

/// Where a product goes; element (row, column) is `data[row · down + column]`.
#[derive(Debug)]
pub(crate) struct Out<'a> {
    pub(crate) data: &'a mut [f32],
    pub(crate) down: usize,
    /// Add to what is there, rather than overwrite it.
    pub(crate) add: bool,
}

/// `out (+)= scale · left · right`, on this thread.
pub(crate) fn multiply(out: Out<'_>, left: Matrix<'_>, right: Matrix<'_>, scale: f32) {
    let (rows, columns) = (left.rows, right.columns);
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(out.down >= columns && (rows - 1) * out.down + columns <= out.data.len());
    let whole = Part { row: 0, rows, column: 0, columns };
    // SAFETY: by the assertion the whole product lies within `out`, which is borrowed.
    unsafe { part(out.data.as_mut_ptr(), out.down, out.add, left, right, scale, whole) }
}

/// `left · right`, row by row, on all threads. `finish` is called for each row of a block as soon as it
/// is computed, with its first column and its numbers.
pub(crate) fn product(
    left: Matrix<'_>,
    right: Matrix<'_>,
    finish: impl Fn(usize, &mut [f32]) + Sync,
) -> Buffer {
    let (rows, columns) = (left.rows, right.columns);
    let mut out = Buffer::any(rows * columns);
    let copy;
    let mut right = right;
    if right.right != 1 && rows > COLUMNS {
        // The crate would copy such an operand for each block anew.
        copy = transpose(right.transposed());
        right = Matrix::new(&copy, right.rows, columns);
    }
    let shared = Shared(out.as_mut_ptr());
    let shared = &shared;
    parts(rows, left.columns, columns).into_par_iter().with_max_len(1).for_each(|at| {
        // SAFETY: parts lie within the product and do not overlap, so that no two threads have the
        // same number of `out`.
        unsafe { part(shared.0, columns, false, left, right, 1.0, at) };
        vectorized(
            #[inline(always)]
            || {
                for row in at.row..at.row + at.rows {
                    // SAFETY: as above; the numbers are those of one row of the part.
                    let row = unsafe {
                        let first = shared.0.add(row * columns + at.column);
                        std::slice::from_raw_parts_mut(first, at.columns)
                    };
                    finish(at.column, row);
                }
            },
        );
    });
    out
}

#[derive(Clone, Copy, Debug)]
struct Part {
    row: usize,
    rows: usize,
    column: usize,
    columns: usize,
}

/// The parts of a product of `rows` by `columns`.
fn parts(rows: usize, depth: usize, columns: usize) -> Vec<Part> {
    if rows == 0 || columns == 0 {
        return Vec::new();
    }
    let small = rows.saturating_mul(columns).saturating_mul(depth) <= SMALL;
    let enough = BLOCKS.min(rows.div_ceil(FEWEST_ROWS));
    let down = if small { 1 } else { rows.div_ceil(ROWS).max(enough) };
    let wanted = if small { 1 } else { BLOCKS.div_ceil(down) };
    let across = wanted.min(columns.div_ceil(COLUMNS));
    let height = rows.div_ceil(down).next_multiple_of(TILE.0);
    let width = columns.div_ceil(across).next_multiple_of(TILE.1);
    let of_rows = (0..rows).step_by(height);
    of_rows
        .flat_map(|row| {
            (0..columns).step_by(width).map(move |column| {
                let (rows, columns) = (height.min(rows - row), width.min(columns - column));
                Part { row, rows, column, columns }
            })
        })
        .collect()
}

/// A part of `out (+)= scale · left · right`.
///
/// # Safety
/// The part must lie within the product, whose rows lie `down` numbers apart at `out`, and nobody
/// else may use these numbers meanwhile.
unsafe fn part(
    out: *mut f32,
    down: usize,
    add: bool,
    left: Matrix<'_>,
    right: Matrix<'_>,
    scale: f32,
    part: Part,
) {
    let Part { row, rows, column, columns } = part;
    let depth = left.columns;
    assert!(row + rows <= left.rows && column + columns <= right.columns && depth == right.rows);
    if depth > 0 {
        left.check();
        right.check();
    }
    // SAFETY: the operands reach no further than their slices, as has just been checked, and the
    // caller vouches for `out`. Strides are below a slice's length, so they fit into isize.
    unsafe {
        gemm::gemm(
            rows,
            columns,
            depth,
            out.add(row * down + column),
            1,
            down as isize,
            add,
            left.data.as_ptr().wrapping_add(row * left.down),
            left.right as isize,
            left.down as isize,
            right.data.as_ptr().wrapping_add(column * right.right),
            right.right as isize,
            right.down as isize,
            1.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The transpose of a matrix with contiguous rows, row by row.
fn transpose(x: Matrix<'_>) -> Buffer {
    x.check();
    let (rows, columns) = (x.rows, x.columns);
    let mut out = Buffer::any(rows * columns);
    out.par_chunks_mut(SIDE * rows).enumerate().for_each(|(block, out)| {
        vectorized(
            #[inline(always)]
            || transpose_columns(x, block * SIDE, out),
        );
    });
    out
}

/// Rows and columns of a square that is transposed at once: a cache line of numbers, so that a line of
/// the result is written whole. Of sides that are powers of two, lines above one another fall on the same
/// few places of a cache, and one that is not finished at once is read and written again for each number.
const SIDE: usize = 16;

/// As many columns of `x`, from `first` on, as there are rows in `out`.
#[inline(always)]
fn transpose_columns(x: Matrix<'_>, first: usize, out: &mut [f32]) {
    let width = out.len() / x.rows;
    let line = |row: usize| &x.data[row * x.down + first..][..width];
    let squares = if width == SIDE { x.rows / SIDE * SIDE } else { 0 };
    for from in (0..squares).step_by(SIDE) {
        let square: [[f32; SIDE]; SIDE] = from_fn(|row| from_fn(|column| line(from + row)[column]));
        for column in 0..SIDE {
            let turned: [f32; SIDE] = from_fn(|row| square[row][column]);
            out[column * x.rows + from..][..SIDE].copy_from_slice(&turned);
        }
    }
    for row in squares..x.rows {
        for (column, &number) in line(row).iter().enumerate() {
            out[column * x.rows + row] = number;
        }
    }
}
