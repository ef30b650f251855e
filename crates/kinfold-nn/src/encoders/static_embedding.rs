//! A static embedding: a table with a row for each token, and the mean over a text's tokens.

use super::settings::EncoderSettings;
use super::tables;
use crate::Error;
use crate::ops::{Bags, embedding_bag};
use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use std::path::Path;

#[derive(Module, Debug)]
pub(super) struct StaticEmbedding {
    embedding: Table,
}

/// As PyTorch's EmbeddingBag, which gives the weight its name.
#[derive(Module, Debug)]
struct Table {
    weight: Param<Tensor<2>>,
}

impl StaticEmbedding {
    /// Rows of normally distributed numbers, as PyTorch's.
    pub(super) fn random(settings: &EncoderSettings, rows: usize, device: &Device) -> Self {
        Self::init(&Initializer::Normal { mean: 0.0, std: 1.0 }, settings, rows, device)
    }

    pub(super) fn zeros(settings: &EncoderSettings, rows: usize, device: &Device) -> Self {
        Self::init(&Initializer::Zeros, settings, rows, device)
    }

    fn init(with: &Initializer, settings: &EncoderSettings, rows: usize, device: &Device) -> Self {
        let weight = with.init([rows, settings.embedding()], device);
        Self { embedding: Table { weight } }
    }

    /// `[tokens, embedding]`.
    pub(super) fn table(&self) -> Tensor<2> {
        self.embedding.weight.val()
    }

    /// `[n, embedding]`.
    pub(super) fn forward(&self, texts: &Bags) -> Tensor<2> {
        embedding_bag(self.embedding.weight.val(), texts)
    }

    /// The table of a folder or file.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Weights`] when it cannot be read, or is of another shape.
    pub(super) fn of_file(
        settings: &EncoderSettings,
        rows: usize,
        from: &Path,
        device: &Device,
    ) -> Result<Self, Error> {
        let table = tables::read(from)?;
        let (given, needed) = (table.shape().to_vec(), [rows, settings.embedding()]);
        if given != needed {
            let reason = format!(
                "its table is {given:?}, but {needed:?} is needed: a row for each token of the tokenizer, \
                 and as many numbers as the embedding has; is it another table's tokenizer?"
            );
            return Err(Error::weights(from, reason));
        }
        let weight = Param::from_tensor(Tensor::from_data(table, device));
        Ok(Self { embedding: Table { weight } })
    }

    /// The same with each row of the table multiplied by a number.
    pub(super) fn scaled(mut self, factors: Tensor<2>) -> Self {
        self.embedding.weight = self.embedding.weight.map(|table| {
            // What is computed of a weight is no weight; its numbers are.
            let scaled = (table.clone().detach() * factors.clone()).into_data();
            let scaled = Tensor::from_data(scaled, &table.device());
            if table.is_require_grad() { scaled.require_grad() } else { scaled }
        });
        self
    }
}
