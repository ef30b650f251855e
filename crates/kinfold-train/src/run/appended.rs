//! A file that only grows, piece by piece, each whole or not at all.
//!
//! Input: pieces. Output: a file whose length is known, so that a later sitting can cut off what
//! came after a checkpoint.

use crate::Error;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

pub(crate) struct Appended {
    path: PathBuf,
    file: File,
    /// Bytes of whole pieces.
    written: u64,
}

impl Appended {
    /// A new file.
    pub(crate) fn create(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        let file = file.map_err(Error::file("create", &path))?;
        Ok(Self { path, file, written: 0 })
    }

    /// The file as it is; an empty one where there is none.
    pub(crate) fn open(path: PathBuf) -> Result<Self, Error> {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let file = file.map_err(Error::file("write", &path))?;
        let written = file.metadata().map_err(Error::file("read", &path))?.len();
        Ok(Self { path, file, written })
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn append(&mut self, piece: &[u8]) -> Result<(), Error> {
        match self.file.write_all(piece) {
            Ok(()) => {
                self.written += piece.len() as u64;
                Ok(())
            }
            Err(e) => {
                // On a full disk part of the piece may stand; cutting needs no space.
                let _ = self.file.set_len(self.written);
                Err(Error::file("write", &self.path)(e))
            }
        }
    }

    /// Forgets what comes after the first `bytes`.
    pub(crate) fn cut(&mut self, bytes: u64) -> Result<(), Error> {
        self.file.set_len(bytes).map_err(Error::file("write", &self.path))?;
        self.written = bytes;
        Ok(())
    }

    /// Until this is done, the file may lose its end when the power fails.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(Error::file("write", &self.path))
    }
}
