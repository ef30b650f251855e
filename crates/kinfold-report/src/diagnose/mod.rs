//! Where a loss stands and why, on embeddings from files or from a run's own model.
//!
//! Input: two files, or a run folder. Output: what `kinfold::diagnosis` says of them. Nothing is
//! measured here.

use crate::metrics::{Step, steps};
use burn::tensor::Device;
use kinfold::diagnosis::{Diagnosis, Options, Training};
use kinfold::{Embeddings, Temperature};
use kinfold_data::{Data, Matrix, Pair, Pairs, Split, labels_of_file};
use kinfold_nn::encoders::Model;
use kinfold_train::run::{SavedModel, Summary};
use kinfold_train::tensors::{check_cuts, first_numbers, input, numbers};
use kinfold_train::{Error, Settings, relative_path};
use std::path::{Path, PathBuf};

/// The temperature where none is given.
const TEMPERATURE: f64 = 0.1;
/// The most pairs of a run that are looked at.
const PAIRS: usize = 4096;
/// Views that are encoded at a time.
const CHUNK: usize = 256;

/// What is to be diagnosed, and how.
#[derive(Debug, Clone, Default)]
pub struct DiagnosisRequest {
    /// A file of queries, or a run folder.
    pub queries: PathBuf,
    /// A file of keys, row i belonging to row i of the queries; none for a run folder.
    pub keys: Option<PathBuf>,
    /// τ; by default the run's, or 0.1.
    pub temperature: Option<f64>,
    /// Where the data of the run is, if it has moved.
    pub data: Option<String>,
    /// A file with a label for each pair; by default the labels that files or images have.
    pub labels: Option<PathBuf>,
    /// Pairs to compare with all others; by default 4096.
    pub sample: Option<usize>,
    /// Embeddings cut to so many first numbers are diagnosed, too; by default those that a run was
    /// trained for.
    pub dimensions: Vec<usize>,
}

/// A diagnosis, and what it is of.
#[derive(Debug, Clone)]
pub struct DiagnosisReport {
    /// What was compared.
    pub of: String,
    /// Where the temperature comes from.
    pub temperature_is: &'static str,
    /// What there is to say.
    pub diagnosis: Diagnosis,
    /// The same of embeddings cut to their first numbers, a number of them each.
    pub by_dimension: Vec<Diagnosis>,
}

/// Pairs of embeddings and what is known of them.
struct Loaded {
    of: String,
    queries: Vec<f32>,
    keys: Vec<f32>,
    dim: usize,
    labels: Option<Vec<String>>,
    /// The run's.
    temperature: Option<f64>,
    /// How the run was trained.
    trained: Option<Trained>,
    /// The first numbers that it was trained to be good at alone.
    matryoshka: Vec<usize>,
}

/// How a run was trained.
pub(crate) struct Trained {
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
    /// All but these.
    known: Training<'static>,
}

impl Trained {
    /// `ceiling` is the loss where nothing is learned. None where no step was taken.
    pub(crate) fn new(steps: &[Step], ceiling: f64, settings: &Settings) -> Option<Self> {
        let Settings { loss, optimizer, encoder, .. } = settings;
        let batch = settings.batch.unwrap_or(2);
        // A queue that fills makes the loss rise, as more candidates do.
        let filling = if loss.name.as_deref() == Some("moco") { loss.queue / batch } else { 0 };
        let steps = &steps[filling.min(steps.len() / 2)..];
        (!steps.is_empty()).then(|| Self {
            losses: steps.iter().map(|step| step.loss).collect(),
            gradient_norms: steps.iter().filter_map(|step| step.gradient_norm).collect(),
            known: Training {
                ceiling,
                batch: Some(batch),
                learning_rate: Some(optimizer.highest_rate(batch)),
                usual_learning_rate: Some(settings.usual_rate(batch)),
                // As it was written, and not the nearest number in twice the digits.
                weight_decay: optimizer.weight_decay.to_string().parse().ok(),
                optimizer: Some(optimizer.name.as_str()),
                encoder: Some(encoder.name.as_str()),
                ..Training::default()
            },
        })
    }

    fn training(&self) -> Training<'_> {
        Training { losses: &self.losses, gradient_norms: &self.gradient_norms, ..self.known }
    }
}

/// What there is to say of the embeddings in two files, or of a run's.
///
/// # Errors
/// When a file or run cannot be read, or what they hold is no pairs of embeddings.
pub fn diagnose(asked: &DiagnosisRequest) -> Result<DiagnosisReport, Error> {
    let loaded = match &asked.keys {
        Some(keys) => of_files(&asked.queries, keys)?,
        None if asked.queries.is_dir() => of_run(&asked.queries, asked.data.as_deref())?,
        None if asked.queries.exists() => {
            return Err(Error::Setting(format!(
                "{} is one file, but pairs are two: give the file of the keys after it, or a run \
                 folder alone",
                asked.queries.display()
            )));
        }
        None => {
            return Err(Error::Setting(format!("{} does not exist", asked.queries.display())));
        }
    };
    told(asked, loaded)
}

/// What there is to say of the embeddings of a run that has been read already.
pub(crate) fn diagnose_model(
    run: &Path,
    settings: &Settings,
    data: &Data,
    split: &Split,
    model: &Model,
    trained: Option<Trained>,
) -> Result<DiagnosisReport, Error> {
    let loaded = of_model(run, settings, data, split, model)?;
    told(&DiagnosisRequest::default(), Loaded { trained, ..loaded })
}

fn told(asked: &DiagnosisRequest, loaded: Loaded) -> Result<DiagnosisReport, Error> {
    let (temperature, temperature_is) = match (asked.temperature, loaded.temperature) {
        (Some(given), _) => (given, "as given"),
        (None, Some(run)) => (run, "the run's"),
        (None, None) => (TEMPERATURE, "the default, --temperature sets it"),
    };
    let temperature = Temperature::new(temperature).map_err(|e| Error::Setting(e.to_string()))?;
    let labels = match &asked.labels {
        Some(path) => Some(given_labels(path, loaded.queries.len() / loaded.dim)?),
        None => loaded.labels.clone(),
    };
    let labels = labels.map(|labels| numbered(&labels));
    let mut options = Options::new(temperature);
    if let Some(labels) = &labels {
        options = options.with_labels(labels);
    }
    if let Some(trained) = &loaded.trained {
        options = options.with_training(trained.training());
    }
    if let Some(sample) = asked.sample {
        options = options.with_sample(sample);
    }
    let Loaded { of, queries, keys, dim, matryoshka, .. } = &loaded;
    let diagnose = |cut: usize| {
        let [queries, keys] = [queries, keys].map(|whole| first_numbers(whole, *dim, cut));
        let (queries, keys) = (Embeddings::new(&queries, cut)?, Embeddings::new(&keys, cut)?);
        Ok::<_, Error>(kinfold::diagnosis::diagnose(queries, keys, &options)?)
    };
    let cuts = if asked.dimensions.is_empty() { matryoshka } else { &asked.dimensions };
    check_cuts(cuts, *dim)?;
    Ok(DiagnosisReport {
        of: of.clone(),
        temperature_is,
        diagnosis: diagnose(*dim)?,
        by_dimension: cuts.iter().map(|&cut| diagnose(cut)).collect::<Result<_, _>>()?,
    })
}

fn given_labels(path: &Path, n: usize) -> Result<Vec<String>, Error> {
    let labels = labels_of_file(path)?;
    if labels.len() == n {
        return Ok(labels);
    }
    let reason = format!("it has {} labels, but there are {n} pairs", labels.len());
    Err(Error::data_file(path, reason))
}

/// Labels by the order in which they are first seen.
fn numbered(labels: &[String]) -> Vec<u64> {
    let mut seen = std::collections::HashMap::new();
    let number = |label| {
        let next = seen.len() as u64;
        *seen.entry(label).or_insert(next)
    };
    labels.iter().map(number).collect()
}

fn of_files(queries: &Path, keys: &Path) -> Result<Loaded, Error> {
    let tables = (Matrix::read(queries)?, Matrix::read(keys)?);
    let shape = |table: &Matrix| format!("[{}, {}]", table.rows(), table.dim);
    if (tables.0.rows(), tables.0.dim) != (tables.1.rows(), tables.1.dim) {
        return Err(Error::Data(format!(
            "{} is {} but {} is {}: row i of one has to belong to row i of the other, in as many \
             dimensions",
            queries.display(),
            shape(&tables.0),
            keys.display(),
            shape(&tables.1)
        )));
    }
    for (path, table) in [(queries, &tables.0), (keys, &tables.1)] {
        if let Some(at) = table.numbers.iter().position(|x| !x.is_finite()) {
            let (row, column) = (at / table.dim, at % table.dim);
            let reason = format!(
                "row {row}, column {column} (counted from 0) is {}, but every number must be finite",
                table.numbers[at]
            );
            return Err(Error::data_file(path, reason));
        }
    }
    Ok(Loaded {
        of: format!("{} against {}", queries.display(), keys.display()),
        dim: tables.0.dim,
        labels: tables.0.labels.or(tables.1.labels),
        queries: tables.0.numbers,
        keys: tables.1.numbers,
        temperature: None,
        trained: None,
        matryoshka: Vec::new(),
    })
}

/// Pairs as the run makes them, of what it held out where that is enough, in views that it has not
/// seen, as its model projects them: what its loss sees.
fn of_run(run: &Path, data: Option<&str>) -> Result<Loaded, Error> {
    let model = SavedModel::open(run)?.trained(run, &Device::flex())?;
    let mut settings = Settings::of_run(run)?;
    if let Some(data) = data {
        data.clone_into(&mut settings.data);
    }
    let data = settings.read()?;
    let split = data.split(settings.hold_out);
    let ceiling = match Summary::read(run) {
        Some(summary) => summary.loss_ceiling,
        None => settings.contrastive_loss()?.ceiling(settings.batch.unwrap_or(2)),
    };
    let trained = Trained::new(&steps(run)?, ceiling, &settings);
    let loaded = of_model(run, &settings, &data, &split, &model)?;
    Ok(Loaded { trained, ..loaded })
}

/// The same of a run that has been read already, without its training.
fn of_model(
    run: &Path,
    settings: &Settings,
    data: &Data,
    split: &Split,
    model: &Model,
) -> Result<Loaded, Error> {
    let device = Device::flex();
    let model = model.snapshot();
    let (pairs, held_out) = Pairs::to_look_at(data.items(), split, &settings.pairs, 2)?;
    // An epoch that does not come to pass: its pairs and views are new.
    let epoch = settings.epochs;
    let batches = pairs.batches(PAIRS.min(pairs.largest_batch()), settings.seed, epoch);
    let shown = batches.into_iter().next().unwrap_or_default();
    let mut sides = [Vec::new(), Vec::new()];
    for pairs in shown.chunks(CHUNK) {
        let views = data.draw_pairs(pairs, &settings.view, settings.seed, epoch)?;
        let projected = numbers(model.project(input(views, &device)))?;
        let (first, second) = projected.split_at(projected.len() / 2);
        sides[0].extend_from_slice(first);
        sides[1].extend_from_slice(second);
    }
    let items = data.items();
    // The poses of a class are classes.
    let label = |pair: &Pair| format!("{} {}", items.labels[pair.a], pair.pose);
    let labelled = items.classes().0.len() > 1;
    let [queries, keys] = sides;
    Ok(Loaded {
        of: format!(
            "{}: {} pairs {}, each {}, as its projector gives them",
            relative_path(run).display(),
            shown.len(),
            if held_out { "held out" } else { "trained on" },
            pairs.of(),
        ),
        dim: queries.len() / shown.len().max(1),
        queries,
        keys,
        labels: labelled.then(|| shown.iter().map(label).collect()),
        temperature: Some(temperature_of(run, settings)?),
        trained: None,
        matryoshka: settings.loss.matryoshka.clone(),
    })
}

/// Where the temperature of a run has come to, or began.
fn temperature_of(run: &Path, settings: &Settings) -> Result<f64, Error> {
    let reached = Summary::read(run).map(|summary| summary.temperature);
    match reached {
        Some(temperature) => Ok(temperature),
        None => Ok(settings.contrastive_loss()?.temperature().get()),
    }
}
