//! Contrastive losses for Burn models.
//!
//! Input: queries and keys as Burn tensors, `[n, d]`, and where wanted negatives, ids, labels, weights or a
//! guide, as a [`PairBatch`]. Output: the loss, `[1]`, differentiable.
//! On the CPU (Burn's Flex device) it is one operation over kinfold's engine, whose gradients are
//! computed with the value; on every other device it is strips of tensor operations. Neither builds
//! the n × n matrix of similarities.
//!
//! ```
//! use burn::tensor::{Device, Distribution, Tensor};
//! use kinfold_burn::ContrastiveLossConfig;
//!
//! let device = Device::flex().autodiff();
//! let queries = Tensor::<2>::random([8, 4], Distribution::Default, &device).require_grad();
//! let keys = Tensor::<2>::random([8, 4], Distribution::Default, &device);
//!
//! let criterion = ContrastiveLossConfig::new().with_temperature(0.1).init(&device);
//! let loss: Tensor<1> = criterion.forward(queries.clone(), keys);
//! let gradients = loss.backward();
//! assert_eq!(queries.grad(&gradients).unwrap().dims(), [8, 4]);
//! ```
//!
//! Programs to begin with:
//! [SimCLR in a page](https://github.com/kinfold/kinfold/blob/main/crates/kinfold-burn/examples/simclr.rs),
//! and [a batch larger than memory](https://github.com/kinfold/kinfold/blob/main/crates/kinfold-burn/examples/cached_gradients.rs).

#![warn(clippy::unwrap_used)]

mod batch;
mod contrastive_loss;
mod fused;
mod learned;
mod share;
mod strips;

pub use batch::PairBatch;
pub use contrastive_loss::{ContrastiveLoss, ContrastiveLossConfig};
pub use kinfold::{Error, Form, Objective, Preset, Reduction, Similarity, Temperature};

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
