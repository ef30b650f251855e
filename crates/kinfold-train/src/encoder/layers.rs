//! The layers that encoders are made of: here is where their time goes, and nowhere else.
//!
//! Comes in: a tensor and a layer's weights. Goes out: a tensor. Whether batch norm takes the
//! batch's statistics (and moves its running ones) or the running ones follows from the device.

use burn::nn::conv::Conv2d;
use burn::nn::{BatchNorm, LayerNorm, Linear};
use burn::tensor::ops::{AttentionModuleOptions, MaxPoolOptions};
use burn::tensor::{Tensor, activation, module};

/// What follows batch norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Activation {
    None,
    Relu,
}

impl Activation {
    fn of<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::None => x,
            Self::Relu => activation::relu(x),
        }
    }
}

pub(super) fn conv2d(x: Tensor<4>, layer: &Conv2d) -> Tensor<4> {
    layer.forward(x)
}

pub(super) fn batch_norm(x: Tensor<4>, layer: &BatchNorm, then: Activation) -> Tensor<4> {
    then.of(layer.forward(x))
}

pub(super) fn batch_norm_1d(x: Tensor<2>, layer: &BatchNorm, then: Activation) -> Tensor<2> {
    then.of(layer.forward(x))
}

/// The end of a residual block: `relu(norm(x) + residual)`.
pub(super) fn batch_norm_add_relu(
    x: Tensor<4>,
    layer: &BatchNorm,
    residual: Tensor<4>,
) -> Tensor<4> {
    activation::relu(layer.forward(x) + residual)
}

pub(super) fn linear<const D: usize>(x: Tensor<D>, layer: &Linear) -> Tensor<D> {
    layer.forward(x)
}

pub(super) fn layer_norm<const D: usize>(x: Tensor<D>, layer: &LayerNorm) -> Tensor<D> {
    layer.forward(x)
}

/// The exact one, by the error function.
pub(super) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    activation::gelu(x)
}

/// `softmax(q kᵀ / √d) v`, each `[n, heads, tokens, d]`.
pub(super) fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    module::attention(q, k, v, None, None, AttentionModuleOptions::default())
}

/// The largest of each `kernel` × `kernel` pixels; beyond the edges there is nothing.
pub(super) fn max_pool2d(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    let options = MaxPoolOptions::new([kernel; 2])
        .with_stride([stride; 2])
        .with_padding_pairs([(padding, padding); 2]);
    module::max_pool2d(x, options)
}

/// The mean of each channel, `[n, channels]`.
pub(super) fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    let [n, channels, ..] = x.dims();
    module::adaptive_avg_pool2d(x, [1, 1]).reshape([n, channels])
}
