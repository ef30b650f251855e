//! Training steps of an MLP and a small vision transformer, with kinfold-nn's operations and with
//! Burn's: `cargo run --release -p kinfold-benchmarks --bin dense_speed -- [mlp|vit] [rounds]`.
//!
//! The two take turns, so that a machine that others use, too, slows them alike.

#![allow(clippy::print_stdout, reason = "figures are its output")]

use burn::module::{Initializer, Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use burn::tensor::activation::{gelu, relu, softmax};
use burn::tensor::{Device, Distribution, Tensor};
use kinfold_burn::{ContrastiveLossConfig, Form};
use kinfold_nn::ops;
use std::time::Instant;

/// That of Burn's layer norm by default.
const EPSILON: f64 = 1e-5;

#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
    norms: Vec<BatchNorm>,
}

impl Mlp {
    fn new(device: &Device) -> Self {
        let widths = [784, 1024, 1024, 128];
        let layers = widths.windows(2).map(|w| LinearConfig::new(w[0], w[1]).init(device));
        let norms = widths[1..3].iter().map(|&width| BatchNormConfig::new(width).init(device));
        Self { layers: layers.collect(), norms: norms.collect() }
    }
    fn forward(&self, mut x: Tensor<2>, fast: bool) -> Tensor<2> {
        let linear = |x: Tensor<2>, layer: &Linear| match fast {
            true => ops::linear(x, layer),
            false => layer.forward(x),
        };
        for (layer, norm) in self.layers.iter().zip(&self.norms) {
            x = relu(norm.forward(linear(x, layer)));
        }
        linear(x, &self.layers[2])
    }
}

#[derive(Module, Debug)]
struct Vit {
    patches: Linear,
    position: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

#[derive(Module, Debug)]
struct Block {
    before: LayerNorm,
    qkv: Linear,
    out: Linear,
    between: LayerNorm,
    wide: Linear,
    back: Linear,
}

const HEADS: usize = 3;

impl Vit {
    fn new(device: &Device) -> Self {
        let linear = |a, b| LinearConfig::new(a, b).init(device);
        let norm = || LayerNormConfig::new(192).init(device);
        let block = |_| Block {
            before: norm(),
            qkv: linear(192, 576),
            out: linear(192, 192),
            between: norm(),
            wide: linear(192, 768),
            back: linear(768, 192),
        };
        Self {
            patches: linear(48, 192),
            position: Initializer::Normal { mean: 0.0, std: 0.02 }.init([1, 64, 192], device),
            blocks: (0..6).map(block).collect(),
            norm: norm(),
        }
    }
    fn forward(&self, x: Tensor<3>, fast: bool) -> Tensor<2> {
        if fast { self.ours(x) } else { self.burns(x) }
    }
    fn ours(&self, x: Tensor<3>) -> Tensor<2> {
        let mut x = ops::linear(x, &self.patches) + self.position.val();
        for block in &self.blocks {
            let qkv = ops::linear(ops::layer_norm(x.clone(), &block.before, EPSILON), &block.qkv);
            x = x + ops::linear(ops::attention_packed(qkv, HEADS), &block.out);
            let wide =
                ops::linear_gelu(ops::layer_norm(x.clone(), &block.between, EPSILON), &block.wide);
            x = x + ops::linear(wide, &block.back);
        }
        let [n, _, width] = x.dims();
        ops::layer_norm(x, &self.norm, EPSILON).mean_dim(1).reshape([n, width])
    }
    fn burns(&self, x: Tensor<3>) -> Tensor<2> {
        let mut x = self.patches.forward(x) + self.position.val();
        let [n, tokens, width] = x.dims();
        for block in &self.blocks {
            let qkv = block.qkv.forward(block.before.forward(x.clone()));
            let qkv = qkv.reshape([n, tokens, 3, HEADS, 64]).permute([2, 0, 3, 1, 4]);
            let one = |i| qkv.clone().narrow(0, i, 1).reshape([n, HEADS, tokens, 64]);
            let weights = softmax(one(0).matmul(one(1).swap_dims(2, 3)) / 8.0, 3);
            let mixed = weights.matmul(one(2)).swap_dims(1, 2).reshape([n, tokens, width]);
            x = x + block.out.forward(mixed);
            let wide = gelu(block.wide.forward(block.between.forward(x.clone())));
            x = x + block.back.forward(wide);
        }
        self.norm.forward(x).mean_dim(1).reshape([n, width])
    }
}

/// Seconds of forward and loss, backward, and the optimizer's step.
type Phases = [f64; 3];

fn step<M: Module>(
    model: M,
    optimizer: &mut ModuleOptimizer,
    forward: impl Fn(&M) -> Tensor<2>,
) -> (M, Phases) {
    let start = Instant::now();
    let z = forward(&model);
    let n = z.dims()[0] / 2;
    let criterion = ContrastiveLossConfig::new()
        .with_form(Form::NtXent)
        .with_temperature(0.5)
        .init(&z.device());
    let loss = criterion.forward(z.clone().narrow(0, 0, n), z.narrow(0, n, n));
    let forward = start.elapsed().as_secs_f64();
    let gradients = GradientsParams::from_grads(loss.backward(), &model);
    let backward = start.elapsed().as_secs_f64();
    let model = optimizer.step(1e-3, model, gradients);
    (model, [forward, backward - forward, start.elapsed().as_secs_f64() - backward])
}

fn compare<M: Module, const D: usize>(
    name: &str,
    mut model: M,
    x: Tensor<D>,
    rounds: usize,
    forward: impl Fn(&M, Tensor<D>, bool) -> Tensor<2>,
) {
    let images = x.dims()[0];
    let mut optimizer = AdamWConfig::new().init();
    let mut times: [Vec<Phases>; 2] = [vec![], vec![]];
    for round in 0..2 * (rounds + 1) {
        let fast = round % 2 == 0;
        let phases;
        (model, phases) = step(model, &mut optimizer, |m| forward(m, x.clone(), fast));
        if round > 1 {
            times[usize::from(fast)].push(phases);
        }
    }
    for (who, times) in ["Burn", "kinfold"].iter().zip(times) {
        let median = |of: &dyn Fn(&Phases) -> f64| {
            let mut times: Vec<f64> = times.iter().map(of).collect();
            times.sort_by(f64::total_cmp);
            (1e3 * times[times.len() / 2], 1e3 * times[0])
        };
        let (all, least) = median(&|t| t.iter().sum());
        let [a, b, c] = [0, 1, 2].map(|i| median(&|t| t[i]));
        println!(
            "{name} {who:8} {:7.0}/s  step {all:7.1} ms ({least:.1}): forward and loss {:.1} ({:.1}), \
             backward {:.1} ({:.1}), AdamW {:.1} ({:.1})",
            images as f64 / all * 1e3,
            a.0,
            a.1,
            b.0,
            b.1,
            c.0,
            c.1
        );
    }
}

fn main() {
    let device = Device::flex().autodiff();
    let mut arguments = std::env::args().skip(1);
    let which = arguments.next().unwrap_or_default();
    let rounds = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(7);
    let normal = Distribution::Normal(0.0, 1.0);
    if which != "vit" {
        let x = Tensor::<2>::random([1024, 784], normal, &device);
        compare("mlp", Mlp::new(&device), x, rounds, Mlp::forward);
    }
    if which != "mlp" {
        let x = Tensor::<3>::random([64, 64, 48], normal, &device);
        compare("vit", Vit::new(&device), x, rounds, Vit::forward);
    }
}
