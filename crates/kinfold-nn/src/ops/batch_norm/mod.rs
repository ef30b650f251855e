//! Batch norm, and what usually follows it, in one operation.
//!
//! Input: images or rows, Burn's module, and a residual to add. Output: the normalised channels, with
//! ReLU where it is asked for; in training the module's running statistics are updated as Burn's own
//! forward updates them. The backward pass computes again which outputs ReLU cut off, or reads it from
//! the output: nothing else of the input's size is kept besides the input.
//!
//! ```text
//! y = x · scale + shift (+ residual), and ReLU           scale = γ / √(variance + ε)
//!                                                         shift = β − mean · scale
//! ```

mod passes;
mod shared;

use super::memory::tensor::{flat, images_tensor, is_ours, numbers, shape, with_channels_last};
use super::operation::{Operation, apply, no_input};
use burn::backend::flex::FlexTensor;
use burn::nn::BatchNorm;
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, TensorData};
use passes::{Affine, Channel, Mask, Moments, Pixels, Sums};
use shared::shared_batch;
pub use shared::{SharedBatch, SumOverProcesses, over_shared_batch};
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
    let fits = x.dims()[1] == gamma.dims()[0];
    let ours = is_ours(&x) && is_ours(&gamma) && is_ours(&beta);
    let added = residual.as_ref().is_none_or(|r| r.dims() == x.dims() && is_ours(r));
    let device = x.device();
    let trains = device.is_autodiff() && layer.training.is_enabled();
    let shared = shared_batch().filter(|_| trains);
    if !(fits && ours && added) {
        assert!(shared.is_none(), "a batch is shared in f32 and on the CPU alone");
        let mut y = layer.forward(x);
        if let Some(residual) = residual {
            y = y + residual;
        }
        return if activation == Activation::Relu { relu(y) } else { y };
    }
    let batch = BatchMoments::default();
    let operation = Normalise {
        epsilon: layer.epsilon,
        running: (!trains).then(|| running_moments(layer)),
        batch: batch.clone(),
        shared,
        rectified: activation == Activation::Relu,
        residual: residual.is_some(),
    };
    let residual = residual.map_or_else(|| no_input(&device), Tensor::into_dispatch);
    let inputs = [x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch(), residual];
    let y = apply(operation, inputs);
    if let Some(moments) = batch.take() {
        update_running(layer, &moments);
    }
    y
}

/// The running statistics of a layer.
fn running_moments(layer: &BatchNorm) -> Arc<[Moments]> {
    let numbers = |x: Tensor<1>| x.into_data().iter::<f64>().collect::<Vec<_>>();
    let (mean, variance) = (layer.running_mean.value(), layer.running_var.value());
    let both = numbers(mean).into_iter().zip(numbers(variance));
    both.map(|(mean, variance)| Moments { mean, variance }).collect()
}

/// Moves the running statistics towards the moments of a batch.
fn update_running(layer: &BatchNorm, moments: &[Moments]) {
    let mix = |running: &burn::module::RunningState<Tensor<1>>, batch: Vec<f32>| {
        let value = running.value_sync();
        let batch = Tensor::<1>::from_data(TensorData::from(&batch[..]), &value.device());
        let moved = value.mul_scalar(1.0 - layer.momentum) + batch.mul_scalar(layer.momentum);
        running.update(moved.detach());
    };
    mix(&layer.running_mean, moments.iter().map(|m| m.mean as f32).collect());
    mix(&layer.running_var, moments.iter().map(|m| m.variance as f32).collect());
}

/// Where the operation leaves the moments of the batch: a Burn operation can return tensors only.
#[derive(Clone, Debug, Default)]
struct BatchMoments(Arc<Mutex<Option<Arc<[Moments]>>>>);

impl BatchMoments {
    fn set(&self, moments: Arc<[Moments]>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(moments);
    }
    fn take(&self) -> Option<Arc<[Moments]>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[derive(Clone, Debug)]
struct Normalise {
    epsilon: f64,
    /// The moments to normalise by; without them, those of the batch.
    running: Option<Arc<[Moments]>>,
    batch: BatchMoments,
    /// The batch that this is a part of, where processes share one.
    shared: Option<SharedBatch>,
    /// Whether ReLU follows.
    rectified: bool,
    residual: bool,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    /// The output, where ReLU follows a residual: the input alone does not say what it cut off.
    y: Option<FlexTensor>,
    channels: Arc<[Channel]>,
    shared: Option<SharedBatch>,
    /// Pixels that the moments are of.
    pixels: f64,
    /// Whether the moments are the batch's own.
    trains: bool,
    rectified: bool,
}

impl Operation<4> for Normalise {
    type Saved = Saved;

    fn forward(&self, [x, gamma, beta, residual]: [FlexTensor; 4]) -> (FlexTensor, Saved) {
        let x = with_channels_last(x);
        let residual = self.residual.then(|| with_channels_last(residual));
        let (gamma, beta) = (gamma.to_contiguous(), beta.to_contiguous());
        let here = numbers(&x).len() / x.layout().shape()[1];
        let (moments, pixels) = match &self.running {
            Some(running) => (running.clone(), here as f64),
            None => {
                let moments = passes::moments(numbers(&x), x.layout().shape()[1]);
                let (moments, pixels) = match &self.shared {
                    Some(shared) => shared.moments(&moments, here),
                    None => (moments, here as f64),
                };
                self.batch.set(moments.clone());
                (moments, pixels)
            }
        };
        let parameters = numbers(&gamma).iter().zip(numbers(&beta));
        let channels: Arc<[Channel]> = moments
            .iter()
            .zip(parameters)
            .map(|(moments, (&gamma, &beta))| Channel::new(moments, gamma, beta, self.epsilon))
            .collect();
        let added = residual.as_ref().map(numbers);
        let y = passes::normalise(numbers(&x), added, &Affine::new(&channels), self.rectified);
        let y = images_tensor(y, shape(&x));
        let saved = Saved {
            y: (self.residual && self.rectified).then(|| y.clone()),
            x,
            channels,
            shared: self.shared.clone(),
            pixels,
            trains: self.running.is_none(),
            rectified: self.rectified,
        };
        (y, saved)
    }

    fn backward(
        saved: Saved,
        gradient: FlexTensor,
        [of_x, _, _, of_residual]: [bool; 4],
    ) -> [Option<FlexTensor>; 4] {
        let gradient = with_channels_last(gradient);
        let channels = &saved.channels;
        let mask = match (saved.rectified, &saved.y) {
            (false, _) => Mask::None,
            (true, None) => Mask::Input,
            (true, Some(y)) => Mask::Output(numbers(y)),
        };
        let affine = Affine::new(channels);
        let pixels = Pixels { x: numbers(&saved.x), dy: numbers(&gradient), mask, affine: &affine };
        let sums = passes::gradient_sums(&pixels, channels);
        let parameter =
            |of: fn(&Sums) -> f64| flat(sums.iter().map(|sums| of(sums) as f32).collect());
        let (of_gamma, of_beta) = (parameter(|sums| sums.gamma), parameter(|sums| sums.beta));
        if !(of_x || of_residual) {
            return [None, Some(of_gamma), Some(of_beta), None];
        }
        // The gradients of γ and β are those of the part here; the input's depend on the whole batch.
        let sums = match &saved.shared {
            Some(shared) => shared.sums(&sums),
            None => sums,
        };
        let coefficients = passes::coefficients(channels, &sums, saved.pixels, saved.trains);
        let (of_x, of_residual) = passes::gradient(&pixels, &coefficients, of_residual);
        let image = |numbers| images_tensor(numbers, shape(&gradient));
        [Some(image(of_x)), Some(of_gamma), Some(of_beta), of_residual.map(image)]
    }
}
