//! Which images are trained on.
//!
//! Input: images. Output: the rows to train on and the rows to judge by.

use crate::images::Images;
use crate::random::{Purpose, Random};

/// Which images are trained on and which are held out to judge by.
#[derive(Debug, Clone)]
pub struct Split {
    /// Rows to train on.
    pub train: Vec<usize>,
    /// Rows to judge by, or without labels to look at; they are not trained on.
    pub test: Vec<usize>,
}

impl Split {
    /// What the data itself holds out; else this share of the images, rounded up, by a shuffle that is
    /// always the same. Of a list of pairs, none is.
    pub fn new(images: &Images, share: f64) -> Self {
        if !images.held_out.is_empty() {
            let (test, train) = (0..images.len()).partition(|row| images.held_out.contains(row));
            return Self { train, test };
        }
        if images.is_list() || share == 0.0 {
            return Self { train: (0..images.len()).collect(), test: Vec::new() };
        }
        let order = Random::new(0, Purpose::Split).order(images.len());
        // A share such as 0.2 is no exact number; a product a little above a whole one is that one.
        let held_out = (images.len() as f64 * share - 1e-9).ceil() as usize;
        let (test, train) = order.split_at(held_out.min(images.len() - 1));
        Self { train: train.to_vec(), test: test.to_vec() }
    }
}
