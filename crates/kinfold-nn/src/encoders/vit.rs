//! A small vision transformer (Dosovitskiy et al. 2021): pre-norm blocks, learned positions, no class
//! token; the embedding is the mean of the normalised tokens. Names, layouts and initial weights are
//! timm's (`class_token=False, global_pool="avg", fc_norm=False, num_classes=0`).

use super::ImageShape;
use super::layers::{attention, linear, linear_gelu};
use super::settings::EncoderSettings;
use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::module::linear as product;
use burn::tensor::{Device, Tensor};

/// A block's hidden layer is so many times as wide as its tokens.
const EXPANSION: usize = 4;

/// ε of every layer norm.
const EPSILON: f64 = 1e-6;

/// Standard deviation of the initial weights. (timm cuts them off at ±2, a hundred of these.)
const SPREAD: f64 = 0.02;

#[derive(Module, Debug)]
pub(super) struct Vit {
    patch_embed: PatchEmbed,
    /// `[1, tokens, width]`.
    pos_embed: Param<Tensor<3>>,
    blocks: Vec<Block>,
    norm: LayerNorm,
}

/// A convolution whose stride is its kernel.
#[derive(Module, Debug)]
struct PatchEmbed {
    proj: Conv2d,
}

#[derive(Module, Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    mlp: Perceptron,
}

#[derive(Module, Debug)]
struct Attention {
    qkv: Linear,
    proj: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
struct Perceptron {
    fc1: Linear,
    fc2: Linear,
}

impl Vit {
    pub(super) fn new(
        settings: &EncoderSettings,
        ImageShape { size, channels }: ImageShape,
        device: &Device,
    ) -> Self {
        let (patch, width) = (settings.patch(size), settings.width());
        let tokens = (size / patch).pow(2);
        let proj =
            Conv2dConfig::new([channels, width], [patch; 2]).with_stride([patch; 2]).init(device);
        let positions = Initializer::Normal { mean: 0.0, std: SPREAD };
        Self {
            patch_embed: PatchEmbed { proj },
            pos_embed: positions.init([1, tokens, width], device),
            blocks: (0..settings.depth())
                .map(|_| Block::new(width, settings.heads(), device))
                .collect(),
            norm: norm(width, device),
        }
    }

    /// `[n, channels, size, size]` to `[n, width]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = self.patch_embed.forward(x) + self.pos_embed.val();
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        layer_norm(x, &self.norm).mean_dim(1).squeeze_dim(1)
    }
}

impl PatchEmbed {
    /// `[n, channels, size, size]` to `[n, tokens, width]`: one product, since patches do not
    /// overlap.
    fn forward(&self, x: Tensor<4>) -> Tensor<3> {
        let [n, channels, size, _] = x.dims();
        let weight = self.proj.weight.val();
        let [width, _, patch, _] = weight.dims();
        let side = size / patch;
        let x = x
            .reshape([n, channels, side, patch, side, patch])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([n, side * side, channels * patch * patch]);
        let weight = weight.reshape([width, channels * patch * patch]).transpose();
        product(x, weight, self.proj.bias.as_ref().map(Param::val))
    }
}

impl Block {
    fn new(width: usize, heads: usize, device: &Device) -> Self {
        Self {
            norm1: norm(width, device),
            attn: Attention {
                qkv: layer(width, 3 * width, device),
                proj: layer(width, width, device),
                heads,
            },
            norm2: norm(width, device),
            mlp: Perceptron {
                fc1: layer(width, EXPANSION * width, device),
                fc2: layer(EXPANSION * width, width, device),
            },
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.attn.forward(layer_norm(x, &self.norm1));
        let hidden = linear_gelu(layer_norm(x.clone(), &self.norm2), &self.mlp.fc1);
        x + linear(hidden, &self.mlp.fc2)
    }
}

impl Attention {
    /// `[n, tokens, width]` to the same.
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        linear(attention(linear(x, &self.qkv), self.heads), &self.proj)
    }
}

fn norm(width: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(width).with_epsilon(EPSILON).init(device)
}

fn layer_norm(x: Tensor<3>, layer: &LayerNorm) -> Tensor<3> {
    super::layers::layer_norm(x, layer, EPSILON)
}

/// A linear layer with small weights and no bias at first.
fn layer(from: usize, to: usize, device: &Device) -> Linear {
    let weights = Initializer::Normal { mean: 0.0, std: SPREAD };
    let mut layer = LinearConfig::new(from, to).with_initializer(weights).init(device);
    layer.bias = Some(Initializer::Zeros.init([to], device));
    layer
}
