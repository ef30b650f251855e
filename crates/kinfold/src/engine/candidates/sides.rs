//! The two sides of the matrix of logits: rows, and the columns they choose among.
//!
//! [`Candidates`] owns what a batch is compared by; [`Problem`] borrows it, and can be turned around.

use super::groups::{Groups, NONE};
use super::guide::Guide;
use crate::embeddings::Element;
use crate::engine::problem::{Partner, Region, Shape};
use crate::engine::rows::Rows;

/// The matrices of a batch as they are compared, in the order of the gradients, and how their rows
/// belong together.
pub(crate) struct Candidates<'a, T: Element> {
    pub(crate) shape: Shape,
    /// Queries; or queries and keys, where all views choose.
    pub(crate) rows: Rows<'a, T>,
    /// Keys, and below them shared negatives where queries choose among both; None where all views
    /// choose.
    pub(crate) keys: Option<Rows<'a, T>>,
    /// Shared negatives, where they are the only columns.
    pub(crate) negatives: Option<Rows<'a, T>>,
    /// Negatives of each query alone.
    pub(crate) per_query: Option<Rows<'a, T>>,
    pub(crate) groups: Option<Groups>,
    /// Each row's partner, where [`Partner::Listed`]; [`NONE`] without.
    pub(crate) partners: Vec<u32>,
    pub(crate) guide: Option<Guide<'a, T>>,
}

impl<'a, T: Element> Candidates<'a, T> {
    /// Rows and columns alone.
    pub(crate) fn new(shape: Shape, rows: Rows<'a, T>, keys: Option<Rows<'a, T>>) -> Self {
        let (negatives, per_query, groups, guide) = (None, None, None, None);
        Self { shape, rows, keys, negatives, per_query, groups, partners: Vec::new(), guide }
    }

    /// All matrices, in the order of the gradients.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Rows<'a, T>> {
        let more = self.keys.iter().chain(&self.negatives).chain(&self.per_query);
        std::iter::once(&self.rows).chain(more)
    }

    /// Negatives of each row among the columns, where their number is known.
    pub(crate) fn negative_counts(&self) -> NegativeCounts {
        let columns = self.shape.columns;
        match (&self.guide, &self.groups) {
            (Some(_), _) => NegativeCounts::Unknown,
            // The row itself and its positive are of its group.
            (None, Some(groups)) => NegativeCounts::Each(groups.others(columns)),
            (None, None) => NegativeCounts::Same(match self.shape.region {
                Region::NegativesOnly { .. } => columns,
                Region::Rectangle { .. } => columns - 1,
                Region::Triangle { .. } | Region::Square { .. } => columns - 2,
            }),
        }
    }

    pub(crate) fn problem(&self) -> Problem<'_, T> {
        let rows = Side { rows: &self.rows, gradient: 0 };
        let keys = match &self.keys {
            Some(keys) => Side { rows: keys, gradient: self.rows.len() },
            None => rows,
        };
        let after_keys = self.rows.len() + self.keys.as_ref().map_or(0, Rows::len);
        let side = |rows| Side { rows, gradient: after_keys };
        Problem {
            shape: self.shape,
            rows,
            columns: match self.shape.region {
                Region::NegativesOnly { .. } => self.negatives.as_ref().map(side),
                _ => Some(keys),
            }
            .filter(|columns| columns.rows.len() > 0),
            positives: keys,
            per_query: self.per_query.as_ref().map(side),
            partners: &self.partners,
            groups: self.groups.as_ref(),
            guide: self.guide.as_ref(),
        }
    }
}

/// A number of negatives for each row.
#[derive(Debug)]
pub(crate) enum NegativeCounts {
    Same(usize),
    Each(Vec<usize>),
    /// A guide decides.
    Unknown,
}

/// The rows of a matrix, and where among all gradients theirs begin.
pub(crate) struct Side<'p, T> {
    pub(crate) rows: &'p Rows<'p, T>,
    pub(crate) gradient: usize,
}

impl<T> Clone for Side<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Side<'_, T> {}

/// One similarity problem: n rows against m candidate columns.
pub(crate) struct Problem<'p, T: Element> {
    pub(crate) shape: Shape,
    pub(crate) rows: Side<'p, T>,
    /// None where rows have no candidates beside their own negatives.
    pub(crate) columns: Option<Side<'p, T>>,
    /// The matrix that the rows' positives are rows of; see [`Problem::positive`].
    pub(crate) positives: Side<'p, T>,
    pub(crate) per_query: Option<Side<'p, T>>,
    pub(crate) partners: &'p [u32],
    pub(crate) groups: Option<&'p Groups>,
    pub(crate) guide: Option<&'p Guide<'p, T>>,
}

impl<T: Element> Clone for Problem<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T: Element> Copy for Problem<'_, T> {}

impl<'p, T: Element> Problem<'p, T> {
    /// The row of `positives` that is row i's positive, where it has just one.
    #[inline(always)]
    pub(crate) fn positive(&self, i: usize) -> Option<usize> {
        match self.shape.region {
            Region::Rectangle { offset } | Region::NegativesOnly { offset } => Some(i + offset),
            Region::Triangle { partner } | Region::Square { partner } => match partner {
                Partner::OtherView { pairs } => Some(if i < pairs { i + pairs } else { i - pairs }),
                Partner::Listed => {
                    let partner = self.partners[i];
                    (partner != NONE).then_some(partner as usize)
                }
            },
        }
    }

    /// The similarity of row i and its positive, where it has just one.
    #[inline(always)]
    pub(crate) fn positive_similarity(&self, i: usize) -> Option<f64> {
        let j = self.positive(i)?;
        Some(self.rows.rows.similarity(i, self.positives.rows, j))
    }

    /// The column that is row i's positive, where it is among those that i is compared with.
    #[inline(always)]
    pub(crate) fn positive_column(&self, i: usize) -> Option<usize> {
        let column = match self.shape.region {
            Region::NegativesOnly { .. } => None,
            Region::Triangle { .. } => self.positive(i).filter(|&j| j > i),
            Region::Rectangle { .. } | Region::Square { .. } => self.positive(i),
        };
        column.filter(|&column| column < self.shape.columns)
    }

    /// Rows are compared with themselves.
    pub(crate) fn is_square(&self) -> bool {
        matches!(self.shape.region, Region::Triangle { .. } | Region::Square { .. })
    }

    /// Columns choose among rows. `groups` are [swapped](Groups::swapped), too.
    pub(crate) fn swapped(self, groups: Option<&'p Groups>) -> Self {
        let (rows, columns) = (self.columns.unwrap_or(self.rows), self.rows);
        let shape = Shape {
            rows: self.shape.columns,
            columns: self.shape.rows,
            gradient_columns: self.shape.rows,
            ..self.shape
        };
        Self { shape, rows, columns: Some(columns), positives: columns, groups, ..self }
    }
}
