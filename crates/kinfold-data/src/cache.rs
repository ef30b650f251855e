//! Where images are kept: decoded in memory as far as the budget goes, else where they came from.
//!
//! Input: sources. Output: pictures, scaled or as they were. What is asked for is the same to
//! the last bit wherever it comes from; the budget decides only how long it takes.

use crate::Error;
use crate::budget::Budget;
use crate::items::Skipped;
use crate::picture::Picture;
use crate::settings::Reading;
use crate::sources::Source;
use image::DynamicImage;
use rayon::prelude::*;
use std::borrow::Cow;
use std::fmt;

/// Images of one shape, and where each comes from.
pub(crate) struct ImageCache {
    size: usize,
    channels: usize,
    background: u8,
    places: Vec<Place>,
}

struct Place {
    source: Source,
    /// The checksum of its bytes when it was first read.
    checksum: u32,
    /// Width and height as it is kept; 0 where it was not decoded.
    sides: (u32, u32),
    scaled: Option<Box<[u8]>>,
    original: Option<Original>,
}

struct Original {
    width: usize,
    height: usize,
    pixels: Box<[u8]>,
}

impl ImageCache {
    /// Images that are not decoded until they are asked for.
    pub(crate) fn unfilled(sources: Vec<Source>, size: usize, channels: usize) -> Self {
        let place =
            |source| Place { source, checksum: 0, sides: (0, 0), scaled: None, original: None };
        let places = sources.into_iter().map(place).collect();
        Self { size, channels, background: u8::MAX, places }
    }

    /// Decodes every image once, keeps what the budget has room for, and leaves out what cannot be
    /// decoded; for each source, why it was left out.
    pub(crate) fn fill(
        sources: Vec<Source>,
        reading: &Reading,
        budget: &Budget,
    ) -> Result<(Self, Vec<Option<Skipped>>), Error> {
        let read: Vec<Result<Place, Skipped>> =
            sources.into_par_iter().map(|source| Place::fill(source, reading, budget)).collect();
        let mut places = Vec::with_capacity(read.len());
        let mut failed = Vec::with_capacity(read.len());
        for place in read {
            match place {
                Ok(place) => {
                    places.push(place);
                    failed.push(None);
                }
                Err(skipped) => failed.push(Some(skipped)),
            }
        }
        let &Reading { size, channels, background, .. } = reading;
        Ok((Self { size, channels, background, places }, failed))
    }

    pub(crate) fn scaled(&self, i: usize) -> Result<Picture<'_>, Error> {
        let (place, size, channels) = (&self.places[i], self.size, self.channels);
        let kept = place.scaled.as_deref().or_else(|| place.source.as_needed(size, channels));
        let white = place.source.white();
        match kept {
            Some(pixels) => {
                let pixels = Cow::Borrowed(pixels);
                Ok(Picture { width: size, height: size, channels, pixels, white })
            }
            None => place
                .decode(self.background, |image| Picture::scaled(&image, size, channels, white)),
        }
    }

    pub(crate) fn original(&self, i: usize) -> Result<Picture<'_>, Error> {
        let (place, channels) = (&self.places[i], self.channels);
        let white = place.source.white();
        match &place.original {
            Some(Original { width, height, pixels }) => {
                let (width, height, pixels) = (*width, *height, Cow::Borrowed(&**pixels));
                Ok(Picture { width, height, channels, pixels, white })
            }
            None => place.decode(self.background, |image| Picture::of(image, channels, white)),
        }
    }

    /// The checksum of all images' bytes as they were first read, in order.
    pub(crate) fn checksum(&self) -> u32 {
        let append = |crc, place: &Place| crc32c::crc32c_append(crc, &place.checksum.to_le_bytes());
        self.places.iter().fold(0, append)
    }

    /// The median of the shorter sides of the images that were decoded; none where none was.
    pub(crate) fn side(&self) -> Option<usize> {
        let shorter = |place: &Place| place.sides.0.min(place.sides.1) as usize;
        let mut sides: Vec<usize> =
            self.places.iter().map(shorter).filter(|&side| side > 0).collect();
        sides.sort_unstable();
        sides.get(sides.len() / 2).copied()
    }

    pub(crate) fn in_memory(&self) -> usize {
        let (size, channels) = (self.size, self.channels);
        let in_memory = |place: &&Place| {
            place.scaled.is_some() || place.source.as_needed(size, channels).is_some()
        };
        self.places.iter().filter(in_memory).count()
    }
}

impl Place {
    fn fill(source: Source, reading: &Reading, budget: &Budget) -> Result<Self, Skipped> {
        let &Reading { size, channels, originals, background, .. } = reading;
        let failed = |reason| Skipped { path: source.path(), reason };
        let bytes = source.bytes().map_err(failed)?;
        let checksum = crc32c::crc32c(&bytes);
        let small = (size * size * channels) as u64;
        let plain = matches!(source, Source::Raw { .. });
        // Plain pixels have been checked, and are read as fast as decoded ones.
        if plain && (source.as_needed(size, channels).is_some() || !budget.take(small)) {
            drop(bytes);
            return Ok(Self { source, checksum, sides: (0, 0), scaled: None, original: None });
        }
        let white = source.white();
        let decoded = source.decode(&bytes, background, |image| {
            let scaled = (plain || budget.take(small))
                .then(|| Picture::scaled(&image, size, channels, white).pixels.into_owned().into());
            let sides = (image.width(), image.height());
            let large = u64::from(sides.0) * u64::from(sides.1) * channels as u64;
            let original = (originals && !plain && budget.take(large)).then(|| {
                let Picture { width, height, pixels, .. } = Picture::of(image, channels, white);
                Original { width, height, pixels: pixels.into_owned().into() }
            });
            (scaled, original, sides)
        });
        let (scaled, original, sides) = decoded.map_err(failed)?;
        drop(bytes);
        Ok(Self { source, checksum, sides, scaled, original })
    }

    /// What `with` makes of the image, read anew.
    fn decode<O>(&self, background: u8, with: impl FnOnce(DynamicImage) -> O) -> Result<O, Error> {
        let bytes = self.source.bytes();
        let decoded = bytes.and_then(|bytes| self.source.decode(&bytes, background, with));
        decoded.map_err(|reason| {
            let reason =
                format!("it could be read when the data was loaded, but not now: {reason}");
            Error::data_file(&self.source.path(), reason)
        })
    }
}

impl fmt::Debug for ImageCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ImageCache({} images)", self.places.len())
    }
}
