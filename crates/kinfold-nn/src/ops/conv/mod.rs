//! Convolution of images.
//!
//! Comes in: images, and Burn's module with its weights, bias, stride and padding. Goes out: what it
//! makes of them. The gradients of input, weights and bias are computed in the backward pass, those
//! alone that something needs; besides its inputs nothing is kept for it, and no matrix of patches
//! is ever built.

mod correlate;
mod geometry;
mod kernel;
mod reduce;
#[cfg(test)]
mod tests;
mod winograd;

use super::buffer::Buffer;
use super::flex;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::nn::conv::Conv2d;
use burn::tensor::{Shape, Tensor};
use correlate::{Weights, correlate};
use geometry::Geometry;
use reduce::reduce;

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
    let (size, kernel) = ([height, width], [rows, columns]);
    let padding = flex::padding(&layer.padding, size, kernel, layer.stride);
    let stride = layer.stride;
    let geometry = Geometry { images, channels, size, filters, kernel, stride, padding };
    let whole = channels == of_filter && layer.groups == 1 && layer.dilation == [1, 1];
    let empty = images == 0 || height * width == 0 || geometry.out().contains(&0);
    if !whole || empty || !flex::is_ours(&x) || !flex::is_ours(&weight) {
        return layer.forward(x);
    }
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let task = Task { geometry, bias: bias.is_some() };
    // An operation has tensors for all its inputs; one that there is none of is not looked at.
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], &x.device()));
    Tensor::from_dispatch(<Dispatch as Convolution>::convolution(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        task,
    ))
}

/// What a convolution has beside tensors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    geometry: Geometry,
    bias: bool,
}

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Convolution: Backend {
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        task: Task,
    ) -> FloatTensor<Self>;
}

impl Convolution for Flex {
    fn convolution(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, task: Task) -> FlexTensor {
        forward(&flex::readable(x), &weight.to_contiguous(), &bias.to_contiguous(), &task)
    }
}

#[derive(Debug)]
struct ConvolutionBackward;

impl Backward<Flex, 3> for ConvolutionBackward {
    /// Input and weights.
    type State = (FlexTensor, FlexTensor, Task);

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = flex::readable(grads.consume::<Flex>(&ops.node));
        let (x, weight, task) = ops.state;
        let [of_x, of_weight, of_bias] = ops.parents;
        if of_weight.is_some() || of_bias.is_some() {
            let images = (flex::images(&x), flex::images(&gradient));
            let (weights, bias) = reduce(&task.geometry, &images.0, &images.1);
            if let Some(node) = of_weight {
                grads.register::<Flex>(
                    node.id,
                    flex::in_rows(weights, weight.layout().shape().clone()),
                );
            }
            if let Some(node) = of_bias {
                let shape = Shape::new([bias.len()]);
                grads.register::<Flex>(node.id, flex::plain(bias, shape));
            }
        }
        if let Some(node) = of_x {
            grads.register::<Flex>(node.id, of_input(&gradient, &weight, &task.geometry));
        }
    }
}

impl<C: CheckpointStrategy> Convolution for Autodiff<Flex, C> {
    fn convolution(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        task: Task,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let prepared = ConvolutionBackward.prepare::<C>(nodes).compute_bound().stateful();
        let x = flex::readable(x.into_primitive());
        let weight = weight.into_primitive().to_contiguous();
        let out = forward(&x, &weight, &bias.into_primitive().to_contiguous(), &task);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((x, weight, task), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
}

fn forward(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, task: &Task) -> FlexTensor {
    let geometry = &task.geometry;
    let out = geometry.out();
    let mut numbers = Buffer::any(geometry.images * out[0] * out[1] * geometry.filters);
    let weights = Weights::forward(flex::numbers(weight), geometry);
    let bias = task.bias.then(|| flex::numbers(bias));
    let (frame, passes) = (geometry.frame(), vec![geometry.forward()]);
    let to = (&mut numbers[..], out);
    correlate(&flex::images(x), &frame, passes, &weights, bias, geometry.together(), to);
    flex::tensor(numbers, Shape::new([geometry.images, geometry.filters, out[0], out[1]]))
}

fn of_input(gradient: &FlexTensor, weight: &FlexTensor, geometry: &Geometry) -> FlexTensor {
    let [height, width] = geometry.size;
    let shape = Shape::new([geometry.images, geometry.channels, height, width]);
    let mut numbers = Buffer::any(shape.num_elements());
    let weights = Weights::backward(flex::numbers(weight), geometry);
    let (frame, passes) = geometry.backward();
    if !geometry.reads_every_pixel() {
        numbers.fill(0.0);
    }
    let to = (&mut numbers[..], geometry.size);
    correlate(&flex::images(gradient), &frame, passes, &weights, None, geometry.together(), to);
    flex::tensor(numbers, shape)
}
