//! What can be asked of a run: its report, a diagnosis, a search, a study of many runs, and a preview
//! of its views before it begins.
//!
//! Input: run folders of kinfold-train, files of embeddings, images. Output: pages, pictures, answers.
//! Nothing here prints. [`Recorder`] watches training and leaves what the report needs.
//!
//! ```no_run
//! use kinfold_report::{DiagnosisRequest, diagnose, report};
//! use std::path::Path;
//!
//! let page = report(Path::new("runs/digits"), None)?; // writes report.html
//! let request = DiagnosisRequest { queries: "runs/digits".into(), ..Default::default() };
//! let diagnosis = diagnose(&request)?.diagnosis; // of a run, or of two files of embeddings
//! println!("{}: {}", page.display(), diagnosis.verdict());
//! # Ok::<(), kinfold_train::Error>(())
//! ```

#![warn(clippy::unwrap_used)]

mod diagnose;
mod metrics;
mod mine;
mod picture;
mod preview;
mod recorder;
mod report;
mod search;
mod snapshots;
mod study;
mod svg;

pub use diagnose::{DiagnosisReport, DiagnosisRequest, diagnose};
pub use mine::{MineSettings, Mined, mine};
pub use preview::{Preview, TokenizedText, preview, preview_pairs, preview_texts};
pub use recorder::Recorder;
pub use report::report;
pub use search::{Found, Match, Matches, search};
pub use study::{Question, Study, StudyEvent, StudyRun, StudySettings, study};

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
