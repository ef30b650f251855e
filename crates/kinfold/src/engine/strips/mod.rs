//! The strip loop: the n × m matrix of logits, a strip of rows at a time.

pub(crate) mod block;
pub(crate) mod panel;
pub(crate) mod plan;
pub(crate) mod run;
pub(crate) mod strip;
