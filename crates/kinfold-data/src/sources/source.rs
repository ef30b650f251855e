//! Where one image comes from, and what is known of images before they are decoded.
//!
//! Input: a path, an entry of an archive, or a record of a file of plain pixels. Output: the
//! image, or why it cannot be read.

use super::archive::Archive;
use super::raw::Raw;
use crate::Error;
use crate::budget::Room;
use crate::items::{Listed, Skipped};
use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, RgbImage,
};
use std::borrow::Cow;
use std::io::Cursor;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file counts as an image by its ending; others are not looked at.
pub(crate) const ENDINGS: [&str; 8] = ["png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "tiff"];

/// The most bytes that images take while they are decoded, in all threads together.
const LARGEST: u64 = 512 << 20;
static DECODING: Room = Room::new(LARGEST);

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
    /// The bytes as they are kept, of which the image is made.
    pub(crate) fn bytes(&self) -> Result<Cow<'_, [u8]>, String> {
        match self {
            Self::File(path) => std::fs::read(path).map(Cow::Owned).map_err(|e| e.to_string()),
            Self::Entry { archive, index } => archive.read(*index).map(Cow::Owned),
            Self::Raw { raw, index } => raw.record(*index),
        }
    }

    /// What `with` makes of the image whose bytes these are, or why it cannot be read. It stands upright,
    /// and `background` shows where it is transparent.
    pub(crate) fn decode<O>(
        &self,
        bytes: &[u8],
        background: u8,
        with: impl FnOnce(DynamicImage) -> O,
    ) -> Result<O, String> {
        if let Self::Raw { raw, .. } = self {
            return raw.image(bytes).map(with);
        }
        let mut reader = ImageReader::new(Cursor::new(bytes));
        if let Ok(format) = ImageFormat::from_path(self.path()) {
            reader.set_format(format);
        }
        let said = |e: ImageError| e.to_string();
        let reader = reader.with_guessed_format().map_err(|e| e.to_string())?;
        let mut decoder = reader.into_decoder().map_err(said)?;
        // As it is decoded, and once more in other channels.
        let needed = decoder.total_bytes().saturating_mul(2);
        let _room = DECODING.take(needed).ok_or_else(|| {
            let (width, height) = decoder.dimensions();
            format!(
                "{width}×{height} pixels need {} MiB to decode, but {} are the most",
                needed >> 20,
                LARGEST >> 20
            )
        })?;
        let orientation = decoder.orientation().map_err(said)?;
        let mut image = DynamicImage::from_decoder(decoder).map_err(said)?;
        image.apply_orientation(orientation);
        Ok(with(opaque(image, background)))
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

/// The image on a background, where it is transparent.
fn opaque(image: DynamicImage, background: u8) -> DynamicImage {
    if !image.color().has_alpha() {
        return image;
    }
    let over = |x: u8, alpha: u8| {
        let (x, alpha) = (u32::from(x), u32::from(alpha));
        ((x * alpha + u32::from(background) * (255 - alpha) + 127) / 255) as u8
    };
    let (width, height) = (image.width(), image.height());
    if image.color().has_color() {
        let mut opaque = RgbImage::new(width, height);
        for (out, pixel) in opaque.pixels_mut().zip(image.into_rgba8().pixels()) {
            let [r, g, b, alpha] = pixel.0;
            out.0 = [r, g, b].map(|x| over(x, alpha));
        }
        return opaque.into();
    }
    let mut opaque = GrayImage::new(width, height);
    for (out, pixel) in opaque.pixels_mut().zip(image.into_luma_alpha8().pixels()) {
        let [grey, alpha] = pixel.0;
        out.0 = [over(grey, alpha)];
    }
    opaque.into()
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
