//! Where images come from and what a pair is.
//!
//! Comes in: the name of some data. Goes out: [`Images`], all of one shape however they are stored,
//! a [`Split`] of them, and [`Pairs`] in batches. Views are made elsewhere; nothing here prints.
//!
//! Data is: the embedded digits; a folder of images, a zip file of one, or a list of pairs in one;
//! MNIST's IDX files; CIFAR's binary files; an array of NumPy. A `Source` hides which of them an
//! image comes from, a `Shelf` whether it is decoded already.

mod cifar;
mod digits;
mod folder;
mod idx;
mod list;
pub(crate) mod npy;
mod pairing;
mod picture;
mod raw;
mod shelf;
mod source;
mod split;
#[cfg(test)]
mod tests;
mod zipped;

pub use pairing::{Expansion, LeftOut, Of, Pair, PairSettings, Pairs};
pub use picture::Picture;
pub use split::Split;

use crate::settings::DIGITS;
use crate::{Error, Settings};
use list::Listed;
use rayon::prelude::*;
use shelf::{Budget, Shelf};
use source::{Found, Source};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of decoded images that are kept in memory where nothing else is said.
pub const MEMORY: u64 = 2 << 30;

/// How images are read.
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
    /// Whether dark becomes light and light dark.
    pub invert: bool,
}

/// Images of one shape, each read when it is asked for or kept in memory.
#[derive(Debug, Clone)]
pub struct Images {
    /// Each image's path relative to its folder or archive, or a name made of its number.
    pub names: Vec<String>,
    /// Each image's sub-folder, or digit, or class; empty where there is none.
    pub labels: Vec<String>,
    /// 1 or 3.
    pub channels: usize,
    /// Width and height.
    pub size: usize,
    /// Files that have the name of an image but could not be read as one.
    pub skipped: Vec<Skipped>,
    /// The rows that the data itself holds out; empty where it says nothing.
    pub held_out: Range<usize>,
    invert: bool,
    listed: Vec<Listed>,
    shelf: Arc<Shelf>,
}

/// A file that was passed over.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The file, or the entry of an archive.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Images {
    /// The data that settings name, in the shape they ask for.
    ///
    /// # Errors
    /// As [`Images::read`].
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        let (size, channels) = settings.image_shape();
        let originals = settings.view.wants_originals();
        let (memory, invert) = (settings.image_memory(), settings.image.invert);
        let reading = Reading { size, channels, memory, originals, invert };
        Self::read(&settings.data, &reading)
    }

    /// `digits` or the data at a path. Every image is decoded once, so that what cannot be read is
    /// known before training begins.
    ///
    /// # Errors
    /// When the data cannot be read, is not what its name says, or holds no image that can be read.
    pub fn read(data: &str, reading: &Reading) -> Result<Self, Error> {
        if data == DIGITS {
            let images = digits::load(reading.size, reading.channels)?;
            return Ok(Self { invert: reading.invert, ..images });
        }
        let path = Path::new(data);
        let budget = Budget::new(reading.memory);
        let found = find(path, &budget)?;
        Self::shelve(path, found, reading, &budget)
    }

    /// These files, each an image, in this order.
    ///
    /// # Errors
    /// When one of them cannot be read as an image.
    pub(crate) fn of_files(files: &[PathBuf], reading: &Reading) -> Result<Self, Error> {
        let mut found = Found::default();
        for file in files {
            let name = file.display().to_string();
            found.push(name, String::new(), Source::File(file.clone()));
        }
        let (sources, budget) = (found.sources, Budget::new(reading.memory));
        let (shelf, failed) = Shelf::fill(sources, reading, &budget)?;
        if let Some(Skipped { path, reason }) = failed.into_iter().flatten().next() {
            return Err(Error::data_file(&path, format!("it is no image to search for: {reason}")));
        }
        Ok(Self {
            names: found.names,
            labels: found.labels,
            channels: reading.channels,
            size: reading.size,
            skipped: Vec::new(),
            held_out: 0..0,
            invert: reading.invert,
            listed: Vec::new(),
            shelf: Arc::new(shelf),
        })
    }

    /// Pixels that are in memory already, `[n, size, size, channels]` from 0 to `white`.
    pub(crate) fn of_pixels(
        names: Vec<String>,
        labels: Vec<String>,
        pixels: Vec<u8>,
        white: u8,
        (size, channels): (usize, usize),
    ) -> Self {
        let n = names.len();
        let raw = Arc::new(raw::Raw::in_memory(pixels, raw::Layout::square(size, channels, white)));
        let sources = (0..n).map(|index| Source::Raw { raw: raw.clone(), index }).collect();
        Self {
            names,
            labels,
            channels,
            size,
            skipped: Vec::new(),
            held_out: 0..0,
            invert: false,
            listed: Vec::new(),
            shelf: Arc::new(Shelf::unfilled(sources, size, channels)),
        }
    }

    /// Decodes what was found and leaves out what cannot be.
    fn shelve(
        path: &Path,
        found: Found,
        reading: &Reading,
        budget: &Budget,
    ) -> Result<Self, Error> {
        let Found { names, labels, sources, held_out, listed, others, mut skipped } = found;
        let (shelf, failed) = Shelf::fill(sources, reading, budget)?;
        let whole: Vec<bool> = failed.iter().map(Option::is_none).collect();
        skipped.extend(failed.into_iter().flatten());
        if !whole.contains(&true) {
            return Err(source::no_images(path, others, &skipped));
        }
        let (listed, dropped) = list::without(listed, &whole, path)?;
        skipped.extend(dropped);
        let keep = |texts: Vec<String>| -> Vec<String> {
            texts
                .into_iter()
                .zip(&whole)
                .filter(|(_, whole)| **whole)
                .map(|(text, _)| text)
                .collect()
        };
        Ok(Self {
            names: keep(names),
            labels: keep(labels),
            channels: reading.channels,
            size: reading.size,
            skipped,
            held_out,
            invert: reading.invert,
            listed,
            shelf: Arc::new(shelf),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// No images.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Numbers in an image.
    pub fn stride(&self) -> usize {
        self.channels * self.size * self.size
    }

    /// One image, cut to a square about its centre and scaled to `size`.
    ///
    /// # Errors
    /// When the image is not in memory and its file cannot be read any more.
    pub fn scaled(&self, i: usize) -> Result<Picture<'_>, Error> {
        Ok(self.as_read(self.shelf.scaled(i)?))
    }

    /// One image at its original size, in as many channels as the others.
    ///
    /// # Errors
    /// As [`Images::scaled`].
    pub fn original(&self, i: usize) -> Result<Picture<'_>, Error> {
        Ok(self.as_read(self.shelf.original(i)?))
    }

    fn as_read<'i>(&self, picture: Picture<'i>) -> Picture<'i> {
        if self.invert { picture.inverted() } else { picture }
    }

    /// One scaled image, `[channels, size, size]`, each number between 0 and 1.
    ///
    /// # Errors
    /// As [`Images::scaled`].
    pub fn image(&self, i: usize) -> Result<Vec<f32>, Error> {
        self.scaled(i).map(|picture| picture.floats())
    }

    /// Scaled images, `[rows, channels, size, size]`, each number between 0 and 1.
    ///
    /// # Errors
    /// As [`Images::scaled`].
    pub fn pixels(&self, rows: &[usize]) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; rows.len() * self.stride()];
        out.par_chunks_mut(self.stride()).zip(rows).try_for_each(|(out, &row)| {
            out.copy_from_slice(&self.image(row)?);
            Ok::<_, Error>(())
        })?;
        Ok(out)
    }

    /// The distinct labels in order, and each image's place among them.
    pub fn classes(&self) -> (Vec<&str>, Vec<usize>) {
        let mut distinct: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |label: &String| distinct.partition_point(|other| *other < label.as_str());
        let places = self.labels.iter().map(place).collect();
        (distinct, places)
    }

    /// Whether the data is a list of pairs.
    pub fn is_list(&self) -> bool {
        !self.listed.is_empty()
    }

    /// How many images are decoded and in memory.
    pub fn in_memory(&self) -> usize {
        self.shelf.in_memory()
    }
}

/// What lies at a path, told by its name.
fn find(path: &Path, budget: &Budget) -> Result<Found, Error> {
    if path.is_dir() {
        if let Some(files) = idx::Folder::in_folder(path)? {
            return idx::folder(&files, budget);
        }
        return match cifar::files(path)? {
            Some(files) => cifar::load(path, &files, budget),
            None => folder::load(path),
        };
    }
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ending = Path::new(&name).extension().map(|e| e.to_string_lossy().into_owned());
    if !path.exists() {
        return Err(Error::Data(format!("{} does not exist; {}", path.display(), takes())));
    }
    match ending.as_deref() {
        _ if idx::is_images(&name) => idx::file(path, budget),
        Some("zip") => zipped::load(path),
        Some("npy") => npy::load(path, budget),
        Some("csv") => list::load(path, list::Written::Csv),
        Some("jsonl") => list::load(path, list::Written::JsonLines),
        _ => Err(Error::Data(format!("{} is no folder; {}", path.display(), takes()))),
    }
}

/// The files of this name in a folder of images or a zip file of one: each one's path in it, and its
/// text. Other data has none.
pub(crate) fn texts(data: &Path, name: &str) -> Result<Vec<(String, String)>, Error> {
    let is_zip = data.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip"));
    match data.is_dir() {
        true => folder::texts(data, name),
        false if is_zip => zipped::texts(data, name),
        false => Ok(Vec::new()),
    }
}

fn takes() -> String {
    format!(
        "--data takes `{DIGITS}`, a folder of images, a .zip of one, a folder of MNIST's or CIFAR's \
         files, one …images-idx3-ubyte[.gz] file, a .npy array, or a list of pairs as .csv or .jsonl"
    )
}
