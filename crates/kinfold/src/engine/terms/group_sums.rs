//! The parts of a loss that are linear in the logits: the mean over a row's positives, where it has
//! several, and the mean over all its candidates, which label smoothing pulls up.
//!
//! A sum of logits is one logit of a sum, `Σ_j ⟨a, b_j⟩ = ⟨a, Σ_j b_j⟩`, so sums of embeddings, one for
//! all columns and one for each mark, are all it takes: n · d operations, not n² · d. In f64.

use crate::embeddings::{Element, Real};
use crate::engine::candidates::groups::{NONE, sizes};
use crate::engine::rows::Rows;

/// Sums of rows, each times a coefficient: of all, and of those of each mark.
struct Totals {
    dim: usize,
    all: Vec<f64>,
    groups: Vec<Group>,
    by_mark: Vec<f64>,
}

/// The rows of one mark.
#[derive(Debug, Clone, Copy)]
enum Group {
    None,
    One {
        row: usize,
        coefficient: f64,
    },
    /// Where their sum begins.
    Sum(usize),
}

impl Totals {
    /// `coefficient(i)` times row i, for every row; `marks` may be empty.
    fn new<T: Element>(
        rows: &Rows<'_, T>,
        marks: &[u32],
        coefficient: impl Fn(usize) -> f64,
    ) -> Self {
        let dim = rows.dim();
        let mut groups = vec![Group::None; sizes(marks).len()];
        let mut found = 0;
        for (i, &mark) in marks.iter().enumerate().filter(|(_, mark)| **mark != NONE) {
            let group = &mut groups[mark as usize];
            *group = match *group {
                Group::None => Group::One { row: i, coefficient: coefficient(i) },
                Group::One { .. } => {
                    found += dim;
                    Group::Sum(found - dim)
                }
                sum @ Group::Sum(_) => sum,
            };
        }
        let (mut all, mut by_mark) = (vec![0.0; dim], vec![0.0; found]);
        let mut row = vec![T::Real::default(); dim];
        for i in 0..rows.len() {
            rows.read(i, &mut row);
            let factor = coefficient(i);
            add(&mut all, &row, factor);
            let group = marks.get(i).and_then(|&mark| groups.get(mark as usize));
            if let Some(&Group::Sum(at)) = group {
                add(&mut by_mark[at..at + dim], &row, factor);
            }
        }
        Self { dim, all, groups, by_mark }
    }

    fn group(&self, mark: u32) -> Group {
        self.groups.get(mark as usize).copied().unwrap_or(Group::None)
    }

    fn sum(&self, at: usize) -> &[f64] {
        &self.by_mark[at..at + self.dim]
    }
}

fn add<R: Real>(sum: &mut [f64], row: &[R], factor: f64) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x.f64());
}

fn dot<R: Real>(row: &[R], sum: &[f64]) -> f64 {
    row.iter().zip(sum).map(|(x, y)| x.f64() * y).sum()
}

/// Rows and columns, and which of them belong together.
#[derive(Clone, Copy)]
pub(crate) struct Even<'p, 'a, T: Element> {
    pub(crate) a: &'p Rows<'a, T>,
    pub(crate) b: &'p Rows<'a, T>,
    /// Rows and columns are the same.
    pub(crate) itself: bool,
    /// Marks of rows and of columns; both may be empty.
    pub(crate) marks: (&'p [u32], &'p [u32]),
    /// Columns of the row's mark are duplicates, and no candidates; otherwise marks are labels.
    pub(crate) hide: bool,
}

/// What each row's logits weigh: all candidates alike, and all of several positives alike. Empty for
/// nothing.
pub(crate) struct Coefficients<'c> {
    pub(crate) of_all: &'c [f64],
    pub(crate) of_positives: &'c [f64],
}

impl<T: Element> Even<'_, '_, T> {
    fn of_rows(&self) -> &[u32] {
        self.marks.0
    }

    fn of_columns(&self) -> &[u32] {
        &self.marks.1[..self.marks.1.len().min(self.b.len())]
    }

    /// For each row, the sum of its similarities with its candidates: all columns but itself and,
    /// where they are hidden, those of its mark, its positive with them.
    pub(crate) fn similarities(&self) -> Vec<f64> {
        let totals = Totals::new(self.b, self.of_columns(), |_| 1.0);
        self.each_row(|i, row| {
            let all = dot(row, &totals.all);
            if self.hide {
                all - match totals.group(self.of_rows()[i]) {
                    Group::None => 0.0,
                    Group::One { row: j, .. } => self.a.similarity(i, self.b, j),
                    Group::Sum(at) => dot(row, totals.sum(at)),
                }
            } else if self.itself {
                all - self.a.similarity(i, self.a, i)
            } else {
                all
            }
        })
    }

    /// For each row, the sum of its similarities with the other rows of its label.
    pub(crate) fn similarities_of_positives(&self) -> Vec<f64> {
        let totals = Totals::new(self.b, self.of_columns(), |_| 1.0);
        self.each_row(|i, row| match totals.group(self.of_rows()[i]) {
            Group::Sum(at) => dot(row, totals.sum(at)) - self.a.similarity(i, self.a, i),
            Group::None | Group::One { .. } => 0.0,
        })
    }

    fn each_row(&self, value: impl Fn(usize, &[T::Real]) -> f64) -> Vec<f64> {
        let mut row = vec![T::Real::default(); self.a.dim()];
        (0..self.a.len())
            .map(|i| {
                self.a.read(i, &mut row);
                value(i, &row)
            })
            .collect()
    }

    /// Adds the gradients by rows, `of_a`, and by the first columns, as many as `of_b` has; where rows
    /// are compared with themselves `of_b` is empty, and both are added to `of_a`.
    pub(crate) fn gradients(
        &self,
        coefficients: &Coefficients<'_>,
        of_a: &mut [&mut [T::Real]],
        of_b: &mut [&mut [T::Real]],
    ) {
        let at = |coefficients: &[f64], i: usize| coefficients.get(i).copied().unwrap_or(0.0);
        let of_all = |i| at(coefficients.of_all, i);
        let of_positives = |i| at(coefficients.of_positives, i);
        let columns = Totals::new(self.b, self.of_columns(), |_| 1.0);
        let rows = Totals::new(self.a, self.of_rows(), of_all);
        let positives = Totals::new(self.a, self.of_rows(), of_positives);
        let mut row = vec![T::Real::default(); self.a.dim()];
        let mut other = row.clone();

        let mut sum = vec![0.0; self.a.dim()];
        for (i, out) in of_a.iter_mut().enumerate() {
            sum.fill(0.0);
            self.a.read(i, &mut row);
            add(&mut sum, &columns.all, of_all(i));
            let group = self.of_rows().get(i).map_or(Group::None, |&mark| columns.group(mark));
            match group {
                Group::Sum(at) if self.hide => add(&mut sum, columns.sum(at), -of_all(i)),
                Group::One { row: j, .. } if self.hide => {
                    self.b.read(j, &mut other);
                    add(&mut sum, &other, -of_all(i));
                }
                _ if self.itself && !self.hide => add(&mut sum, &row, -of_all(i)),
                _ => {}
            }
            if let (Group::Sum(at), false) = (group, self.hide) {
                add(&mut sum, columns.sum(at), of_positives(i));
                add(&mut sum, &row, -of_positives(i));
            }
            if self.itself {
                self.add_column(
                    i,
                    &row,
                    (&rows, of_all(i)),
                    (&positives, of_positives(i)),
                    &mut sum,
                );
            }
            out.iter_mut().zip(&sum).for_each(|(out, &x)| *out += T::Real::from_f64(x));
        }
        for (j, out) in of_b.iter_mut().enumerate() {
            sum.fill(0.0);
            self.add_column(j, &[], (&rows, 0.0), (&positives, 0.0), &mut sum);
            out.iter_mut().zip(&sum).for_each(|(out, &x)| *out += T::Real::from_f64(x));
        }
    }

    /// What column j gets from all rows that it is a candidate of; `row` is the column itself, where
    /// rows are compared with themselves, with its own coefficients.
    fn add_column(
        &self,
        j: usize,
        row: &[T::Real],
        (rows, of_all): (&Totals, f64),
        (positives, of_positives): (&Totals, f64),
        sum: &mut [f64],
    ) {
        add(sum, &rows.all, 1.0);
        let mark = self.of_columns().get(j).copied().unwrap_or(NONE);
        if self.hide {
            match rows.group(mark) {
                Group::Sum(at) => add(sum, rows.sum(at), -1.0),
                Group::One { row, coefficient } => {
                    let mut other = vec![T::Real::default(); self.a.dim()];
                    self.a.read(row, &mut other);
                    add(sum, &other, -coefficient);
                }
                Group::None => {}
            }
        } else if self.itself {
            add(sum, row, -of_all);
            if let Group::Sum(at) = positives.group(mark) {
                add(sum, positives.sum(at), 1.0);
                add(sum, row, -of_positives);
            }
        }
    }
}
