//! Whether pairs of texts are as similar as people found them.
//!
//! Input: pairs with scores, models. Output: Spearman's ρ of cosines and scores, with 95 % intervals.

use crate::Error;
use crate::run::{Estimate, ScoredPairs};
use crate::tensors::{cosine, embed_rows};
use burn::tensor::Device;
use kinfold::measures::rank_correlation;
use kinfold_data::Data;
use kinfold_nn::encoders::Model;

impl ScoredPairs {
    /// None where the data is no pairs with scores. `untrained` is the model before training.
    pub(crate) fn new(
        data: &Data,
        untrained: &dyn Fn() -> Option<Model>,
        trained: &Model,
        device: &Device,
    ) -> Result<Option<Self>, Error> {
        let Data::Texts(texts) = data else { return Ok(None) };
        if texts.scores.is_empty() {
            return Ok(None);
        }
        let rows: Vec<usize> = (0..texts.items.len()).collect();
        let of = |model: &Model| -> Result<Estimate, Error> {
            let embeddings = embed_rows(model, data, &rows, device)?;
            let row = |row: usize| {
                let dim = embeddings.len() / texts.items.len();
                &embeddings[row * dim..][..dim]
            };
            let pairs = (0..texts.items.pairs()).map(|place| texts.items.pair(place));
            let cosines: Vec<f64> = pairs.map(|(a, b)| cosine(row(a), row(b))).collect();
            let of_rows = |rows: &[usize]| {
                let some = |all: &[f64]| rows.iter().map(|&row| all[row]).collect::<Vec<f64>>();
                rank_correlation(&some(&cosines), &some(&texts.scores))
            };
            Ok(Estimate::of_rows(cosines.len(), of_rows))
        };
        Ok(Some(Self {
            pairs: texts.items.pairs(),
            untrained: untrained().as_ref().map(of).transpose()?,
            trained: of(trained)?,
        }))
    }
}
