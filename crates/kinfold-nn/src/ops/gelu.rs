//! GELU by the error function, as PyTorch has it by default: `x · Φ(x)`.

use super::rows::{exp, is_fast, map, numbers, shape, tensor, zip};
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::tensor::Tensor;
use std::f32::consts::FRAC_1_SQRT_2;

/// What Burn's `gelu` gives, of any shape.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match is_fast(&x) {
        true => Tensor::from_dispatch(<Dispatch as Gelu>::gaussian_unit(x.into_dispatch())),
        false => burn::tensor::activation::gelu(x),
    }
}

/// Φ(x), the share of a normal distribution below x.
#[inline(always)]
fn share_below(x: f32) -> f32 {
    0.5 + 0.5 * erf(x * FRAC_1_SQRT_2)
}

/// `x · Φ(x)`.
#[inline(always)]
pub(super) fn value(x: f32) -> f32 {
    x * share_below(x)
}

/// `Φ(x) + x · φ(x)`, where φ is the density.
#[inline(always)]
pub(super) fn derivative(x: f32) -> f32 {
    const FRAC_1_SQRT_2PI: f32 = 0.398_942_3;
    share_below(x) + x * FRAC_1_SQRT_2PI * exp(-0.5 * x * x)
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

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Gelu: Backend {
    fn gaussian_unit(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Gelu for Flex {
    fn gaussian_unit(x: FlexTensor) -> FlexTensor {
        let x = x.to_contiguous();
        tensor(map(numbers(&x), value), shape(&x).0)
    }
}

#[derive(Debug)]
struct GeluBackward;

impl Backward<Flex, 1> for GeluBackward {
    type State = FlexTensor;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        let x = ops.state;
        let [of_x] = ops.parents;
        if let Some(node) = of_x {
            let gradient = zip(numbers(&x), numbers(&upstream), |x, g| g * derivative(x));
            grads.register::<Flex>(node.id, tensor(gradient, shape(&x).0));
        }
    }
}

impl<C: CheckpointStrategy> Gelu for Autodiff<Flex, C> {
    fn gaussian_unit(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let tracked = GeluBackward.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive().to_contiguous();
        match tracked {
            OpsKind::Tracked(prep) => {
                let out = Flex::gaussian_unit(x.clone());
                prep.finish(x, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(Flex::gaussian_unit(x)),
        }
    }
}
