//! How much memory a model takes, before it is built.
//!
//! Input: settings and the shape of things. Output: numbers of weights, and of activations that one
//! of them leaves for the backward pass. The layers are counted here as the encoders' files build them; a test
//! holds the weights against the models.

use super::settings::{AdapterForm, EncoderName, EncoderSettings, ProjectorForm, Stem, Towers};
use super::{ImageShape, InputShape};

/// How many numbers a model consists of and works on. Settings may ask for more than any integer holds, so
/// these are `f64`; below 2⁵³ they are exact.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelSize {
    /// Weights and running statistics, all of them.
    pub weights: f64,
    /// Activations of one image that training keeps for the backward pass.
    pub activations: f64,
}

impl ModelSize {
    /// With a norm behind it, which has a weight, a bias and two statistics a channel, and keeps its input
    /// and its output.
    fn convolution(&mut self, from: usize, to: usize, kernel: usize, side: usize) {
        let [from, to, kernel, side] = [from, to, kernel, side].map(|x| x as f64);
        self.weights += from * to * kernel * kernel + 4.0 * to;
        self.activations += 2.0 * to * side * side;
    }

    fn linear(&mut self, from: usize, to: usize) {
        let [from, to] = [from, to].map(|x| x as f64);
        self.weights += from * to + to;
        self.activations += to;
    }

    /// Without a bias, but with a norm, of which that is the place.
    fn hidden(&mut self, from: usize, to: usize) {
        let [from, to] = [from, to].map(|x| x as f64);
        self.weights += from * to + 4.0 * to;
        self.activations += 2.0 * to;
    }

    fn resnet(
        &mut self,
        stem: Stem,
        channels: usize,
        size: usize,
        blocks: [usize; 4],
        wide: usize,
    ) {
        let (kernel, stride) = if stem == Stem::Small { (3, 1) } else { (7, 2) };
        let mut side = size.div_ceil(stride);
        self.convolution(channels, 64, kernel, side);
        if stem == Stem::ImageNet {
            side = side.div_ceil(2);
            self.activations += (64 * side * side) as f64;
        }
        let mut from = 64;
        for (i, count) in blocks.into_iter().enumerate() {
            let (inner, to) = (64 << i, wide * (64 << i));
            for j in 0..count {
                let out = if i > 0 && j == 0 { side.div_ceil(2) } else { side };
                if wide == 1 {
                    self.convolution(from, inner, 3, out);
                    self.convolution(inner, inner, 3, out);
                } else {
                    self.convolution(from, inner, 1, side);
                    self.convolution(inner, inner, 3, out);
                    self.convolution(inner, to, 1, out);
                }
                if out != side || from != to {
                    self.convolution(from, to, 1, out);
                }
                (from, side) = (to, out);
            }
        }
    }

    fn vit(&mut self, settings: &EncoderSettings, shape: ImageShape) {
        let (patch, width) = (settings.patch(shape.size), settings.width());
        let (tokens, depth) = ((shape.size / patch).pow(2) as f64, settings.depth() as f64);
        let pixels = (shape.channels * patch * patch) as f64;
        let w = width as f64;
        self.weights += pixels * w + w + tokens * w + 2.0 * w;
        // Of a block: two norms, queries, keys and values, two layers, the hidden one four times as wide.
        self.weights += depth * (4.0 * w + 3.0 * (w * w + w) + 9.0 * w * w + 6.0 * w);
        // Attention keeps no matrix of tokens with tokens.
        self.activations += tokens * (2.0 * w + depth * 11.0 * w);
    }
}

impl EncoderSettings {
    /// How much an encoder, its projector and its predictor take for things of `shape`, which
    /// [`check`](Self::check) has found possible.
    pub fn model_size(&self, shape: impl Into<InputShape>) -> ModelSize {
        let mut sum = ModelSize::default();
        let shape = match shape.into() {
            InputShape::Images(shape) => shape,
            InputShape::Texts { tokens } => {
                sum.weights += tokens as f64 * self.embedding() as f64;
                sum.activations += 2.0 * self.embedding() as f64;
                self.projector_size(&mut sum);
                return sum;
            }
            InputShape::Vectors { dim } => {
                self.adapter_size(dim, &mut sum);
                self.projector_size(&mut sum);
                return sum;
            }
        };
        let ImageShape { size, channels } = shape;
        sum.activations += (channels * size * size) as f64;
        match self.name {
            EncoderName::ConvNet => {
                let (mut side, mut from) = (size, channels);
                let sizes = self.kernels().into_iter().zip(self.strides());
                for (to, (kernel, stride)) in self.widths().into_iter().zip(sizes) {
                    side = side.div_ceil(stride);
                    sum.convolution(from, to, kernel, side);
                    from = to;
                }
                sum.linear(from.saturating_mul(side * side), self.embedding());
            }
            EncoderName::Mlp => {
                let mut from = channels * size * size;
                for to in self.widths() {
                    sum.hidden(from, to);
                    from = to;
                }
                sum.linear(from, self.embedding());
            }
            EncoderName::ResNet18 => {
                sum.resnet(self.stem(size), channels, size, [2, 2, 2, 2], 1);
            }
            EncoderName::ResNet50 => {
                sum.resnet(self.stem(size), channels, size, [3, 4, 6, 3], 4);
            }
            EncoderName::Vit => sum.vit(self, shape),
            EncoderName::Static | EncoderName::Adapter => {}
        }
        self.projector_size(&mut sum);
        sum
    }

    fn adapter_size(&self, dim: usize, sum: &mut ModelSize) {
        sum.activations += 2.0 * dim as f64;
        for _ in 0..if self.towers() == Towers::Each { 2 } else { 1 } {
            match self.form() {
                AdapterForm::Linear => sum.weights += (dim as f64).powi(2),
                AdapterForm::Residual | AdapterForm::Mlp => {
                    sum.linear(dim, self.hidden());
                    sum.linear(self.hidden(), dim);
                }
            }
        }
    }

    fn projector_size(&self, sum: &mut ModelSize) {
        let (embedding, projection) = (self.embedding(), self.projection());
        match self.projector() {
            ProjectorForm::None => {}
            ProjectorForm::Linear => sum.linear(embedding, projection),
            ProjectorForm::Mlp => {
                sum.hidden(embedding, embedding);
                sum.linear(embedding, projection);
            }
        }
        if let Some(hidden) = self.predictor {
            sum.hidden(self.seen_by_loss(), hidden);
            sum.linear(hidden, self.seen_by_loss());
        }
    }
}
