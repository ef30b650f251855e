//! Tensors of Burn's CPU backend: as slices of numbers, as images, and results as tensors.

use super::buffer::Buffer;
use super::images::{Frame, Images, channels_last};
use burn::backend::DispatchDevice;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, Tensor};
use rayon::prelude::*;

/// Whether operations on `x` are computed here: on Flex, in `f32`, and not empty.
pub(crate) fn is_ours<const D: usize>(x: &Tensor<D>) -> bool {
    let on_flex = matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_));
    on_flex && x.dtype() == DType::F32 && x.shape().num_elements() > 0
}

/// The numbers of a tensor without gaps, in the order of memory.
pub(crate) fn numbers(x: &FlexTensor) -> &[f32] {
    let start = x.layout().start_offset();
    &x.storage::<f32>()[start..start + x.layout().num_elements()]
}

/// The shape of a tensor.
pub(crate) fn shape(x: &FlexTensor) -> Shape {
    x.layout().shape().clone()
}

/// The length of a tensor's last axis.
pub(crate) fn width(x: &FlexTensor) -> usize {
    let shape = x.layout().shape();
    shape[shape.num_dims() - 1]
}

/// A tensor of `shape`, whose numbers are in the order of its axes.
pub(crate) fn contiguous(numbers: Buffer, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(numbers.into_bytes(), Layout::contiguous(shape.into()), DType::F32)
}

/// A tensor of `shape`, `[n, channels, height, width]` or `[n, channels]`, whose numbers have their
/// channels last.
pub(crate) fn images_tensor(numbers: Buffer, shape: Shape) -> FlexTensor {
    let [n, c, h, w] = *shape else { return contiguous(numbers, shape) };
    let strides = channels_last([n, c, h, w]).map(|stride| stride as isize);
    let layout = Layout::new(shape, strides.to_vec(), 0);
    FlexTensor::new(numbers.into_bytes(), layout, DType::F32)
}

/// A tensor of one axis, as the gradients of biases are.
pub(crate) fn flat(numbers: Vec<f32>) -> FlexTensor {
    let layout = Layout::contiguous(Shape::new([numbers.len()]));
    FlexTensor::new(Bytes::from_elems(numbers), layout, DType::F32)
}

/// `x`, which must be [`readable`], as a batch of images: `[n, channels, height, width]`, or
/// `[n, channels]` of one pixel each.
pub(crate) fn images(x: &FlexTensor) -> Images<'_> {
    let (shape, strides) = (x.layout().shape(), x.layout().strides());
    let numbers = &x.storage::<f32>()[x.layout().start_offset()..];
    let mut images = Images { numbers, shape: [1; 4], strides: [0; 4] };
    for i in 0..shape.num_dims().min(4) {
        images.shape[i] = shape[i];
        images.strides[i] = strides[i].unsigned_abs();
    }
    images
}

/// `x` with strides that [`images`] can read.
pub(crate) fn readable(x: FlexTensor) -> FlexTensor {
    if x.layout().strides().iter().all(|&stride| stride >= 0) { x } else { x.to_contiguous() }
}

/// `x` with its channels last and without gaps.
pub(crate) fn with_channels_last(x: FlexTensor) -> FlexTensor {
    let x = readable(x);
    let images = images(&x);
    if images.are_channels_last() {
        return x;
    }
    let [n, channels, height, width] = images.shape;
    let mut numbers = Buffer::any(n * channels * height * width);
    let frame = Frame { before: [0, 0], size: [height, width] };
    let per_image = (channels * height * width).max(1);
    numbers.par_chunks_mut(per_image).enumerate().for_each(|(i, to)| {
        images.copy(i..i + 1, 0..channels, &frame, channels, to);
    });
    images_tensor(numbers, shape(&x))
}
