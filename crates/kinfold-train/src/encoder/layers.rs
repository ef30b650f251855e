//! The layers that encoders are made of: here is where their time goes, and nowhere else.
//!
//! Comes in: a tensor and a layer's weights. Goes out: a tensor. Whether batch norm takes the
//! batch's statistics (and moves its running ones) or the running ones follows from the device.

use burn::nn::pool::MaxPool2dConfig;
use burn::nn::{LayerNorm, Linear, PaddingConfig2d};
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Tensor, activation, module};
pub(super) use kinfold_burn::ops::{
    Activation, batch_norm, batch_norm_1d, batch_norm_add_relu, conv2d, global_average_pool,
};

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
    let layer = MaxPool2dConfig::new([kernel; 2])
        .with_strides([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding));
    kinfold_burn::ops::max_pool2d(x, &layer.init())
}
