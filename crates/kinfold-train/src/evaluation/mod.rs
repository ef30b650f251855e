//! What an encoder learned: each measure for raw pixels, for the encoder before training and after.
//!
//! Input: labelled images, a split, two encoders. Output: accuracies.

mod one_shot;

pub use one_shot::{OneShot, OneShotTask, one_shot};

use crate::Error;
use crate::run::{ByDimension, CONFIG, Evaluation, Measured, NEIGHBOURS, SavedModel};
use crate::settings::Settings;
use crate::tensors::embed_rows;
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Labelled, knn_accuracies, linear_probe_accuracy, one_shot_accuracy};
use kinfold_data::{Images, Split};
use kinfold_nn::encoders::Model;
use std::path::Path;

/// Draws of one example per class that one-shot accuracy is the mean of.
const DRAWS: usize = 200;

/// Images that are encoded between two reports of progress.
const CHUNK: usize = 1024;

/// What is being measured, and how far that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationProgress {
    /// Whose embeddings: raw pixels, the random encoder or the trained one.
    pub of: &'static str,
    /// What is done with them.
    pub doing: &'static str,
    /// Images that are done, and all of them.
    pub done: usize,
    /// See `done`.
    pub images: usize,
}

/// What is called as an evaluation goes on. An error that it returns ends it.
pub type EvaluationObserver<'o> = dyn FnMut(EvaluationProgress) -> Result<(), Error> + 'o;

impl Evaluation {
    /// None where the images have fewer than two labels. Of raw pixels and embeddings, one after the other,
    /// memory holds those of all images, and those of training images twice.
    pub(crate) fn new(
        images: &Images,
        split: &Split,
        random: &Model,
        trained: &Model,
        dims: &[usize],
        device: &Device,
        on_progress: &mut EvaluationObserver<'_>,
    ) -> Result<Option<Self>, Error> {
        if split.test.is_empty() || images.classes().0.len() < 2 {
            return Ok(None);
        }
        let (mut measured, mut by_dimension) = (Vec::new(), Vec::new());
        let of = [
            ("raw pixels", None),
            ("random encoder", Some(random)),
            ("trained encoder", Some(trained)),
        ];
        for (of, model) in of {
            let mut report = |doing, done| {
                let images = images.len();
                on_progress(EvaluationProgress { of, doing, done, images })
            };
            let mut done = 0;
            let mut side = |rows: &[usize]| {
                let mut embeddings = Vec::new();
                let doing = if model.is_some() { "encoding" } else { "reading" };
                for rows in rows.chunks(CHUNK) {
                    report(doing, done)?;
                    embeddings.extend(match model {
                        None => images.pixels(rows)?,
                        Some(model) => embed_rows(model, images, rows, device)?,
                    });
                    done += rows.len();
                }
                Ok::<_, Error>(embeddings)
            };
            let (train, test) = (side(&split.train)?, side(&split.test)?);
            let mut report = |doing| report(doing, images.len());
            measured.push(accuracies(images, split, [&train, &test], &mut report)?);
            if of == "trained encoder" {
                let dim = test.len() / split.test.len();
                for &cut in dims {
                    let sides = [&train, &test].map(|x| first_numbers(x, dim, cut));
                    let sides = sides.each_ref().map(|x| &x[..]);
                    let [one_shot, nearest_neighbour, weighted_neighbours, linear_probe] =
                        accuracies(images, split, sides, &mut report)?;
                    by_dimension.push(ByDimension {
                        dim: cut.min(dim),
                        one_shot,
                        nearest_neighbour,
                        weighted_neighbours,
                        linear_probe,
                    });
                }
            }
        }
        let each = |i: usize| Measured {
            raw: measured[0][i],
            random_encoder: measured[1][i],
            trained: measured[2][i],
        };
        Ok(Some(Self {
            one_shot: each(0),
            nearest_neighbour: each(1),
            weighted_neighbours: Some(each(2)),
            linear_probe: Some(each(3)),
            by_dimension,
        }))
    }
}

/// The first `cut` numbers of each of some embeddings of `dim`.
fn first_numbers(embeddings: &[f32], dim: usize, cut: usize) -> Vec<f32> {
    embeddings.chunks(dim).flat_map(|x| &x[..cut.min(dim)]).copied().collect()
}

/// Accuracies of embeddings of training and test images: one-shot, of the nearest neighbour, of many
/// neighbours, of a linear probe.
fn accuracies(
    images: &Images,
    split: &Split,
    [train, test]: [&[f32]; 2],
    report: &mut dyn FnMut(&'static str) -> Result<(), Error>,
) -> Result<[f64; 4], Error> {
    let (_, classes) = images.classes();
    let labels = |rows: &[usize]| -> Vec<u64> { rows.iter().map(|&i| classes[i] as u64).collect() };
    let (of_train, of_test) = (labels(&split.train), labels(&split.test));
    let dim = test.len() / of_test.len();
    let train = Labelled::new(Embeddings::new(train, dim)?, &of_train)?;
    let test = Labelled::new(Embeddings::new(test, dim)?, &of_test)?;
    report("looking for neighbours")?;
    let one_shot = one_shot_accuracy(train, test, DRAWS, 0)?;
    let [nearest, many] = knn_accuracies(train, test, [1, NEIGHBOURS.min(of_train.len())])?;
    report("fitting a linear probe")?;
    Ok([one_shot, nearest, many, linear_probe_accuracy(train, test)?])
}

/// The measures of a saved model again, on the data it was trained on or on other labelled images; and
/// those of its embeddings cut to `dims` numbers, or where none are given to those that it was trained for.
///
/// # Errors
/// When the run cannot be read, or the images have fewer than two labels to judge with, or with what
/// `on_progress` returns.
pub fn evaluate(
    run: &Path,
    data: Option<&str>,
    dims: &[usize],
    on_progress: &mut EvaluationObserver<'_>,
) -> Result<Evaluated, Error> {
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let trained = saved.trained(run, &device)?;
    let settings = saved.settings(data);
    let images = settings.images()?;
    // All of other data is new to the model, but some is needed as labelled examples.
    let share = match data {
        Some(_) if saved.hold_out == 0.0 => Settings::default().hold_out,
        _ => saved.hold_out,
    };
    let split = Split::new(&images, share);
    let random = saved.random(&device)?;
    let own = &Settings::from_file(&run.join(CONFIG))?.loss.matryoshka;
    let dims = if dims.is_empty() { own } else { dims };
    let evaluation =
        Evaluation::new(&images, &split, &random, &trained, dims, &device, on_progress)?;
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
