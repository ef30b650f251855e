//! What is added up for each row, and how these sums become losses and weights.
//!
//! [`rule`] is where one objective differs from another. [`linear`] has the terms that are linear in the
//! logits (label smoothing, the mean over several positives), [`per_query`] the negatives of one query
//! alone; neither of them needs a matrix.

pub(crate) mod group_sums;
pub(crate) mod linear;
pub(crate) mod outcome;
pub(crate) mod per_query;
pub(crate) mod rule;
