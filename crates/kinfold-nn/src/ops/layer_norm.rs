//! Layer norm over the last axis: `(x − mean) / √(variance + ε) · γ + β`.

use super::memory::buffer::Buffer;
use super::memory::loops::{add, block_rows, sum, total};
use super::memory::tensor::{contiguous, flat, is_ours, numbers, shape, width};
use super::memory::vector::vectorized;
use super::operation::{Operation, apply};
use burn::backend::flex::FlexTensor;
use burn::nn;
use burn::tensor::Tensor;
use rayon::prelude::*;

/// `layer.forward(x)`, `[.., d]`, for a layer of this `epsilon`: Burn's layers do not give theirs away.
/// ([`LayerNormConfig`](nn::LayerNormConfig) has 1e-5 unless told otherwise.)
///
/// # Panics
/// As Burn's own, when the last axis is not as long as γ.
pub fn layer_norm<const D: usize>(x: Tensor<D>, layer: &nn::LayerNorm, epsilon: f64) -> Tensor<D> {
    if !is_ours(&x) {
        return layer.forward(x);
    }
    let gamma = layer.gamma.val();
    let (last, [d]) = (x.dims()[D - 1], gamma.dims());
    assert!(last == d, "the last axis is {last} long but γ has {d} numbers");
    let beta = layer.beta.as_ref().map(|beta| beta.val());
    let beta = beta.unwrap_or_else(|| Tensor::zeros([d], &x.device()));
    let inputs = [x.into_dispatch(), gamma.into_dispatch(), beta.into_dispatch()];
    apply(LayerNorm { epsilon: epsilon as f32 }, inputs)
}

#[derive(Clone, Copy, Debug)]
struct LayerNorm {
    epsilon: f32,
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Saved {
    x: FlexTensor,
    gamma: FlexTensor,
    /// Of each row.
    moments: Vec<Moments>,
}

/// A row's mean, and the reciprocal of its deviation.
type Moments = [f32; 2];

impl Operation<3> for LayerNorm {
    type Saved = Saved;

    fn forward(&self, inputs: [FlexTensor; 3]) -> (FlexTensor, Saved) {
        let [x, gamma, beta] = inputs.map(|x| x.to_contiguous());
        let (out, moments) = forward(&x, numbers(&gamma), numbers(&beta), self.epsilon);
        (out, Saved { x, gamma, moments })
    }

    fn backward(saved: Saved, gradient: FlexTensor, _: [bool; 3]) -> [Option<FlexTensor>; 3] {
        backward(&saved, numbers(&gradient.to_contiguous())).map(Some)
    }
}

#[inline(always)]
fn moments(x: &[f32], epsilon: f32) -> Moments {
    let mean = sum(x, x, |x, _| x) / x.len() as f32;
    let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / x.len() as f32;
    [mean, (variance + epsilon).sqrt().recip()]
}

/// The output, and the moments of each row.
fn forward(
    x: &FlexTensor,
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
) -> (FlexTensor, Vec<Moments>) {
    let (shape, width, x) = (shape(x), width(x), numbers(x));
    let mut out = Buffer::any(x.len());
    let mut all = vec![[0.0; 2]; x.len() / width];
    let block = block_rows(width);
    let blocks = out.par_chunks_mut(block * width).zip(all.par_chunks_mut(block));
    blocks.zip(x.par_chunks(block * width)).for_each(|((out, all), x)| {
        vectorized(
            #[inline(always)]
            || {
                let rows = out.chunks_exact_mut(width).zip(x.chunks_exact(width));
                for ((out, x), of_row) in rows.zip(all) {
                    let [mean, scale] = moments(x, epsilon);
                    *of_row = [mean, scale];
                    for i in 0..width {
                        out[i] = (x[i] - mean) * scale * gamma[i] + beta[i];
                    }
                }
            },
        );
    });
    (contiguous(out, shape), all)
}

/// The gradients of x, γ and β. With `n = (x − mean) / deviation` and `g = gradient · γ`, that of x is
/// `(g − mean(g) − n · mean(g · n)) / deviation`.
fn backward(saved: &Saved, gradient: &[f32]) -> [FlexTensor; 3] {
    let width = width(&saved.x);
    let (x, gamma) = (numbers(&saved.x), numbers(&saved.gamma));
    let mut of_x = Buffer::any(x.len());
    let block = block_rows(width);
    let inputs = x
        .par_chunks(block * width)
        .zip(gradient.par_chunks(block * width))
        .zip(saved.moments.par_chunks(block));
    let blocks = of_x.par_chunks_mut(block * width).zip(inputs);
    let sums: (Vec<_>, Vec<_>) = blocks
        .map(|(of_x, ((x, gradient), moments))| {
            let (mut of_gamma, mut of_beta) = (vec![0.0; width], vec![0.0; width]);
            vectorized(
                #[inline(always)]
                || {
                    let mut g = vec![0.0; width];
                    let mut n = vec![0.0; width];
                    let rows = x.chunks_exact(width).zip(gradient.chunks_exact(width));
                    let rows = rows.zip(of_x.chunks_exact_mut(width)).zip(moments);
                    for (((x, gradient), of_x), &[mean, scale]) in rows {
                        for i in 0..width {
                            n[i] = (x[i] - mean) * scale;
                            g[i] = gradient[i] * gamma[i];
                            of_gamma[i] += gradient[i] * n[i];
                        }
                        add(&mut of_beta, gradient);
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
    let [of_gamma, of_beta] = [sums.0, sums.1].map(|sums| flat(total(sums, width)));
    [contiguous(of_x, shape(&saved.x)), of_gamma, of_beta]
}
