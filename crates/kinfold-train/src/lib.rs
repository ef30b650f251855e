//! Contrastive training: from pairs to a model and what it is worth.
//!
//! Comes in: [`Settings`]. Goes out: a run folder. The flow, a module a stage:
//! pairs and views (kinfold-data) → encoder (kinfold-nn) → loss (kinfold-burn) → optimizer → [`evaluation`] → run folder.
//! Nothing here prints; [`train`] tells its caller what happens, as [`Event`]s.

#![warn(clippy::unwrap_used)]

mod bench;
mod criterion;
mod diagnose;
mod embed;
mod error;
pub mod evaluation;
mod gradients;
mod look;
mod loss;
mod optimizer;
mod report;
mod run;
mod search;
pub mod settings;
mod study;
mod tensors;
mod training;

pub use bench::{Case, Dense, Record, Seconds, bench};
pub use diagnose::{Diagnosed, Told, diagnose};
pub use embed::{Embedded, Format, embed};
pub use error::Error;
pub use evaluation::{OneShot, OneShotTask, evaluate, one_shot};
pub use kinfold::{Form, diagnosis};
pub use look::{Looked, look};
pub use loss::loss_names;
pub use report::report;
pub use run::{Summary, run_folder};
pub use search::{Found, Match, Matches, search};
pub use settings::Settings;
pub use study::{Study, StudyEvent, StudyRun, StudySettings, study_temperature};
pub use training::{Event, Progress, resume, train};
