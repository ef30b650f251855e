//! A model of texts as a folder that other libraries load.
//!
//! Input: a run. Output: a folder for sentence-transformers, with a StaticEmbedding and a Normalize, or one
//! for model2vec (and model2vec-rs); in both, vectors are those of [`embed`](crate::embed()), at unit
//! length. The folder is written whole or not at all.

use crate::Error;
use crate::run::{SavedModel, write_whole};
use burn::tensor::{Device, TensorData};
use kinfold_data::{TOKENIZER, Tokenizer};
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

/// Writes the model of a run as the new folder `out`.
///
/// # Errors
/// When the run cannot be read, or has no table of token vectors, or `out` exists or cannot be written.
pub fn export(run: &Path, to: ExportFormat, out: &Path) -> Result<(), Error> {
    if out.exists() {
        return Err(Error::Setting(format!(
            "{} exists, but a new folder is needed",
            out.display()
        )));
    }
    let model = SavedModel::open(run)?.trained(run, &Device::flex())?;
    let table = model.token_table().ok_or_else(|| {
        let text = "is of images; a model of texts can be exported, and model.safetensors of this one is in \
                    PyTorch's names";
        Error::Setting(format!("{} {text}", run.display()))
    })?;
    let tokenizer = Tokenizer::from_file(&run.join(TOKENIZER))?;
    let name = out.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let partial = out.with_file_name(format!(".{name}.{}.partial", std::process::id()));
    let written = (|| {
        fs::create_dir_all(&partial).map_err(Error::file("create", out))?;
        let file = |name: &str, bytes: &[u8]| {
            let path = partial.join(name);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(Error::file("create", out))?;
            }
            write_whole(&path, |to| to.write_all(bytes).map_err(Error::file("write", out)))
        };
        let json = tokenizer.to_json()?;
        match to {
            ExportFormat::SentenceTransformers => {
                file("modules.json", MODULES.as_bytes())?;
                file("config_sentence_transformers.json", SIMILARITY.as_bytes())?;
                let table = without_unknown(table, tokenizer.unknown());
                file("0_StaticEmbedding/model.safetensors", &weights("embedding.weight", table)?)?;
                file("0_StaticEmbedding/tokenizer.json", json.as_bytes())?;
                fs::create_dir_all(partial.join("1_Normalize"))
                    .map_err(Error::file("create", out))?;
            }
            ExportFormat::Model2Vec => {
                file("config.json", MODEL2VEC.as_bytes())?;
                file("model.safetensors", &weights("embeddings", table)?)?;
                file("tokenizer.json", json.as_bytes())?;
            }
        }
        fs::rename(&partial, out).map_err(Error::file("create", out))
    })();
    if written.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    written
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

/// A table as a safetensors file.
fn weights(name: &str, table: TensorData) -> Result<Vec<u8>, Error> {
    let bytes: Vec<u8> = table.iter::<f32>().flat_map(f32::to_le_bytes).collect();
    let written = TensorView::new(Dtype::F32, table.shape().to_vec(), &bytes)
        .and_then(|view| safetensors::serialize([(name, view)], None));
    written.map_err(|e| Error::Data(format!("the table cannot be written: {e}")))
}
