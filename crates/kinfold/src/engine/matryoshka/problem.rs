//! A similarity problem over prefixes, packed.

use super::packed::{FeaturePanels, PackedColumns};
use super::prefixes::{PrefixRows, Segment};
use crate::embeddings::Element;
use crate::engine::strips::packed_problem::PackedProblem;
use crate::engine::strips::strip::CommonShift;

/// A problem over prefixes.
pub(crate) struct Prefixes<'p, T: Element> {
    /// The problem over all features, without its columns.
    pub(crate) packed: PackedProblem<'p, T>,
    pub(crate) segments: &'p [Segment],
    pub(crate) rows: &'p PrefixRows<'p, T>,
    pub(crate) columns: &'p PrefixRows<'p, T>,
    pub(crate) packed_columns: PackedColumns<T::Real>,
    /// Panels of features as the left and as the right operand of a product.
    pub(crate) left_features: FeaturePanels,
    pub(crate) right_features: FeaturePanels,
    pub(crate) common: CommonShift,
    /// Columns choose, too.
    pub(crate) both: bool,
}
