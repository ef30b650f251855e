//! `model.toml` and `model.safetensors`: together they are the model.

use crate::run::{CONFIG, Checkpoint, RunFolder, checkpoint, not_finite};
use crate::settings::{
    EncoderName, EncoderSettings, EvaluationSettings, Settings, is_default, recipe,
};
use crate::{Error, memory};
use burn::tensor::Device;
use kinfold_data::{
    AveragedViews, ImageSettings, Recipe, TOKENIZER, TextSettings, Tokenizer, VectorSettings,
};
use kinfold_nn::encoders::{ImageShape, InputShape, Model, WEIGHTS};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = "model.toml";

/// What it takes, beside the weights, to build a model again and to judge it as before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedModel {
    /// The version of kinfold that wrote it.
    version: String,
    /// What it was trained on.
    pub data: String,
    /// The share of it that was held out.
    #[serde(default = "held_out_by_default")]
    pub hold_out: f64,
    /// The random encoder that it began as follows from it.
    pub seed: u64,
    /// How its images are read.
    pub image: ImageSettings,
    /// How its texts are read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub text: TextSettings,
    /// How its vectors are read.
    #[serde(default, skip_serializing_if = "is_default")]
    pub vector: VectorSettings,
    /// How views of its images were made.
    #[serde(default = "affine", deserialize_with = "recipe")]
    view: Recipe,
    /// How its embeddings are made.
    #[serde(default, skip_serializing_if = "is_default")]
    evaluation: EvaluationSettings,
    /// What it is made of.
    pub encoder: EncoderSettings,
    /// Where the weights are while the run has not ended.
    #[serde(skip)]
    checkpoint: Option<(usize, PathBuf)>,
    /// The run's folder.
    #[serde(skip)]
    folder: PathBuf,
}

fn held_out_by_default() -> f64 {
    Settings::default().hold_out
}

fn affine() -> Recipe {
    Settings::default().view
}

impl SavedModel {
    pub(crate) fn new(settings: &Settings) -> Self {
        let Settings {
            version,
            data,
            hold_out,
            seed,
            image,
            mut text,
            vector,
            view,
            evaluation,
            mut encoder,
            ..
        } = settings.clone();
        // What it began with is in its weights.
        encoder.init = None;
        // The folder holds its tokenizer.
        text.tokenizer = None;
        let folder = PathBuf::new();
        let checkpoint = None;
        Self {
            version,
            data,
            hold_out,
            seed,
            image,
            text,
            vector,
            view,
            evaluation,
            encoder,
            checkpoint,
            folder,
        }
    }

    /// Writes the model into its run folder, the weights last.
    pub(crate) fn save(&self, model: &Model, folder: &RunFolder) -> Result<(), Error> {
        let text = toml::to_string(self)
            .map_err(|e| Error::Setting(format!("the model cannot be described: {e}")))?;
        folder.write(ARCHITECTURE, text.as_bytes())?;
        folder.write(WEIGHTS, &model.to_bytes()?).map(drop)
    }

    /// Reads what `run` holds of its model: of a run that has not ended, its last checkpoint.
    ///
    /// # Errors
    /// When the folder is no run, or has no model and no checkpoint yet.
    pub fn open(run: &Path) -> Result<Self, Error> {
        let not = |reason: String| Error::NotARun { path: run.to_path_buf(), reason };
        if !run.join(ARCHITECTURE).exists() && run.join(CONFIG).is_file() {
            let checkpoint = checkpoint::list(run).pop().ok_or_else(|| {
                not("it has not ended, and has no checkpoint yet; [checkpoint] in its config.toml says when \
                     one is written"
                    .to_owned())
            })?;
            let settings = Settings::from_file(&run.join(CONFIG))?;
            let (checkpoint, folder) = (Some(checkpoint), run.to_path_buf());
            return Ok(Self { checkpoint, folder, ..Self::new(&settings) });
        }
        let text = std::fs::read_to_string(run.join(ARCHITECTURE))
            .map_err(|e| not(format!("{ARCHITECTURE}: {e}")))?;
        let saved: Self = toml::from_str(&text).map_err(|e| not(format!("{ARCHITECTURE}: {e}")))?;
        let saved = Self { folder: run.to_path_buf(), ..saved };
        let (size, _) = saved.settings(None).image_shape();
        saved.encoder.check(size).map_err(|e| not(format!("{ARCHITECTURE}: {e}")))?;
        Ok(saved)
    }

    /// Settings under which images are read as this model takes them.
    pub fn settings(&self, data: Option<&str>) -> Settings {
        let mut settings = Settings {
            data: data.unwrap_or(&self.data).to_owned(),
            image: self.image,
            text: self.text.clone(),
            // Other data is in other files.
            vector: data.map_or_else(|| self.vector.clone(), |_| VectorSettings::default()),
            encoder: self.encoder.clone(),
            ..Settings::default()
        };
        settings.use_tokenizer_of(&self.folder);
        settings
    }

    /// What it sees of each thing: as many views as its run says, or `average`.
    ///
    /// # Errors
    /// When there cannot be so many.
    pub fn averaged_views(&self, average: Option<usize>) -> Result<AveragedViews, Error> {
        let average = average.unwrap_or(self.evaluation.average);
        let Self { view, seed, .. } = *self;
        let evaluation = EvaluationSettings { average };
        Settings { view, seed, evaluation, ..self.settings(None) }.averaged_views()
    }

    /// What all things that it takes have in common.
    fn shape(&self) -> Result<InputShape, Error> {
        if self.encoder.name == EncoderName::Static {
            let tokens = Tokenizer::from_file(&self.folder.join(TOKENIZER))?.rows();
            return Ok(InputShape::Texts { tokens });
        }
        if self.encoder.name == EncoderName::Adapter {
            return Ok(InputShape::Vectors { dim: self.encoder.embedding() });
        }
        let (size, channels) = self.settings(None).image_shape();
        Ok(InputShape::Images(ImageShape { size, channels }))
    }

    /// The encoder that it began as.
    ///
    /// # Errors
    /// When there can be no such encoder.
    pub fn random(&self, device: &Device) -> Result<Model, Error> {
        let shape = self.shape()?;
        memory::check_model(&self.encoder, shape)?;
        Ok(Model::random(&self.encoder, shape, self.seed, device)?)
    }

    /// The step of the checkpoint that this is, where the run has not ended.
    pub fn unfinished(&self) -> Option<usize> {
        self.checkpoint.as_ref().map(|(step, _)| *step)
    }

    /// The encoder as trained.
    ///
    /// # Errors
    /// When the weights cannot be read, are another model's, or are not finite.
    pub fn trained(&self, run: &Path, device: &Device) -> Result<Model, Error> {
        let shape = self.shape()?;
        memory::check_model(&self.encoder, shape)?;
        let blank = Model::blank(&self.encoder, shape, device)?;
        let (path, model) = match &self.checkpoint {
            Some((_, path)) => (path.clone(), of_checkpoint(path, blank)?),
            None => {
                let path = run.join(WEIGHTS);
                let model = blank.with_weights(&path).map_err(|error| match error {
                    kinfold_nn::Error::Weights { path, reason } => Error::NotARun { path, reason },
                    error => error.into(),
                })?;
                (path, model)
            }
        };
        match not_finite(&model) {
            Some(name) => {
                let reason =
                    format!("{name} holds numbers that are not finite, so it embeds nothing");
                Err(Error::NotARun { path, reason })
            }
            None => Ok(model),
        }
    }
}

fn of_checkpoint(path: &Path, model: Model) -> Result<Model, Error> {
    let not = |reason: String| Error::NotARun { path: path.to_path_buf(), reason };
    let bytes = std::fs::read(path).map_err(Error::file("read", path))?;
    let mut checkpoint = Checkpoint::from_bytes(bytes).map_err(not)?;
    checkpoint.state.take_module("model", model).map_err(|e| not(e.to_string()))
}
