//! Where a loss stands, why, and what to change.
//!
//! Input: pairs of embeddings and a temperature. Output: a [`Diagnosis`], numbers each with a
//! sentence of meaning, and [findings](Finding) in plain words, what matters first first. It reads no
//! file and no clock, and what is random follows from a seed; the bits are the same for every number
//! of threads. It never builds the n × n matrix: of many pairs a sample is compared with all n, as
//! [`Sample`] says.
//!
//! ```
//! use kinfold::diagnosis::{Options, diagnose};
//! use kinfold::{Embeddings, Temperature};
//!
//! // Two queries, whose keys lie the other way around.
//! let queries = Embeddings::new(&[1.0f32, 0.0, 0.0, 1.0], 2)?;
//! let keys = Embeddings::new(&[0.0f32, 1.0, 1.0, 0.0], 2)?;
//! let diagnosis = diagnose(queries, keys, &Options::new(Temperature::new(0.1)?))?;
//! assert!(diagnosis.loss.value > diagnosis.loss.ceiling);
//! assert_eq!(diagnosis.retrieval.queries_to_keys.recall_at_1, 0.0);
//! # Ok::<(), kinfold::Error>(())
//! ```

mod copies;
mod elsewhere;
mod findings;
mod history;
mod numbers;
mod parts;
mod sampling;
mod walk;
mod words;

pub use findings::{Finding, Kind, Severity};
pub use parts::{
    AtTemperature, BothWays, Cap, Centring, Choice, Distribution, Duplicates, Elsewhere,
    FalseNegatives, Found, Geometry, GradientNorm, History, Information, LargestDimension, Points,
    Sample, Side, Similarities, Standing, Suggestion, UnderPreset,
};
pub use words::{Line, Section};

use crate::embeddings::{Element, Embeddings};
use crate::{Error, Temperature};

/// How pairs are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    temperature: Temperature,
    labels: Option<&'a [u64]>,
    training: Option<Training<'a>>,
    sample: usize,
    seed: u64,
}

/// What is known of the training that embeddings come from; advice goes by it. What is not known is left
/// at its default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Training<'a> {
    /// The loss of each step, in nats.
    pub losses: &'a [f64],
    /// The norm of all gradients together at each step; empty where it is not known.
    pub gradient_norms: &'a [f64],
    /// The loss where nothing is learned.
    pub ceiling: f64,
    /// Pairs in a batch.
    pub batch: Option<usize>,
    /// The highest learning rate.
    pub learning_rate: Option<f64>,
    /// What is usual for the optimizer and the batch.
    pub usual_learning_rate: Option<f64>,
    /// Weight decay.
    pub weight_decay: Option<f64>,
    /// What moved the weights, as a sentence names it.
    pub optimizer: Option<&'a str>,
    /// What was trained, as a sentence names it.
    pub encoder: Option<&'a str>,
}

impl<'a> Options<'a> {
    /// A sample of 4096 pairs, where there are more, by seed 0; no labels.
    pub fn new(temperature: Temperature) -> Self {
        Self { temperature, labels: None, training: None, sample: 4096, seed: 0 }
    }

    /// A label for each pair, `[n]`, to tell false negatives by.
    #[must_use]
    pub fn with_labels(self, labels: &'a [u64]) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// How these embeddings were trained.
    #[must_use]
    pub fn with_training(self, training: Training<'a>) -> Self {
        Self { training: Some(training), ..self }
    }

    /// Pairs, at least 2, that are compared with all others where there are more than that: time and
    /// memory grow with the sample times n.
    #[must_use]
    pub fn with_sample(self, pairs: usize) -> Self {
        Self { sample: pairs, ..self }
    }

    /// What the sample follows from.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// What there is to say of pairs of embeddings and a temperature.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Diagnosis {
    /// Pairs, n.
    pub pairs: usize,
    /// Dimension, d.
    pub dim: usize,
    /// τ.
    pub temperature: f64,
    /// What is a mean over a sample.
    pub sample: Sample,
    /// What is wrong, what matters most first; empty where nothing is.
    pub findings: Vec<Finding>,
    /// The loss on its ruler.
    pub loss: Standing,
    /// The loss at other temperatures, the lowest first.
    pub sweep: Vec<AtTemperature>,
    /// A temperature to take.
    pub suggestion: Suggestion,
    /// How similar pairs and non-pairs are.
    pub similarities: Similarities,
    /// How a query chooses.
    pub choice: Choice,
    /// Whether pairs find each other.
    pub retrieval: BothWays,
    /// Rows that cannot be told apart.
    pub duplicates: Duplicates,
    /// Negatives of the same label, where labels are given.
    pub false_negatives: Option<FalseNegatives>,
    /// How embeddings lie on the sphere.
    pub geometry: Geometry,
    /// The estimate of the mutual information.
    pub information: Information,
    /// How the training went, where it is known.
    pub history: Option<History>,
    /// The same embeddings under each named loss that takes plain pairs.
    pub presets: Vec<UnderPreset>,
}

/// Looks at `queries` `[n, d]` and `keys` `[n, d]`, row i belonging to row i, by their cosines.
///
/// # Errors
/// When there are fewer than two pairs, rows, dimensions or labels disagree, the sample is less than
/// 2, or a number is not finite; then the error names matrix, row and column.
pub fn diagnose<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    options: &Options<'_>,
) -> Result<Diagnosis, Error> {
    numbers::diagnosis(queries, keys, options)
}
