//! Forward and backward passes of convolutional networks, with Burn's operations and with those of
//! `kinfold_nn::ops`, by turns: milliseconds of the fastest and of the median pass. `layers` gives
//! ours alone, layer by layer: the fastest output, gradient of the input and gradient of the weights, with
//! GFLOP/s of the direct algorithm.
//!
//! `cargo run --release -p kinfold-benchmarks --bin operations -- [NETWORK] [PASSES]`
#![allow(clippy::print_stdout, reason = "it says what it measured")]

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, PaddingConfig2d};
use burn::tensor::activation::relu;
use burn::tensor::{Device, Distribution, Tensor};
use kinfold_nn::ops::{self, Activation};
use std::time::Instant;

/// A convolution and its batch norm.
#[derive(Module, Debug)]
struct Layer {
    convolution: Conv2d,
    norm: BatchNorm,
}

impl Layer {
    fn new(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Self {
        let pad = kernel / 2;
        let convolution = Conv2dConfig::new(channels, [kernel; 2])
            .with_stride([stride; 2])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_bias(false)
            .init(device);
        Self { convolution, norm: BatchNormConfig::new(channels[1]).init(device) }
    }

    fn forward(&self, x: Tensor<4>, activation: Activation, ours: bool) -> Tensor<4> {
        if ours {
            return ops::batch_norm(ops::conv2d(x, &self.convolution), &self.norm, activation);
        }
        let x = self.norm.forward(self.convolution.forward(x));
        if activation == Activation::Relu { relu(x) } else { x }
    }
}

/// A residual block of two layers, and what its input goes through besides.
#[derive(Module, Debug)]
struct Block {
    first: Layer,
    second: Layer,
    beside: Option<Layer>,
}

impl Block {
    fn new(channels: [usize; 2], stride: usize, device: &Device) -> Self {
        let other = channels[0] != channels[1] || stride != 1;
        Self {
            first: Layer::new(channels, 3, stride, device),
            second: Layer::new([channels[1]; 2], 3, 1, device),
            beside: other.then(|| Layer::new(channels, 1, stride, device)),
        }
    }

    fn forward(&self, x: Tensor<4>, ours: bool) -> Tensor<4> {
        let beside = match &self.beside {
            Some(layer) => layer.forward(x.clone(), Activation::None, ours),
            None => x.clone(),
        };
        let x = self.first.forward(x, Activation::Relu, ours);
        if ours {
            let x = ops::conv2d(x, &self.second.convolution);
            return ops::batch_norm_add_relu(x, &self.second.norm, beside);
        }
        relu(self.second.forward(x, Activation::None, false) + beside)
    }
}

#[derive(Module, Debug)]
struct Network {
    layers: Vec<Layer>,
    blocks: Vec<Block>,
}

impl Network {
    /// `(channels in, channels out, kernel, stride)` of each layer, `(in, out, stride)` of each block.
    fn new(
        layers: &[(usize, usize, usize, usize)],
        blocks: &[(usize, usize, usize)],
        device: &Device,
    ) -> Self {
        let layer = |&(from, to, kernel, stride)| Layer::new([from, to], kernel, stride, device);
        let block = |&(from, to, stride)| Block::new([from, to], stride, device);
        Self {
            layers: layers.iter().map(layer).collect(),
            blocks: blocks.iter().map(block).collect(),
        }
    }

    fn forward(&self, x: Tensor<4>, ours: bool) -> Tensor<2> {
        let x = self.layers.iter().fold(x, |x, layer| layer.forward(x, Activation::Relu, ours));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x, ours));
        if ours {
            return ops::global_average_pool(x);
        }
        let [n, channels, height, width] = x.dims();
        x.reshape([n, channels, height * width]).mean_dim(2).reshape([n, channels])
    }
}

/// Milliseconds of the fastest of so many passes.
fn fastest(passes: usize, mut pass: impl FnMut() -> Instant) -> f64 {
    let times = (0..passes).map(|_| pass().elapsed().as_secs_f64());
    1e3 * times.fold(f64::INFINITY, f64::min)
}

/// A convolution with 3×3 taps: its output and each gradient, as one operation. (Backward passes
/// begin with one of a pooling, which writes the gradient that they get.)
fn time_layer(images: usize, [from, to, side, stride]: [usize; 4], passes: usize) {
    let device = Device::flex().autodiff();
    let layer = Layer::new([from, to], 3, stride, &device).convolution;
    let x: Tensor<4> = Tensor::random([images, side, side, from], Distribution::Default, &device);
    let x = x.permute([0, 3, 1, 2]);
    let backward = |x: Tensor<4>, layer: &Conv2d| {
        fastest(passes, || {
            let out = ops::global_average_pool(ops::conv2d(x.clone(), layer)).sum();
            let start = Instant::now();
            drop(out.backward());
            start
        })
    };
    let of_weights = backward(x.clone(), &layer);
    let frozen = layer.freeze();
    let forward = fastest(passes, || {
        let start = Instant::now();
        drop(ops::conv2d(x.clone(), &frozen));
        start
    });
    let of_input = backward(x.detach().require_grad(), &frozen);
    let flop = (2 * images * (side / stride).pow(2) * 9 * from * to) as f64;
    let told = |milliseconds: f64| format!("{milliseconds:.2} ({:.0})", flop / milliseconds / 1e6);
    println!(
        "{images} images {side}×{side}, {from} to {to}, stride {stride}: {} {} {}",
        told(forward),
        told(of_input),
        told(of_weights)
    );
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_else(|| "strided".into());
    let passes = arguments.next().and_then(|x| x.parse().ok()).unwrap_or(5);
    if name == "layers" {
        for [from, to, side] in
            [[64, 64, 32], [128, 128, 16], [256, 256, 8], [512, 512, 4], [3, 64, 32]]
        {
            time_layer(64, [from, to, side, 1], passes);
        }
        for [from, to, side] in [[64, 128, 7], [32, 64, 14], [16, 16, 32], [64, 64, 56]] {
            time_layer(128, [from, to, side, 1], passes);
        }
        for [from, to, side] in [[64, 128, 32], [128, 256, 16], [256, 256, 8]] {
            time_layer(128, [from, to, side, 2], passes);
        }
        return;
    }
    let kinds = arguments.next().unwrap_or_else(|| "burn,ours".into());
    let device = Device::flex().autodiff();
    let (shape, layers, blocks): ([usize; 4], &[_], &[_]) = match name.as_str() {
        "strided" => {
            let layers = &[(1, 32, 5, 2), (32, 64, 3, 2), (64, 128, 3, 1), (128, 128, 3, 2)];
            ([512, 1, 28, 28], layers, &[])
        }
        "convnet" => ([958, 1, 8, 8], &[(1, 48, 3, 1), (48, 96, 3, 2), (96, 192, 3, 2)], &[]),
        _ => {
            let blocks = &[
                (64, 64, 1),
                (64, 64, 1),
                (64, 128, 2),
                (128, 128, 1),
                (128, 256, 2),
                (256, 256, 1),
                (256, 512, 2),
                (512, 512, 1),
            ];
            ([64, 3, 32, 32], &[(3, 64, 3, 1)], blocks)
        }
    };
    let network = Network::new(layers, blocks, &device);
    let x: Tensor<4> = Tensor::random(shape, Distribution::Default, &device);
    for kind in kinds.split(',') {
        let mut times: Vec<f64> = (0..passes)
            .map(|_| {
                let start = Instant::now();
                let out = network.forward(x.clone(), kind == "ours");
                let gradients = (out.clone() * out).sum().backward();
                drop(gradients);
                1e3 * start.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        println!("{name} {kind} {:.2} {:.2}", times[0], times[times.len() / 2]);
    }
}
