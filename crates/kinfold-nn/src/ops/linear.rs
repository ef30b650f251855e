//! `x · W + b` over the last axis, and the same with [`gelu`](super::gelu()) behind it.

use super::gelu::{derivative, value};
use super::matmul::{Matrix, product};
use super::rows::{add, is_fast, numbers, shape, sum_of_rows, tensor, zip};
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::nn;
use burn::tensor::Tensor;

/// What [`nn::Linear::forward`] gives: `[.., in]` to `[.., out]`.
///
/// # Panics
/// As Burn's own, when the last axis is not as long as the weight is high.
pub fn linear<const D: usize>(x: Tensor<D>, layer: &nn::Linear) -> Tensor<D> {
    match is_fast(&x) {
        true => run(x, layer, Behind::Nothing),
        false => layer.forward(x),
    }
}

/// [`gelu`](super::gelu()) of [`linear`]: `[.., in]` to `[.., out]`.
///
/// # Panics
/// As [`linear`].
pub fn linear_gelu<const D: usize>(x: Tensor<D>, layer: &nn::Linear) -> Tensor<D> {
    match is_fast(&x) {
        true => run(x, layer, Behind::Gelu),
        false => burn::tensor::activation::gelu(layer.forward(x)),
    }
}

/// What comes behind the sum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Behind {
    Nothing,
    Gelu,
}

fn run<const D: usize>(x: Tensor<D>, layer: &nn::Linear, behind: Behind) -> Tensor<D> {
    let weight = layer.weight.val();
    let [d_in, _] = weight.dims();
    let last = x.dims()[D - 1];
    assert!(last == d_in, "the last axis is {last} long but the weight is {d_in} high");
    // An operation has tensors for all its inputs.
    let bias = layer.bias.as_ref().map(|bias| bias.val());
    let biased = bias.is_some();
    let bias = bias.unwrap_or_else(|| Tensor::zeros([1], &x.device()));
    Tensor::from_dispatch(<Dispatch as Linear>::linear(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        biased,
        behind,
    ))
}

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Linear: Backend {
    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        biased: bool,
        behind: Behind,
    ) -> FloatTensor<Self>;
}

impl Linear for Flex {
    fn linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        biased: bool,
        behind: Behind,
    ) -> FlexTensor {
        let (x, bias) = (x.to_contiguous(), biased.then(|| bias.to_contiguous()));
        match behind {
            Behind::Nothing => forward(&x, &weight, bias.as_ref(), |sum| sum),
            Behind::Gelu => forward(&x, &weight, bias.as_ref(), value),
        }
    }
}

/// A weight, `[in, out]`, with whatever strides it has.
fn matrix<'a>(weight: &'a FlexTensor, copy: &'a mut Option<FlexTensor>) -> Matrix<'a> {
    let dims = weight.layout().shape();
    let (rows, columns) = (dims[0], dims[1]);
    if let Some(data) = weight.as_slice::<f32>() {
        return Matrix::new(data, rows, columns);
    }
    // One that is laid out by columns is the transpose of one that is not.
    let turned = copy.insert(weight.transpose(0, 1).to_contiguous());
    Matrix::new(numbers(turned), columns, rows).transposed()
}

fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: Option<&FlexTensor>,
    behind: impl Fn(f32) -> f32 + Sync,
) -> FlexTensor {
    let (mut dims, d_in) = shape(x);
    let mut copy = None;
    let weight = matrix(weight, &mut copy);
    let last = dims.num_dims() - 1;
    let rows = dims.num_elements() / d_in;
    dims[last] = weight.columns;
    let bias = bias.map(numbers);
    let out = product(
        Matrix::new(numbers(x), rows, d_in),
        weight,
        #[inline(always)]
        |column, row| {
            if let Some(bias) = bias {
                add(row, &bias[column..]);
            }
            row.iter_mut().for_each(|sum| *sum = behind(*sum));
        },
    );
    tensor(out, dims)
}

/// What the backward pass works from.
#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    weight: FlexTensor,
    /// What GELU was taken of.
    sums: Option<FlexTensor>,
}

#[derive(Debug)]
struct LinearBackward;

impl Backward<Flex, 3> for LinearBackward {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let Kept { x, weight, sums } = ops.state;
        let [of_x, of_weight, of_bias] = ops.parents;
        let mut upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        if let Some(sums) = sums {
            let dims = shape(&sums).0;
            upstream =
                tensor(zip(numbers(&sums), numbers(&upstream), |x, g| g * derivative(x)), dims);
        }
        let (dims, d_in) = shape(&x);
        let (_, d_out) = shape(&upstream);
        let rows = dims.num_elements() / d_in;
        let x = Matrix::new(numbers(&x), rows, d_in);
        let upstream = Matrix::new(numbers(&upstream), rows, d_out);
        let whole = |_: usize, _: &mut [f32]| ();
        if let Some(node) = of_x {
            let mut copy = None;
            let weight = matrix(&weight, &mut copy).transposed();
            grads.register::<Flex>(node.id, tensor(product(upstream, weight, whole), dims));
        }
        if let Some(node) = of_weight {
            let gradient = product(x.transposed(), upstream, whole);
            grads.register::<Flex>(node.id, tensor(gradient, [d_in, d_out]));
        }
        if let Some(node) = of_bias {
            let gradient = sum_of_rows(upstream.data, d_out);
            grads.register::<Flex>(node.id, tensor(gradient, [d_out]));
        }
    }
}

impl<C: CheckpointStrategy> Linear for Autodiff<Flex, C> {
    fn linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        biased: bool,
        behind: Behind,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), weight.node(), bias.node()];
        let tracked = LinearBackward.prepare::<C>(nodes).compute_bound().stateful();
        let [x, weight, bias] = [x, weight, bias].map(|x| x.into_primitive());
        match tracked {
            OpsKind::Tracked(prep) => {
                let x = x.to_contiguous();
                let bias = biased.then(|| bias.to_contiguous());
                let out = forward(&x, &weight, bias.as_ref(), |sum| sum);
                if behind == Behind::Nothing {
                    return prep.finish(Kept { x, weight, sums: None }, out);
                }
                let of_gelu = super::rows::map(numbers(&out), value);
                let of_gelu = tensor(of_gelu, shape(&out).0);
                prep.finish(Kept { x, weight, sums: Some(out) }, of_gelu)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::linear(x, weight, bias, biased, behind)),
        }
    }
}
