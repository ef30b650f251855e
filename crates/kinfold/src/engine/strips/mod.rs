//! The strip loop: the n × m matrix of logits, a strip of rows at a time.
//!
//! [`passes`] runs a problem, [`strip`] has the loops, [`block`] and [`block_gradient`] what a thread
//! does with a block of rows, [`panel`] what it does with a tile's width of columns. [`plan`] says how long
//! every buffer is, [`memory`] has the buffers, [`packed_problem`] the packed columns.

pub(crate) mod block;
mod block_gradient;
pub(crate) mod memory;
pub(crate) mod packed_problem;
pub(crate) mod panel;
pub(crate) mod passes;
pub(crate) mod plan;
pub(crate) mod strip;
