//! Operations that Burn's CPU backend is slow at, each with its own backward pass.
//!
//! Input: tensors and Burn's own modules, so that weights, their initialisation and their files stay
//! Burn's. Output: what the module's own `forward` gives, up to rounding. On the CPU (Burn's Flex
//! device), `f32` is computed here; on every other device, for every other type, and with settings that
//! are not supported here, the module's own `forward` runs.
//!
//! The results have the same bits at each run and for every number of threads. Images come out with their
//! channels last in memory, which every operation here reads as it is.

mod attention;
mod batch_norm;
mod conv;
mod embedding_bag;
mod gelu;
mod layer_norm;
mod linear;
mod matmul;
mod memory;
mod operation;
mod pool;

pub use attention::{attention, attention_packed};
pub use batch_norm::{
    Activation, SharedBatch, SumOverProcesses, batch_norm, batch_norm_1d, batch_norm_add_relu,
    over_shared_batch,
};
pub use conv::conv2d;
pub use embedding_bag::{Bags, embedding_bag};
pub use gelu::gelu;
pub use layer_norm::layer_norm;
pub use linear::{linear, linear_gelu};
pub(crate) use memory::buffer::Buffer;
pub use memory::buffer::release_memory;
pub(crate) use memory::tensor::contiguous;
pub use pool::{global_average_pool, max_pool2d};
