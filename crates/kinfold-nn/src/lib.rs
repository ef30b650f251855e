//! Networks for [Burn](burn) on the CPU: fast operations, optimizer steps and image encoders.
//!
//! - [`ops`]: convolution, norms, pooling, linear layers, GELU and attention, each with its own backward
//!   pass. They take Burn's modules and give what the module's `forward` gives.
//! - [`step`]: one step of AdamW, SGD or LARS over one weight, in one pass.
//! - [`encoders`]: a small convolutional network, an MLP, ResNet-18 and -50 and a vision transformer, with
//!   their settings and their weights in PyTorch's names and layouts.
//!
//! On every device but the CPU (Burn's Flex), Burn's own operations run instead.
//!
//! # An encoder
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kinfold_nn::encoders::{EncoderName, EncoderSettings, ImageShape, Model};
//!
//! let device = Device::flex().autodiff();
//! let settings = EncoderSettings::named(EncoderName::ConvNet);
//! let shape = ImageShape { size: 8, channels: 1 };
//! let model = Model::random(&settings, shape, 0, &device)?; // the weights follow from the seed, 0
//!
//! let images = Tensor::<4>::random([16, 1, 8, 8], Distribution::Default, &device);
//! let encoder = model.snapshot(); // as it is now, for use without training
//! let embeddings = encoder.embed(images.clone().inner());
//! let projected = model.project(images); // with a graph: what a contrastive loss sees
//! assert_eq!(embeddings.dims(), [16, settings.embedding()]);
//! assert_eq!(projected.dims()[0], 16);
//! let weights: Vec<u8> = model.to_bytes()?; // a safetensors file, in PyTorch's names
//! # assert!(!weights.is_empty());
//! # Ok::<(), kinfold_nn::Error>(())
//! ```
//!
//! # Operations for a network of your own
//!
//! They stand where the module's `forward` would. Weights and optimizer stay Burn's.
//!
//! ```
//! use burn::nn::BatchNormConfig;
//! use burn::nn::conv::Conv2dConfig;
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kinfold_nn::ops::{self, Activation};
//!
//! let device = Device::flex().autodiff();
//! let convolution = Conv2dConfig::new([3, 16], [3, 3]).init(&device);
//! let norm = BatchNormConfig::new(16).init(&device);
//!
//! let images = Tensor::<4>::random([4, 3, 32, 32], Distribution::Default, &device);
//! let x = ops::conv2d(images, &convolution); // as convolution.forward(images)
//! let x = ops::batch_norm(x, &norm, Activation::Relu); // as relu(norm.forward(x))
//! let gradients = x.sum().backward();
//! assert!(convolution.weight.grad(&gradients).is_some());
//! ```

#![warn(clippy::unwrap_used)]

pub mod encoders;
mod error;
pub mod ops;
pub mod step;

pub use error::Error;

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
