//! A batch larger than memory: gradients of the whole batch's loss, with the graph of one chunk at a time
//! (GradCache, Gao et al. 2021).
//!
//! 1. Embed every chunk without a graph.
//! 2. Compute the loss of all embeddings, and its gradients by them.
//! 3. Embed each chunk again, with a graph, and send its part of these gradients back.
//!
//! Every pair still meets every other: the example shows that the encoder's gradient is that of the whole
//! batch at once.
//!
//! `cargo run --release -p kinfold-burn --example cached_gradients`

#![allow(clippy::print_stdout, reason = "an example prints")]

use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use kinfold_burn::ContrastiveLossConfig;

const PAIRS: usize = 512;
const CHUNK: usize = 64;
const PIXELS: usize = 64;

fn main() {
    let device = Device::flex().autodiff();
    let encoder: Linear = LinearConfig::new(PIXELS, 32).init(&device);
    let x = Tensor::<2>::random([PAIRS, PIXELS], Distribution::Default, &device);
    let y = x.clone() + Tensor::random([PAIRS, PIXELS], Distribution::Normal(0.0, 0.1), &device);
    let criterion = ContrastiveLossConfig::new().with_temperature(0.1).init(&device);

    // The whole batch in one graph, to compare with.
    let loss = criterion.forward(encoder.forward(x.clone()), encoder.forward(y.clone()));
    let whole = encoder.weight.grad(&loss.backward()).expect("the loss depends on the weight");

    // 1. Embeddings without a graph: leaves of a graph of their own.
    let leaf = |x: &Tensor<2>| {
        let chunks = x.clone().split(CHUNK, 0);
        let embedded = chunks.into_iter().map(|chunk| encoder.forward(chunk).detach()).collect();
        Tensor::cat(embedded, 0).require_grad()
    };
    let (queries, keys) = (leaf(&x), leaf(&y));
    // 2. The loss of all pairs, and its gradients by the embeddings.
    let gradients = criterion.forward(queries.clone(), keys.clone()).backward();
    // 3. Back through the encoder, chunk by chunk. The gradient of Σ embedding · slope is what is wanted.
    let mut cached = whole.zeros_like();
    for (input, embeddings) in [(&x, queries), (&y, keys)] {
        let slopes = embeddings.grad(&gradients).expect("the loss depends on the embeddings");
        let slopes = Tensor::from_data(slopes.into_data(), &device);
        for (chunk, slope) in input.clone().split(CHUNK, 0).into_iter().zip(slopes.split(CHUNK, 0))
        {
            let part = (encoder.forward(chunk) * slope).sum().backward();
            cached = cached + encoder.weight.grad(&part).expect("it depends on the weight");
        }
    }

    let largest: f32 = whole.clone().abs().max().into_scalar();
    let difference: f32 = (whole - cached).abs().max().into_scalar();
    println!(
        "{PAIRS} pairs in chunks of {CHUNK}: gradients differ by {difference:.1e} of {largest:.1e}"
    );
    assert!(difference < 1e-4 * largest, "they must be the same but for rounding");
}
