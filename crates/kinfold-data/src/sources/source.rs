//! Where one image comes from, and what is known of images before they are decoded.
//!
//! Input: a path, an entry of an archive, or a record of a file of plain pixels. Output: the
//! image, or why it cannot be read.

use super::archive::Archive;
use super::raw::Raw;
use crate::Error;
use image::{DynamicImage, ImageError, ImageFormat, ImageReader};
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file counts as an image by its ending; others are not looked at.
pub(crate) const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

/// Whether a file's name is that of an image.
pub(crate) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|e| e.to_str()).map(str::to_lowercase);
    ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str()))
}

/// What was found, in the order of the rows to come.
#[derive(Default)]
pub(crate) struct Listing {
    pub(crate) names: Vec<String>,
    pub(crate) labels: Vec<String>,
    pub(crate) sources: Vec<Source>,
    /// Rows that the data itself holds out.
    pub(crate) held_out: Range<usize>,
    /// The pairs of a list, their members numbered as the rows here.
    pub(crate) listed: Vec<Listed>,
    /// Files that are no images by their name.
    pub(crate) others: usize,
    pub(crate) skipped: Vec<Skipped>,
}

impl Listing {
    pub(crate) fn push(&mut self, name: String, label: String, source: Source) {
        self.names.push(name);
        self.labels.push(label);
        self.sources.push(source);
    }

    /// The records of a file of plain pixels, a label each, named by their number.
    pub(crate) fn push_records(&mut self, stem: &str, raw: Raw, labels: Vec<String>) {
        let (raw, digits) = (Arc::new(raw), labels.len().saturating_sub(1).to_string().len());
        for (index, label) in labels.into_iter().enumerate() {
            let source = Source::Raw { raw: raw.clone(), index };
            self.push(format!("{stem}/{index:0digits$}"), label, source);
        }
    }
}

/// A row of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    /// Row of the image.
    pub(crate) a: usize,
    /// Row of the image.
    pub(crate) b: usize,
    /// The same for pairs of one id, for the others one of their own.
    pub(crate) group: usize,
    /// Where it stands in the file, counted from 1.
    pub(crate) line: u64,
}

/// A file that was passed over.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The file, or the entry of an archive.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

/// Where one image comes from.
pub(crate) enum Source {
    /// A file of its own.
    File(PathBuf),
    /// An entry of a zip file.
    Entry { archive: Arc<Archive>, index: usize },
    /// A record of a file of plain pixels.
    Raw { raw: Arc<Raw>, index: usize },
}

impl Source {
    /// The image, or why it cannot be read.
    pub(crate) fn decode(&self) -> Result<DynamicImage, String> {
        match self {
            Self::File(path) => ImageReader::open(path)
                .and_then(ImageReader::with_guessed_format)
                .map_err(ImageError::IoError)
                .and_then(ImageReader::decode)
                .map_err(|e| e.to_string()),
            Self::Entry { archive, index } => {
                let mut reader = ImageReader::new(Cursor::new(archive.read(*index)?));
                if let Ok(format) = ImageFormat::from_path(self.path()) {
                    reader.set_format(format);
                }
                reader
                    .with_guessed_format()
                    .map_err(ImageError::IoError)
                    .and_then(ImageReader::decode)
                    .map_err(|e| e.to_string())
            }
            Self::Raw { raw, index } => raw.image(*index),
        }
    }

    /// The file that holds the image, and where in an archive it is.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Entry { archive, index } => archive.path.join(archive.name(*index)),
            Self::Raw { raw, .. } => raw.path.clone(),
        }
    }

    /// Its pixels, where they are in memory and in the shape that is needed.
    pub(crate) fn as_needed(&self, size: usize, channels: usize) -> Option<&[u8]> {
        match self {
            Self::Raw { raw, index } => raw.as_needed(*index, size, channels),
            _ => None,
        }
    }

    /// The value of its brightest pixels.
    pub(crate) fn white(&self) -> u8 {
        match self {
            Self::Raw { raw, .. } => raw.layout.white,
            _ => u8::MAX,
        }
    }
}

/// The error of data without a single image that can be read.
pub(crate) fn no_images(path: &Path, others: usize, skipped: &[Skipped]) -> Error {
    let found = match (skipped.first(), others) {
        (Some(first), _) => format!(
            "none of the {} images in it could be read; the first is {}: {}",
            skipped.len(),
            first.path.display(),
            first.reason
        ),
        (None, 0) => "it is empty".to_owned(),
        (None, others) => format!("it holds {others} other files"),
    };
    Error::Data(format!("{} has no images ({}): {found}", path.display(), ENDINGS.join(", ")))
}

/// A path as it is named: with `/`, on every system.
pub(crate) fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// The files right in a folder, by name.
pub(crate) fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = |e| Error::read(folder)(e);
    let entries = std::fs::read_dir(folder).map_err(read)?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(read)?;
    paths.retain(|path| path.is_file());
    paths.sort();
    Ok(paths)
}
