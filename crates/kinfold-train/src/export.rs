//! A model of texts, or an adapter of vectors, as a folder that others load.
//!
//! Input: a run. Output: of texts a folder for sentence-transformers, with a StaticEmbedding and a Normalize, or
//! one for model2vec (and model2vec-rs); of vectors the adapter's arrays, and the lines of NumPy that use them.
//! Vectors are those of [`embed`](crate::embed()), at unit length. The folder is written whole or not at all.

use crate::Error;
use crate::run::{SavedModel, write_whole};
use crate::settings::{AdapterForm, Towers};
use burn::tensor::{Device, TensorData};
use kinfold_data::{Kind, TOKENIZER, Tokenizer};
use kinfold_nn::encoders::Model;
use safetensors::tensor::{Dtype, TensorView};
use std::fs;
use std::io::Write;
use std::path::Path;

/// Whose folder a model is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportFormat {
    /// `SentenceTransformer(folder)`.
    SentenceTransformers,
    /// `StaticModel.from_pretrained(folder)`.
    Model2Vec,
    /// `from adapter import queries`.
    NumPy,
}

/// sentence-transformers' modules: the table, and what makes its means as long as 1.
const MODULES: &str = r#"[
  {"idx": 0, "name": "0", "path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"},
  {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"}
]
"#;
const SIMILARITY: &str = r#"{"prompts": {}, "default_prompt_name": null, "similarity_fn_name": "cosine"}
"#;
const MODEL2VEC: &str = r#"{"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": true}
"#;

/// Writes the model of a run as the new folder `out`; `to` is by default what suits the model.
///
/// # Errors
/// When the run cannot be read, or is none of texts or vectors, or of others than `to` is for, or `out` exists
/// or cannot be written.
pub fn export(run: &Path, to: Option<ExportFormat>, out: &Path) -> Result<(), Error> {
    if out.exists() {
        return Err(Error::Setting(format!(
            "{} exists, but a new folder is needed",
            out.display()
        )));
    }
    let saved = SavedModel::open(run)?;
    let model = saved.trained(run, &Device::flex())?;
    let kind = saved.settings(None).kind();
    let files = match (kind, to) {
        (Kind::Texts, None | Some(ExportFormat::SentenceTransformers)) => {
            sentence_transformers(&model, run)?
        }
        (Kind::Texts, Some(ExportFormat::Model2Vec)) => model2vec(&model, run)?,
        (Kind::Vectors, None | Some(ExportFormat::NumPy)) => numpy(&model, &saved)?,
        (Kind::Images, _) => {
            return Err(Error::Setting(format!(
                "{} is of images; models of texts or vectors are exported, and model.safetensors of this one \
                 is in PyTorch's names",
                run.display()
            )));
        }
        (Kind::Texts | Kind::Vectors, Some(to)) => {
            let (run, noun) = (run.display(), kind.noun());
            let others = if to == ExportFormat::NumPy { "vectors" } else { "texts" };
            return Err(Error::Setting(format!("{run} is of {noun}, but that is for {others}")));
        }
    };
    let name = out.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let partial = out.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let written = (|| {
        fs::create_dir_all(&partial).map_err(Error::file("create", out))?;
        for File { name, bytes } in &files {
            let path = partial.join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(Error::file("create", out))?;
            }
            // A folder without a file.
            if !name.ends_with('/') {
                write_whole(&path, |to| to.write_all(bytes).map_err(Error::file("write", out)))?;
            } else {
                fs::create_dir_all(&path).map_err(Error::file("create", out))?;
            }
        }
        fs::rename(&partial, out).map_err(Error::file("create", out))
    })();
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    written
}

/// A file of the folder, by its path in it.
struct File {
    name: String,
    bytes: Vec<u8>,
}

impl File {
    fn new(name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), bytes: bytes.into() }
    }
}

/// The table of a model of texts, and its tokenizer.
fn table(model: &Model, run: &Path) -> Result<(TensorData, Tokenizer), Error> {
    let none = || Error::Setting(format!("{} has no table of token vectors", run.display()));
    let table = model.token_table().ok_or_else(none)?;
    Ok((table, Tokenizer::from_file(&run.join(TOKENIZER))?))
}

fn sentence_transformers(model: &Model, run: &Path) -> Result<Vec<File>, Error> {
    let (table, tokenizer) = table(model, run)?;
    let table = without_unknown(table, tokenizer.unknown());
    Ok(vec![
        File::new("modules.json", MODULES),
        File::new("config_sentence_transformers.json", SIMILARITY),
        File::new(
            "0_StaticEmbedding/model.safetensors",
            weights(vec![("embedding.weight".to_owned(), table)])?,
        ),
        File::new("0_StaticEmbedding/tokenizer.json", tokenizer.to_json()?),
        File::new("1_Normalize/", []),
    ])
}

fn model2vec(model: &Model, run: &Path) -> Result<Vec<File>, Error> {
    let (table, tokenizer) = table(model, run)?;
    Ok(vec![
        File::new("config.json", MODEL2VEC),
        File::new("model.safetensors", weights(vec![("embeddings".to_owned(), table)])?),
        File::new("tokenizer.json", tokenizer.to_json()?),
    ])
}

/// Lines of NumPy that every adapter needs.
const NUMPY: &str = r#"import numpy as np
from pathlib import Path
array = lambda name: np.load(Path(__file__).with_name(f"{name}.npy"))
unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
"#;
/// What a hidden layer makes of vectors.
const HIDDEN: &str = r#"relu = lambda side, x: np.maximum(x @ array(f"{side}_hidden_weight").T + array(f"{side}_hidden_bias"), 0)
hidden = lambda side, x: relu(side, x) @ array(f"{side}_output_weight").T + array(f"{side}_output_bias")
"#;

/// An adapter's arrays, all in one file and each in its own, and a script that uses these.
fn numpy(model: &Model, saved: &SavedModel) -> Result<Vec<File>, Error> {
    let form = saved.encoder.form();
    let mut script = NUMPY.to_owned();
    if form != AdapterForm::Linear {
        script += HIDDEN;
    }
    for side in match saved.encoder.towers() {
        Towers::Queries => &["queries"][..],
        Towers::Each => &["queries", "documents"],
    } {
        let adapted = match form {
            AdapterForm::Linear => format!("unit(x) @ array(\"{side}_matrix\").T"),
            AdapterForm::Residual => format!("unit(x) + hidden(\"{side}\", unit(x))"),
            AdapterForm::Mlp => format!("hidden(\"{side}\", unit(x))"),
        };
        script += &format!("{side} = lambda x: unit({adapted})\n");
    }
    let arrays = model.adapter_arrays();
    let mut files = vec![File::new("adapter.py", script)];
    for (name, array) in &arrays {
        files.push(File::new(format!("{name}.npy"), npy(array)?));
    }
    files.push(File::new("adapter.safetensors", weights(arrays)?));
    Ok(files)
}

fn npy(array: &TensorData) -> Result<Vec<u8>, Error> {
    use ndarray_npy::WriteNpyExt;
    let unwritten =
        |e: &dyn std::fmt::Display| Error::Data(format!("an array cannot be written: {e}"));
    let numbers: Vec<f32> = array.iter::<f32>().collect();
    let mut bytes = Vec::new();
    ndarray::ArrayViewD::from_shape(array.shape().to_vec(), &numbers)
        .map_err(|e| unwritten(&e))?
        .write_npy(&mut bytes)
        .map_err(|e| unwritten(&e))?;
    Ok(bytes)
}

/// The table with zeros for the unknown token. sentence-transformers adds it to a text's sum where it is left
/// out here; of zeros, the sum and so its direction stay as they are.
fn without_unknown(table: TensorData, unknown: Option<u32>) -> TensorData {
    let (shape, mut numbers): (Vec<usize>, Vec<f32>) =
        (table.shape().to_vec(), table.iter::<f32>().collect());
    if let Some(row) = unknown {
        numbers[row as usize * shape[1]..][..shape[1]].fill(0.0);
    }
    TensorData::new(numbers, shape)
}

/// Arrays as a safetensors file.
fn weights(arrays: Vec<(String, TensorData)>) -> Result<Vec<u8>, Error> {
    let arrays: Vec<(String, Vec<usize>, Vec<u8>)> = arrays
        .into_iter()
        .map(|(name, array)| {
            let bytes = array.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            (name, array.shape().to_vec(), bytes)
        })
        .collect();
    let views = arrays.iter().map(|(name, shape, bytes)| {
        Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?))
    });
    views
        .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|e| Error::Data(format!("the weights cannot be written: {e}")))
}
