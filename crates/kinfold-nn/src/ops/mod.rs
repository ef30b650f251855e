//! Operations of encoders that Burn's CPU backend is slow at, each with its own backward pass.
//!
//! Comes in: tensors and Burn's own modules, so that weights, their initialisation and how they are
//! saved stay Burn's. Goes out: what the module's own `forward` gives, up to rounding. On the CPU
//! (Burn's Flex device) `f32` is computed here; on every other device, of every other type, and with
//! settings that nothing here is written for, the module's own `forward` is what runs.
//!
//! The results have the same bits at each run and for every number of threads. Images that come out
//! have their channels last in memory, which every operation here reads as it is.

mod attention;
mod batch_norm;
mod buffer;
mod conv;
mod flex;
mod gelu;
mod images;
mod layer_norm;
mod linear;
mod matmul;
mod pool;
mod rows;
mod vector;

pub use attention::{attention, attention_packed};
pub use batch_norm::{Activation, batch_norm, batch_norm_1d, batch_norm_add_relu};
pub use buffer::release_memory;
pub use conv::conv2d;
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_gelu};
pub use pool::{global_average_pool, max_pool2d};
