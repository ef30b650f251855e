//! GELU by the error function, as PyTorch has it by default: `x · Φ(x)`.

use super::memory::loops::{exp, map, zip};
use super::memory::tensor::{contiguous, is_ours, numbers, shape};
use super::operation::{Operation, apply};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use std::f32::consts::FRAC_1_SQRT_2;

/// `burn::tensor::activation::gelu(x)`, of any shape.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match is_ours(&x) {
        true => apply(Gelu, [x.into_dispatch()]),
        false => burn::tensor::activation::gelu(x),
    }
}

#[derive(Debug)]
struct Gelu;

impl Operation<1> for Gelu {
    type Saved = FlexTensor;

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, FlexTensor) {
        let x = x.to_contiguous();
        (contiguous(map(numbers(&x), value), shape(&x)), x)
    }

    fn backward(x: FlexTensor, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(gradient_by_input(&x, &gradient.to_contiguous()))]
    }
}

/// The gradient of GELU's input, from the input and the gradient of the output.
pub(super) fn gradient_by_input(x: &FlexTensor, gradient: &FlexTensor) -> FlexTensor {
    contiguous(zip(numbers(x), numbers(gradient), |x, g| g * derivative(x)), shape(x))
}

/// Φ(x), the cumulative distribution function of the standard normal distribution.
#[inline(always)]
fn cumulative(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * FRAC_1_SQRT_2)
}

/// `x · Φ(x)`.
#[inline(always)]
pub(super) fn value(x: f32) -> f32 {
    x * cumulative(x)
}

/// `Φ(x) + x · φ(x)`, where φ is the density.
#[inline(always)]
fn derivative(x: f32) -> f32 {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    cumulative(x) + x * FRAC_1_SQRT_2PI * exp(-0.5 * x * x)
}

/// From here on the error function is 1 in `f32`.
const ONE_FROM: f32 = 3.92;

/// The error function, within 4e-7: Eigen's quotient of two polynomials.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const ABOVE: [f32; 7] = [
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_5e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BELOW: [f32; 5] =
        [-1.456_607_2e-5, -2.133_740_6e-4, -1.682_827e-3, -7.373_329e-3, -1.426_473_9e-2];
    if x.abs() >= ONE_FROM {
        return 1.0f32.copysign(x);
    }
    let square = x * x;
    let mut above = ABOVE[0];
    for coefficient in &ABOVE[1..] {
        above = above * square + coefficient;
    }
    let mut below = BELOW[0];
    for coefficient in &BELOW[1..] {
        below = below * square + coefficient;
    }
    x * above / below
}
