//! What turns a view into an embedding, and the projector that training puts behind it.
//!
//! Input: images `[n, channels, size, size]`. Output: embeddings `[n, d]`; the loss sees the
//! projector's output, the user the encoder's. An encoder is a file here; its layers are all in
//! `layers`, what it is made of in `settings`, how it is written and read in `weights`.

mod convnet;
mod layers;
mod mlp;
mod projector;
mod resnet;
mod settings;
mod size;
#[cfg(test)]
mod tests;
mod vit;
mod weights;

pub use settings::{EncoderName, EncoderSettings, ProjectorForm, Stem};
pub use size::ModelSize;
pub use weights::WEIGHTS;

use crate::Error;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use convnet::ConvNet;
use mlp::Mlp;
use projector::Projector;
use resnet::ResNet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use vit::Vit;

/// Held while weights are drawn.
static DRAWING: Mutex<()> = Mutex::new(());

/// The shape of the images that a model takes: `[channels, size, size]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageShape {
    /// Width and height in pixels.
    pub size: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
}

/// An encoder and its projector.
#[derive(Module, Debug)]
pub struct Model {
    encoder: Encoder,
    projector: Option<Projector>,
}

#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // There is one of it.
enum Encoder {
    ConvNet(ConvNet),
    Mlp(Mlp),
    ResNet(ResNet),
    Vit(Vit),
}

impl Encoder {
    fn new(settings: &EncoderSettings, shape: ImageShape, device: &Device) -> Self {
        let channels = shape.channels;
        let stem = settings.stem(shape.size);
        match settings.name {
            EncoderName::ConvNet => Self::ConvNet(ConvNet::new(settings, shape, device)),
            EncoderName::Mlp => Self::Mlp(Mlp::new(settings, shape, device)),
            EncoderName::ResNet18 => Self::ResNet(ResNet::new_18(stem, channels, device)),
            EncoderName::ResNet50 => Self::ResNet(ResNet::new_50(stem, channels, device)),
            EncoderName::Vit => Self::Vit(Vit::new(settings, shape, device)),
        }
    }

    /// `[n, channels, size, size]` to `[n, embedding]`.
    fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        match self {
            Self::ConvNet(encoder) => encoder.forward(x),
            Self::Mlp(encoder) => encoder.forward(x),
            Self::ResNet(encoder) => encoder.forward(x),
            Self::Vit(encoder) => encoder.forward(x),
        }
    }
}

impl Model {
    /// A model for images of `shape`, with random weights that follow from `seed`.
    ///
    /// # Errors
    /// As [`EncoderSettings::check`].
    pub fn random(
        settings: &EncoderSettings,
        shape: ImageShape,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        settings.check(shape.size)?;
        // The generator is one for the whole process: nobody else may draw in between.
        let _alone = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        device.seed(seed);
        let model = Self {
            encoder: Encoder::new(settings, shape, device),
            projector: Projector::new(settings, device),
        };
        // Burn draws weights when they are first used; use them now, while the seed is fresh, and in
        // one order.
        model.visit(&mut Draw);
        Ok(model)
    }

    /// The model that training begins with: a random one, with the weights of
    /// [`init`](EncoderSettings::init) where that is given.
    ///
    /// # Errors
    /// As [`random`](Self::random); [`Error::Read`] and [`Error::Weights`] when the file of `init` cannot
    /// be read or does not fit.
    pub fn initial(
        settings: &EncoderSettings,
        shape: ImageShape,
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let model = Self::random(settings, shape, seed, device)?;
        match &settings.init {
            Some(from) => weights::begin(model, settings.name, from),
            None => Ok(model),
        }
    }

    /// A copy for use without training, on the plain device. (A clone would go on sharing batch norm's
    /// running statistics with the model that is trained.)
    pub fn snapshot(&self) -> Self {
        self.valid()
    }

    /// The projector's output, which the loss sees, `[n, projection]`, of images
    /// `[n, channels, size, size]`.
    ///
    /// # Panics
    /// As [`embed`](Self::embed).
    pub fn project(&self, images: Tensor<4>) -> Tensor<2> {
        let embeddings = self.encoder.forward(images);
        match &self.projector {
            Some(projector) => projector.forward(embeddings),
            None => embeddings,
        }
    }

    /// Embeddings, `[n, embedding]`, of images `[n, channels, size, size]`.
    ///
    /// On an autodiff device batch norm takes the batch's statistics and moves its running ones; on a
    /// plain device it takes the running ones. For embeddings of a model that is trained, take a
    /// [`snapshot`](Self::snapshot).
    ///
    /// # Panics
    /// As Burn's operations do, when the images are not of the model's shape or not on its device.
    pub fn embed(&self, images: Tensor<4>) -> Tensor<2> {
        self.encoder.forward(images)
    }

    /// The weights as a safetensors file, in PyTorch's names and layouts.
    ///
    /// # Errors
    /// [`Error::Unwritable`].
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        weights::to_bytes(&self.snapshot())
    }

    /// The model with the weights of a safetensors file that such a model was written to.
    ///
    /// # Errors
    /// [`Error::Read`] when the file cannot be read; [`Error::Weights`] when a weight is missing, left over
    /// or of another shape.
    pub fn with_weights(self, file: &Path) -> Result<Self, Error> {
        weights::load(self, file)
    }
}

/// Uses every weight once.
struct Draw;

impl ModuleVisitor for Draw {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        param.val();
    }
}
