//! Images of one shape, however they are stored.
//!
//! Input: `digits` or a path, and how images are read. Output: [`Images`]. A `Source` hides where an
//! image comes from, an `ImageCache` whether it is decoded already.

use crate::Error;
use crate::budget::Budget;
use crate::cache::ImageCache;
use crate::items::{Items, Skipped};
use crate::picture::Picture;
use crate::settings::Reading;
use crate::sources::{self, Layout, Listing, Raw, Source};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Images of one shape, each read when it is asked for or kept in memory.
#[derive(Debug, Clone)]
pub struct Images {
    /// Their names, labels and pairs.
    pub items: Items,
    /// 1 or 3.
    pub channels: usize,
    /// Width and height.
    pub size: usize,
    invert: bool,
    cache: Arc<ImageCache>,
}

impl Images {
    /// `digits` or the data at a path. Every image is decoded once, so that what cannot be read is
    /// known before training begins.
    ///
    /// # Errors
    /// When the data cannot be read, is not what its name says, or holds no image that can be read.
    pub fn read(data: &str, reading: &Reading) -> Result<Self, Error> {
        let budget = Budget::new(reading.memory);
        let listing = sources::find(data, reading, &budget)?;
        Self::decode(Path::new(data), listing, reading, &budget)
    }

    /// These files, each an image, in this order.
    ///
    /// # Errors
    /// When one of them cannot be read as an image.
    pub fn of_files(files: &[PathBuf], reading: &Reading) -> Result<Self, Error> {
        let mut listing = Listing::default();
        for file in files {
            let name = file.display().to_string();
            listing.push(name, String::new(), Source::File(file.clone()));
        }
        let budget = Budget::new(reading.memory);
        let sources = std::mem::take(&mut listing.sources);
        let (cache, failed) = ImageCache::fill(sources, reading, &budget)?;
        if let Some(Skipped { path, reason }) = failed.into_iter().flatten().next() {
            return Err(Error::data_file(&path, format!("it is no image to search for: {reason}")));
        }
        let Listing { names, labels, .. } = listing;
        Ok(Self {
            items: Items { names, labels, ..Items::default() },
            channels: reading.channels,
            size: reading.size,
            invert: reading.invert,
            cache: Arc::new(cache),
        })
    }

    /// Pixels that are in memory already: `[n, size, size, channels]`, 255 for white, with a name and
    /// a label for each image.
    ///
    /// # Errors
    /// When there is another number of pixels or labels than the names and the shape say, or a number
    /// of channels other than 1 and 3.
    pub fn of_pixels(
        names: Vec<String>,
        labels: Vec<String>,
        pixels: Vec<u8>,
        size: usize,
        channels: usize,
    ) -> Result<Self, Error> {
        let (n, needed) = (names.len(), names.len() * size * size * channels);
        if labels.len() != n || pixels.len() != needed || !matches!(channels, 1 | 3) {
            return Err(Error::Data(format!(
                "{n} images of {size}×{size} in {channels} channels need {n} labels, {needed} bytes \
                 and 1 or 3 channels, but {} labels and {} bytes were given",
                labels.len(),
                pixels.len()
            )));
        }
        let raw = Raw::in_memory(pixels, Layout::square(size, channels, u8::MAX));
        let raw = Arc::new(raw);
        let sources = (0..n).map(|index| Source::Raw { raw: raw.clone(), index }).collect();
        Ok(Self {
            items: Items { names, labels, ..Items::default() },
            channels,
            size,
            invert: false,
            cache: Arc::new(ImageCache::unfilled(sources, size, channels)),
        })
    }

    /// Decodes what was found and leaves out what cannot be.
    fn decode(
        path: &Path,
        listing: Listing,
        reading: &Reading,
        budget: &Budget,
    ) -> Result<Self, Error> {
        let Listing { names, labels, sources, held_out, listed, others, mut skipped } = listing;
        let (cache, failed) = ImageCache::fill(sources, reading, budget)?;
        let whole: Vec<bool> = failed.iter().map(Option::is_none).collect();
        skipped.extend(failed.into_iter().flatten());
        if !whole.contains(&true) {
            return Err(sources::no_images(path, others, &skipped));
        }
        let (listed, dropped) = sources::without(listed, &whole, path)?;
        skipped.extend(dropped);
        let keep = |texts: Vec<String>| -> Vec<String> {
            texts
                .into_iter()
                .zip(&whole)
                .filter(|(_, whole)| **whole)
                .map(|(text, _)| text)
                .collect()
        };
        let (names, labels) = (keep(names), keep(labels));
        Ok(Self {
            items: Items { names, labels, skipped, held_out, listed, ..Items::default() },
            channels: reading.channels,
            size: reading.size,
            invert: reading.invert,
            cache: Arc::new(cache),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// No images.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
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
        Ok(self.as_read(self.cache.scaled(i)?))
    }

    /// One image at its original size, in as many channels as the others.
    ///
    /// # Errors
    /// As [`Images::scaled`].
    pub fn original(&self, i: usize) -> Result<Picture<'_>, Error> {
        Ok(self.as_read(self.cache.original(i)?))
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

    /// A checksum of the bytes that the images were read from: other contents, other number.
    pub fn checksum(&self) -> u32 {
        self.cache.checksum()
    }

    /// The median of the shorter sides of the files, in pixels; none where they are plain pixels of the
    /// size that is needed.
    pub fn original_side(&self) -> Option<usize> {
        self.cache.side()
    }

    /// Whether one of the first images, spread over all, shows a colour.
    pub fn in_colour(&self) -> bool {
        let shown = self.len().min(16);
        let coloured = |row: usize| {
            self.channels == 3
                && self.scaled(row).is_ok_and(|picture| {
                    let grey = |pixel: &[u8]| pixel.iter().all(|x| x.abs_diff(pixel[0]) < 16);
                    !picture.pixels.chunks(3).all(grey)
                })
        };
        (0..shown).any(|i| coloured(i * self.len() / shown))
    }

    /// How many images are decoded and in memory.
    pub fn in_memory(&self) -> usize {
        self.cache.in_memory()
    }
}
