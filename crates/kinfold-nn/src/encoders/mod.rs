//! What turns a view into an embedding, and the projector that training puts behind it.
//!
//! Input: images `[n, channels, size, size]`, texts as tokens, or vectors. Output: embeddings `[n, d]`; the loss sees the
//! projector's output, the user the encoder's. An encoder is a file here; its layers are all in
//! `layers`, what it is made of in `settings`, how it is written and read in `weights`.

mod adapter;
mod convnet;
mod input;
mod layers;
mod mlp;
mod projector;
mod resnet;
mod settings;
mod size;
mod static_embedding;
mod tables;
#[cfg(test)]
mod tests;
mod vit;
mod weights;

pub use input::{Input, InputShape};
pub use settings::{AdapterForm, EncoderName, EncoderSettings, ProjectorForm, Stem, Towers};
pub use size::ModelSize;
pub use tables::{table_shape, tokenizer_beside};
pub use weights::WEIGHTS;

use crate::Error;
use adapter::Adapter;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use convnet::ConvNet;
use mlp::Mlp;
use projector::{Perceptron, Projector};
use resnet::ResNet;
use static_embedding::StaticEmbedding;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use vit::Vit;

/// Held while weights are drawn.
static DRAWING: Mutex<()> = Mutex::new(());

/// The shape of the images that a model takes: `[channels, size, size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Width and height in pixels.
    pub size: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
}

/// An encoder, its projector, and what predicts another view's projection.
#[derive(Module, Debug)]
pub struct Model {
    encoder: Encoder,
    projector: Option<Projector>,
    predictor: Option<Perceptron>,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // There is one of it.
enum Encoder {
    ConvNet(ConvNet),
    Mlp(Mlp),
    ResNet(ResNet),
    Vit(Vit),
    Static(StaticEmbedding),
    Adapter(Adapter),
}

impl Encoder {
    /// # Errors
    /// [`Error::Setting`] where the encoder takes things of another kind.
    fn new(settings: &EncoderSettings, shape: InputShape, device: &Device) -> Result<Self, Error> {
        let shape = match (settings.name, shape) {
            (EncoderName::Static, InputShape::Texts { tokens }) => {
                return Ok(Self::Static(StaticEmbedding::random(settings, tokens, device)));
            }
            (EncoderName::Adapter, InputShape::Vectors { dim }) => {
                let settings = EncoderSettings { embedding: Some(dim), ..settings.clone() };
                return Ok(Self::Adapter(Adapter::new(&settings, device)));
            }
            (name @ (EncoderName::Static | EncoderName::Adapter), other) => {
                return Err(other_kind(name, other));
            }
            (_, InputShape::Images(shape)) => shape,
            (name, other) => return Err(other_kind(name, other)),
        };
        let channels = shape.channels;
        let stem = settings.stem(shape.size);
        Ok(match settings.name {
            EncoderName::ConvNet => Self::ConvNet(ConvNet::new(settings, shape, device)),
            EncoderName::Mlp => Self::Mlp(Mlp::new(settings, shape, device)),
            EncoderName::ResNet18 => Self::ResNet(ResNet::new_18(stem, channels, device)),
            EncoderName::ResNet50 => Self::ResNet(ResNet::new_50(stem, channels, device)),
            EncoderName::Vit => Self::Vit(Vit::new(settings, shape, device)),
            name @ (EncoderName::Static | EncoderName::Adapter) => {
                return Err(other_kind(name, InputShape::Images(shape)));
            }
        })
    }

    /// `[n, embedding]`.
    fn forward(&self, input: Input) -> Tensor<2> {
        match (self, input) {
            (Self::ConvNet(encoder), Input::Images(x)) => encoder.forward(x),
            (Self::Mlp(encoder), Input::Images(x)) => encoder.forward(x),
            (Self::ResNet(encoder), Input::Images(x)) => encoder.forward(x),
            (Self::Vit(encoder), Input::Images(x)) => encoder.forward(x),
            (Self::Static(encoder), Input::Texts(texts)) => encoder.forward(&texts),
            (Self::Adapter(encoder), Input::Vectors { values, queries }) => {
                encoder.forward(values, queries)
            }
            _ => panic!("the encoder takes things of another kind"),
        }
    }
}

fn other_kind(name: EncoderName, given: InputShape) -> Error {
    let (takes, given) = (name.takes(), given.noun());
    Error::Setting(format!("the encoder {name} takes {takes}, but the data is {given}"))
}

impl Model {
    /// A model for things of `shape`, with random weights that follow from `seed`.
    ///
    /// # Errors
    /// As [`EncoderSettings::check`], and when the encoder takes things of another kind.
    pub fn random(
        settings: &EncoderSettings,
        shape: impl Into<InputShape>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let shape = shape.into();
        settings.check(shape.size())?;
        // The generator is one for the whole process: nobody else may draw in between.
        let _alone = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        device.seed(seed);
        let model = Self {
            encoder: Encoder::new(settings, shape, device)?,
            projector: Projector::new(settings, device),
            predictor: Perceptron::predictor(settings, device),
        };
        // Burn draws weights when they are first used; use them now, while the seed is fresh, and in
        // one order.
        model.visit(&mut Draw);
        Ok(model)
    }

    /// A model whose weights are all to be replaced. A table of token vectors, which is large, is not drawn.
    ///
    /// # Errors
    /// As [`random`](Self::random).
    pub fn blank(
        settings: &EncoderSettings,
        shape: impl Into<InputShape>,
        device: &Device,
    ) -> Result<Self, Error> {
        let shape = shape.into();
        match (settings.name, shape) {
            (EncoderName::Static, InputShape::Texts { tokens }) => {
                settings.check(shape.size())?;
                let encoder = Encoder::Static(StaticEmbedding::zeros(settings, tokens, device));
                let projector = Projector::new(settings, device);
                Ok(Self { encoder, projector, predictor: Perceptron::predictor(settings, device) })
            }
            _ => Self::random(settings, shape, 0, device),
        }
    }

    /// The model that training begins with: a random one, with the weights of
    /// [`init`](EncoderSettings::init) where that is given.
    ///
    /// # Errors
    /// As [`random`](Self::random); [`Error::Read`] and [`Error::Weights`] when the file of `init` cannot
    /// be read or does not fit.
    pub fn initial(
        settings: &EncoderSettings,
        shape: impl Into<InputShape>,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let shape = shape.into();
        let Some(from) = &settings.init else {
            return Self::random(settings, shape, seed, device);
        };
        let InputShape::Texts { tokens } = shape else {
            return weights::begin(
                Self::random(settings, shape, seed, device)?,
                settings.name,
                from,
            );
        };
        // The projector is drawn, and the table not.
        let one = InputShape::Texts { tokens: 1 };
        let model = Self::random(settings, one, seed, device)?;
        let encoder = StaticEmbedding::of_file(settings, tokens, from, device)?;
        Ok(Self { encoder: Encoder::Static(encoder), ..model })
    }

    /// A copy for use without training, on the plain device. (A clone would go on sharing batch norm's
    /// running statistics with the model that is trained.)
    pub fn snapshot(&self) -> Self {
        self.valid()
    }

    /// The model whose encoder's table has each row multiplied by one of `factors`, `[tokens]`; the model
    /// itself where the encoder has no table.
    pub fn with_scaled_tokens(self, factors: Vec<f32>, device: &Device) -> Self {
        let Encoder::Static(encoder) = self.encoder else { return self };
        let tokens = factors.len();
        let factors = TensorData::new(factors, [tokens, 1]);
        let encoder = Encoder::Static(encoder.scaled(Tensor::from_data(factors, device)));
        Self { encoder, ..self }
    }

    /// The vectors of all tokens, `[tokens, embedding]`; none where the encoder has no table of them.
    pub fn token_table(&self) -> Option<TensorData> {
        match &self.encoder {
            Encoder::Static(encoder) => Some(encoder.table().into_data()),
            _ => None,
        }
    }

    /// Whether the loss sees documents as they are, whatever the weights: it is an adapter of queries alone.
    pub fn leaves_documents(&self) -> bool {
        match &self.encoder {
            Encoder::Adapter(encoder) => encoder.leaves_documents() && self.projector.is_none(),
            _ => false,
        }
    }

    /// What an adapter is made of, by name: of a linear one `queries_matrix`, and else `queries_hidden_weight`
    /// and `_bias`, `queries_output_weight` and `_bias`, in PyTorch's layouts; of documents the same, where they
    /// have their own. None of other encoders.
    pub fn adapter_arrays(&self) -> Vec<(String, TensorData)> {
        match &self.encoder {
            Encoder::Adapter(encoder) => encoder.arrays(),
            _ => Vec::new(),
        }
    }

    /// The projector's output, which the loss sees, `[n, projection]`, of images
    /// `[n, channels, size, size]`, texts or vectors.
    ///
    /// # Panics
    /// As [`embed`](Self::embed).
    pub fn project(&self, input: impl Into<Input>) -> Tensor<2> {
        let embeddings = self.encoder.forward(input.into());
        match &self.projector {
            Some(projector) => projector.forward(embeddings),
            None => embeddings,
        }
    }

    /// What the predictor makes of projections, `[n, projection]`; these themselves where there is none.
    pub fn predict(&self, projections: Tensor<2>) -> Tensor<2> {
        match &self.predictor {
            Some(predictor) => predictor.forward(projections),
            None => projections,
        }
    }

    /// Embeddings, `[n, embedding]`, of images `[n, channels, size, size]` or texts.
    ///
    /// On an autodiff device batch norm takes the batch's statistics and moves its running ones; on a
    /// plain device it takes the running ones. For embeddings of a model that is trained, take a
    /// [`snapshot`](Self::snapshot).
    ///
    /// # Panics
    /// As Burn's operations do, when the input is not of the model's kind and shape or not on its device.
    pub fn embed(&self, input: impl Into<Input>) -> Tensor<2> {
        self.encoder.forward(input.into())
    }

    /// The weights as a safetensors file, in PyTorch's names and layouts.
    ///
    /// # Errors
    /// [`Error::Unwritable`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        weights::to_bytes(&self.snapshot())
    }

    /// The model with the weights of a safetensors file that such a model was written to.
    ///
    /// # Errors
    /// [`Error::Read`] when the file cannot be read; [`Error::Weights`] when a weight is missing, left over
    /// or of another shape.
    pub fn with_weights(self, file: &Path) -> Result<Self, Error> {
        weights::load(self, file)
    }
}

/// Uses every weight once.
struct Draw;

impl ModuleVisitor for Draw {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}
