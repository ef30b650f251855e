//! What pairs are made of: images, their names and labels, and the order in which they are seen.
//!
//! Comes in: the embedded digits or a folder. Goes out: [`Images`] in memory, all of one shape. A
//! pair is two views of one image; views are made elsewhere.

mod digits;
mod folder;

use crate::random::{Purpose, Random};
use crate::{Error, Settings};
use std::path::{Path, PathBuf};

/// Images of one shape, in memory.
#[derive(Debug, Clone)]
pub struct Images {
    /// Each image's path relative to its folder, or a name made of its number.
    pub names: Vec<String>,
    /// Each image's sub-folder, or digit; empty where there is none.
    pub labels: Vec<String>,
    /// `[n, channels, size, size]`, each between 0 and 1.
    pub pixels: Vec<f32>,
    /// 1 or 3.
    pub channels: usize,
    /// Width and height.
    pub size: usize,
    /// Files that have the name of an image but could not be read as one.
    pub skipped: Vec<Skipped>,
}

/// A file that was passed over.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Images {
    /// The data that settings name, in the shape they ask for.
    ///
    /// # Errors
    /// When the folder cannot be read or holds no image that can.
    pub fn load(settings: &Settings) -> Result<Self, Error> {
        let (size, channels) = settings.image_shape();
        if settings.is_digits() {
            digits::load(size, channels)
        } else {
            folder::load(Path::new(&settings.data), size, channels)
        }
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

    /// One image, `[channels, size, size]`.
    pub fn image(&self, i: usize) -> &[f32] {
        &self.pixels[i * self.stride()..(i + 1) * self.stride()]
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
}

/// Which images are trained on and which are held out to judge by.
#[derive(Debug, Clone)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to judge by; empty where there are no labels to judge with.
    pub test: Vec<usize>,
}

impl Split {
    /// A fifth of labelled images is held out, by a shuffle that is always the same; of images with
    /// fewer than two labels none is.
    pub fn new(images: &Images) -> Self {
        if images.classes().0.len() < 2 {
            return Self { train: (0..images.len()).collect(), test: Vec::new() };
        }
        let order = Random::new(0, Purpose::Split).order(images.len());
        let (test, train) = order.split_at(images.len().div_ceil(5));
        Self { train: train.to_vec(), test: test.to_vec() }
    }

    /// The batches of an epoch: rows to train on in random order, cut into `batch`es; what is left
    /// over waits for another epoch's order.
    pub(crate) fn batches(&self, batch: usize, seed: u64, epoch: usize) -> Vec<Vec<usize>> {
        let order = Random::new(seed, Purpose::Order { epoch }).order(self.train.len());
        let rows: Vec<usize> = order.into_iter().map(|i| self.train[i]).collect();
        rows.chunks_exact(batch).map(<[usize]>::to_vec).collect()
    }
}
