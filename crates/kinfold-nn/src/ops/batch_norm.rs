//! Batch norm, and what usually follows it, in one operation.
//!
//! Comes in: what is to be normalised, Burn's module, and what to add afterwards. Goes out: the
//! normalised channels, rectified if wanted; in training the module's running statistics move on as
//! Burn's own do. What was negative is computed again in the backward pass, or seen in the output;
//! nothing of the input's size is kept besides the input.
//!
//! ```text
//! y = x · scale + shift (+ residual), below 0 made 0      scale = γ / √(variance + ε)
//!                                                         shift = β − mean · scale
//! ```

mod passes;

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
use burn::nn::BatchNorm;
use burn::tensor::activation::relu;
use burn::tensor::{Shape, Tensor, TensorData};
use passes::{Channel, Moments};
use std::sync::{Arc, Mutex, PoisonError};

/// What follows a normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `max(x, 0)`.
    Relu,
}

/// `layer.forward(x)`, then the activation: `[n, channels, height, width]` to the same.
///
/// Where the module trains, and where it does not, is as in Burn's own; so are its statistics.
///
/// # Panics
/// As Burn's own, where `x` does not fit the layer.
pub fn batch_norm(x: Tensor<4>, layer: &BatchNorm, activation: Activation) -> Tensor<4> {
    normalised(x, layer, activation, None)
}

/// [`batch_norm`] of `[n, channels]`.
///
/// # Panics
/// As Burn's own, where `x` does not fit the layer.
pub fn batch_norm_1d(x: Tensor<2>, layer: &BatchNorm, activation: Activation) -> Tensor<2> {
    normalised(x, layer, activation, None)
}

/// `relu(layer.forward(x) + residual)`, the end of a residual block.
///
/// # Panics
/// As Burn's own, where `x` does not fit the layer, or the residual's shape is not that of `x`.
pub fn batch_norm_add_relu(x: Tensor<4>, layer: &BatchNorm, residual: Tensor<4>) -> Tensor<4> {
    normalised(x, layer, Activation::Relu, Some(residual))
}

fn normalised<const D: usize>(
    x: Tensor<D>,
    layer: &BatchNorm,
    activation: Activation,
    residual: Option<Tensor<D>>,
) -> Tensor<D> {
    let (gamma, beta) = (layer.gamma.val(), layer.beta.val());
    let fits = x.dims()[1] == gamma.dims()[0] && x.shape().num_elements() > 0;
    let ours = flex::is_ours(&x) && flex::is_ours(&gamma) && flex::is_ours(&beta);
    let added = residual.as_ref().is_none_or(|r| r.dims() == x.dims() && flex::is_ours(r));
    if !(fits && ours && added) {
        let mut y = layer.forward(x);
        if let Some(residual) = residual {
            y = y + residual;
        }
        return if activation == Activation::Relu { relu(y) } else { y };
    }
    let device = x.device();
    let trains = device.is_autodiff() && layer.training.is_enabled();
    let moments = (!trains).then(|| {
        let numbers = |x: Tensor<1>| x.into_data().iter::<f64>().collect::<Vec<_>>();
        let (mean, variance) = (layer.running_mean.value(), layer.running_var.value());
        let both = numbers(mean).into_iter().zip(numbers(variance));
        both.map(|(mean, variance)| Moments { mean, variance }).collect()
    });
    let task = Task {
        epsilon: layer.epsilon,
        moments,
        rectified: activation == Activation::Relu,
        residual: residual.is_some(),
    };
    // An operation has tensors for all its inputs; one that there is none of is not looked at.
    let residual = residual.unwrap_or_else(|| Tensor::zeros([1; D], &device));
    let found = Found::default();
    let y = Tensor::from_dispatch(<Dispatch as Normalisation>::normalisation(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        residual.into_dispatch(),
        task,
        found.clone(),
    ));
    if let Some(moments) = found.take() {
        move_on(layer, &moments);
    }
    y
}

/// The running statistics after a batch of such moments.
fn move_on(layer: &BatchNorm, moments: &[Moments]) {
    let mix = |running: &burn::module::RunningState<Tensor<1>>, batch: Vec<f32>| {
        let value = running.value_sync();
        let batch = Tensor::<1>::from_data(TensorData::from(&batch[..]), &value.device());
        let moved = value.mul_scalar(1.0 - layer.momentum) + batch.mul_scalar(layer.momentum);
        running.update(moved.detach());
    };
    mix(&layer.running_mean, moments.iter().map(|m| m.mean as f32).collect());
    mix(&layer.running_var, moments.iter().map(|m| m.variance as f32).collect());
}

/// Where the operation leaves the batch's moments: a Burn operation can return tensors only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found(Arc<Mutex<Option<Arc<[Moments]>>>>);

impl Found {
    fn set(&self, moments: Arc<[Moments]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(moments);
    }
    fn take(&self) -> Option<Arc<[Moments]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a normalisation has beside tensors.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    epsilon: f64,
    /// Those to normalise by; the batch's own where there are none.
    moments: Option<Arc<[Moments]>>,
    rectified: bool,
    residual: bool,
}

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Normalisation: Backend {
    fn normalisation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        task: Task,
        found: Found,
    ) -> FloatTensor<Self>;
}

impl Normalisation for Flex {
    fn normalisation(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        residual: FlexTensor,
        task: Task,
        found: Found,
    ) -> FlexTensor {
        forward(x, gamma, beta, residual, &task, &found).1
    }
}

/// What the backward pass works from.
#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    /// The output, where it says what was negative: `x` alone does not if something was added.
    y: Option<FlexTensor>,
    channels: Arc<[Channel]>,
    /// Whether the moments are the batch's own.
    trains: bool,
    rectified: bool,
}

#[derive(Debug)]
struct NormalisationBackward;

impl Backward<Flex, 4> for NormalisationBackward {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 4>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = flex::with_channels_last(grads.consume::<Flex>(&ops.node));
        let kept = ops.state;
        let [of_x, of_gamma, of_beta, of_residual] = ops.parents;
        let shape = gradient.layout().shape().clone();
        let dy = flex::numbers(&gradient);
        let (x, y) = (flex::numbers(&kept.x), kept.y.as_ref().map(flex::numbers));
        let mask = match (kept.rectified, y) {
            (false, _) => passes::Mask::Nothing,
            (true, None) => passes::Mask::Input,
            (true, Some(y)) => passes::Mask::Output(y),
        };
        let sums = passes::gradient_sums(x, dy, mask, &kept.channels);
        if of_x.is_some() || of_residual.is_some() {
            let coefficients = passes::coefficients(&kept.channels, &sums, x.len(), kept.trains);
            let (of_input, masked) =
                passes::gradient(x, dy, mask, &kept.channels, &coefficients, of_residual.is_some());
            if let Some(node) = of_x {
                grads.register::<Flex>(node.id, flex::tensor(of_input, shape.clone()));
            }
            if let (Some(node), Some(masked)) = (of_residual, masked) {
                grads.register::<Flex>(node.id, flex::tensor(masked, shape));
            }
        }
        let parameter = |of: fn(&passes::Sums) -> f64| {
            let numbers: Vec<f32> = sums.iter().map(|sums| of(sums) as f32).collect();
            let shape = Shape::new([numbers.len()]);
            flex::plain(numbers, shape)
        };
        if let Some(node) = of_gamma {
            grads.register::<Flex>(node.id, parameter(|sums| sums.gamma));
        }
        if let Some(node) = of_beta {
            grads.register::<Flex>(node.id, parameter(|sums| sums.beta));
        }
    }
}

impl<C: CheckpointStrategy> Normalisation for Autodiff<Flex, C> {
    fn normalisation(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        task: Task,
        found: Found,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node(), residual.node()];
        let prepared = NormalisationBackward.prepare::<C>(nodes).compute_bound().stateful();
        let [x, gamma, beta, residual] = [x, gamma, beta, residual].map(|x| x.into_primitive());
        let (kept, y) = forward(x, gamma, beta, residual, &task, &found);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(kept, y),
            OpsKind::UnTracked(prepared) => prepared.finish(y),
        }
    }
}

fn forward(
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    residual: FlexTensor,
    task: &Task,
    found: &Found,
) -> (Kept, FlexTensor) {
    let x = flex::with_channels_last(x);
    let residual = task.residual.then(|| flex::with_channels_last(residual));
    let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
    let numbers = flex::numbers(&x);
    let moments = task.moments.clone().unwrap_or_else(|| {
        let moments = passes::moments(numbers, x.layout().shape()[1]);
        found.set(moments.clone());
        moments
    });
    let parameters = flex::numbers(&gamma).iter().zip(flex::numbers(&beta));
    let channels: Arc<[Channel]> = moments
        .iter()
        .zip(parameters)
        .map(|(moments, (&gamma, &beta))| Channel::new(moments, gamma, beta, task.epsilon))
        .collect();
    let added = residual.as_ref().map(flex::numbers);
    let y = passes::normalise(numbers, added, &channels, task.rectified);
    let y = flex::tensor(y, x.layout().shape().clone());
    let kept = Kept {
        y: (task.residual && task.rectified).then(|| y.clone()),
        x,
        channels,
        trains: task.moments.is_none(),
        rectified: task.rectified,
    };
    (kept, y)
}
