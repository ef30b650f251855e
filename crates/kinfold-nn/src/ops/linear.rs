//! `x · W + b` over the last axis, and the same followed by [`gelu`](super::gelu()).

use super::gelu;
use super::matmul::{Matrix, product};
use super::memory::loops::{add, map, sum_of_rows};
use super::memory::tensor::{contiguous, flat, is_ours, numbers, shape, width};
use super::operation::{Operation, apply, no_input};
use burn::backend::flex::FlexTensor;
use burn::nn;
use burn::tensor::Tensor;

/// `layer.forward(x)`: `[.., in]` to `[.., out]`.
///
/// # Panics
/// As Burn's own, when the last axis is not as long as the weight is high.
pub fn linear<const D: usize>(x: Tensor<D>, layer: &nn::Linear) -> Tensor<D> {
    match is_ours(&x) {
        true => run(x, layer, Epilogue::None),
        false => layer.forward(x),
    }
}

/// [`gelu`](super::gelu()) of [`linear`]: `[.., in]` to `[.., out]`.
///
/// # Panics
/// As [`linear`].
pub fn linear_gelu<const D: usize>(x: Tensor<D>, layer: &nn::Linear) -> Tensor<D> {
    match is_ours(&x) {
        true => run(x, layer, Epilogue::Gelu),
        false => burn::tensor::activation::gelu(layer.forward(x)),
    }
}

fn run<const D: usize>(x: Tensor<D>, layer: &nn::Linear, epilogue: Epilogue) -> Tensor<D> {
    let weight = layer.weight.val();
    let [d_in, _] = weight.dims();
    let last = x.dims()[D - 1];
    assert!(last == d_in, "the last axis is {last} long but the weight is {d_in} high");
    let bias = layer.bias.as_ref().map(|bias| bias.val().into_dispatch());
    let operation = Linear { biased: bias.is_some(), epilogue };
    let bias = bias.unwrap_or_else(|| no_input(&x.device()));
    apply(operation, [x.into_dispatch(), weight.into_dispatch(), bias])
}

/// What follows the product and the bias.
#[derive(Clone, Copy, Debug)]
enum Epilogue {
    None,
    Gelu,
}

#[derive(Clone, Copy, Debug)]
struct Linear {
    biased: bool,
    epilogue: Epilogue,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    weight: FlexTensor,
    /// The input of GELU, where it follows.
    sums: Option<FlexTensor>,
}

impl Operation<3> for Linear {
    type Saved = Saved;

    fn forward(&self, [x, weight, bias]: [FlexTensor; 3]) -> (FlexTensor, Saved) {
        let x = x.to_contiguous();
        let sums = self.sums(&x, &weight, &bias, |sum| sum);
        match self.epilogue {
            Epilogue::None => (sums, Saved { x, weight, sums: None }),
            Epilogue::Gelu => {
                let out = contiguous(map(numbers(&sums), gelu::value), shape(&sums));
                (out, Saved { x, weight, sums: Some(sums) })
            }
        }
    }

    fn infer(&self, [x, weight, bias]: [FlexTensor; 3]) -> FlexTensor {
        let x = x.to_contiguous();
        match self.epilogue {
            Epilogue::None => self.sums(&x, &weight, &bias, |sum| sum),
            Epilogue::Gelu => self.sums(&x, &weight, &bias, gelu::value),
        }
    }

    fn backward(
        saved: Saved,
        gradient: FlexTensor,
        [of_x, of_weight, of_bias]: [bool; 3],
    ) -> [Option<FlexTensor>; 3] {
        let mut gradient = gradient.to_contiguous();
        if let Some(sums) = saved.sums {
            gradient = gelu::gradient_by_input(&sums, &gradient);
        }
        let (d_in, d_out) = (width(&saved.x), width(&gradient));
        let rows = shape(&saved.x).num_elements() / d_in;
        let x = Matrix::new(numbers(&saved.x), rows, d_in);
        let gradient = Matrix::new(numbers(&gradient), rows, d_out);
        let whole = |_: usize, _: &mut [f32]| ();
        [
            of_x.then(|| {
                let mut copy = None;
                let weight = matrix(&saved.weight, &mut copy).transposed();
                contiguous(product(gradient, weight, whole), shape(&saved.x))
            }),
            of_weight.then(|| contiguous(product(x.transposed(), gradient, whole), [d_in, d_out])),
            of_bias.then(|| flat(sum_of_rows(gradient.data, d_out))),
        ]
    }
}

impl Linear {
    /// `x · weight + bias`, with `epilogue` of each number.
    fn sums(
        &self,
        x: &FlexTensor,
        weight: &FlexTensor,
        bias: &FlexTensor,
        epilogue: impl Fn(f32) -> f32 + Sync,
    ) -> FlexTensor {
        let (mut dims, d_in) = (shape(x), width(x));
        let mut copy = None;
        let weight = matrix(weight, &mut copy);
        let last = dims.num_dims() - 1;
        let rows = dims.num_elements() / d_in;
        dims[last] = weight.columns;
        let bias = self.biased.then(|| bias.to_contiguous());
        let bias = bias.as_ref().map(numbers);
        let out = product(
            Matrix::new(numbers(x), rows, d_in),
            weight,
            #[inline(always)]
            |column, row| {
                if let Some(bias) = bias {
                    add(row, &bias[column..]);
                }
                row.iter_mut().for_each(|sum| *sum = epilogue(*sum));
            },
        );
        contiguous(out, dims)
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
    let transposed = copy.insert(weight.transpose(0, 1).to_contiguous());
    Matrix::new(numbers(transposed), columns, rows).transposed()
}
