//! Groups of rows and columns that belong together: by id, they are duplicates; by label, positives.
//!
//! Input: ids or labels of any kind. Output: small integers that the strips compare, each row's partner,
//! and counts.

use crate::engine::kernels::WIDEST_TILE;
use std::collections::HashMap;

/// In place of a group or of a partner: there is none.
pub(crate) const NONE: u32 = u32::MAX;

/// The group of each row and of each column.
#[derive(Debug)]
pub(crate) struct Groups {
    /// `[rows]`; every row has one.
    pub(crate) rows: Vec<u32>,
    /// `[columns]`, then [`NONE`] as far as the last panel reaches; [`NONE`] where a column has none.
    pub(crate) columns: Vec<u32>,
    /// Groups are ids: columns of the row's group are duplicates, and left out. Otherwise they are
    /// labels, and those columns are positives.
    pub(crate) duplicates: bool,
}

impl Groups {
    pub(crate) fn new(rows: Vec<u32>, mut columns: Vec<u32>, duplicates: bool) -> Self {
        columns.resize(columns.len() + WIDEST_TILE, NONE);
        Self { rows, columns, duplicates }
    }

    /// For each row, how many of `columns` columns are of another group.
    pub(crate) fn others(&self, columns: usize) -> Vec<usize> {
        self.same().into_iter().map(|same| columns - same).collect()
    }

    /// For each row, how many columns are of its group.
    pub(crate) fn same(&self) -> Vec<usize> {
        let sizes = sizes(&self.columns);
        let size = |&group: &u32| sizes.get(group as usize).copied().unwrap_or(0);
        self.rows.iter().map(size).collect()
    }

    /// The same with columns for rows, where there are as many of both.
    pub(crate) fn swapped(&self) -> Self {
        let rows = self.columns[..self.rows.len()].to_vec();
        Self::new(rows, self.rows.clone(), self.duplicates)
    }
}

/// Numbers ids as 0, 1, 2, … in the order in which they first occur.
pub(crate) fn interned(ids: impl IntoIterator<Item = u64>) -> Vec<u32> {
    let mut known = HashMap::new();
    let intern = |id| {
        let next = known.len() as u32;
        *known.entry(id).or_insert(next)
    };
    ids.into_iter().map(intern).collect()
}

/// How many members each group has.
pub(crate) fn sizes(groups: &[u32]) -> Vec<usize> {
    let known = groups.iter().filter(|&&group| group != NONE);
    let mut sizes = vec![0; known.clone().max().map_or(0, |&most| most as usize + 1)];
    known.for_each(|&group| sizes[group as usize] += 1);
    sizes
}

/// Each row's partner: the only other row of its label, and [`NONE`] where there is none or are several.
pub(crate) fn partners(labels: &[u32]) -> Vec<u32> {
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
    partners
}
