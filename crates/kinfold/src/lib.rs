//! Exact contrastive losses: embeddings in; loss, gradients and measures out.
//!
//! [`ContrastiveLoss`] is InfoNCE one way, both ways (CLIP) and NT-Xent (SimCLR), over plain slices of
//! `f32`, `f64`, `f16` or `bf16`. It never builds the n × n matrix of similarities, loses no
//! precision when the loss is small, and gives the same bits for every number of threads.
//!
//! ```
//! use kinfold::{Embeddings, ContrastiveLoss, Temperature};
//!
//! # let (q, k, dim) = (vec![0.5f32, 1.0, -1.0, 0.2], vec![0.4f32, 1.0, -1.0, 0.3], 2);
//! let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?).symmetric(); // validated once; cheap to copy
//! let queries = Embeddings::new(&q, dim)?; // [n, dim], borrowed
//! let keys = Embeddings::new(&k, dim)?;
//! let value: f64 = loss.value(queries, keys)?.mean; // forward only
//! let out = loss.value_and_gradient(queries, keys)?; // out.queries, out.keys, out.log_scale
//! assert!((value - out.mean).abs() < 1e-6);
//! # Ok::<(), kinfold::Error>(())
//! ```
//!
//! This crate knows no framework, no file and no clock: for those see `kinfold-burn` and
//! `kinfold-train`.

// A panic is a bug: say why it cannot happen (`expect`), or return an error.
#![warn(clippy::unwrap_used)]

pub mod cost;
pub mod diagnosis;
mod embeddings;
mod engine;
mod error;
pub mod loss;
pub mod measures;

pub use embeddings::{Element, Embeddings, NORM_FLOOR, Real, bf16, f16};
#[doc(hidden)]
pub use engine::Instructions;
pub use engine::{Gemm, WORTH_THREADS, on_threads_of, release_memory};
pub use error::Error;
pub use loss::{
    Batch, ContrastiveLoss, Form, GradientMut, Objective, Preset, Reduction, Similarity,
    Statistics, Temperature, Value, ValueAndGradient,
};
