//! Tables of token vectors in the folders and files that they come in.
//!
//! Input: a run of kinfold, a folder of sentence-transformers with a StaticEmbedding, one of model2vec, or a
//! .safetensors file that holds one table. Output: the table, `[tokens, d]`, and where its tokenizer is.

use crate::Error;
use burn::tensor::{DType, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::path::{Path, PathBuf};

/// Where sentence-transformers keeps the module of a static embedding.
const MODULE: &str = "0_StaticEmbedding";
const FILE: &str = "model.safetensors";
const TOKENIZER: &str = "tokenizer.json";
/// The table, and in model2vec's files what weighs each token and which row is whose.
const TABLES: [&str; 4] =
    ["encoder.embedding.weight", "embedding.weight", "embeddings", "embedding"];
const WEIGHTS: &str = "weights";
const MAPPING: &str = "mapping";

/// The folder that a table's files are in, and the file of the table.
fn place(from: &Path) -> (PathBuf, PathBuf) {
    if !from.is_dir() {
        let folder = from.parent().unwrap_or(Path::new("")).to_path_buf();
        return (folder, from.to_path_buf());
    }
    let module = from.join(MODULE);
    let folder = if module.is_dir() { module } else { from.to_path_buf() };
    let file = folder.join(FILE);
    (folder, file)
}

/// The tokenizer that lies beside a table; none where there is none.
pub fn tokenizer_beside(table: &Path) -> Option<PathBuf> {
    let (folder, _) = place(table);
    Some(folder.join(TOKENIZER)).filter(|path| path.is_file())
}

/// The shape of a table, `[tokens, d]`.
///
/// # Errors
/// [`Error::Read`] when its file cannot be read, [`Error::Weights`] when it holds no table.
pub fn table_shape(from: &Path) -> Result<[usize; 2], Error> {
    let (_, file) = place(from);
    let bytes = std::fs::read(&file).map_err(Error::read(&file))?;
    let held =
        SafeTensors::deserialize(&bytes).map_err(|e| Error::weights(&file, e.to_string()))?;
    let (_, table) = table(&held).map_err(|reason| Error::weights(&file, reason))?;
    let tokens = held.tensor(MAPPING).map_or(table.shape()[0], |mapping| mapping.shape()[0]);
    Ok([tokens, table.shape()[1]])
}

/// The table of a folder or file, `[tokens, d]`, as `f32`: of model2vec with its weights and its mapping
/// already in it.
pub(super) fn read(from: &Path) -> Result<TensorData, Error> {
    let (_, file) = place(from);
    let bytes = std::fs::read(&file).map_err(Error::read(&file))?;
    let wrong = |reason: String| Error::weights(&file, reason);
    let held = SafeTensors::deserialize(&bytes).map_err(|e| wrong(e.to_string()))?;
    let (name, table) = table(&held).map_err(wrong)?;
    let (rows, d) = (table.shape()[0], table.shape()[1]);
    let mut numbers = floats(&name, &table).map_err(wrong)?;
    let other = |name: &str| held.tensor(name).ok().map(|tensor| floats(name, &tensor)).transpose();
    let weights = other(WEIGHTS).map_err(wrong)?;
    if let Some(mapping) = other(MAPPING).map_err(wrong)? {
        let row = |row: &f32| (*row as usize).min(rows.saturating_sub(1));
        numbers = mapping.iter().flat_map(|at| numbers[row(at) * d..][..d].to_vec()).collect();
    }
    if let Some(weights) = weights {
        if weights.len() * d != numbers.len() {
            let (tokens, given) = (numbers.len() / d, weights.len());
            return Err(wrong(format!("it has {given} weights for {tokens} tokens")));
        }
        for (row, weight) in numbers.chunks_mut(d).zip(weights) {
            row.iter_mut().for_each(|x| *x *= weight);
        }
    }
    if let Some(at) = numbers.iter().position(|x| !x.is_finite()) {
        return Err(wrong(format!("row {} of {name} holds {}", at / d, numbers[at])));
    }
    let tokens = numbers.len() / d;
    Ok(TensorData::new(numbers, [tokens, d]))
}

/// The one table of a file.
fn table<'a>(held: &'a SafeTensors<'a>) -> Result<(String, TensorView<'a>), String> {
    let named = TABLES.iter().find_map(|name| Some(((*name).to_owned(), held.tensor(name).ok()?)));
    let mut all: Vec<(String, TensorView<'a>)> =
        held.tensors().into_iter().filter(|(_, tensor)| tensor.shape().len() == 2).collect();
    let found = match named {
        Some(table) => table,
        None if all.len() == 1 => all.remove(0),
        None => {
            return Err(format!(
                "it holds {} tables, but one of token vectors is needed, [tokens, d]",
                all.len()
            ));
        }
    };
    match found.1.shape() {
        [_, _] if !found.1.data().is_empty() => Ok(found),
        shape => Err(format!("{} is {shape:?}, but [tokens, d] is needed", found.0)),
    }
}

fn floats(name: &str, tensor: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let dtype = match tensor.dtype() {
        Dtype::F32 => DType::F32,
        Dtype::F64 => DType::F64,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        other => return Err(format!("{name} holds numbers of {other:?}, but floats are needed")),
    };
    let bytes = burn::tensor::Bytes::from_bytes_vec(tensor.data().to_vec());
    Ok(TensorData::from_bytes(bytes, tensor.shape().to_vec(), dtype).iter::<f32>().collect())
}
