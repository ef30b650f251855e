//! What encoders are made of, as fast operations on the CPU.
//!
//! Comes in: tensors and Burn's own modules. Goes out: what the modules themselves would give, to
//! rounding, and differentiable. On Burn's Flex device, in `f32`, an operation is one custom
//! operation with a backward pass of its own; on every other device, or in another type, it is
//! Burn's. Every result has the same bits at each run and for every number of threads.

mod attention;
mod gelu;
mod layer_norm;
mod linear;
mod matmul;
mod rows;

pub use attention::{attention, attention_packed};
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_gelu};
