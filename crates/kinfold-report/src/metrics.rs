//! The steps of a run, as its metrics have them.
//!
//! Input: a run folder. Output: a [`Step`] a line; evaluations are lines, too, and are passed over.

use kinfold_train::Error;
use kinfold_train::run::METRICS;
use serde::Deserialize;
use std::path::Path;

/// A step.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct Step {
    /// Counted from 1.
    pub(crate) step: usize,
    /// In nats.
    pub(crate) loss: f64,
    pub(crate) learning_rate: f64,
    /// Of all weights together, before clipping; a run of an older version has none.
    pub(crate) gradient_norm: Option<f64>,
    /// Where it is learned.
    pub(crate) temperature: Option<f64>,
    /// Where the file has it.
    pub(crate) pairs_per_second: Option<f64>,
    /// The least the loss could have been; none where no closed form is known.
    #[serde(skip)]
    pub(crate) floor: Option<f64>,
}

/// Every step that a run has taken.
///
/// # Errors
/// When the folder is no run.
pub(crate) fn steps(run: &Path) -> Result<Vec<Step>, Error> {
    let text = std::fs::read_to_string(run.join(METRICS)).map_err(|e| Error::NotARun {
        path: run.to_path_buf(),
        reason: format!("{METRICS}: {e}"),
    })?;
    // What was ended by force may end within a line.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}
