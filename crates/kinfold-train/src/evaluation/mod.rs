//! What an encoder learned: each measure for raw pixels, for the encoder before training and after.
//!
//! Input: labelled images, a split, two encoders. Output: accuracies.

mod one_shot;

pub use one_shot::{OneShot, OneShotTask, one_shot};

use crate::Error;
use crate::run::{Evaluation, Measured, SavedModel};
use crate::settings::Settings;
use crate::tensors::embed;
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Labelled, knn_accuracy, one_shot_accuracy};
use kinfold_data::{Images, Split};
use kinfold_nn::encoders::Model;
use std::path::Path;

/// Draws of one example per class that one-shot accuracy is the mean of.
const DRAWS: usize = 200;

impl Evaluation {
    /// None where the images have fewer than two labels.
    pub(crate) fn new(
        images: &Images,
        split: &Split,
        random: &Model,
        trained: &Model,
        device: &Device,
    ) -> Result<Option<Self>, Error> {
        if split.test.is_empty() {
            return Ok(None);
        }
        let rows: Vec<usize> = (0..images.len()).collect();
        let raw = accuracies(images, split, &images.pixels(&rows)?)?;
        let random = accuracies(images, split, &embed(random, images, device)?)?;
        let trained = accuracies(images, split, &embed(trained, images, device)?)?;
        let measured =
            |i: usize| Measured { raw: raw[i], random_encoder: random[i], trained: trained[i] };
        Ok(Some(Self { one_shot: measured(0), nearest_neighbour: measured(1) }))
    }
}

/// One-shot and nearest-neighbour accuracy of embeddings `[n, d]`.
fn accuracies(images: &Images, split: &Split, embeddings: &[f32]) -> Result<[f64; 2], Error> {
    let dim = embeddings.len() / images.len();
    let (_, classes) = images.classes();
    let side = |rows: &[usize]| -> (Vec<f32>, Vec<u64>) {
        let embeddings = rows.iter().flat_map(|&i| &embeddings[i * dim..(i + 1) * dim]);
        (embeddings.copied().collect(), rows.iter().map(|&i| classes[i] as u64).collect())
    };
    let (train, test) = (side(&split.train), side(&split.test));
    let train = Labelled::new(Embeddings::new(&train.0, dim)?, &train.1)?;
    let test = Labelled::new(Embeddings::new(&test.0, dim)?, &test.1)?;
    Ok([one_shot_accuracy(train, test, DRAWS, 0)?, knn_accuracy(train, test, 1)?])
}

/// The measures of a saved model again, on the data it was trained on or on other labelled images.
///
/// # Errors
/// When the run cannot be read, or the images have fewer than two labels to judge with.
pub fn evaluate(run: &Path, data: Option<&str>) -> Result<Evaluated, Error> {
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let trained = saved.trained(run, &device)?;
    let settings = saved.settings(data);
    let images = settings.images()?;
    // All of other data is new to the model, but some is needed as labelled examples.
    let share = data.map_or(saved.hold_out, |_| Settings::default().hold_out);
    let split = Split::new(&images, share);
    let evaluation = Evaluation::new(&images, &split, &saved.random(&device)?, &trained, &device)?;
    let evaluation = evaluation.ok_or_else(|| {
        if share == 0.0 {
            return Error::Data(format!(
                "all of {} was trained on and nothing held out to judge by: give other --data",
                settings.data
            ));
        }
        Error::Data(format!(
            "{} has {} images but fewer than two labels to judge with: put the images of each \
             class into a sub-folder of its own",
            settings.data,
            images.len()
        ))
    })?;
    Ok(Evaluated { evaluation, images, split })
}

/// A saved model's measures, and what they were measured on.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The measures.
    pub evaluation: Evaluation,
    /// The images.
    pub images: Images,
    /// Which of them were held out.
    pub split: Split,
}
