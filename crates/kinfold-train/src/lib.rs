//! Contrastive training: from pairs to a model and what it is worth.
//!
//! Input: [`Settings`]. Output: a run folder. The flow, a module a stage: pairs and views
//! (kinfold-data) → encoder (kinfold-nn) → loss (kinfold-burn) → gradients → optimizer → evaluation →
//! run folder. Nothing here prints; [`train`] reports each [`Event`] to an observer.
//!
//! ```no_run
//! use kinfold_train::{Event, Settings, train};
//! use std::path::Path;
//! use std::sync::atomic::AtomicBool;
//!
//! let settings = Settings { data: "photos/".into(), epochs: 10, ..Settings::default() };
//! let stop = AtomicBool::new(false); // set it from elsewhere to end the run, resumable
//! let summary = train(settings, Path::new("run"), &stop, &mut |event| {
//!     if let Event::Stepped(progress) = event {
//!         println!("{progress:?}");
//!     }
//!     Ok(())
//! })?;
//! println!("{summary:?}");
//! # Ok::<(), kinfold_train::Error>(())
//! ```

#![warn(clippy::unwrap_used)]

mod criterion;
mod embed;
mod error;
mod evaluation;
mod export;
mod gradients;
mod loss;
pub mod memory;
mod method;
mod moving_average;
mod optimizer;
mod paths;
mod processes;
pub mod run;
pub mod settings;
pub mod tensors;
mod training;

pub use embed::{Compression, Embedded, Format, embed, embed_documents, embed_views};
pub use error::Error;
pub use evaluation::{
    DataSource, Evaluated, EvaluationObserver, EvaluationProgress, OneShot, OneShotTask, evaluate,
    one_shot,
};
pub use export::{ExportFormat, export};
pub use gradients::shared_loss;
pub use loss::loss_names;
pub use paths::{relative_path, shell_word};
pub use processes::Processes;
pub use run::{
    ByDimension, Estimate, Evaluation, Measured, Retrieval, Retrieved, ScoredPairs, Shared,
    Summary, run_folder,
};
pub use settings::Settings;
pub use training::{Event, Observer, Progress, resume, resume_over, train, train_over};

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
