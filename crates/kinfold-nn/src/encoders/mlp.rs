//! A perceptron over the pixels: hidden layers, each with batch norm and ReLU; then a linear layer.

use super::ImageShape;
use super::layers::{Activation, batch_norm_1d, linear};
use super::settings::EncoderSettings;
use burn::module::Module;
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

#[derive(Module, Debug)]
pub(super) struct Mlp {
    layers: Vec<Hidden>,
    head: Linear,
}

/// A linear layer with batch norm, whose shift makes a bias superfluous, and ReLU.
#[derive(Module, Debug)]
pub(super) struct Hidden {
    linear: Linear,
    norm: BatchNorm,
}

impl Hidden {
    pub(super) fn new(from: usize, to: usize, device: &Device) -> Self {
        Self {
            linear: LinearConfig::new(from, to).with_bias(false).init(device),
            norm: BatchNormConfig::new(to).init(device),
        }
    }

    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        batch_norm_1d(linear(x, &self.linear), &self.norm, Activation::Relu)
    }
}

impl Mlp {
    pub(super) fn new(
        settings: &EncoderSettings,
        ImageShape { size, channels }: ImageShape,
        device: &Device,
    ) -> Self {
        let (mut from, mut layers) = (channels * size * size, Vec::new());
        for width in settings.widths() {
            layers.push(Hidden::new(from, width, device));
            from = width;
        }
        let head = LinearConfig::new(from, settings.embedding()).init(device);
        Self { layers, head }
    }

    /// `[n, channels, size, size]` to `[n, embedding]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.layers.iter().fold(x.flatten(1, 3), |x, layer| layer.forward(x));
        linear(x, &self.head)
    }
}
