//! Every setting of a run, as it stands in `config.toml`.
//!
//! Input: a file, and what the command line says. Output: settings that can be used, or an
//! error that names the one that cannot. Whatever is not given has the default written here.

pub use kinfold_nn::encoders::{
    AdapterForm, EncoderName, EncoderSettings, ProjectorForm, Stem, Towers,
};

use crate::processes::Processes;
use crate::{Error, memory};
use kinfold_data::{
    AveragedViews, DIGITS, Data, DataReading, ImageSettings, Kind, PairSettings, PairSource, Pairs,
    Recipe, TOKENIZER, TextSettings, VectorSettings, ViewSettings,
};
use kinfold_nn::encoders::{ImageShape, InputShape, table_shape, tokenizer_beside};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::Path;

/// The file of a run's folder that holds every effective setting.
pub const CONFIG: &str = "config.toml";

/// Every setting of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The version of kinfold that wrote this.
    pub version: String,
    /// `digits` for the embedded ones, or where the data is: a folder or a .zip of images, MNIST's or
    /// CIFAR's files, a .npy array, or a list of pairs of images (.csv, .jsonl); texts (.jsonl, .csv,
    /// .parquet); or vectors (.npy, .parquet, .csv), or pairs of their names.
    pub data: String,
    /// The share of the data that is held out to judge by, from 0 to below 1, but for a list of pairs of
    /// images; where the data itself holds some out, it is those.
    pub hold_out: f64,
    /// How the two views of a pair learn from each other.
    #[serde(skip_serializing_if = "is_default")]
    pub method: Method,
    /// Everything random follows from it.
    pub seed: u64,
    /// Passes over the data.
    pub epochs: usize,
    /// Pairs in a batch; by default what an epoch gives when it is cut into equal batches of at most 512, so
    /// that next to none are left over (479 for the digits, which are three batches), or as many as a
    /// batch can hold, and smaller where memory asks for it.
    pub batch: Option<usize>,
    /// The most pairs that are encoded at a time; by default the whole batch. In chunks, a batch of
    /// any size needs the memory of one, and a step takes about a third longer. The gradient is the
    /// whole batch's, but for batch norm, which sees one chunk at a time.
    pub chunk: Option<usize>,
    /// What a pair is.
    pub pairs: PairSettings,
    /// How images are read.
    pub image: ImageSettings,
    /// How texts are read.
    #[serde(skip_serializing_if = "is_default")]
    pub text: TextSettings,
    /// How vectors are read.
    #[serde(skip_serializing_if = "is_default")]
    pub vector: VectorSettings,
    /// How a view is made of an image; without a `recipe` it is the affine one.
    #[serde(deserialize_with = "recipe")]
    pub view: Recipe,
    /// What turns a view into an embedding.
    pub encoder: EncoderSettings,
    /// What pulls together and pushes apart.
    pub loss: LossSettings,
    /// How weights are moved.
    pub optimizer: OptimizerSettings,
    /// How several processes work together.
    #[serde(skip_serializing_if = "is_default")]
    pub processes: ProcessesSettings,
    /// When a run is ended before its last epoch, and which epoch's weights are kept.
    #[serde(skip_serializing_if = "is_default")]
    pub early_stopping: EarlyStoppingSettings,
    /// How embeddings are made of things once the encoder is trained.
    #[serde(skip_serializing_if = "is_default")]
    pub evaluation: EvaluationSettings,
    /// When a run is saved, to be resumed.
    pub checkpoint: CheckpointSettings,
}

/// How the two views of a pair learn from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// Each view finds the other among all (Chen et al. 2020), by any loss.
    #[default]
    Simclr,
    /// What a predictor makes of each view finds the other among all that a momentum encoder makes of the other
    /// views (Chen, Xie and He 2021).
    MocoV3,
    /// A predictor makes of each view what a momentum encoder makes of the other; there are no negatives (Grill
    /// et al. 2020).
    Byol,
    /// The same without a momentum encoder: the other view's projection is taken as it is (Chen and He 2021).
    Simsiam,
}

/// The loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossSettings {
    /// One of [`loss_names`](crate::loss_names); by default `nt-xent`, and for the method `moco-v3` `one-way`.
    #[serde(alias = "form")]
    pub name: Option<String>,
    /// The temperature τ, above 0; by default the loss's own: that of the preset, 0.5 for `one-way`,
    /// `both-ways` and `nt-xent`, and 0.1 for `sup-con` and `sup-con-inside`.
    pub temperature: Option<f64>,
    /// Learn the temperature, from the one above, and keep it between 0.01 and 1; for `siglip`,
    /// without bounds, the bias, too. By default only `open-clip` and `siglip` do.
    pub learned_temperature: Option<bool>,
    /// A margin that the positive must win by.
    pub margin: f64,
    /// The part of the target that is spread over all candidates, from 0 to 1.
    pub label_smoothing: f64,
    /// The loss is the sum of those over so many first numbers of an embedding, so that it can be cut to
    /// any of these (Matryoshka, Kusupati et al. 2022); none for the loss over all of it. As the user has
    /// the encoder's output, there is no projector then unless one is asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub matryoshka: Vec<usize>,
    /// Leave images of the same label out as negatives.
    pub mask_labels: bool,
    /// For `moco`, the most earlier keys to keep as negatives. In the first step there are none, and
    /// the other keys of the batch are negatives instead.
    pub queue: usize,
    /// How slowly the encoder that keys come from follows the trained one: the part of its weights that it
    /// keeps at each step. By default 0.999 for the loss `moco`; for the methods `moco-v3` and `byol` it begins
    /// with this, by default 0.99, and rises to 1 by a cosine.
    pub momentum: Option<f64>,
}

/// How weights are moved, with a linear warm-up and then a cosine down to 0.
///
/// A temperature or bias that the loss learns is moved by AdamW, whatever the optimizer, without
/// weight decay or clipping.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerSettings {
    /// By default AdamW.
    pub name: OptimizerName,
    /// The highest learning rate; by default 0.002 for AdamW (of texts 0.1 · (B / 2048)^⅔ for a batch of B
    /// pairs), 0.06 · B / 256 for SGD and 0.3 · B / 256 for LARS.
    pub learning_rate: Option<f64>,
    /// Weight decay; AdamW's is decoupled. LARS excludes biases and the weights of norms, which are
    /// those of one dimension.
    pub weight_decay: f32,
    /// For SGD and LARS, the part of the velocity that stays at each step.
    pub momentum: f32,
    /// Steps of warm-up.
    pub warmup: usize,
    /// The most that the norm of all gradients together may be; longer ones are scaled down to it.
    pub clip: Option<f64>,
}

/// The optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// AdamW (Loshchilov and Hutter 2019), as PyTorch has it.
    #[default]
    AdamW,
    /// Gradient descent with momentum, as PyTorch has it.
    Sgd,
    /// LARS (You et al. 2017), as SimCLR's code has it.
    Lars,
}

impl OptimizerName {
    /// As settings name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AdamW => "adamw",
            Self::Sgd => "sgd",
            Self::Lars => "lars",
        }
    }
}

impl OptimizerSettings {
    /// AdamW's learning rate, unless another is asked for.
    pub(crate) const ADAMW_RATE: f64 = 2e-3;

    /// The highest learning rate, for batches of so many pairs.
    pub fn highest_rate(&self, batch: usize) -> f64 {
        let own = || match self.name {
            OptimizerName::AdamW => Self::ADAMW_RATE,
            OptimizerName::Sgd => 0.06 * batch as f64 / 256.0,
            OptimizerName::Lars => 0.3 * batch as f64 / 256.0,
        };
        self.learning_rate.unwrap_or_else(own)
    }
}

/// After each epoch a part of what is trained on, which is set aside for that, is judged by nDCG@10: the weights
/// of the best epoch are kept, or what was there before training where no epoch is better.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStoppingSettings {
    /// The share of what is trained on that is set aside, at most 300 queries; 0 for none, and the last epoch's
    /// weights. By default 0.05 of vectors, which alone are judged so.
    pub share: f64,
    /// After so many epochs without a better one training ends.
    pub patience: usize,
}

impl Default for EarlyStoppingSettings {
    fn default() -> Self {
        Self { share: 0.0, patience: 3 }
    }
}

/// How embeddings are made of things once the encoder is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EvaluationSettings {
    /// An embedding is the mean of those of so many views, each at unit length, itself at unit length: of
    /// drawings in as many poses, of photographs, where it is 2, of the picture and its mirror image. It takes
    /// so many times as long. 1, the default, is the image itself.
    pub average: usize,
}

impl Default for EvaluationSettings {
    fn default() -> Self {
        Self { average: 1 }
    }
}

/// When a checkpoint is written; one is written whenever a run is stopped by Ctrl-C, too. Nothing that
/// a run learns depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointSettings {
    /// After so many steps; 0 for not by steps.
    pub every_steps: usize,
    /// After so many minutes; 0 for not by time.
    pub every_minutes: f64,
}

/// How several processes work together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProcessesSettings {
    /// Whose statistics batch norm takes in training.
    pub batch_norm: Statistics,
}

/// Whose statistics batch norm takes in training, where several processes share a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Statistics {
    /// Those of all processes' views, as one process would that has them all.
    #[default]
    Sync,
    /// Those of the process's own views: less to send, and other numbers for every number of processes. The
    /// running statistics are those of the first process.
    Own,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data: DIGITS.to_owned(),
            hold_out: 0.2,
            method: Method::default(),
            seed: 0,
            epochs: 30,
            batch: None,
            chunk: None,
            pairs: PairSettings::default(),
            image: ImageSettings::default(),
            text: TextSettings::default(),
            vector: VectorSettings::default(),
            view: Recipe::Affine(ViewSettings::default()),
            encoder: EncoderSettings::default(),
            loss: LossSettings::default(),
            optimizer: OptimizerSettings::default(),
            processes: ProcessesSettings::default(),
            early_stopping: EarlyStoppingSettings::default(),
            evaluation: EvaluationSettings::default(),
            checkpoint: CheckpointSettings::default(),
        }
    }
}

impl Default for LossSettings {
    fn default() -> Self {
        Self {
            name: None,
            temperature: None,
            learned_temperature: None,
            margin: 0.0,
            label_smoothing: 0.0,
            matryoshka: Vec::new(),
            mask_labels: false,
            queue: 65536,
            momentum: None,
        }
    }
}

impl Default for OptimizerSettings {
    fn default() -> Self {
        Self {
            name: OptimizerName::default(),
            learning_rate: None,
            weight_decay: 1e-4,
            momentum: 0.9,
            warmup: 10,
            clip: None,
        }
    }
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every_steps: 0, every_minutes: 5.0 }
    }
}

impl Settings {
    /// Settings from a TOML file; what it does not mention has the default of its data's kind.
    ///
    /// # Errors
    /// When the file cannot be read, is no TOML, or has a key that does not exist.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        Self::from_file_for(path, None)
    }

    /// The same for data of a kind that is known otherwise.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn from_file_for(path: &Path, kind: Option<Kind>) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::file("read", path))?;
        let wrong = |e: toml::de::Error| Error::SettingsFile {
            path: path.to_path_buf(),
            reason: e.to_string().trim_end().to_owned(),
        };
        let settings: Self = toml::from_str(&text).map_err(wrong)?;
        let given: toml::Table = toml::from_str(&text).map_err(wrong)?;
        let names_encoder =
            given.get("encoder").is_some_and(|encoder| encoder.get("name").is_some());
        let kind = match kind {
            _ if names_encoder => settings.kind(),
            Some(kind) => kind,
            None => settings.found_kind(),
        };
        if kind == Kind::Images {
            return Ok(settings);
        }
        let unwritten = |e: toml::ser::Error| Error::Setting(e.to_string());
        let mut all = toml::Table::try_from(Self::of_kind(kind)).map_err(unwritten)?;
        overlay(&mut all, given);
        all.try_into().map_err(wrong)
    }

    /// What the data is, by its name and what goes with it.
    fn found_kind(&self) -> Kind {
        match self.vector.are_given() {
            true => Kind::Vectors,
            false => Kind::of(&self.data, self.text.columns.as_ref()),
        }
    }

    /// What can be said of settings before the data is seen.
    ///
    /// # Errors
    /// [`Error::Setting`], naming the setting, what it is and what it must be.
    pub fn check(&self) -> Result<(), Error> {
        let needs = |right: bool, text: String| match right {
            true => Ok(()),
            false => Err(Error::Setting(text)),
        };
        self.named()?;
        needs(
            !self.method.predicts() || self.kind() == Kind::Images,
            format!(
                "the method {} learns from views, and {} have none",
                self.method.as_str(),
                self.kind().noun()
            ),
        )?;
        needs(
            self.method.predicts() || self.encoder.predictor.is_none(),
            "predictor is given, but the method simclr has none".into(),
        )?;
        needs(self.epochs > 0, "epochs is 0, but at least 1 is needed".into())?;
        needs(
            self.batch.is_none_or(|batch| batch >= 2),
            format!(
                "batch is {} pairs, but at least 2 are needed: a pair alone has nothing to be \
                 pushed apart from",
                self.batch.unwrap_or(0)
            ),
        )?;
        needs(
            (0.0..1.0).contains(&self.hold_out),
            format!("hold_out is {}, but it must be from 0 to below 1", self.hold_out),
        )?;
        needs(
            self.chunk.is_none_or(|chunk| chunk >= 2),
            format!("chunk is {} pairs, but at least 2 are needed", self.chunk.unwrap_or(0)),
        )?;
        let OptimizerSettings { learning_rate, momentum, clip, .. } = self.optimizer;
        for (name, value) in [("learning_rate", learning_rate), ("clip", clip)] {
            needs(
                value.is_none_or(|value| value > 0.0 && value.is_finite()),
                format!(
                    "{name} is {}, but it must be a finite number above 0",
                    value.unwrap_or_default()
                ),
            )?;
        }
        needs(
            (0.0..1.0).contains(&momentum),
            format!("momentum is {momentum}, but it must be at least 0 and below 1"),
        )?;
        let decay = self.optimizer.weight_decay;
        needs(
            decay >= 0.0 && decay.is_finite(),
            format!("weight_decay is {decay}, but it must be a finite number of at least 0"),
        )?;
        self.image.check()?;
        self.text.check()?;
        self.vector.check()?;
        let EarlyStoppingSettings { share, patience } = self.early_stopping;
        needs(
            (0.0..1.0).contains(&share),
            format!("the share of early_stopping is {share}, but it must be from 0 to below 1"),
        )?;
        needs(patience > 0, "patience is 0 epochs, but at least 1 is needed".into())?;
        needs(
            share == 0.0 || self.kind() == Kind::Vectors,
            "early_stopping sets a share aside, but only adapters of vectors are stopped early"
                .into(),
        )?;
        self.encoder.check(self.image_shape().0)?;
        if let Some(&longest) = self.loss.matryoshka.iter().max() {
            let dim = self.with_heads().seen_by_loss();
            let text = format!(
                "matryoshka has {longest}, but the loss is of {dim} numbers: what the encoder gives, or the \
                 projector behind it"
            );
            needs(longest <= dim, text)?;
        }
        let minutes = self.checkpoint.every_minutes;
        needs(
            minutes >= 0.0 && minutes.is_finite(),
            format!("every_minutes is {minutes}, but it must be a finite number of at least 0"),
        )?;
        self.view.check().map_err(Error::Setting)?;
        self.averaged_views().map(drop)
    }

    /// What the encoder sees of each thing once it is trained.
    ///
    /// # Errors
    /// When there cannot be so many views.
    pub fn averaged_views(&self) -> Result<AveragedViews, Error> {
        let Self { view: recipe, seed, evaluation: EvaluationSettings { average: count }, .. } =
            *self;
        let views = AveragedViews { recipe, count, seed };
        views.check().map_err(Error::Setting)?;
        if count > 1 && self.kind() != Kind::Images {
            let noun = self.kind().noun();
            let text = format!("average is {count} views, but {noun} have one each");
            return Err(Error::Setting(text));
        }
        Ok(views)
    }

    /// The settings as `config.toml` has them.
    pub(crate) fn to_toml(&self) -> Result<String, Error> {
        toml::to_string(self)
            .map_err(|e| Error::Setting(format!("settings cannot be written: {e}")))
    }

    /// The settings that a run depends on and that are not what they were before, by name; none
    /// where there are none.
    pub(crate) fn differ(&self, before: &Self) -> Option<String> {
        let table = |settings: &Self| {
            let mut settings = settings.clone();
            (settings.checkpoint, settings.image.memory) = (CheckpointSettings::default(), None);
            toml::Value::try_from(settings).ok()
        };
        let (now, before) = (table(self), table(before));
        let mut differ = Vec::new();
        differences("", now.as_ref(), before.as_ref(), &mut differ);
        (!differ.is_empty()).then(|| differ.join(", "))
    }

    /// The defaults for data of a kind; those of images are [`Settings::default`].
    pub fn of_kind(kind: Kind) -> Self {
        let settings = Self::default();
        // Of queries and documents, texts or vectors.
        let of_pairs = |settings: Self| Self {
            loss: LossSettings {
                name: Some("one-way".to_owned()),
                temperature: Some(0.05),
                ..settings.loss
            },
            optimizer: OptimizerSettings { weight_decay: 0.0, ..settings.optimizer },
            ..settings
        };
        match kind {
            Kind::Images => settings,
            Kind::Texts => Self {
                hold_out: 0.05,
                epochs: 3,
                encoder: EncoderSettings::named(EncoderName::Static),
                ..of_pairs(settings)
            },
            Kind::Vectors => Self {
                hold_out: 0.1,
                epochs: 5,
                encoder: EncoderSettings::named(EncoderName::Adapter),
                pairs: PairSettings { allow_same_class: true, ..settings.pairs },
                early_stopping: EarlyStoppingSettings { share: 0.05, ..settings.early_stopping },
                ..of_pairs(settings)
            },
        }
    }

    /// The settings of a run, whose texts are read as its model takes them.
    ///
    /// # Errors
    /// As [`from_file`](Self::from_file).
    pub fn of_run(run: &Path) -> Result<Self, Error> {
        let mut settings = Self::from_file(&run.join(CONFIG))?;
        settings.use_tokenizer_of(run);
        Ok(settings)
    }

    /// Reads texts with the tokenizer that a run's folder holds, where it holds one.
    pub(crate) fn use_tokenizer_of(&mut self, run: &Path) {
        let own = run.join(TOKENIZER);
        if own.is_file() {
            self.text.tokenizer = Some(own);
        }
    }

    /// The settings with what the weights to begin with decide: how many numbers an embedding has that comes
    /// from a table of token vectors.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub(crate) fn begun(mut self) -> Result<Self, Error> {
        if let (Kind::Texts, Some(init), None) =
            (self.kind(), &self.encoder.init, self.encoder.embedding)
        {
            let [_, dim] = table_shape(init)?;
            self.encoder.embedding = Some(dim);
        }
        Ok(self)
    }

    /// What a pair is, of some data: texts that are no pairs belong together by their labels, since a text
    /// has no views.
    ///
    /// # Errors
    /// When pairs of texts or vectors are to be views, or nothing says which vectors belong together.
    pub(crate) fn pairs_of(&self, data: &Data) -> Result<Option<PairSource>, Error> {
        match (data, self.pairs.of) {
            (Data::Texts(texts), None) if !texts.items.is_list() => Ok(Some(PairSource::Folder)),
            (Data::Texts(_) | Data::Vectors(_), Some(PairSource::Views)) => {
                Err(Error::Setting(format!(
                    "{} have no views: a pair is a row of a list, or two of one label",
                    data.kind().noun()
                )))
            }
            (Data::Vectors(vectors), of) if !vectors.items.is_list() => {
                if vectors.items.classes().0.len() < 2 {
                    return Err(Error::Setting(format!(
                        "nothing says which vectors of {} belong together: give a second file, whose row i \
                         belongs to row i; or pairs of names, and the vectors as --vectors; or labels, a \
                         column `label` or labels.npy beside it",
                        self.data
                    )));
                }
                Ok(of.or(Some(PairSource::Folder)))
            }
            (_, of) => Ok(of),
        }
    }

    /// The highest learning rate where none is asked for. A row of a table is moved by the few texts that have
    /// its token, and bears large steps: for AdamW 0.1 at batches of 2048 pairs, and 0.04 at 512, where more
    /// costs what was not trained on.
    pub fn usual_rate(&self, batch: usize) -> f64 {
        match (self.kind(), self.optimizer.name) {
            (Kind::Texts, OptimizerName::AdamW) => 0.1 * (batch as f64 / 2048.0).powf(2.0 / 3.0),
            (Kind::Vectors, OptimizerName::AdamW) => 0.0035,
            _ => OptimizerSettings { learning_rate: None, ..self.optimizer }.highest_rate(batch),
        }
    }

    /// What the encoder takes.
    pub fn kind(&self) -> Kind {
        match self.encoder.name {
            EncoderName::Static => Kind::Texts,
            EncoderName::Adapter => Kind::Vectors,
            _ => Kind::Images,
        }
    }

    /// Whether the data is the embedded digits.
    pub fn is_digits(&self) -> bool {
        self.data == DIGITS
    }

    /// Width, height and channels of the images that the encoder sees.
    pub fn image_shape(&self) -> (usize, usize) {
        self.image.shape(&self.data)
    }

    /// The data that these settings name, in the shape they ask for.
    ///
    /// # Errors
    /// When the data cannot be read, is not what its name says, is nothing that the encoder takes, or holds
    /// nothing that can be read.
    pub fn read(&self) -> Result<Data, Error> {
        let (takes, found) = (self.kind(), self.found_kind());
        // What is wrong with a file, its reader says better.
        let may_be = takes != Kind::Images && !self.is_digits() && !Path::new(&self.data).is_dir();
        if takes != found && !may_be {
            return Err(Error::Setting(format!(
                "the encoder {} takes {}, but {} holds {}",
                self.encoder.name,
                takes.noun(),
                self.data,
                found.noun()
            )));
        }
        let beside = self.encoder.init.as_deref().filter(|_| takes == Kind::Texts);
        let reading = DataReading {
            image: self.image.reading(&self.data, self.view.wants_originals()),
            text: self.text.reading(beside.and_then(tokenizer_beside)),
            vector: self.vector.reading(self.text.columns.as_ref()),
        };
        Ok(Data::read(&self.data, takes, &reading)?)
    }

    /// What all of some data has in common, as an encoder sees it.
    pub fn shape(&self, data: &Data) -> InputShape {
        match data {
            Data::Images(images) => {
                InputShape::Images(ImageShape { size: images.size, channels: images.channels })
            }
            Data::Texts(texts) => InputShape::Texts { tokens: texts.tokenizer.rows() },
            Data::Vectors(vectors) => InputShape::Vectors { dim: vectors.dim },
        }
    }

    /// Bytes that each of so many processes takes at most, beside its data: an estimate, within a tenth or so.
    pub fn memory_bytes(&self, shape: InputShape, processes: usize) -> u64 {
        self.memory_bytes_of(shape, self.batch.unwrap_or(2).div_ceil(processes.max(1)))
    }

    fn memory_bytes_of(&self, shape: InputShape, batch: usize) -> u64 {
        let views = 2 * self.chunk.map_or(batch, |chunk| chunk.min(batch));
        memory::needed_bytes(&self.encoder, shape, views)
    }

    /// # Errors
    /// When training takes more memory than there is for so many processes.
    pub(crate) fn check_memory(
        &self,
        shape: InputShape,
        processes: &Processes,
    ) -> Result<(), Error> {
        let batch = self.batch.unwrap_or(2);
        let what = format!("training the {} with batches of {batch} pairs", self.encoder.name);
        let help =
            "a smaller --batch takes less, or --chunk, which encodes so many pairs at a time";
        let needed = self.memory_bytes(shape, processes.count());
        memory::check(&what, needed * processes.on_this_machine() as u64, help)
    }

    /// Equal batches of at most 512 pairs (of texts 2048, of vectors 1024), or half of it and so on, where the memory that is free has no room for
    /// these twice.
    fn default_batch(&self, shape: InputShape, pairs: &Pairs) -> usize {
        let free = memory::available_bytes().unwrap_or(u64::MAX) / 2;
        let n = pairs.len();
        let of = |most: usize| (n / n.div_ceil(most).max(1)).min(pairs.largest_batch());
        let fits = |batch: &usize| self.memory_bytes_of(shape, *batch) <= free;
        let most = match self.kind() {
            Kind::Images => 512,
            Kind::Texts => 2048,
            Kind::Vectors => 1024,
        };
        let halves = std::iter::successors(Some(most), |most| Some(most / 2));
        halves.take_while(|&most| most >= 32).map(of).find(fits).unwrap_or(of(16))
    }

    /// The encoder, with what training puts behind it; where embeddings are to be cut, without a projector unless
    /// one is asked for.
    pub(crate) fn with_heads(&self) -> EncoderSettings {
        let mut encoder = self.encoder.clone();
        if self.method.predicts() {
            encoder.projector.get_or_insert(ProjectorForm::Mlp);
            encoder.predictor = encoder.predictor.or(self.method.predictor(encoder.seen_by_loss()));
        }
        if !self.loss.matryoshka.is_empty() && encoder.projection.is_none() {
            encoder.projector.get_or_insert(ProjectorForm::None);
        }
        encoder
    }

    /// The settings with everything decided that depends on the pairs.
    ///
    /// # Errors
    /// When a batch cannot be so large.
    pub(crate) fn decided(mut self, shape: InputShape, pairs: &Pairs) -> Result<Self, Error> {
        let batch = self.batch.unwrap_or_else(|| self.default_batch(shape, pairs));
        pairs.check_batch(batch)?;
        if batch < 2 {
            return Err(Error::Data(format!(
                "{} has {batch} pairs to train on, but at least 2 are needed: a pair alone has \
                 nothing to be pushed apart from",
                self.data
            )));
        }
        let mut size = 0;
        if let InputShape::Images(shape) = shape {
            size = shape.size;
            (self.image.size, self.image.channels) = (Some(size), Some(shape.channels));
        }
        if let InputShape::Vectors { dim } = shape {
            self.encoder.embedding = Some(dim);
        }
        self.encoder = self.with_heads().decided(size);
        self.batch = Some(batch);
        self.optimizer.learning_rate.get_or_insert(self.usual_rate(batch));
        let named = self.named()?;
        if !self.method.has_no_negatives() {
            self.loss.name = Some(named.name);
            self.loss.temperature = Some(named.loss.temperature().get());
            self.loss.learned_temperature = Some(named.learned);
        }
        self.version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(self)
    }
}

/// Whether a part of settings is as it is by default, and need not be written.
pub(crate) fn is_default<S: Default + PartialEq>(settings: &S) -> bool {
    *settings == S::default()
}

/// Puts settings over others. A recipe of views is one setting: another's parts are not its own.
fn overlay(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) if key != "view" => {
                overlay(under, over);
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Where two values, either of which may be missing, have other leaves.
fn differences(
    name: &str,
    now: Option<&toml::Value>,
    before: Option<&toml::Value>,
    out: &mut Vec<String>,
) {
    if now == before {
        return;
    }
    let tables = (now.and_then(|now| now.as_table()), before.and_then(|before| before.as_table()));
    if let (Some(now), Some(before)) = tables {
        let names: BTreeSet<&String> = now.keys().chain(before.keys()).collect();
        for key in names {
            let name = if name.is_empty() { key } else { &format!("{name}.{key}") };
            differences(name, now.get(key), before.get(key), out);
        }
        return;
    }
    let shown = |value: Option<&toml::Value>| value.map_or("not set".into(), ToString::to_string);
    out.push(format!("{name} was {} and is {}", shown(before), shown(now)));
}

/// A recipe, which is the affine one where none is named.
pub(crate) fn recipe<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Recipe, D::Error> {
    use serde::de::Error as _;
    let mut table = toml::Table::deserialize(from)?;
    table.entry("recipe").or_insert_with(|| "affine".into());
    table.try_into().map_err(D::Error::custom)
}
