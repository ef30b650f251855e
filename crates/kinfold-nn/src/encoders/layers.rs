//! The layers that encoders are made of: here is where their time goes, and nowhere else.
//!
//! Input: a tensor and a layer's weights. Output: a tensor. Whether batch norm takes the
//! batch's statistics (and moves its running ones) or the running ones follows from the device.

pub(super) use crate::ops::{
    Activation, attention_packed as attention, batch_norm, batch_norm_1d, batch_norm_add_relu,
    conv2d, global_average_pool, layer_norm, linear, linear_gelu,
};
use burn::nn::PaddingConfig2d;
use burn::nn::pool::MaxPool2dConfig;
use burn::tensor::Tensor;

/// The largest of each `kernel` × `kernel` pixels; beyond the edges there is nothing.
pub(super) fn max_pool2d(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    let layer = MaxPool2dConfig::new([kernel; 2])
        .with_strides([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(padding, padding, padding, padding));
    crate::ops::max_pool2d(x, &layer.init())
}
