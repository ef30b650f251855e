//! Images as tensors, tensors as numbers, and the embeddings of many images.

use crate::Error;
use burn::tensor::{Device, Tensor, TensorData};
use kinfold_data::Images;
use kinfold_nn::encoders::Model;

/// Images that are encoded at a time outside training.
const CHUNK: usize = 256;

/// Pixels as Burn takes them, `[n, channels, size, size]`.
pub fn images_tensor(
    pixels: Vec<f32>,
    (size, channels): (usize, usize),
    device: &Device,
) -> Tensor<4> {
    let n = pixels.len() / (channels * size * size);
    Tensor::from_data(TensorData::new(pixels, [n, channels, size, size]), device)
}

/// A tensor's numbers, row by row.
///
/// # Errors
/// When they are not `f32`.
pub fn numbers<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>, Error> {
    x.into_data().try_to_vec().map_err(|e| Error::Data(format!("embeddings are not f32: {e:?}")))
}

/// Embeddings of all images, `[n, embedding]`.
///
/// # Errors
/// When an image cannot be read.
pub fn embed(model: &Model, images: &Images, device: &Device) -> Result<Vec<f32>, Error> {
    let rows: Vec<usize> = (0..images.len()).collect();
    embed_rows(model, images, &rows, device)
}

/// Embeddings of some images, `[rows, embedding]`.
///
/// # Errors
/// When an image cannot be read.
pub fn embed_rows(
    model: &Model,
    images: &Images,
    rows: &[usize],
    device: &Device,
) -> Result<Vec<f32>, Error> {
    embed_pixels(model, images, rows, device, |rows| Ok(images.pixels(rows)?))
}

/// Embeddings of what `pixels` makes of some images, a chunk of them at a time, `[rows, embedding]`.
pub(crate) fn embed_pixels(
    model: &Model,
    images: &Images,
    rows: &[usize],
    device: &Device,
    pixels: impl Fn(&[usize]) -> Result<Vec<f32>, Error>,
) -> Result<Vec<f32>, Error> {
    let model = model.snapshot();
    let mut out = Vec::new();
    for rows in rows.chunks(CHUNK) {
        let x = images_tensor(pixels(rows)?, (images.size, images.channels), device);
        out.extend(numbers(model.embed(x))?);
    }
    Ok(out)
}
