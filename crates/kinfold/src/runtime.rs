//! Threads, memory and products: what the engine runs on, for callers that share it.
//!
//! [`Execution`] says how one loss is computed. The rest is for libraries that compute beside the
//! loss: [`Gemm`] multiplies with the engine's kernels, [`on_threads_of`] lends it another library's
//! threads, [`release_memory`] returns the buffers that it keeps for the next call.

pub use crate::engine::{Gemm, WORTH_THREADS, on_threads_of, release_memory};
pub use crate::execution::Execution;
#[doc(hidden)]
pub use crate::execution::Instructions;
