//! The error type of this crate. A message says what was given and what was needed.

use std::io;
use std::path::{Path, PathBuf};

/// What can go wrong with an encoder: its settings, and its weights in files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be used.
    #[error("{0}")]
    Setting(String),

    /// A file of weights that does not hold what it has to.
    #[error("{}: {reason}", path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What was found and what was needed.
        reason: String,
    },

    /// Weights that cannot be written as safetensors.
    #[error("the model cannot be written as safetensors: {0}")]
    Unwritable(String),

    /// A file that cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn weights(path: &Path, reason: impl Into<String>) -> Self {
        Self::Weights { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Read { path, source }
    }
}
