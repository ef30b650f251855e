//! Who is a candidate for whom: the rows of a batch, the columns they choose among, and which of
//! these are positives, duplicates or false negatives.
//!
//! A file for each of the three forms builds the [`Candidates`](sides::Candidates) of a batch; nothing
//! here computes a loss.

pub(crate) mod groups;
pub(crate) mod guide;
pub(crate) mod query_key;
pub(crate) mod sides;
pub(crate) mod stacked_views;
pub(crate) mod within_views;
