//! The one error type of this crate. Every message says what was given and what was needed.

use std::io;
use std::path::{Path, PathBuf};

/// Why images, pairs or views cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be used.
    #[error("{0}")]
    Setting(String),

    /// The data cannot be used.
    #[error("{0}")]
    Data(String),

    /// A file of data is not what it has to be.
    #[error("{}: {reason}", path.display())]
    DataFile {
        /// The file, or the entry of an archive.
        path: PathBuf,
        /// What was found and what was needed.
        reason: String,
    },

    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
}

impl Error {
    /// Whether the caller asked for something that cannot be, rather than something that failed.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Setting(_))
    }

    /// [`Error::DataFile`] of a path.
    pub fn data_file(path: &Path, reason: impl Into<String>) -> Self {
        Self::DataFile { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::File { action: "read", path, source }
    }
}
