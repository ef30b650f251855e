//! ResNet-18 and -50 (He et al. 2016) without their classifier, in torchvision's names and with
//! torchvision's initial weights: Kaiming's normal ones by what a convolution feeds.
//!
//! As in torchvision, ResNet-50 has its strides in the 3×3 convolutions (“v1.5”).

use super::layers::{
    Activation, batch_norm, batch_norm_add_relu, conv2d, global_average_pool, max_pool2d,
};
use super::settings::Stem;
use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{BatchNorm, BatchNormConfig, Initializer, PaddingConfig2d};
use burn::tensor::{Device, Tensor};

/// Channels of the first stage; each further one has twice as many.
const WIDTH: usize = 64;

/// A block's output has so many times its inner channels where it has three convolutions.
const EXPANSION: usize = 4;

#[derive(Module, Debug)]
pub(super) struct ResNet {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Block>,
    layer2: Vec<Block>,
    layer3: Vec<Block>,
    layer4: Vec<Block>,
    #[module(skip)]
    stem: Stem,
}

/// Two 3×3 convolutions; or a 1×1, a 3×3 and a 1×1 one.
#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Option<Conv2d>,
    bn3: Option<BatchNorm>,
    /// Where input and output differ in shape.
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl ResNet {
    pub(super) fn new_18(stem: Stem, channels: usize, device: &Device) -> Self {
        Self::new([2, 2, 2, 2], false, stem, channels, device)
    }

    pub(super) fn new_50(stem: Stem, channels: usize, device: &Device) -> Self {
        Self::new([3, 4, 6, 3], true, stem, channels, device)
    }

    fn new(
        blocks: [usize; 4],
        bottleneck: bool,
        stem: Stem,
        channels: usize,
        device: &Device,
    ) -> Self {
        let conv1 = match stem {
            Stem::Small => convolution([channels, WIDTH], 3, 1, device),
            Stem::ImageNet => convolution([channels, WIDTH], 7, 2, device),
        };
        let mut from = WIDTH;
        let mut stage = |i: usize| {
            let inner = WIDTH << i;
            let mut block = |j: usize| {
                let stride = if i > 0 && j == 0 { 2 } else { 1 };
                let block = Block::new(from, inner, stride, bottleneck, device);
                from = if bottleneck { EXPANSION * inner } else { inner };
                block
            };
            (0..blocks[i]).map(&mut block).collect()
        };
        Self {
            conv1,
            bn1: BatchNormConfig::new(WIDTH).init(device),
            layer1: stage(0),
            layer2: stage(1),
            layer3: stage(2),
            layer4: stage(3),
            stem,
        }
    }

    /// `[n, channels, size, size]` to the pooled features, `[n, 512]` or `[n, 2048]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let x = batch_norm(conv2d(x, &self.conv1), &self.bn1, Activation::Relu);
        let x = match self.stem {
            Stem::Small => x,
            Stem::ImageNet => max_pool2d(x, 3, 2, 1),
        };
        let blocks = [&self.layer1, &self.layer2, &self.layer3, &self.layer4];
        global_average_pool(blocks.into_iter().flatten().fold(x, |x, block| block.forward(x)))
    }
}

impl Block {
    fn new(from: usize, inner: usize, stride: usize, bottleneck: bool, device: &Device) -> Self {
        let norm = |width| BatchNormConfig::new(width).init(device);
        let to = if bottleneck { EXPANSION * inner } else { inner };
        let (first, second) = if bottleneck {
            (convolution([from, inner], 1, 1, device), convolution([inner; 2], 3, stride, device))
        } else {
            (convolution([from, inner], 3, stride, device), convolution([inner; 2], 3, 1, device))
        };
        Self {
            conv1: first,
            bn1: norm(inner),
            conv2: second,
            bn2: norm(inner),
            conv3: bottleneck.then(|| convolution([inner, to], 1, 1, device)),
            bn3: bottleneck.then(|| norm(to)),
            downsample: (stride != 1 || from != to)
                .then(|| (convolution([from, to], 1, stride, device), norm(to))),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let residual = match &self.downsample {
            Some((convolution, norm)) => {
                batch_norm(conv2d(x.clone(), convolution), norm, Activation::None)
            }
            None => x.clone(),
        };
        let x = batch_norm(conv2d(x, &self.conv1), &self.bn1, Activation::Relu);
        let x = conv2d(x, &self.conv2);
        match (&self.conv3, &self.bn3) {
            (Some(third), Some(norm)) => {
                let x = batch_norm(x, &self.bn2, Activation::Relu);
                batch_norm_add_relu(conv2d(x, third), norm, residual)
            }
            _ => batch_norm_add_relu(x, &self.bn2, residual),
        }
    }
}

/// A convolution without bias that keeps the sides, but for its stride.
fn convolution(channels: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Conv2d {
    let pad = kernel / 2;
    Conv2dConfig::new(channels, [kernel; 2])
        .with_stride([stride; 2])
        .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
        .with_bias(false)
        .with_initializer(Initializer::KaimingNormal {
            gain: std::f64::consts::SQRT_2,
            fan_out_only: true,
        })
        .init(device)
}
