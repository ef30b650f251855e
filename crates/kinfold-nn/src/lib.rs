//! Networks for [Burn](burn) on the CPU: fast operations, optimizer steps and image encoders.
//!
//! - [`ops`]: convolution, norms, pooling, linear layers, GELU and attention, each with its own backward
//!   pass. They take Burn's modules and give what the module's `forward` gives.
//! - [`step`]: one step of AdamW, SGD or LARS over one weight, in one pass.
//! - [`encoders`]: a small convolutional network, an MLP, ResNet-18 and -50 and a vision transformer, with
//!   their settings and their weights in PyTorch's names and layouts.
//!
//! On every device but the CPU (Burn's Flex), Burn's own operations run instead.

#![warn(clippy::unwrap_used)]

pub mod encoders;
mod error;
pub mod ops;
pub mod step;

pub use error::Error;
