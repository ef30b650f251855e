//! A guide: another model, whose similarities tell false negatives (GISTEmbed, Solatorio 2024).
//!
//! Input: the guide's embeddings of the same things. Output: its rows and columns, and for each row
//! the similarity above which a column is a false negative.

use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::rows::{Comparison, Rows};
use crate::engine::threads::Team;
use crate::loss::{self, GUIDE_MARGIN};

/// A guide's rows and columns. What it finds closer than a row's threshold is no negative of that row.
pub(crate) struct Guide<'a, T: Element> {
    pub(crate) rows: Rows<'a, T>,
    pub(crate) columns: Rows<'a, T>,
    /// Similarities, `[rows]`.
    pub(crate) thresholds: Vec<T::Real>,
}

impl<'a, T: Element> Guide<'a, T> {
    pub(crate) fn new(guide: &loss::Guide<'a, T>, team: &Team) -> Self {
        let cosine = |first, second| Rows::new(first, second, Comparison::COSINE, team);
        let (rows, keys) = (cosine(guide.queries, None), cosine(guide.keys, None));
        let thresholds = thresholds(&rows, &keys);
        Self { rows, columns: cosine(guide.keys, guide.negatives), thresholds }
    }
}

impl<'a, R: Real> Guide<'a, R> {
    /// Rows and columns that are compared as they are.
    pub(crate) fn of_products(
        rows: Embeddings<'a, R>,
        columns: Embeddings<'a, R>,
        thresholds: Vec<R>,
        team: &Team,
    ) -> Self {
        let dot = |x| Rows::new(x, None, Comparison::DOT, team);
        Self { rows: dot(rows), columns: dot(columns), thresholds }
    }
}

/// For each query, what a similarity must be above to make a candidate a false negative.
pub(crate) fn thresholds<T: Element>(queries: &Rows<'_, T>, keys: &Rows<'_, T>) -> Vec<T::Real> {
    let threshold = |i| T::Real::from_f64(queries.similarity(i, keys, i) + GUIDE_MARGIN);
    (0..queries.len()).map(threshold).collect()
}
