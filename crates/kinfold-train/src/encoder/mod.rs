//! What turns a view into an embedding, and the projector that training puts behind it.
//!
//! Comes in: images `[n, channels, size, size]`. Goes out: embeddings `[n, d]`; the loss sees the
//! projector's output, the user the encoder's. An encoder is a file here; its layers are all in
//! `layers`, what it is made of in `settings`, how it is written and read in `weights`.

mod convnet;
mod layers;
mod mlp;
mod projector;
mod resnet;
mod settings;
#[cfg(test)]
mod tests;
mod vit;
mod weights;

pub use settings::{EncoderName, EncoderSettings, ProjectorForm, Stem};
pub(crate) use weights::WEIGHTS;

use crate::Error;
use crate::pairs::Images;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use convnet::ConvNet;
use mlp::Mlp;
use projector::Projector;
use resnet::ResNet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use vit::Vit;

/// Images that are encoded at a time outside training.
const CHUNK: usize = 256;

/// Held while weights are drawn.
static DRAWING: Mutex<()> = Mutex::new(());

/// An encoder and its projector.
#[derive(Module, Debug)]
pub(crate) struct Model {
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
    fn new(settings: &EncoderSettings, shape: (usize, usize), device: &Device) -> Self {
        let (size, channels) = shape;
        let stem = settings.stem(size);
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
    /// A model with random weights that follow from `seed`. The settings have been checked.
    pub(crate) fn random(
        settings: &EncoderSettings,
        shape: (usize, usize),
        seed: u64,
        device: &Device,
    ) -> Self {
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
        model
    }

    /// What training begins with: a random model, with the weights of `init` where that is given.
    pub(crate) fn initial(
        settings: &EncoderSettings,
        shape: (usize, usize),
        seed: u64,
        device: &Device,
    ) -> Result<Self, Error> {
        let model = Self::random(settings, shape, seed, device);
        match &settings.init {
            Some(from) => weights::begin(model, settings.name, from),
            None => Ok(model),
        }
    }

    /// The model as it stands, for use without training. A plain clone would go on sharing batch
    /// norm's running statistics with the model that is trained.
    pub(crate) fn snapshot(&self) -> Self {
        self.valid()
    }

    /// What the loss sees, `[n, projection]`.
    pub(crate) fn project(&self, images: Tensor<4>) -> Tensor<2> {
        let embeddings = self.encoder.forward(images);
        match &self.projector {
            Some(projector) => projector.forward(embeddings),
            None => embeddings,
        }
    }

    /// Embeddings of all images as one slice, `[n, embedding]`.
    pub(crate) fn embed(&self, images: &Images, device: &Device) -> Result<Vec<f32>, Error> {
        let rows: Vec<usize> = (0..images.len()).collect();
        self.embed_rows(images, &rows, device)
    }

    /// Embeddings of some images, `[rows, embedding]`.
    pub(crate) fn embed_rows(
        &self,
        images: &Images,
        rows: &[usize],
        device: &Device,
    ) -> Result<Vec<f32>, Error> {
        let model = self.snapshot();
        let mut out = Vec::new();
        for rows in rows.chunks(CHUNK) {
            let pixels = images.pixels(rows)?;
            let x = images_tensor(pixels, (images.size, images.channels), device);
            out.extend(numbers(model.encoder.forward(x))?);
        }
        Ok(out)
    }

    /// The weights as a safetensors file, in PyTorch's names and layouts.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        weights::to_bytes(&self.snapshot())
    }

    /// The model with the weights of a safetensors file that such a model was written to.
    pub(crate) fn with_weights(self, file: &Path) -> Result<Self, Error> {
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

/// Pixels as Burn takes them, `[n, channels, size, size]`.
pub(crate) fn images_tensor(
    pixels: Vec<f32>,
    (size, channels): (usize, usize),
    device: &Device,
) -> Tensor<4> {
    let n = pixels.len() / (channels * size * size);
    Tensor::from_data(TensorData::new(pixels, [n, channels, size, size]), device)
}

/// A tensor's numbers, row by row.
pub(crate) fn numbers<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>, Error> {
    x.into_data().try_to_vec().map_err(|e| Error::Data(format!("embeddings are not f32: {e:?}")))
}
