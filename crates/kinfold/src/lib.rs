//! Exact contrastive losses over plain slices: embeddings in; loss, gradients and measures out.
//!
//! [`ContrastiveLoss`] is InfoNCE, CLIP's loss, NT-Xent, SupCon, SigLIP and their family, over slices of
//! `f32`, `f64`, `f16` or `bf16`. It never builds the n × n matrix of similarities, loses no precision
//! when the loss is small, and gives the same bits for every number of threads. Every number is tested
//! against a dense f64 oracle ([`loss::reference`]). It knows no framework, no file and no clock: for a
//! loss in a Burn model see the crate `kinfold-burn`; for training, the command `kinfold`.
//!
//! # A loss and its gradients
//!
//! ```
//! use kinfold::{ContrastiveLoss, Embeddings, Temperature};
//!
//! # let (q, k, dim) = (vec![0.5f32, 1.0, -1.0, 0.2], vec![0.4f32, 1.0, -1.0, 0.3], 2);
//! let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?); // validated once; cheap to copy
//! let queries = Embeddings::new(&q, dim)?; // [n, dim], borrowed
//! let keys = Embeddings::new(&k, dim)?; // row i belongs to query i
//! let value: f64 = loss.value((queries, keys))?.mean; // forward only
//! let out = loss.value_and_gradient((queries, keys))?; // out.queries, out.keys, out.log_scale
//! assert!((value - out.mean).abs() < 1e-6);
//! # Ok::<(), kinfold::Error>(())
//! ```
//!
//! # In a loop, in memory of your own
//!
//! ```
//! use kinfold::{ContrastiveLoss, Embeddings, GradientMut, Temperature};
//!
//! let mut queries = vec![0.5f32, 1.0, -1.0, 0.2];
//! let keys = [0.4f32, 1.0, -1.0, 0.3];
//! let (mut of_queries, mut of_keys) = ([0.0; 4], [0.0; 4]);
//! let clip = ContrastiveLoss::clip(Temperature::new(0.07)?);
//! for _ in 0..10 {
//!     let batch = (Embeddings::new(&queries, 2)?, Embeddings::new(&keys, 2)?);
//!     let gradient = GradientMut::new(&mut of_queries, &mut of_keys);
//!     let (value, parameters) = clip.value_and_gradient_into(batch, gradient)?;
//!     assert!(value.mean.is_finite() && parameters.log_scale.is_finite());
//!     queries.iter_mut().zip(&of_queries).for_each(|(x, g)| *x -= 0.1 * g);
//! }
//! # Ok::<(), kinfold::Error>(())
//! ```
//!
//! # Hard negatives, known duplicates, labels
//!
//! ```
//! use kinfold::{Batch, ContrastiveLoss, Embeddings, Temperature};
//!
//! # let (q, k, hard) = ([0.5f32, 1.0, -1.0, 0.2], [0.4f32, 1.0, -1.0, 0.3], [0.1f32, 0.9]);
//! let (queries, keys) = (Embeddings::new(&q, 2)?, Embeddings::new(&k, 2)?);
//! let batch = Batch::new(queries, keys)
//!     .with_negatives(Embeddings::new(&hard, 2)?) // of every query
//!     .with_ids(&[7, 8]); // rows of one id are never negatives of each other
//! let out = ContrastiveLoss::info_nce(Temperature::new(0.05)?).value_and_gradient(batch)?;
//! assert_eq!(out.negatives.len(), 2);
//!
//! let labelled = Batch::labelled(queries, &[0, 0]); // SupCon: rows of one label belong together
//! let value = ContrastiveLoss::sup_con(Temperature::new(0.1)?).value(labelled)?;
//! # assert!(value.mean.is_finite());
//! # Ok::<(), kinfold::Error>(())
//! ```
//!
//! # Is it good, and why not?
//!
//! ```
//! use kinfold::{ContrastiveLoss, Embeddings, Temperature, measures};
//!
//! # let (q, k) = ([0.5f32, 1.0, -1.0, 0.2], [0.4f32, 1.0, -1.0, 0.3]);
//! let (queries, keys) = (Embeddings::new(&q, 2)?, Embeddings::new(&k, 2)?);
//! let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?);
//! // No encoder gets below the floor; the ceiling, ln n, is what nothing learned gives.
//! assert!(loss.floor(256).unwrap() < loss.ceiling(256));
//! let rank = measures::effective_rank(queries)?; // near 1: collapsed
//! let distance = measures::alignment(queries, keys)?; // mean ‖q − k‖² of the pairs
//! # assert!(rank >= 1.0 && distance >= 0.0);
//! # Ok::<(), kinfold::Error>(())
//! ```
//!
//! [`diagnosis`] puts such numbers together and says in words what is wrong.
//!
//! # Which loss
//!
//! | you have | take |
//! |---|---|
//! | queries that look for keys: search, retrieval | [`ContrastiveLoss::info_nce`] |
//! | two kinds of things, each to be found by the other | [`ContrastiveLoss::clip`] |
//! | two views of one thing by one encoder | [`ContrastiveLoss::nt_xent`] |
//! | labels | [`ContrastiveLoss::sup_con`] |
//! | batches so large that no row should need all others | [`ContrastiveLoss::sig_lip`] |
//! | another library's number to reproduce | [`Preset`] |
//!
//! [`Objective`] has the others: decoupled, debiased, hard-negative weighting, and RINCE for pairs of
//! which some are false.
//!
//! # Programs to begin with
//!
//! [`examples/slices.rs`](https://github.com/kinfold/kinfold/blob/main/crates/kinfold/examples/slices.rs):
//! a training loop by hand;
//! [`examples/diagnose.rs`](https://github.com/kinfold/kinfold/blob/main/crates/kinfold/examples/diagnose.rs):
//! what is wrong with two arrays.
//!
//! # Features
//!
//! `serde`: settings as text, for configuration files.

// A panic is a bug: say why it cannot happen (`expect`), or return an error.
#![warn(clippy::unwrap_used)]

mod compute;
mod conflict;
pub mod cost;
pub mod diagnosis;
mod embeddings;
mod engine;
mod error;
mod execution;
pub mod loss;
pub mod measures;
pub mod runtime;

pub use embeddings::{Element, Embeddings, NORM_FLOOR, Real, bf16, f16};
pub use error::Error;
pub use loss::{
    Batch, BatchShape, Conflict, ContrastiveLoss, Form, GUIDE_MARGIN, GradientMut, Objective,
    ParameterGradient, Prefix, Preset, Reduction, Similarity, Statistics, Temperature, Value,
    ValueAndGradient,
};

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
