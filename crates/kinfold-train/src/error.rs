//! The one error type of this crate. Every message says what was given, what was needed, and where
//! it helps what to do.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong between pairs and a trained model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be used.
    #[error("{0}")]
    Setting(String),

    /// A settings file that cannot be read as one.
    #[error("{}: {reason}", path.display())]
    SettingsFile {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },

    /// The folder for a run is there already.
    #[error("{} exists already; a run never overwrites another: give another --out", .0.display())]
    RunExists(PathBuf),

    /// The folder given as a run is none.
    #[error("{} is no run: {reason}", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },

    /// Another process has the run folder.
    #[error("{} is in use: another process trains in it", .0.display())]
    RunInUse(PathBuf),

    /// A run that cannot go on.
    #[error("{} cannot be resumed: {reason}", run.display())]
    CannotResume {
        /// Its folder.
        run: PathBuf,
        /// Why.
        reason: String,
    },

    /// A checkpoint that cannot be used.
    #[error("the checkpoint {} cannot be used: {reason}; {help}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do instead.
        help: String,
    },

    /// The data cannot be used.
    #[error("{0}")]
    Data(String),

    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read`, `write`, `create`, `delete` or `lock`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },

    /// The loss or the weights are not finite numbers any more.
    #[error(
        "the {what} not finite at step {step} ({reason}); training stopped. The last good weights, \
         from before step {step}, are in {}. A lower learning rate (now {learning_rate:e}) or a \
         higher temperature usually helps", kept.display()
    )]
    NotFinite {
        /// `loss is` or `weights are`.
        what: &'static str,
        /// The step, counted from 1.
        step: usize,
        /// What was not finite.
        reason: String,
        /// The learning rate at that step.
        learning_rate: f64,
        /// Where the last good weights are.
        kept: PathBuf,
    },

    /// A process of a run went wrong, and with it the run; every process has this error.
    #[error("process {process} of {processes}: {reason}")]
    Process {
        /// Which one, from 1.
        process: usize,
        /// How many there are.
        processes: usize,
        /// What went wrong there.
        reason: String,
        /// Whether it was asked for something that cannot be.
        usage: bool,
    },

    /// Data, pairs or views that cannot be had.
    #[error(transparent)]
    Reading(#[from] kinfold_data::Error),

    /// An encoder that cannot be built, read or written.
    #[error(transparent)]
    Encoder(#[from] kinfold_nn::Error),

    /// Embeddings that a loss or a measure cannot take.
    #[error(transparent)]
    Embeddings(#[from] kinfold::Error),
}

impl Error {
    /// Whether the caller asked for something that cannot be, rather than something that failed.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Reading(error) => error.is_usage(),
            Self::Process { usage, .. } => *usage,
            Self::Setting(_)
            | Self::Encoder(kinfold_nn::Error::Setting(_))
            | Self::SettingsFile { .. }
            | Self::RunExists(_)
            | Self::CannotResume { .. } => true,
            _ => false,
        }
    }

    /// A file of data is not what it has to be, as [`kinfold_data::Error::data_file`] says it.
    pub fn data_file(path: &Path, reason: impl Into<String>) -> Self {
        kinfold_data::Error::data_file(path, reason).into()
    }

    /// [`Error::File`] of an action and a path, for `map_err`.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action, path, source }
    }
}
