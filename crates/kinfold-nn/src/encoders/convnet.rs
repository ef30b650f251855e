//! A small convolutional network: convolutions, each with batch norm and ReLU; then one linear layer
//! over all that is left.

use super::ImageShape;
use super::layers::{Activation, batch_norm, conv2d, linear};
use super::settings::EncoderSettings;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig, PaddingConfig2d};
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
        ImageShape { size, channels }: ImageShape,
        device: &Device,
    ) -> Self {
        let (mut side, mut depth, mut layers) = (size, channels, Vec::new());
        let sizes = settings.kernels().into_iter().zip(settings.strides());
        for (width, (kernel, stride)) in settings.widths().into_iter().zip(sizes) {
            let pad = kernel / 2;
            let convolution = Conv2dConfig::new([depth, width], [kernel; 2])
                .with_stride([stride; 2])
                .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
                .with_bias(false)
                .init(device);
            layers.push(Layer { convolution, norm: BatchNormConfig::new(width).init(device) });
            (side, depth) = (side.div_ceil(stride), width);
        }
        let head = LinearConfig::new(depth * side * side, settings.embedding()).init(device);
        Self { layers, head }
    }

    /// `[n, channels, size, size]` to `[n, embedding]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.layers.iter().fold(x, |x, layer| {
            batch_norm(conv2d(x, &layer.convolution), &layer.norm, Activation::Relu)
        });
        linear(x.flatten(1, 3), &self.head)
    }
}
