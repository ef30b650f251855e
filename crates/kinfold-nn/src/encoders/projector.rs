//! What stands between the encoder and the loss while training, and is cut off afterwards.

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

/// SimCLR's: a hidden layer as wide as the embedding.
#[derive(Module, Debug)]
pub(super) struct Perceptron {
    hidden: Hidden,
    output: Linear,
}

impl Projector {
    /// None where the loss sees the embedding itself.
    pub(super) fn new(settings: &EncoderSettings, device: &Device) -> Option<Self> {
        let (from, to) = (settings.embedding(), settings.projection());
        match settings.projector() {
            ProjectorForm::None => None,
            ProjectorForm::Linear => Some(Self::Linear(LinearConfig::new(from, to).init(device))),
            ProjectorForm::Mlp => Some(Self::Mlp(Perceptron {
                hidden: Hidden::new(from, from, device),
                output: LinearConfig::new(from, to).init(device),
            })),
        }
    }

    /// `[n, embedding]` to `[n, projection]`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Linear(layer) => linear(x, layer),
            Self::Mlp(layers) => linear(layers.hidden.forward(x), &layers.output),
        }
    }
}
