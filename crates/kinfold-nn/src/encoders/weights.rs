//! Weights in files: in PyTorch's names and layouts, each encoder's in those of the library it is
//! known from.
//!
//! Input: a model, or a file of safetensors or of PyTorch's own kind. Output: a file's bytes, or
//! the model with the file's weights. A weight that is missing, left over or of another shape is an
//! error that names it; nothing is loaded in part.

use super::Model;
use super::settings::EncoderName;
use crate::Error;
use burn::store::burn_pack::Tensor as Weight;
use burn::store::{
    BurnToPyTorchAdapter, FloatCastAdapter, ModuleAdapter, ModuleSnapshot, ModuleStore,
    PyTorchToBurnAdapter, PytorchStore, SafetensorsStore,
};
use burn::tensor::DType;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The file of a run's folder that holds the model's weights.
pub const WEIGHTS: &str = "model.safetensors";

const ENCODER: &str = "encoder.";
const PROJECTOR: &str = "projector.";
const PREDICTOR: &str = "predictor.";

/// PyTorch's batch norm counts its batches beside its running statistics, and only uses the count
/// where it has no momentum. Burn's does not count.
const COUNT: &str = "num_batches_tracked";

/// By name; read when they are used.
pub(super) type Weights = BTreeMap<String, Weight>;

/// A model's weights as they are written.
pub(super) fn weights_of(model: &Model) -> Weights {
    let weights = model.collect(None, Some(Box::new(BurnToPyTorchAdapter)), true);
    // Burn keeps a training flag beside batch norm's weights; it is no weight.
    let weights = weights.into_iter().filter(|weight| !weight.name.ends_with(".training"));
    weights.map(|weight| (weight.name.clone(), weight)).collect()
}

/// A model as a safetensors file.
pub(super) fn to_bytes(model: &Model) -> Result<Vec<u8>, Error> {
    let unwritable = |e: &dyn std::fmt::Display| Error::Unwritable(e.to_string());
    let mut data = Vec::new();
    for (name, weight) in weights_of(model) {
        let shape = weight.shape.iter().copied().collect();
        if let Some(norm) = name.strip_suffix("running_var") {
            data.push((format!("{norm}{COUNT}"), Dtype::I64, vec![], 0i64.to_le_bytes().to_vec()));
        }
        let bytes = weight.into_bytes().map_err(|e| unwritable(&e))?;
        data.push((name, Dtype::F32, shape, bytes.to_vec()));
    }
    let views = data.iter().map(|(name, dtype, shape, bytes)| {
        Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?))
    });
    let views = views
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(|e| unwritable(&e))?;
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).map_err(|e| unwritable(&e))
}

/// The model with all weights of a file that such a model was written to.
pub(super) fn load(model: Model, file: &Path) -> Result<Model, Error> {
    let wrong = |reason: String| Error::weights(file, reason);
    let weights = of_safetensors(file)?.map_err(wrong)?;
    place(model, weights, "").map_err(wrong)
}

/// The model with its encoder's weights from `from`: torchvision's, or kinfold's, whose projector and predictor
/// are taken along where they have the same shapes.
pub(super) fn begin(model: Model, name: EncoderName, from: &Path) -> Result<Model, Error> {
    let file = if from.is_dir() { from.join(WEIGHTS) } else { from.to_path_buf() };
    let wrong = |reason: String| {
        Error::weights(&file, format!("cannot begin a {name} with these weights: {reason}"))
    };
    let weights = match file.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => of_safetensors(&file)?,
        Some("pth" | "pt") => of_pytorch(&file)?,
        _ => Err("they must be in a .safetensors, .pth or .pt file, or in a run's folder".into()),
    };
    let weights = weights.map_err(wrong)?;
    let is_head = |name: &str| name.starts_with(PROJECTOR) || name.starts_with(PREDICTOR);
    let of_kinfold = |name: &String| name.starts_with(ENCODER) || is_head(name);
    let prefix = if weights.keys().all(of_kinfold) { "" } else { ENCODER };
    // A classifier on top is what an encoder is used without.
    let classifier = if name == EncoderName::Vit { "head." } else { "fc." };
    let named = weights
        .into_iter()
        .filter(|(name, _)| !name.starts_with(classifier))
        .map(|(name, weight)| (format!("{prefix}{name}"), weight));
    let (mut theirs, mut weights): (Weights, Weights) = named.partition(|(name, _)| is_head(name));
    let mut own = weights_of(&model);
    own.retain(|name, _| is_head(name));
    theirs.retain(|name, _| own.contains_key(name));
    let fits = |(name, weight): (&String, &Weight)| {
        theirs.get(name).is_some_and(|theirs| theirs.shape == weight.shape)
    };
    weights.extend(if own.iter().all(fits) { theirs } else { own });
    place(model, weights, prefix).map_err(wrong)
}

/// What a file holds, or what is wrong with it.
type Held = Result<Weights, String>;

fn of_safetensors(file: &Path) -> Result<Held, Error> {
    let bytes = std::fs::read(file).map_err(Error::read(file))?;
    let mut store = SafetensorsStore::from_bytes(Some(bytes));
    Ok(store.get_all_tensors().cloned().map_err(|e| e.to_string()))
}

fn of_pytorch(file: &Path) -> Result<Held, Error> {
    // So that a missing file reads like any other missing file.
    std::fs::File::open(file).map_err(Error::read(file))?;
    let mut store = PytorchStore::from_file(file);
    Ok(store.get_all_tensors().cloned().map_err(|e| e.to_string()))
}

/// The model with exactly these weights. Errors leave `prefix` out of names.
pub(super) fn place(mut model: Model, mut weights: Weights, prefix: &str) -> Result<Model, String> {
    weights.retain(|name, _| !name.ends_with(COUNT));
    let own = weights_of(&model);
    let shown = |name: &String| name.strip_prefix(prefix).unwrap_or(name).to_owned();
    for (name, own) in &own {
        let Some(given) = weights.get(name) else {
            return Err(format!("the weight {} is missing", shown(name)));
        };
        if given.shape != own.shape {
            return Err(format!("the weight {} is {}", shown(name), unlike(given, own)));
        }
        if !given.dtype.is_float() {
            return Err(format!("the weight {} holds no fractions", shown(name)));
        }
    }
    if let Some(name) = weights.keys().find(|name| !own.contains_key(*name)) {
        return Err(format!("there is no place for the weight {}", shown(name)));
    }
    let adapter = PyTorchToBurnAdapter.chain(FloatCastAdapter::to(DType::F32));
    // Weights are found by the names that they carry themselves.
    let renamed = |(name, mut weight): (String, Weight)| {
        weight.name = name;
        weight
    };
    let weights = weights.into_iter().map(renamed).collect();
    let result = model.apply(weights, None, Some(Box::new(adapter)), true);
    match (result.errors.first(), result.unused.first()) {
        (Some(error), _) => Err(error.to_string()),
        (_, Some(name)) => Err(format!("the weight {name} was not taken")),
        _ => Ok(model),
    }
}

/// Both shapes, and where it is plain, why they differ.
fn unlike(given: &Weight, own: &Weight) -> String {
    let shape = |weight: &Weight| weight.shape.iter().copied().collect::<Vec<usize>>();
    let (given, own) = (shape(given), shape(own));
    let why = match (&given[..], &own[..]) {
        (&[a, theirs, b, c], &[d, ours, e, f]) if [a, b, c] == [d, e, f] => {
            format!(": it is for images of {theirs} channels, and these have {ours}")
        }
        (&[_, _, 7, 7], &[_, _, 3, 3]) => ": it belongs to the imagenet stem".to_owned(),
        (&[_, _, 3, 3], &[_, _, 7, 7]) => ": it belongs to the small stem".to_owned(),
        _ => String::new(),
    };
    format!("{given:?} but must be {own:?}{why}")
}
