//! Networks for [Burn](burn) on the CPU: fast operations, optimizer steps and image encoders.
//!
//! - [`ops`]: convolution, norms, pooling, linear layers, GELU and attention, each with its own backward
//!   pass. They take Burn's modules and give what the module's `forward` gives.
//! - [`step`]: one step of AdamW, SGD or LARS over one weight, in one pass.
//! - [`encoders`]: a small convolutional network, an MLP, ResNet-18 and -50 and a vision transformer, with
//!   their settings and their weights in PyTorch's names and layouts.
//!
//! ```
//! use burn::nn::LinearConfig;
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kinfold_nn::ops;
//!
//! let device = Device::flex().autodiff();
//! let layer = LinearConfig::new(64, 32).init(&device);
//! let x = Tensor::<2>::random([8, 64], Distribution::Default, &device);
//! let y = ops::linear(x.clone(), &layer); // what the layer's `forward` gives, and its gradients
//! let difference: f32 = (y - layer.forward(x)).abs().max().into_scalar();
//! assert!(difference < 1e-5);
//! ```
//!
//! On every device but the CPU (Burn's Flex), Burn's own operations run instead.

#![warn(clippy::unwrap_used)]

pub mod encoders;
mod error;
pub mod ops;
pub mod step;

pub use error::Error;
