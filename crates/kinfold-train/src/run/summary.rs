//! `summary.json`: what a run reached.

use super::SUMMARY;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// Accuracies between 0 and 1 on the images held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// With one labelled example of each class, the nearest decides; the mean over 200 draws of
    /// the examples.
    pub one_shot: Measured,
    /// With five; of a class that has fewer, all. None in a run of a version that did not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub five_shot: Option<Measured>,
    /// With every training image labelled, the nearest decides.
    pub nearest_neighbour: Measured,
    /// The [`NEIGHBOURS`] nearest vote, or all where there are fewer, each by `exp(cosine / 0.1)` (Wu et
    /// al. 2018). None in a run of a version that did not measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weighted_neighbours: Option<Measured>,
    /// A logistic regression on the frozen embeddings decides. None in a run of a version that did not
    /// measure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear_probe: Option<Measured>,
    /// The same of the trained encoder's embeddings cut to fewer numbers; empty where none are asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_dimension: Vec<ByDimension>,
}

/// The measures of the first numbers of embeddings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ByDimension {
    /// How many numbers.
    pub dim: usize,
    /// See [`Evaluation::one_shot`].
    pub one_shot: f64,
    /// See [`Evaluation::nearest_neighbour`].
    pub nearest_neighbour: f64,
    /// See [`Evaluation::weighted_neighbours`].
    pub weighted_neighbours: f64,
    /// See [`Evaluation::linear_probe`].
    pub linear_probe: f64,
}

/// Neighbours that vote, by the field's custom.
pub const NEIGHBOURS: usize = 200;

/// One measure, three ways.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Of the pixels themselves; none of things that are no numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<f64>,
    /// Of the encoder before training.
    pub random_encoder: f64,
    /// Of the encoder after training.
    pub trained: f64,
}

/// How well held-out queries find their documents among all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Retrieval {
    /// Queries, the first members of held-out pairs.
    pub queries: usize,
    /// Documents, the second members of all pairs.
    pub documents: usize,
    /// Of BM25; none of things that have no words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bm25: Option<Retrieved>,
    /// Of BM25 and the trained model together: the sum of their scores, each in standard deviations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with_bm25: Option<Retrieved>,
    /// Of the model before training, or of vectors as they were; none where it is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrained: Option<Retrieved>,
    /// Of the trained model.
    pub trained: Retrieved,
    /// How much more of nDCG@10 the trained model has than before, query by query; none where that is not
    /// known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<Estimate>,
}

impl Retrieval {
    /// What training has changed, in words, and what to do; none where it is not known.
    pub fn verdict(&self) -> Option<String> {
        let Estimate { mean, low, high } = self.gain?;
        let change = format!("{mean:+.3} of nDCG@10, [{low:+.3}, {high:+.3}]").replace('-', "−");
        Some(match (low > 0.0, high < 0.0) {
            (true, _) => format!("Training gained {change}."),
            (_, true) => format!("Training lost {change}: keep what you had."),
            _ if mean == 0.0 => "Training gained nothing: keep what you had.".to_owned(),
            _ => format!("Training changed {change}, which may be chance: keep what you had."),
        })
    }
}

/// Whether pairs are as similar as somebody found them: Spearman's ρ of cosines and scores.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoredPairs {
    /// How many pairs there are.
    pub pairs: usize,
    /// Of the model before training; none where it is not known any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrained: Option<Estimate>,
    /// Of the trained model. An interval is over pairs.
    pub trained: Estimate,
}

/// The measures of one method, means over queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retrieved {
    /// The share of relevant documents that come first.
    pub recall_at_1: Estimate,
    /// The share of relevant documents among the first ten.
    pub recall_at_10: Estimate,
    /// The mean of 1 / place of the first relevant document, 0 beyond the tenth.
    pub mrr_at_10: Estimate,
    /// The discounted gain of the first ten over the most that it can be.
    pub ndcg_at_10: Estimate,
}

/// A mean and its 95 % interval, by the bootstrap over queries.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The interval's lower end.
    pub low: f64,
    /// The interval's upper end.
    pub high: f64,
}

/// How several processes shared the last sitting's steps, seen from the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    /// How many they were.
    pub count: usize,
    /// Bytes that a process had to send for a step: of embeddings, their gradients, those of the weights, and
    /// the statistics of batch norm.
    pub bytes_per_step: f64,
    /// Seconds of a step by its parts, in their order. Waiting for others is part of what is waited for, and the
    /// statistics of batch norm are exchanged within the encoder's parts.
    pub seconds_per_step: Vec<(String, f64)>,
}

/// What a run reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// `digits`, or the folder.
    pub data: String,
    /// Pairs trained on in an epoch.
    pub pairs: usize,
    /// Epochs begun.
    pub epochs: usize,
    /// Steps taken.
    pub steps: usize,
    /// The epoch whose weights were kept, where each was judged; 0 where none was better than what was there
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_epoch: Option<usize>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Seconds of training.
    pub seconds: f64,
    /// Pairs trained on each second.
    pub pairs_per_second: f64,
    /// The temperature at the end.
    pub temperature: f64,
    /// The sigmoid's bias at the end, where it is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<f64>,
    /// The mean loss over the last epoch's steps, in nats.
    pub loss: f64,
    /// The least that the last batch could reach; none where no closed form is known.
    pub loss_floor: Option<f64>,
    /// What the last batch has where nothing is learned.
    pub loss_ceiling: f64,
    /// The most memory the process held, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What several processes took for a step; nothing of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<Shared>,
    /// What the embeddings are worth, each measure for raw pixels, the random encoder and the
    /// trained one; nothing where there are no labels to judge with.
    pub evaluation: Option<Evaluation>,
    /// How held-out texts or vectors find theirs; nothing of other data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
}

impl Summary {
    /// What a run folder holds; none where it holds nothing that can be used, as that of a run that
    /// is still going on or was ended by force.
    pub fn read(run: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(run.join(SUMMARY)).ok()?).ok()
    }
}
