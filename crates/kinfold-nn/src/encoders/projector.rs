//! What stands between the encoder and the loss while training, and is cut off afterwards: a projector and, of
//! methods that predict one view from the other, a predictor behind it.

use super::layers::linear;
use super::mlp::Hidden;
use super::settings::{EncoderSettings, ProjectorForm};
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)]
pub(super) enum Projector {
    Linear(Linear),
    Mlp(Perceptron),
}

/// SimCLR's: a hidden layer with batch norm and ReLU, and a linear layer.
#[derive(Module, Debug)]
pub(super) struct Perceptron {
    hidden: Hidden,
    output: Linear,
}

impl Perceptron {
    fn new([from, hidden, to]: [usize; 3], device: &Device) -> Self {
        Self {
            hidden: Hidden::new(from, hidden, device),
            output: LinearConfig::new(hidden, to).init(device),
        }
    }

    /// BYOL's predictor: from projections to projections; none where there is none.
    pub(super) fn predictor(settings: &EncoderSettings, device: &Device) -> Option<Self> {
        let dim = settings.seen_by_loss();
        settings.predictor.map(|hidden| Self::new([dim, hidden, dim], device))
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        linear(self.hidden.forward(x), &self.output)
    }
}

impl Projector {
    /// None where the loss sees the embedding itself.
    pub(super) fn new(settings: &EncoderSettings, device: &Device) -> Option<Self> {
        let (from, to) = (settings.embedding(), settings.projection());
        match settings.projector() {
            ProjectorForm::None => None,
            ProjectorForm::Linear => Some(Self::Linear(LinearConfig::new(from, to).init(device))),
            ProjectorForm::Mlp => Some(Self::Mlp(Perceptron::new([from, from, to], device))),
        }
    }

    /// `[n, embedding]` to `[n, projection]`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(layer) => linear(x, layer),
            Self::Mlp(layers) => layers.forward(x),
        }
    }
}
