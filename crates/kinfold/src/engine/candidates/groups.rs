//! Identities and labels, as the strips take them: small numbers, and how many there are of each.
//!
//! Comes in: what a batch says its rows are. Goes out: [`Marks`], partners, counts.

use crate::engine::terms::rule::{Count, Labelled};
use std::collections::HashMap;

/// No partner, no identity.
pub(crate) const NONE: u32 = u32::MAX;

/// Identities or labels of rows and of columns.
#[derive(Debug)]
pub(crate) struct Marks {
    /// `[rows]`; every row has one.
    pub(crate) rows: Vec<u32>,
    /// `[panels · width]`; [`NONE`] where a column has none.
    pub(crate) columns: Vec<u32>,
    /// Columns with the row's mark are no negatives of it, as duplicates; otherwise they count, as
    /// positives or negatives, whatever the terms say.
    pub(crate) hide: bool,
}

/// Whatever numbers, as 0, 1, 2, … in the order in which they first occur.
pub(crate) struct Small {
    of: HashMap<u64, u32>,
}

impl Small {
    pub(crate) fn new() -> Self {
        Self { of: HashMap::new() }
    }

    fn of(&mut self, id: u64) -> u32 {
        let next = self.of.len() as u32;
        *self.of.entry(id).or_insert(next)
    }

    pub(crate) fn all(&mut self, ids: impl IntoIterator<Item = u64>) -> Vec<u32> {
        ids.into_iter().map(|id| self.of(id)).collect()
    }
}

/// How often each mark occurs.
pub(crate) fn sizes(marks: &[u32]) -> Vec<usize> {
    let known = marks.iter().filter(|&&mark| mark != NONE);
    let mut sizes = vec![0; known.clone().max().map_or(0, |&most| most as usize + 1)];
    known.for_each(|&mark| sizes[mark as usize] += 1);
    sizes
}

impl Marks {
    /// Of rows and columns, these filled up to `panels` numbers.
    pub(crate) fn new(rows: Vec<u32>, mut columns: Vec<u32>, panels: usize, hide: bool) -> Self {
        columns.resize(panels, NONE);
        Self { rows, columns, hide }
    }

    /// Of `columns` columns, how many each row does not share a mark with.
    pub(crate) fn others(&self, columns: usize) -> Vec<usize> {
        let sizes = sizes(&self.columns);
        let size = |&mark: &u32| sizes.get(mark as usize).copied().unwrap_or(0);
        self.rows.iter().map(|mark| columns - size(mark)).collect()
    }

    /// The same from the other side, where rows and columns are as many.
    pub(crate) fn swapped(&self, panels: usize) -> Self {
        let rows = self.columns[..self.rows.len()].to_vec();
        Self::new(rows, self.rows.clone(), panels, self.hide)
    }
}

/// Rows by label: each one's partner where it has exactly one positive, how many positives it has, and
/// how many negatives.
pub(crate) fn by_label(labels: &[u32]) -> (Vec<u32>, Vec<Labelled>, Count) {
    let sizes = sizes(labels);
    let mut last = vec![NONE; sizes.len()];
    let mut partners = vec![NONE; labels.len()];
    for (row, &label) in labels.iter().enumerate() {
        let (label, row) = (label as usize, row as u32);
        if sizes[label] == 2 && last[label] != NONE {
            partners[row as usize] = last[label];
            partners[last[label] as usize] = row;
        }
        last[label] = row;
    }
    let size = |&label: &u32| sizes[label as usize];
    let labelled = labels.iter().map(|l| Labelled { positives: size(l) - 1, mean: 0.0 }).collect();
    let negatives = labels.iter().map(|l| labels.len() - size(l)).collect();
    (partners, labelled, Count::Each(negatives))
}
