//! What an encoder learned: each measure for raw pixels, for the encoder before training and after.
//!
//! Input: labelled things, a split, two encoders. Output: accuracies.

mod one_shot;
mod retrieval;
mod scored_pairs;

pub use one_shot::{OneShot, OneShotTask, one_shot};
pub(crate) use retrieval::Task;

use crate::Error;
use crate::run::{
    ByDimension, Evaluation, Measured, NEIGHBOURS, Retrieval, SavedModel, ScoredPairs,
};
use crate::settings::Settings;
use crate::tensors::{check_cuts, embed_averaged, first_numbers};
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Labelled, few_shot_accuracy, knn_accuracies, linear_probe_accuracy};
use kinfold_data::{AveragedViews, Data, Items, Kind, Split, VectorSettings};
use kinfold_nn::encoders::Model;
use std::path::Path;

/// Draws of one example per class, or five, that accuracies are means of.
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
    /// Things that are done, and all of them.
    pub done: usize,
    /// See `done`.
    pub all: usize,
}

/// What is called as an evaluation goes on. An error that it returns ends it.
pub type EvaluationObserver<'o> = dyn FnMut(EvaluationProgress) -> Result<(), Error> + 'o;

/// An encoder that is judged, and how.
pub(crate) struct Judged<'a> {
    /// What it was before training.
    pub(crate) random: &'a dyn Fn() -> Result<Model, Error>,
    pub(crate) trained: &'a Model,
    /// What it sees of each image.
    pub(crate) views: &'a AveragedViews,
    /// Its embeddings are cut to as many numbers, too.
    pub(crate) dims: &'a [usize],
}

impl Evaluation {
    /// None where the things have fewer than two labels, and of vectors, whose labels are asked for as documents
    /// are. Of raw pixels and embeddings, one after the other,
    /// memory holds those of all, and those of what was trained on twice.
    pub(crate) fn new(
        data: &Data,
        split: &Split,
        Judged { random, trained, views, dims }: Judged<'_>,
        device: &Device,
        on_progress: &mut EvaluationObserver<'_>,
    ) -> Result<Option<Self>, Error> {
        let no_labels = split.test.is_empty() || data.items().classes().0.len() < 2;
        if no_labels || data.kind() == Kind::Vectors {
            return Ok(None);
        }
        let items = data.items();
        let (mut measured, mut by_dimension) = (Vec::new(), Vec::new());
        let random = random()?;
        let raw = if data.kind() == Kind::Images { "raw pixels" } else { "vectors as they are" };
        let of =
            [(raw, None), ("random encoder", Some(&random)), ("trained encoder", Some(trained))];
        for (of, model) in of {
            let mut report =
                |doing, done| on_progress(EvaluationProgress { of, doing, done, all: items.len() });
            let mut done = 0;
            let mut side = |rows: &[usize]| {
                let mut embeddings = Vec::new();
                let doing = if model.is_some() { "encoding" } else { "reading" };
                for rows in rows.chunks(CHUNK) {
                    report(doing, done)?;
                    embeddings.extend(match model {
                        None => data.raw(rows)?.unwrap_or_default(),
                        Some(model) => embed_averaged(model, data, rows, views, device)?,
                    });
                    done += rows.len();
                }
                Ok::<_, Error>(embeddings)
            };
            let (train, test) = (side(&split.train)?, side(&split.test)?);
            if test.is_empty() {
                // Texts are no numbers before they are encoded.
                measured.push(None);
                continue;
            }
            let mut report = |doing| report(doing, items.len());
            measured.push(Some(accuracies(items, split, [&train, &test], &mut report)?));
            if of == "trained encoder" {
                let dim = test.len() / split.test.len();
                for &cut in dims {
                    let sides = [&train, &test].map(|x| first_numbers(x, dim, cut));
                    let sides = sides.each_ref().map(|x| &x[..]);
                    let [one_shot, _, nearest_neighbour, weighted_neighbours, linear_probe] =
                        accuracies(items, split, sides, &mut report)?;
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
        let of = |method: usize, measure: usize| Some(measured[method]?[measure]);
        let each = |i: usize| Measured {
            raw: of(0, i),
            random_encoder: of(1, i).unwrap_or_default(),
            trained: of(2, i).unwrap_or_default(),
        };
        Ok(Some(Self {
            one_shot: each(0),
            five_shot: Some(each(1)),
            nearest_neighbour: each(2),
            weighted_neighbours: Some(each(3)),
            linear_probe: Some(each(4)),
            by_dimension,
        }))
    }
}

/// Accuracies of embeddings of training and test images: one-shot, five-shot, of the nearest neighbour, of many
/// neighbours, of a linear probe.
fn accuracies(
    items: &Items,
    split: &Split,
    [train, test]: [&[f32]; 2],
    report: &mut dyn FnMut(&'static str) -> Result<(), Error>,
) -> Result<[f64; 5], Error> {
    let (_, classes) = items.classes();
    let labels = |rows: &[usize]| -> Vec<u64> { rows.iter().map(|&i| classes[i] as u64).collect() };
    let (of_train, of_test) = (labels(&split.train), labels(&split.test));
    let dim = test.len() / of_test.len();
    let train = Labelled::new(Embeddings::new(train, dim)?, &of_train)?;
    let test = Labelled::new(Embeddings::new(test, dim)?, &of_test)?;
    report("looking for neighbours")?;
    let one_shot = few_shot_accuracy(train, test, 1, DRAWS, 0)?;
    let five_shot = few_shot_accuracy(train, test, 5, DRAWS, 0)?;
    let [nearest, many] = knn_accuracies(train, test, [1, NEIGHBOURS.min(of_train.len())])?;
    report("fitting a linear probe")?;
    Ok([one_shot, five_shot, nearest, many, linear_probe_accuracy(train, test)?])
}

/// Data by name, and where it is vectors, what goes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataSource {
    /// As [`Settings::data`] has it.
    pub data: String,
    /// As [`Settings::vector`] has it.
    pub vector: VectorSettings,
}

impl From<&str> for DataSource {
    fn from(data: &str) -> Self {
        Self { data: data.to_owned(), vector: VectorSettings::default() }
    }
}

/// The measures of a saved model again, on the data it was trained on or on other data; and
/// those of its embeddings cut to `dims` numbers, or where none are given to those that it was trained for. Each
/// image is seen in `average` views, or in as many as the run says.
///
/// # Errors
/// When the run cannot be read, or the images have fewer than two labels to judge with, or with what
/// `on_progress` returns.
pub fn evaluate(
    run: &Path,
    data: Option<&DataSource>,
    dims: &[usize],
    average: Option<usize>,
    on_progress: &mut EvaluationObserver<'_>,
) -> Result<Evaluated, Error> {
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let trained = saved.trained(run, &device)?;
    let other = data.is_some();
    let mut settings = saved.settings(data.map(|source| source.data.as_str()));
    if let Some(source) = data {
        settings.vector = source.vector.clone();
    }
    let data = settings.read()?;
    // All of other data is new to the model, but some is needed as labelled examples.
    let share = match saved.hold_out {
        0.0 if other => Settings::default().hold_out,
        share => share,
    };
    let split = data.split(share);
    let began = Settings::of_run(run)?;
    let own = &began.loss.matryoshka;
    check_cuts(dims, saved.encoder.embedding())?;
    let dims = if dims.is_empty() { own } else { dims };
    let evaluation = Evaluation::new(
        &data,
        &split,
        Judged {
            random: &|| saved.random(&device),
            trained: &trained,
            views: &saved.averaged_views(average)?,
            dims,
        },
        &device,
        on_progress,
    )?;
    // Of other data every pair is new to the model.
    let all: Vec<usize> = (0..data.items().pairs()).collect();
    let task = Task::new(&data, &split, if other { &all } else { &split.test_pairs });
    let untrained = || untrained(&began, &data, &device);
    let retrieval = Retrieval::new(&data, task, &untrained, &trained, &device)?;
    let scored = ScoredPairs::new(&data, &untrained, &trained, &device)?;
    if evaluation.is_none() && retrieval.is_none() && scored.is_none() {
        if share == 0.0 {
            return Err(Error::Data(format!(
                "all of {} was trained on and nothing held out to judge by: give other --data",
                settings.data
            )));
        }
        return Err(Error::Data(format!(
            "{} has {} {} but fewer than two labels to judge with, and no pairs of texts or vectors: put \
             the images of each class into a sub-folder of its own, or give a column `label`",
            settings.data,
            data.items().len(),
            data.kind().noun()
        )));
    }
    Ok(Evaluated { evaluation, retrieval, scored, data, split })
}

/// The model that a run's training begins with; none where what it begins with is not there any more.
pub(crate) fn untrained(settings: &Settings, data: &Data, device: &Device) -> Option<Model> {
    let Settings { encoder, seed, .. } = settings;
    let model = Model::initial(encoder, settings.shape(data), *seed, device).ok()?;
    Some(weighted(model, settings, data, device))
}

/// A model before training, its tokens weighted by how rare they are in the data.
pub(crate) fn weighted(model: Model, settings: &Settings, data: &Data, device: &Device) -> Model {
    model.with_scaled_tokens(data.token_weights(settings.encoder.idf()), device)
}

/// A saved model's measures, and what they were measured on.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// The measures of labelled things; none where there are no labels.
    pub evaluation: Option<Evaluation>,
    /// How texts or vectors find theirs; none where nothing says what is theirs.
    pub retrieval: Option<Retrieval>,
    /// Whether pairs are as similar as their scores say; none where they have no scores.
    pub scored: Option<ScoredPairs>,
    /// The things.
    pub data: Data,
    /// Which of them were held out.
    pub split: Split,
}
