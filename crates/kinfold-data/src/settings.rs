//! How images, texts and vectors are read, as a user sets it and as it is done.
//!
//! Input: settings with defaults left open, and which data they are for. Output: a [`Reading`], a
//! [`TextReading`] or a [`VectorReading`], with everything decided.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The name of the embedded data.
pub const DIGITS: &str = "digits";

/// Bytes of decoded images that are kept in memory by default.
pub const MEMORY: u64 = 2 << 30;

/// How images are read.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// Width and height in pixels; by default 8 for the digits and 32 for everything else.
    pub size: Option<usize>,
    /// 1 (grey) or 3 (red, green, blue); by default 1 for the digits and 3 for everything else.
    pub channels: Option<usize>,
    /// Make dark light and light dark: affine views are black beyond an image's edges, which suits
    /// light ink on black and not drawings on white paper.
    pub invert: bool,
    /// What shows through where an image is transparent, from 0 (black) to 255 (white, the default); before
    /// `invert`.
    pub background: Option<u8>,
    /// MiB of decoded images to keep in memory, 2048 by default; the others are decoded whenever they
    /// are needed.
    pub memory: Option<u64>,
}

impl ImageSettings {
    /// # Errors
    /// [`Error::Setting`], naming the setting, what it is and what it must be.
    pub fn check(&self) -> Result<(), Error> {
        if let Some(size) = self.size.filter(|size| !(4..=1024).contains(size)) {
            let text = format!("image size is {size}, but it must be 4 to 1024 pixels");
            return Err(Error::Setting(text));
        }
        if let Some(channels) = self.channels.filter(|&channels| channels != 1 && channels != 3) {
            let text =
                format!("image channels is {channels}, but it must be 1 (grey) or 3 (colour)");
            return Err(Error::Setting(text));
        }
        Ok(())
    }

    /// Width (and height) and channels of the images of some data.
    pub fn shape(&self, data: &str) -> (usize, usize) {
        let (size, channels) = if data == DIGITS { (8, 1) } else { (32, 3) };
        (self.size.unwrap_or(size), self.channels.unwrap_or(channels))
    }

    /// How to read some data. `originals`: whether images will be asked for at their original size,
    /// as [`Recipe::wants_originals`](crate::Recipe::wants_originals) says.
    pub fn reading(&self, data: &str, originals: bool) -> Reading {
        let (size, channels) = self.shape(data);
        let memory = self.memory.map_or(MEMORY, |mib| mib.saturating_mul(1 << 20));
        let background = self.background.unwrap_or(u8::MAX);
        Reading { size, channels, memory, originals, background, invert: self.invert }
    }
}

/// How images are read, with every default decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Width and height that training needs.
    pub size: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// The most bytes of decoded images to keep; the others are decoded whenever they are needed.
    /// It decides how fast images are read and nothing else.
    pub memory: u64,
    /// Whether images will be asked for at their original size, as random crops do.
    pub originals: bool,
    /// What shows through where an image is transparent, from 0 (black) to 255 (white).
    pub background: u8,
    /// Whether dark becomes light and light dark.
    pub invert: bool,
}

/// Tokens of a tokenizer that is trained on the run's texts.
const VOCABULARY: usize = 30_000;

/// How texts are read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextSettings {
    /// The two columns of a pair's texts; by default `anchor` and `positive`.
    pub columns: Option<[String; 2]>,
    /// A tokenizer.json, or `wordpiece` or `bpe` for one that is trained on the run's texts; by default that
    /// of the weights to begin with, and `wordpiece` where they are random.
    pub tokenizer: Option<PathBuf>,
    /// The most tokens of one that is trained, 30,000 by default.
    pub vocabulary: Option<usize>,
}

impl TextSettings {
    /// # Errors
    /// [`Error::Setting`], naming the setting, what it is and what it must be.
    pub fn check(&self) -> Result<(), Error> {
        match self.vocabulary {
            Some(vocabulary) if !(100..=10_000_000).contains(&vocabulary) => Err(Error::Setting(
                format!("vocabulary is {vocabulary}, but it must be 100 to 10,000,000 tokens"),
            )),
            _ => Ok(()),
        }
    }

    /// How to read texts; `own` is the tokenizer of the weights to begin with.
    pub fn reading(&self, own: Option<PathBuf>) -> TextReading {
        let vocabulary = self.vocabulary.unwrap_or(VOCABULARY);
        let tokenizer = match self.tokenizer.clone().or(own) {
            Some(path) if path == Path::new("bpe") => TokenizerSource::Bpe { vocabulary },
            Some(path) if path != Path::new("wordpiece") => TokenizerSource::File(path),
            _ => TokenizerSource::WordPiece { vocabulary },
        };
        TextReading { columns: self.columns.clone(), tokenizer }
    }
}

/// Where a tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerSource {
    /// A file, tokenizer.json.
    File(PathBuf),
    /// Pieces of words, in lower case and without accents, as BERT has them; trained on the texts.
    WordPiece {
        /// The most tokens.
        vocabulary: usize,
    },
    /// Merged bytes, as GPT-2 has them; trained on the texts.
    Bpe {
        /// The most tokens.
        vocabulary: usize,
    },
}

/// How texts are read, with every default decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextReading {
    /// The two columns of a pair's texts; none for those of sentence-transformers.
    pub columns: Option<[String; 2]>,
    /// What makes tokens of them.
    pub tokenizer: TokenizerSource,
}

/// How vectors are read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VectorSettings {
    /// The vectors of documents: row i belongs to row i of the data, which are those of queries.
    pub documents: Option<PathBuf>,
    /// The vectors of the names that the data, pairs of names, mentions.
    pub table: Option<PathBuf>,
}

impl VectorSettings {
    /// # Errors
    /// [`Error::Setting`] where both are given.
    pub fn check(&self) -> Result<(), Error> {
        match (&self.documents, &self.table) {
            (Some(documents), Some(table)) => Err(Error::Setting(format!(
                "{} and {} are given: pairs are two files of vectors, row by row, or a file of names and \
                 one of vectors",
                documents.display(),
                table.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Whether they say that the data is vectors.
    pub fn are_given(&self) -> bool {
        self.documents.is_some() || self.table.is_some()
    }

    /// How to read vectors; `columns` are those of pairs of names.
    pub fn reading(&self, columns: Option<&[String; 2]>) -> VectorReading {
        let Self { documents, table } = self.clone();
        VectorReading { documents, table, columns: columns.cloned() }
    }
}

/// How vectors are read, with every default decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorReading {
    /// See [`VectorSettings::documents`].
    pub documents: Option<PathBuf>,
    /// See [`VectorSettings::table`].
    pub table: Option<PathBuf>,
    /// The two columns of pairs of names; none for `anchor` and `positive`.
    pub columns: Option<[String; 2]>,
}
