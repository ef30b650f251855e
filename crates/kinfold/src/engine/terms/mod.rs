//! What is added up for each row and column, and how these sums become losses and gradients.

pub(crate) mod group_sums;
pub(crate) mod linear;
pub(crate) mod per_query;
pub(crate) mod rule;
