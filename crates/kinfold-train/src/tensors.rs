//! Views as what models take, tensors as numbers, and the embeddings of many things.

use crate::Error;
use burn::tensor::{Device, Tensor, TensorData};
use kinfold_data::{AveragedViews, Bags, Data, Views};
use kinfold_nn::encoders::{Input, Model};
use kinfold_nn::ops;
use std::borrow::Cow;

/// Things that are encoded at a time outside training.
const CHUNK: usize = 256;

/// Views as a model takes them.
pub fn input(views: Views, device: &Device) -> Input {
    match views {
        Views::Pixels { values, channels, size } => {
            let n = values.len() / (channels * size * size);
            let shape = [n, channels, size, size];
            Input::Images(Tensor::from_data(TensorData::new(values, shape), device))
        }
        Views::Tokens(Bags { ids, ends }) => Input::Texts(ops::Bags::new(ids, ends)),
        Views::Vectors { values, dim, queries } => {
            let shape = [values.len() / dim, dim];
            let values = Tensor::from_data(TensorData::new(values, shape), device);
            Input::Vectors { values, queries }
        }
    }
}

/// A tensor's numbers, row by row.
///
/// # Errors
/// When they are not `f32`.
pub fn numbers<const D: usize>(x: Tensor<D>) -> Result<Vec<f32>, Error> {
    x.into_data().try_to_vec().map_err(|e| Error::Data(format!("embeddings are not f32: {e:?}")))
}

/// The cosine of two embeddings; 0 where one is all zeros, as that of a text without a known token.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// The first `cut` numbers of each of some embeddings of `dim`, or all where there are no more.
pub fn first_numbers(embeddings: &[f32], dim: usize, cut: usize) -> Cow<'_, [f32]> {
    if cut >= dim {
        return embeddings.into();
    }
    embeddings.chunks(dim).flat_map(|whole| &whole[..cut]).copied().collect()
}

/// # Errors
/// When embeddings of `dim` numbers cannot be cut to one of these.
pub fn check_cuts(cuts: &[usize], dim: usize) -> Result<(), Error> {
    match cuts.iter().find(|cut| !(1..=dim).contains(*cut)) {
        Some(wrong) => {
            let text = format!("dimensions is {wrong}, but embeddings have {dim} to cut");
            Err(Error::Setting(text))
        }
        None => Ok(()),
    }
}

/// Embeddings of all things by these views of each, `[n, embedding]`.
///
/// # Errors
/// When one cannot be read.
pub fn embed(
    model: &Model,
    data: &Data,
    views: &AveragedViews,
    device: &Device,
) -> Result<Vec<f32>, Error> {
    let rows: Vec<usize> = (0..data.items().len()).collect();
    embed_averaged(model, data, &rows, views, device)
}

/// Embeddings of some things, `[rows, embedding]`: where they have several views, the mean of the views'
/// embeddings, each at unit length, itself at unit length.
///
/// # Errors
/// When one cannot be read.
pub fn embed_averaged(
    model: &Model,
    data: &Data,
    rows: &[usize],
    views: &AveragedViews,
    device: &Device,
) -> Result<Vec<f32>, Error> {
    if views.count == 1 {
        return embed_rows(model, data, rows, device);
    }
    let mut sum: Vec<f32> = Vec::new();
    let dim = |embeddings: &[f32]| (embeddings.len() / rows.len().max(1)).max(1);
    for number in 0..views.count {
        let draw = |rows: &[usize]| Ok(data.draw_averaged(rows, views, number)?);
        let mut embeddings = embed_views(model, rows, device, draw)?;
        let dim = dim(&embeddings);
        to_unit_length(&mut embeddings, dim);
        match &mut sum[..] {
            [] => sum = embeddings,
            sum => sum.iter_mut().zip(embeddings).for_each(|(sum, x)| *sum += x),
        }
    }
    let dim = dim(&sum);
    to_unit_length(&mut sum, dim);
    Ok(sum)
}

/// Each embedding of `dim` numbers at unit length; one of zeros stays.
pub(crate) fn to_unit_length(embeddings: &mut [f32], dim: usize) {
    for row in embeddings.chunks_exact_mut(dim) {
        let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let length = length.max(kinfold::NORM_FLOOR);
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

/// Embeddings of some things, `[rows, embedding]`; of vectors, as queries.
///
/// # Errors
/// When one cannot be read.
pub fn embed_rows(
    model: &Model,
    data: &Data,
    rows: &[usize],
    device: &Device,
) -> Result<Vec<f32>, Error> {
    embed_views(model, rows, device, |rows| Ok(data.plain(rows)?))
}

/// Embeddings of some things as what is looked for, `[rows, embedding]`.
///
/// # Errors
/// When one cannot be read.
pub fn embed_documents(
    model: &Model,
    data: &Data,
    rows: &[usize],
    device: &Device,
) -> Result<Vec<f32>, Error> {
    embed_views(model, rows, device, |rows| Ok(data.documents(rows)?))
}

/// Embeddings of what `views` makes of some things, a chunk of them at a time, `[rows, embedding]`.
pub(crate) fn embed_views(
    model: &Model,
    rows: &[usize],
    device: &Device,
    views: impl Fn(&[usize]) -> Result<Views, Error>,
) -> Result<Vec<f32>, Error> {
    let model = model.snapshot();
    let mut out = Vec::new();
    for rows in rows.chunks(CHUNK) {
        out.extend(numbers(model.embed(input(views(rows)?, device)))?);
    }
    Ok(out)
}
