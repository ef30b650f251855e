//! What turns a view into an embedding, and the projector that training puts behind it.
//!
//! Comes in: images `[n, channels, size, size]`. Goes out: embeddings `[n, d]`; the loss sees the
//! projector's output, the user the encoder's.

mod convnet;

use crate::Error;
use crate::pairs::Images;
use crate::settings::EncoderSettings;
use burn::module::Module;
use burn::nn::{Linear, LinearConfig};
use burn::store::{BurnToPyTorchAdapter, ModuleSnapshot, PyTorchToBurnAdapter, SafetensorsStore};
use burn::tensor::{Device, Tensor, TensorData};
use convnet::ConvNet;
use std::path::Path;

/// Images that are encoded at a time outside training.
const CHUNK: usize = 256;

/// An encoder and its projector.
#[derive(Module, Debug)]
pub(crate) struct Model {
    encoder: ConvNet,
    projector: Linear,
}

impl Model {
    /// A model with random weights that follow from `seed`.
    pub(crate) fn random(
        settings: &EncoderSettings,
        (size, channels): (usize, usize),
        seed: u64,
        device: &Device,
    ) -> Self {
        device.seed(seed);
        let model = Self {
            encoder: ConvNet::new(settings, size, channels, device),
            projector: LinearConfig::new(settings.embedding, settings.projection).init(device),
        };
        // Burn draws weights when they are first used; draw them now, while the seed is fresh.
        model.materialize()
    }

    /// The model as it stands, for use without training. A plain clone would go on sharing batch
    /// norm's running statistics with the model that is trained.
    pub(crate) fn snapshot(&self) -> Self {
        self.valid()
    }

    /// What the loss sees, `[n, projection]`.
    pub(crate) fn project(&self, images: Tensor<4>) -> Tensor<2> {
        self.projector.forward(self.encoder.forward(images))
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
        // Burn keeps a training flag beside batch norm's weights; it is no weight.
        let mut store = SafetensorsStore::from_bytes(None)
            .with_to_adapter(BurnToPyTorchAdapter)
            .with_predicate(|path, _| !path.ends_with(".training"))
            .clear_metadata()
            .metadata("format", "pt");
        self.snapshot().save_into(&mut store).map_err(unsaved)?;
        store.get_bytes().map_err(unsaved)
    }

    /// The model with the weights of a safetensors file.
    pub(crate) fn with_weights(mut self, file: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(file).map_err(Error::file("read", file))?;
        let mut store = SafetensorsStore::from_bytes(Some(bytes))
            .with_from_adapter(PyTorchToBurnAdapter)
            .allow_partial(true);
        let wrong = |reason: String| Error::NotARun { path: file.to_path_buf(), reason };
        let result = self.load_from(&mut store).map_err(|e| wrong(e.to_string()))?;
        if let Some(error) = result.errors.first() {
            return Err(wrong(error.to_string()));
        }
        let missing = |(name, _): &&(String, String)| !name.ends_with(".training");
        if let Some((name, _)) = result.missing.iter().find(missing) {
            return Err(wrong(format!("the weight {name} is missing")));
        }
        Ok(self)
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

fn unsaved(e: impl std::fmt::Display) -> Error {
    Error::Data(format!("the model cannot be written as safetensors: {e}"))
}
