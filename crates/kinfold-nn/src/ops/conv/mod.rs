//! Convolution of images.
//!
//! Input: images, and Burn's module with its weights, bias, stride and padding. Output: the convolved
//! images. The backward pass computes the gradients of input, weights and bias, each where it is needed;
//! it keeps nothing but the inputs, and no matrix of patches is ever built.

mod correlate;
mod geometry;
mod kernel;
mod reduce;
#[cfg(test)]
mod tests;
mod winograd;

use super::memory::buffer::Buffer;
use super::memory::images::Images;
use super::memory::tensor::{
    contiguous, flat, images, images_tensor, is_ours, numbers, readable, shape,
};
use super::operation::{Operation, apply, no_input};
use burn::backend::flex::FlexTensor;
use burn::nn::conv::Conv2d;
use burn::tensor::{Shape, Tensor};
use correlate::{Correlation, Weights};
use geometry::{Geometry, Pass};

pub(super) use geometry::padding;

/// `layer.forward(x)`: `[n, channels, height, width]` to `[n, filters, rows, columns]`.
///
/// Computed here on the CPU, in `f32`, without groups and dilation; else by Burn.
///
/// # Panics
/// As Burn's own, where `x` does not fit the layer.
pub fn conv2d(x: Tensor<4>, layer: &Conv2d) -> Tensor<4> {
    let weight = layer.weight.val();
    let [images, channels, height, width] = x.dims();
    let [filters, of_filter, rows, columns] = weight.dims();
    let (size, kernel, stride) = ([height, width], [rows, columns], layer.stride);
    let padding = padding(&layer.padding, size, kernel, stride);
    let geometry = Geometry { images, channels, size, filters, kernel, stride, padding };
    let whole = channels == of_filter && layer.groups == 1 && layer.dilation == [1, 1];
    if !whole || geometry.out().contains(&0) || !is_ours(&x) || !is_ours(&weight) {
        return layer.forward(x);
    }
    let bias = layer.bias.as_ref().map(|bias| bias.val().into_dispatch());
    let operation = Convolution { geometry, biased: bias.is_some() };
    let bias = bias.unwrap_or_else(|| no_input(&x.device()));
    apply(operation, [x.into_dispatch(), weight.into_dispatch(), bias])
}

#[derive(Clone, Copy, Debug)]
struct Convolution {
    geometry: Geometry,
    biased: bool,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    geometry: Geometry,
}

impl Operation<3> for Convolution {
    type Saved = Saved;

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3]) -> (FlexTensor, Saved) {
        let geometry = self.geometry;
        let (x, weight) = (readable(x), weight.to_contiguous());
        let bias = self.biased.then(|| bias.to_contiguous());
        let out = forward(&x, &weight, bias.as_ref().map(numbers), &geometry);
        (out, Saved { x, weight, geometry })
    }

    fn backward(
        Saved { x, weight, geometry }: Saved,
        gradient: FlexTensor,
        [of_x, of_weight, of_bias]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let gradient = readable(gradient);
        let parameters = (of_weight || of_bias).then(|| {
            let (weights, bias) = reduce(&geometry, &images(&x), &images(&gradient));
            (contiguous(weights, shape(&weight)), flat(bias))
        });
        let (of_weight, of_bias) = parameters.unzip();
        [of_x.then(|| of_input(&gradient, &weight, &geometry)), of_weight, of_bias]
    }
}

/// Correlates by Winograd's algorithm where it is faster, and directly elsewhere.
fn correlate(correlation: &Correlation<'_>, passes: Vec<Pass>, out: &mut [f32]) {
    let Correlation { images, weights, .. } = *correlation;
    let [count, channels, ..] = images.shape;
    match &passes[..] {
        [pass]
            if !out.is_empty() && winograd::correlates(count, channels, weights.columns, pass) =>
        {
            winograd::correlate(correlation, pass, out);
        }
        _ => correlate::correlate(correlation, passes, out),
    }
}

/// The gradients of weights and bias, likewise.
fn reduce(geometry: &Geometry, images: &Images, gradient: &Images) -> (Buffer, Vec<f32>) {
    match winograd::reduces(geometry) {
        true => by_winograd(geometry, images, gradient),
        false => reduce::reduce(geometry, images, gradient),
    }
}

/// The same, of 3×3 taps at stride 1, by Winograd's algorithm.
fn by_winograd(geometry: &Geometry, images: &Images, gradient: &Images) -> (Buffer, Vec<f32>) {
    let blocks = correlate::blocks(geometry.filters);
    let sums = winograd::reduce(geometry, images, gradient, &blocks);
    reduce::gathered(geometry, &blocks, &sums)
}

/// The output.
fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&[f32]>,
    geometry: &Geometry,
) -> FlexTensor {
    let [rows, columns] = geometry.out();
    let shape = Shape::new([geometry.images, geometry.filters, rows, columns]);
    let mut out = Buffer::any(shape.num_elements());
    let correlation = Correlation {
        images: &images(x),
        frame: &geometry.frame(),
        weights: &Weights::forward(numbers(weight), geometry),
        bias,
        together: geometry.together(),
        out_size: geometry.out(),
    };
    correlate(&correlation, vec![geometry.forward()], &mut out);
    images_tensor(out, shape)
}

/// The gradient of the input.
fn of_input(gradient: &FlexTensor, weight: &FlexTensor, geometry: &Geometry) -> FlexTensor {
    let [height, width] = geometry.size;
    let shape = Shape::new([geometry.images, geometry.channels, height, width]);
    let mut out = Buffer::any(shape.num_elements());
    if !geometry.reads_every_pixel() {
        out.fill(0.0);
    }
    let (frame, passes) = geometry.backward();
    let correlation = Correlation {
        images: &images(gradient),
        frame: &frame,
        weights: &Weights::backward(numbers(weight), geometry),
        bias: None,
        together: geometry.together(),
        out_size: geometry.size,
    };
    correlate(&correlation, passes, &mut out);
    images_tensor(out, shape)
}
