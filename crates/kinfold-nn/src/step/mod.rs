//! One step of an optimizer over one parameter.
//!
//! Input: a [`Rule`], a weight and its gradient, `[…]` each, and the numbers that the rule keeps
//! for it, flat. Output: the weight moved, and what is kept for the next step. On the CPU (Burn's
//! Flex device) it is one pass over all of them, in place where nobody else holds them; on every
//! other device it is tensor operations. It knows of no module, schedule or file.

mod operations;
mod pass;

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Tensor};

/// How a weight w moves against its gradient g at the learning rate r.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rule {
    /// AdamW (Loshchilov and Hutter 2019) as PyTorch has it, with its constants β₁ = 0.9, β₂ = 0.999
    /// and ε = 1e-8: `w ← (1 − r · decay) w − r m̂ / (√v̂ + ε)`.
    AdamW {
        /// The decoupled weight decay.
        weight_decay: f32,
    },
    /// Gradient descent with momentum as PyTorch has it: `v ← momentum · v + (g + decay · w)`,
    /// `w ← w − r v`.
    Sgd {
        /// The part of the velocity that stays.
        momentum: f32,
        /// The weight decay, as a part of the gradient.
        weight_decay: f32,
    },
    /// LARS (You et al. 2017) as SimCLR's code has it: `g ← g + decay · w`,
    /// `v ← momentum · v + r t g`, `w ← w − v`, with the trust ratio `t = trust · ‖w‖ / ‖g‖` where
    /// both norms are above 0, and 1 elsewhere.
    Lars {
        /// The part of the velocity that stays.
        momentum: f32,
        /// The weight decay, as a part of the gradient.
        weight_decay: f32,
        /// The trust, 0.001 in the paper's code; without one, t is 1.
        trust: Option<f32>,
    },
}

/// β₁, β₂ and ε of AdamW.
const ADAM: (f32, f32, f32) = (0.9, 0.999, 1e-8);

impl Rule {
    /// The names of what the rule keeps for a weight: as many numbers each as the weight has, which
    /// begin as 0.
    pub fn keeps(&self) -> &'static [&'static str] {
        match self {
            Self::AdamW { .. } => &["first_moment", "second_moment"],
            Self::Sgd { .. } | Self::Lars { .. } => &["velocity"],
        }
    }
}

/// When a step is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moment {
    /// The learning rate.
    pub rate: f64,
    /// The step's number, counted from 1.
    pub step: usize,
    /// What the gradient is multiplied by first; below 1 where it is clipped.
    pub scale: f32,
}

/// Moves `weight` `[…]` by one step along its `gradient` `[…]`. `kept` is what [`Rule::keeps`] names,
/// flat, as the step before left it. All of them are plain tensors, not of an autodiff device.
///
/// # Panics
/// As Burn's operations do, when shapes do not fit.
pub fn step<const D: usize>(
    rule: &Rule,
    moment: Moment,
    weight: Tensor<D>,
    gradient: Tensor<D>,
    kept: Vec<Tensor<1>>,
) -> (Tensor<D>, Vec<Tensor<1>>) {
    flat(weight, gradient, |weight, gradient| {
        let fits = |x: &Tensor<1>| x.shape() == weight.shape() && is_flex(x);
        let pass =
            kept.len() == rule.keeps().len() && kept.iter().chain([&weight, &gradient]).all(fits);
        let step = if pass { pass::step } else { operations::step };
        step(rule, moment, weight, gradient, kept)
    })
}

/// The same in tensor operations, which run on any device.
///
/// # Panics
/// As Burn's operations do, when shapes do not fit.
pub fn step_in_operations<const D: usize>(
    rule: &Rule,
    moment: Moment,
    weight: Tensor<D>,
    gradient: Tensor<D>,
    kept: Vec<Tensor<1>>,
) -> (Tensor<D>, Vec<Tensor<1>>) {
    flat(weight, gradient, |weight, gradient| {
        operations::step(rule, moment, weight, gradient, kept)
    })
}

/// A step of weights and gradients in their shape, by one of flat ones.
fn flat<const D: usize>(
    weight: Tensor<D>,
    gradient: Tensor<D>,
    step: impl FnOnce(Tensor<1>, Tensor<1>) -> (Tensor<1>, Vec<Tensor<1>>),
) -> (Tensor<D>, Vec<Tensor<1>>) {
    let shape = weight.shape();
    let n = shape.num_elements();
    let (weight, kept) = step(weight.reshape([n]), gradient.reshape([n]));
    (weight.reshape(shape), kept)
}

/// The sum of the squares of a plain tensor's numbers.
pub fn squares<const D: usize>(x: Tensor<D>) -> f64 {
    let n = x.shape().num_elements();
    let x = x.reshape([n]);
    if is_flex(&x) { pass::squares_of(x) } else { operations::squares(x) }
}

/// LARS's trust ratio, from the squares of both norms.
fn ratio(trust: f32, weight: f64, gradient: f64) -> f64 {
    if weight > 0.0 && gradient > 0.0 { f64::from(trust) * (weight / gradient).sqrt() } else { 1.0 }
}

/// Whether these are f32 numbers of the CPU.
fn is_flex(x: &Tensor<1>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// Rows of a table that are touched late, or never, as those of rare tokens are.
    #[test]
    fn untouched_rows_take_the_steps_that_operations_take() {
        let device = Device::flex();
        let (rows, dim) = (300, 70);
        let tensor = |of: &dyn Fn(usize) -> f32| -> Tensor<1> {
            let numbers: Vec<f32> = (0..rows * dim).map(of).collect();
            Tensor::from_data(TensorData::new(numbers, [rows * dim]), &device)
        };
        let number = |i: usize| ((i * i * 31 + i * 7) % 251) as f32 / 251.0 - 0.5;
        for weight_decay in [0.0, 0.1] {
            let rule = Rule::AdamW { weight_decay };
            let begin = || (tensor(&number), vec![tensor(&|_| 0.0), tensor(&|_| 0.0)]);
            let [mut ours, mut theirs] = [begin(), begin()];
            for step in 1..=4 {
                let of = |i: usize| match i / dim % 5 {
                    touched if touched < step => number(i + step),
                    _ => 0.0,
                };
                let moment = Moment { rate: 0.1, step, scale: 1.0 };
                let gradient = || tensor(&of);
                ours = super::step(&rule, moment, ours.0, gradient(), ours.1);
                theirs = step_in_operations(&rule, moment, theirs.0, gradient(), theirs.1);
                assert_eq!(ours.0.to_data(), theirs.0.to_data());
                for (ours, theirs) in ours.1.iter().zip(&theirs.1) {
                    assert_eq!(ours.to_data(), theirs.to_data());
                }
            }
        }
    }
}
