//! Sums of rows: of all of them, and of those of each group.

use crate::embeddings::{Element, Real};
use crate::engine::candidates::groups::{NONE, sizes};
use crate::engine::rows::Rows;

/// Sums of rows, each times a coefficient, in f64.
pub(crate) struct GroupSums {
    dim: usize,
    /// Over all rows, `[d]`.
    pub(crate) all: Vec<f64>,
    groups: Vec<Group>,
    by_group: Vec<f64>,
}

/// The rows of one group.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Group {
    None,
    One {
        row: usize,
        coefficient: f64,
    },
    /// Several, whose sum begins here.
    Sum(usize),
}

impl GroupSums {
    /// `coefficient(i)` times row i, for every row; `groups` may be empty.
    pub(crate) fn new<T: Element>(
        rows: &Rows<'_, T>,
        groups: &[u32],
        coefficient: impl Fn(usize) -> f64,
    ) -> Self {
        let dim = rows.dim();
        let mut known = vec![Group::None; sizes(groups).len()];
        let mut len = 0;
        for (i, &group) in groups.iter().enumerate().filter(|(_, group)| **group != NONE) {
            let group = &mut known[group as usize];
            *group = match *group {
                Group::None => Group::One { row: i, coefficient: coefficient(i) },
                Group::One { .. } => {
                    len += dim;
                    Group::Sum(len - dim)
                }
                sum @ Group::Sum(_) => sum,
            };
        }
        let (mut all, mut by_group) = (vec![0.0; dim], vec![0.0; len]);
        let mut row = vec![T::Real::default(); dim];
        for i in 0..rows.len() {
            rows.read(i, &mut row);
            let factor = coefficient(i);
            add(&mut all, &row, factor);
            let group = groups.get(i).and_then(|&group| known.get(group as usize));
            if let Some(&Group::Sum(at)) = group {
                add(&mut by_group[at..at + dim], &row, factor);
            }
        }
        Self { dim, all, groups: known, by_group }
    }

    pub(crate) fn group(&self, group: u32) -> Group {
        self.groups.get(group as usize).copied().unwrap_or(Group::None)
    }

    /// The sum that begins at `at`, `[d]`.
    pub(crate) fn sum(&self, at: usize) -> &[f64] {
        &self.by_group[at..at + self.dim]
    }
}

/// `sum += factor · row`.
pub(crate) fn add<R: Real>(sum: &mut [f64], row: &[R], factor: f64) {
    sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += factor * x.f64());
}

/// `⟨row, sum⟩`.
pub(crate) fn dot<R: Real>(row: &[R], sum: &[f64]) -> f64 {
    row.iter().zip(sum).map(|(x, y)| x.f64() * y).sum()
}
