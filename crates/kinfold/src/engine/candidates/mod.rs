//! Who is a candidate for whom: the rows of a batch, the columns they choose among, and which of
//! these are positives, duplicates or false negatives.

pub(crate) mod groups;
pub(crate) mod guide;
pub(crate) mod query_key;
pub(crate) mod stacked_views;
pub(crate) mod within_views;
