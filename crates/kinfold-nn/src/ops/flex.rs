//! Tensors of Burn's CPU backend as the operations read and write them.

use super::buffer::Buffer;
use super::images::{Images, channels_last};
use burn::backend::DispatchDevice;
use burn::backend::flex::{FlexTensor, Layout};
use burn::nn::PaddingConfig2d;
use burn::tensor::{Bytes, DType, Shape, Tensor};
use rayon::prelude::*;

/// Whether operations on `x` are computed here.
pub(crate) fn is_ours<const D: usize>(x: &Tensor<D>) -> bool {
    let on_flex = matches!(x.device().inner().as_dispatch(), DispatchDevice::Flex(_));
    on_flex && x.dtype() == DType::F32
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

/// `x` with its channels last, and nothing in between.
pub(crate) fn with_channels_last(x: FlexTensor) -> FlexTensor {
    let x = readable(x);
    let images = images(&x);
    if images.are_channels_last() {
        return x;
    }
    let [n, channels, height, width] = images.shape;
    let mut numbers = Buffer::any(n * channels * height * width);
    let frame = super::images::Frame { before: [0, 0], size: [height, width] };
    let per_image = (channels * height * width).max(1);
    numbers.par_chunks_mut(per_image).enumerate().for_each(|(i, to)| {
        images.copy(i..i + 1, 0..channels, &frame, channels, to);
    });
    tensor(numbers, x.layout().shape().clone())
}

/// The numbers of a tensor that [`with_channels_last`] returned.
pub(crate) fn numbers(x: &FlexTensor) -> &[f32] {
    let start = x.layout().start_offset();
    &x.storage::<f32>()[start..start + x.layout().num_elements()]
}

/// A tensor of such a shape, whose numbers have their channels last.
pub(crate) fn tensor(numbers: Buffer, shape: Shape) -> FlexTensor {
    let layout = match *shape {
        [n, c, h, w] => {
            let strides = channels_last([n, c, h, w]).map(|stride| stride as isize);
            Layout::new(shape, strides.to_vec(), 0)
        }
        _ => Layout::contiguous(shape),
    };
    FlexTensor::new(numbers.into_bytes(), layout, DType::F32)
}

/// A tensor of such a shape, in rows, as large parameters' gradients are.
pub(crate) fn in_rows(numbers: Buffer, shape: Shape) -> FlexTensor {
    FlexTensor::new(numbers.into_bytes(), Layout::contiguous(shape), DType::F32)
}

/// A tensor of such a shape, in rows, as parameters are.
pub(crate) fn plain(numbers: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(numbers), Layout::contiguous(shape), DType::F32)
}

/// What a module pads an image of such a size with: above and left, then below and right.
pub(crate) fn padding(
    padding: &PaddingConfig2d,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
) -> [[usize; 2]; 2] {
    match *padding {
        PaddingConfig2d::Valid => [[0, 0], [0, 0]],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [[top, left], [bottom, right]],
        PaddingConfig2d::Same => {
            let total = [0, 1].map(|i| {
                let reach = (size[i].div_ceil(stride[i]).max(1) - 1) * stride[i] + kernel[i];
                reach.saturating_sub(size[i])
            });
            [total.map(|total| total / 2), total.map(|total| total - total / 2)]
        }
    }
}
