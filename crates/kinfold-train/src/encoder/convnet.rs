//! A small convolutional network: 3×3 convolutions, each with batch norm and ReLU, each but the
//! first at stride 2; then one linear layer over all that is left.

use crate::settings::EncoderSettings;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Tensor};

#[derive(Module, Debug)]
pub(super) struct ConvNet {
    layers: Vec<Layer>,
    head: Linear,
}

#[derive(Module, Debug)]
struct Layer {
    convolution: Conv2d,
    norm: BatchNorm,
}

impl ConvNet {
    pub(super) fn new(
        settings: &EncoderSettings,
        size: usize,
        channels: usize,
        device: &Device,
    ) -> Self {
        let (mut side, mut depth, mut layers) = (size, channels, Vec::new());
        for (i, &width) in settings.widths.iter().enumerate() {
            let stride = if i == 0 { 1 } else { 2 };
            let convolution = Conv2dConfig::new([depth, width], [3, 3])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_bias(false)
                .init(device);
            layers.push(Layer { convolution, norm: BatchNormConfig::new(width).init(device) });
            (side, depth) = (side.div_ceil(stride), width);
        }
        let head = LinearConfig::new(depth * side * side, settings.embedding).init(device);
        Self { layers, head }
    }

    /// `[n, channels, size, size]` to `[n, embedding]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self
            .layers
            .iter()
            .fold(x, |x, layer| relu(layer.norm.forward(layer.convolution.forward(x))));
        self.head.forward(x.flatten(1, 3))
    }
}
