//! Whether training still gains, and the weights that were best.
//!
//! Input: the model before training and after each epoch. Output: whether to go on, and the best model. What is
//! judged is what was set aside of the training data for that, so that nothing held out is looked at.

use crate::evaluation::Task;
use crate::processes::Processes;
use crate::run::State;
use crate::{Error, Settings};
use burn::tensor::Device;
use kinfold_data::{Data, Split};
use kinfold_nn::encoders::Model;

/// The most queries that are set aside for an epoch to be judged by.
pub(super) const VALIDATION: usize = 300;

/// The parts of a checkpoint that are this one's.
const SCORES: &str = "validation";
const MODEL: &str = "best_model";

pub(super) struct EarlyStopping {
    task: Task,
    patience: usize,
    /// The documents' embeddings, where they stay as they are.
    documents: Option<Vec<f32>>,
    /// nDCG@10 before training and after each epoch.
    scores: Vec<f64>,
    best: Model,
}

impl EarlyStopping {
    /// None where nothing is set aside, which `aside` has as its test part.
    pub(super) fn new(
        settings: &Settings,
        data: &Data,
        aside: Option<&Split>,
        model: &Model,
    ) -> Result<Option<Self>, Error> {
        let Some(aside) = aside else { return Ok(None) };
        let Some(task) = Task::new(data, aside, &aside.test_pairs) else { return Ok(None) };
        let patience = settings.early_stopping.patience;
        let best = model.snapshot();
        let device = Device::flex();
        let stay = best.leaves_documents();
        let documents = stay.then(|| task.embed_documents(&best, data, &device)).transpose()?;
        Ok(Some(Self { task, patience, documents, scores: Vec::new(), best }))
    }

    /// Judges the model before training, and then after another epoch each time; nDCG@10. The first of some
    /// processes judges for all.
    pub(super) fn judge(
        &mut self,
        data: &Data,
        model: &Model,
        processes: &Processes,
    ) -> Result<f64, Error> {
        let model = model.snapshot();
        // As bits, so that no digit is lost on its way.
        let score = processes.of_first(|| Ok(self.score(data, &model)?.to_bits()))?;
        let score = f64::from_bits(score);
        self.scores.push(score);
        if self.best_epoch() + 1 == self.scores.len() {
            self.best = model;
        }
        Ok(score)
    }

    fn score(&self, data: &Data, model: &Model) -> Result<f64, Error> {
        let device = Device::flex();
        let rankings = match &self.documents {
            Some(documents) => self.task.rankings_among(documents, model, data, &device)?,
            None => self.task.rankings(model, data, &device)?,
        };
        Ok(rankings.iter().map(|x| x.ndcg_at_10).sum::<f64>() / rankings.len() as f64)
    }

    /// The first of the epochs that are best, counted from 1; 0 for before training.
    pub(super) fn best_epoch(&self) -> usize {
        let better = |best: usize, epoch: usize| match self.scores[epoch] > self.scores[best] {
            true => epoch,
            false => best,
        };
        (0..self.scores.len()).fold(0, better)
    }

    /// Whether too many epochs have passed since the best.
    pub(super) fn is_over(&self) -> bool {
        self.scores.len() > self.best_epoch() + self.patience
    }

    /// The weights of the best epoch.
    pub(super) fn best(&self) -> &Model {
        &self.best
    }

    /// Into a checkpoint.
    pub(super) fn save(&self, state: &mut State) {
        state.put_numbers(SCORES, self.scores.clone());
        state.put_module(MODEL, &self.best);
    }

    /// From a checkpoint.
    pub(super) fn restore(&mut self, state: &mut State) -> Result<(), Error> {
        self.scores = state.take_numbers(SCORES)?;
        self.best = state.take_module(MODEL, self.best.clone())?;
        Ok(())
    }
}
