//! Layer norm over the last axis: `(x − mean) / √(variance + ε) · γ + β`.

use super::rows::{add, block_rows, is_fast, numbers, shape, sum, tensor, total, vectorized};
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
use burn::module::{Content, DisplaySettings, ModuleDisplay};
use burn::nn;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// What [`nn::LayerNorm::forward`] gives, `[.., d]`.
///
/// # Panics
/// As Burn's own, when the last axis is not as long as γ.
pub fn layer_norm<const D: usize>(x: Tensor<D>, layer: &nn::LayerNorm) -> Tensor<D> {
    let epsilon = epsilon(layer);
    let (true, Some(epsilon)) = (is_fast(&x), epsilon) else {
        return layer.forward(x);
    };
    let gamma = layer.gamma.val();
    let (last, [d]) = (x.dims()[D - 1], gamma.dims());
    assert!(last == d, "the last axis is {last} long but γ has {d} numbers");
    // An operation has tensors for all its inputs.
    let beta = layer.beta.as_ref().map(|beta| beta.val());
    let beta = beta.unwrap_or_else(|| Tensor::zeros([d], &x.device()));
    Tensor::from_dispatch(<Dispatch as Norm>::normed_rows(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        epsilon as f32,
    ))
}

/// A layer's ε, which Burn tells only when a layer is shown; the digits are those of the number.
fn epsilon(layer: &nn::LayerNorm) -> Option<f64> {
    let shown = layer.custom_content(Content::new(DisplaySettings::new()))?;
    let epsilon = shown.attributes.iter().find(|attribute| attribute.name == "epsilon")?;
    epsilon.value.parse().ok()
}

/// What the operation needs of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Norm: Backend {
    fn normed_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;
}

impl Norm for Flex {
    fn normed_rows(x: FlexTensor, gamma: FlexTensor, beta: FlexTensor, epsilon: f32) -> FlexTensor {
        forward(&x.to_contiguous(), &gamma.to_contiguous(), &beta.to_contiguous(), epsilon).0
    }
}

/// A row's mean, and the reciprocal of its deviation.
type Moments = [f32; 2];

#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> Moments {
    let mean = sum(x, x, |x, _| x) / x.len() as f32;
    let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / x.len() as f32;
    [mean, (variance + epsilon).sqrt().recip()]
}

fn forward(
    x: &FlexTensor,
    gamma: &FlexTensor,
    beta: &FlexTensor,
    epsilon: f32,
) -> (FlexTensor, Vec<Moments>) {
    let (dims, width) = shape(x);
    let (x, gamma, beta) = (numbers(x), numbers(gamma), numbers(beta));
    let mut out = vec![0.0; x.len()];
    let mut of_rows = vec![[0.0; 2]; x.len() / width];
    let block = block_rows(width);
    let blocks = out.par_chunks_mut(block * width).zip(of_rows.par_chunks_mut(block));
    blocks.zip(x.par_chunks(block * width)).for_each(|((out, of_rows), x)| {
        vectorized(
            #[inline(always)]
            || {
                let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((out, x), of_row) in rows.zip(of_rows) {
                    let [mean, scale] = moments(x, epsilon);
                    *of_row = [mean, scale];
                    for i in 0..width {
                        out[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
                    }
                }
            },
        );
    });
    (tensor(out, dims), of_rows)
}

/// What the backward pass works from.
#[derive(Clone, Debug)]
struct Kept {
    x: FlexTensor,
    gamma: FlexTensor,
    of_rows: Vec<Moments>,
}

#[derive(Debug)]
struct NormBackward;

impl Backward<Flex, 3> for NormBackward {
    type State = Kept;

    fn backward(
        self,
        ops: Ops<Self::State, 3>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let upstream = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (dims, width) = shape(&ops.state.x);
        let (of_x, of_gamma, of_beta) = backward(&ops.state, numbers(&upstream), width);
        let gradients = [tensor(of_x, dims), tensor(of_gamma, [width]), tensor(of_beta, [width])];
        for (node, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// The gradients by x, γ and β. With `n = (x − mean) / deviation` and `g = upstream · γ`, that by x
/// is `(g − mean(g) − n · mean(g · n)) / deviation`.
fn backward(kept: &Kept, upstream: &[f32], width: usize) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (x, gamma) = (numbers(&kept.x), numbers(&kept.gamma));
    let mut of_x = vec![0.0; x.len()];
    let block = block_rows(width);
    let inputs = x
        .par_chunks(block * width)
        .zip(upstream.par_chunks(block * width))
        .zip(kept.of_rows.par_chunks(block));
    let blocks = of_x.par_chunks_mut(block * width).zip(inputs);
    let sums: (Vec<_>, Vec<_>) = blocks
        .map(|(of_x, ((x, upstream), of_rows))| {
            let (mut of_gamma, mut of_beta) = (vec![0.0; width], vec![0.0; width]);
            vectorized(
                #[inline(always)]
                || {
                    let mut g = vec![0.0; width];
                    let mut n = vec![0.0; width];
                    let rows = x.chunks_exact(width).zip(upstream.chunks_exact(width));
                    let rows = rows.zip(of_x.chunks_exact_mut(width)).zip(of_rows);
                    for (((x, upstream), of_x), &[mean, scale]) in rows {
                        for i in 0..width {
                            n[i] = (x[i] - mean) * scale;
                            g[i] = upstream[i] * gamma[i];
                            of_gamma[i] += upstream[i] * n[i];
                        }
                        add(&mut of_beta, upstream);
                        let of_g = sum(&g, &n, |g, _| g) / width as f32;
                        let of_both = sum(&g, &n, |g, n| g * n) / width as f32;
                        for i in 0..width {
                            of_x[i] = (g[i] - of_g - n[i] * of_both) * scale;
                        }
                    }
                },
            );
            (of_gamma, of_beta)
        })
        .unzip();
    (of_x, total(sums.0, width), total(sums.1, width))
}

impl<C: CheckpointStrategy> Norm for Autodiff<Flex, C> {
    fn normed_rows(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self> {
        let nodes = [x.node(), gamma.node(), beta.node()];
        let tracked = NormBackward.prepare::<C>(nodes).compute_bound().stateful();
        let [x, gamma, beta] = [x, gamma, beta].map(|x| x.into_primitive().to_contiguous());
        let (out, of_rows) = forward(&x, &gamma, &beta, epsilon);
        match tracked {
            OpsKind::Tracked(prep) => prep.finish(Kept { x, gamma, of_rows }, out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}
