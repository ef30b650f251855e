//! The command line, and the settings that it asks for.

use crate::bench::Case;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use kinfold::Form;
use kinfold_data::{Expansion, Kind, PairSource, Recipe, VectorSettings};
use kinfold_report::{DiagnosisRequest, MineSettings, Question, StudySettings};
use kinfold_train::settings::{EncoderName, EncoderSettings, Method, OptimizerName};
use kinfold_train::{
    Compression, DataSource, Error, ExportFormat, Format, OneShotTask, Settings, loss_names,
    relative_path,
};
use std::path::{Path, PathBuf};

/// Contrastive representation learning: pulls pairs together and pushes the rest apart.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// What the command line says; where it cannot be, the process says so and ends.
    pub(crate) fn read() -> Self {
        // A run goes on as it began: whatever else could be asked of it is refused.
        let command = Self::command().mut_subcommand("train", |train| {
            let all = train.get_arguments().map(|argument| argument.get_id().clone());
            let others: Vec<_> = all.filter(|id| id != RESUME && id != DATA).collect();
            train.mut_arg(RESUME, |resume| resume.conflicts_with_all(others))
        });
        let read = command.try_get_matches().and_then(|all| Self::from_arg_matches(&all));
        read.unwrap_or_else(|error| {
            // Help is output like any other.
            let code = if error.print().is_ok() { error.exit_code() } else { 1 };
            std::process::exit(code)
        })
    }
}

const RESUME: &str = "resume";
/// What has moved may be said where it is.
const DATA: &str = "data";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train an encoder from pairs of views; without arguments, on embedded handwritten digits
    Train(Box<TrainArguments>),
    /// Write the embeddings of images or texts to a file
    Embed(EmbedArguments),
    /// Write a model of texts as a folder that other libraries load
    Export(ExportArguments),
    /// Draw some images and what views are made of them, or show texts and their tokens, before training
    Views(ViewsArguments),
    /// Measure what a trained encoder is worth, beside raw pixels and the encoder before training: by one
    /// example a class, the nearest neighbour, 200 neighbours' votes, a linear probe
    Evaluate(EvaluateArguments),
    /// Say where a loss stands on pairs of embeddings, why, and what to change
    Diagnose(DiagnoseArguments),
    /// Write the report of a run anew: one page, report.html in its folder
    Report(ReportArguments),
    /// Find the images or texts that are nearest to others
    Search(SearchArguments),
    /// Add hard negatives to pairs: what looks like a query's match to a model, and is none
    Mine(MineArguments),
    /// Answer a question by experiment
    #[command(subcommand)]
    Study(StudyCommand),
    /// Time the loss on this machine, beside the code that builds the n × n matrix
    Bench(BenchArguments),
}

impl Command {
    /// As it is written on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Train(_) => "train",
            Self::Embed(_) => "embed",
            Self::Export(_) => "export",
            Self::Views(_) => "views",
            Self::Evaluate(_) => "evaluate",
            Self::Diagnose(_) => "diagnose",
            Self::Report(_) => "report",
            Self::Search(_) => "search",
            Self::Mine(_) => "mine",
            Self::Study(_) => "study",
            Self::Bench(_) => "bench",
        }
    }
}

/// What images are seen, and how: the same for training and for a look before it.
#[derive(Debug, Args)]
struct SeenArguments {
    /// Settings to begin with, e.g. runs/NAME/config.toml to repeat a run; flags win over them
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// `digits` (embedded), or a folder or .zip of images, MNIST's or CIFAR's files, a .npy array, or
    /// a list of pairs of images as .csv or .jsonl; texts as .jsonl, .csv or .parquet: columns
    /// anchor and positive, or text and label; or vectors as .npy, .parquet or .csv: queries and documents,
    /// two files whose rows belong together, or one with labels [default: digits]
    #[arg(long, num_args = 1..=2, value_names = ["DATA", "DOCUMENTS"])]
    data: Vec<String>,
    /// The vectors (.npy, .parquet or .csv) of what --data, pairs of names, mentions: their column `name`, or
    /// the number of their row
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// What makes tokens of texts: a tokenizer.json, or wordpiece or bpe for one that is trained on them
    /// [default: that of --init, else wordpiece]
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// How a view is made: turned, scaled, sheared and shifted (for drawings), or SimCLR's random
    /// parts in other colours (for photographs) [default: affine]
    #[arg(long, value_enum)]
    views: Option<Views>,
    /// Width and height that images are scaled to, in pixels
    #[arg(long, value_name = "PIXELS")]
    image_size: Option<usize>,
    /// 1 for grey images, 3 for colour
    #[arg(long, value_name = "N")]
    channels: Option<usize>,
    /// Make dark light and light dark, as suits drawings on white paper
    #[arg(long)]
    invert: bool,
    /// Everything random follows from it
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl SeenArguments {
    /// The settings of the file or the defaults, and over them what the flags say.
    /// `columns` are those of pairs, where they are named, and `takes` is what the encoder takes that is asked
    /// for.
    fn settings(
        &self,
        columns: Option<[String; 2]>,
        takes: Option<Kind>,
    ) -> Result<Settings, Error> {
        let vector = vectors(&self.data, self.vectors.as_deref());
        let found = match self.data.first() {
            _ if vector.are_given() => Some(Kind::Vectors),
            data => data.map(|data| Kind::of(data, columns.as_ref())),
        };
        let kind = takes.or(found);
        let mut settings = match &self.config {
            Some(file) => Settings::from_file_for(file, kind)?,
            None => Settings::of_kind(kind.unwrap_or(Kind::Images)),
        };
        if let Some(data) = self.data.first() {
            settings.data = relative_path(Path::new(data)).to_string_lossy().into_owned();
        }
        if vector.are_given() {
            settings.vector = vector;
        }
        settings.text.columns = columns.or(settings.text.columns);
        if let Some(tokenizer) = &self.tokenizer {
            settings.text.tokenizer = Some(relative_path(tokenizer));
        }
        if let Some(views) = self.views {
            views.choose(&mut settings);
        }
        settings.image.size = self.image_size.or(settings.image.size);
        settings.image.channels = self.channels.or(settings.image.channels);
        settings.image.invert |= self.invert;
        settings.seed = self.seed.unwrap_or(settings.seed);
        Ok(settings)
    }
}

/// What goes with data that is vectors: a second file of them, or the table of those that it names.
fn vectors(data: &[String], table: Option<&Path>) -> VectorSettings {
    let documents = data.get(1).map(|file| relative_path(Path::new(file)));
    VectorSettings { documents, table: table.map(relative_path) }
}

#[derive(Debug, Args)]
pub(crate) struct TrainArguments {
    #[command(flatten)]
    seen: SeenArguments,
    /// The folder for the run; it must not exist [default: runs/<date>-<time>-<data>]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run that was stopped, to the same bits as if it never had been: from its last
    /// checkpoint, or from the one given; its settings are the run's own, but --data may say where
    /// the data has moved
    #[arg(long, value_name = "RUN")]
    pub(crate) resume: Option<PathBuf>,
    /// What a pair is: two views of one image, two images of one sub-folder, or a row of a list
    /// [default: views, and of a list its rows]
    #[arg(long, value_enum)]
    pairs: Option<PairsOf>,
    /// Count each quarter turn of a class (or image) as a further one, or each symmetry of the square:
    /// quarter turns, and those of the mirror image
    #[arg(long, value_enum)]
    expand: Option<Expand>,
    /// The two columns of pairs of texts [default: anchor,positive]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    columns: Vec<String>,
    /// The share of the data to hold out and judge by [default: 0.2, of texts 0.05, of vectors 0.1]
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    hold_out: Option<f64>,
    /// Passes over the data
    #[arg(long, value_name = "N")]
    epochs: Option<usize>,
    /// Pairs in a batch
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// The most pairs that are encoded at a time: a batch of any size in the memory of a chunk, for
    /// about a third more time. Batch norm sees one chunk at a time [default: the whole batch]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
    /// What turns a view into an embedding [default: convnet, of texts static, of vectors adapter]; its
    /// settings are in --config's [encoder]
    #[arg(long, value_enum)]
    encoder: Option<Encoder>,
    /// Weights to begin with: for texts a folder of model2vec or of sentence-transformers, or a .safetensors
    /// file of one table of token vectors; for images torchvision's for a ResNet (.safetensors, .pth, .pt), or those of a run,
    /// its folder or its model.safetensors [default: random]
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,
    /// How the two views of a pair learn from each other [default: simclr]
    #[arg(long, value_enum)]
    method: Option<MethodName>,
    #[arg(long, value_name = "NAME", help = loss_help())]
    loss: Option<String>,
    /// The temperature that similarities are divided by [default: the loss's own]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Add up the losses over so many first numbers of an embedding, so that it can be cut to any of these:
    /// 128,64,32,16 [default: the loss over all of it]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    matryoshka: Vec<usize>,
    /// Average the embeddings of N views of each image once the encoder is trained: slower by as much, and
    /// better for drawings [default: 1, the image itself]
    #[arg(long, value_name = "N")]
    average: Option<usize>,
    /// What moves the weights; LARS, as SimCLR's code has it, suits large batches [default: adamw]
    #[arg(long, value_enum)]
    optimizer: Option<Optimizer>,
    /// The highest learning rate [default: 0.002 for adamw, of texts 0.1 · (B / 2048)^⅔ for a batch of B
    /// pairs, of vectors 0.0035; 0.06 · B / 256 for sgd and 0.3 · B / 256 for lars]
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
    /// How strongly weights are pulled to 0 [default: 0.0001]
    #[arg(long, value_name = "DECAY", allow_negative_numbers = true)]
    weight_decay: Option<f32>,
    /// Steps in which the learning rate rises to its highest [default: 10]
    #[arg(long, value_name = "STEPS")]
    warmup: Option<usize>,
    /// The most that the norm of all gradients together may be [default: any]
    #[arg(long, value_name = "NORM", allow_negative_numbers = true)]
    clip: Option<f64>,
}

fn loss_help() -> String {
    format!(
        "What pulls together and pushes apart [default: nt-xent], at its own temperature unless \
         --temperature is given; one of {}",
        loss_names().join(", ")
    )
}

impl TrainArguments {
    /// Where the data of a run to resume has moved.
    pub(crate) fn moved(&self) -> Option<&str> {
        self.seen.data.first().map(String::as_str)
    }

    /// Whether the folder for the run was named.
    pub(crate) fn names_out(&self) -> bool {
        self.out.is_some()
    }

    /// The settings of the file or the defaults, and over them what the flags say.
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let columns = match &self.columns[..] {
            [] => None,
            [a, b] => Some([a.clone(), b.clone()]),
            other => {
                let text = format!("columns is {}, but two are needed", other.join(","));
                return Err(Error::Setting(text));
            }
        };
        let takes = self.encoder.and_then(Encoder::takes);
        let mut settings = self.seen.settings(columns, takes)?;
        if let Some(of) = self.pairs {
            settings.pairs.of = Some(of.of());
        }
        if let Some(expand) = self.expand {
            settings.pairs.expand = match expand {
                Expand::None => Expansion::None,
                Expand::Rotations => Expansion::Rotations,
                Expand::Symmetries => Expansion::Symmetries,
            };
        }
        settings.hold_out = self.hold_out.unwrap_or(settings.hold_out);
        settings.epochs = self.epochs.unwrap_or(settings.epochs);
        settings.batch = self.batch.or(settings.batch);
        if let Some(encoder) = self.encoder {
            encoder.choose(&mut settings.encoder);
        }
        if let Some(init) = &self.init {
            settings.encoder.init = Some(relative_path(init));
        }
        settings.method = self.method.map_or(settings.method, MethodName::method);
        if let Some(name) = &self.loss
            && settings.loss.name.as_ref() != Some(name)
        {
            // Another loss has a temperature of its own, which the file did not mean.
            settings.loss.name = Some(name.clone());
            (settings.loss.temperature, settings.loss.learned_temperature) = (None, None);
        }
        settings.loss.temperature = self.temperature.or(settings.loss.temperature);
        if !self.matryoshka.is_empty() {
            settings.loss.matryoshka.clone_from(&self.matryoshka);
        }
        settings.chunk = self.chunk.or(settings.chunk);
        let average = &mut settings.evaluation.average;
        *average = self.average.unwrap_or(*average);
        let optimizer = &mut settings.optimizer;
        if let Some(name) = self.optimizer.map(Optimizer::name)
            && name != optimizer.name
        {
            // Another optimizer has a learning rate of its own, which the file did not mean.
            (optimizer.name, optimizer.learning_rate) = (name, None);
        }
        optimizer.learning_rate = self.learning_rate.or(optimizer.learning_rate);
        optimizer.weight_decay = self.weight_decay.unwrap_or(optimizer.weight_decay);
        optimizer.warmup = self.warmup.unwrap_or(optimizer.warmup);
        optimizer.clip = self.clip.or(optimizer.clip);
        Ok(settings)
    }

    /// The folder asked for, or one named by the time and the data.
    pub(crate) fn out(&self, settings: &Settings) -> PathBuf {
        self.out.clone().unwrap_or_else(|| {
            let data = Path::new(&settings.data);
            let data = data.file_name().map_or("data".into(), |name| name.to_string_lossy());
            let now = jiff::Zoned::now().strftime("%Y%m%d-%H%M%S").to_string();
            let name = |n: usize| match n {
                1 => format!("{now}-{data}"),
                n => format!("{now}-{data}-{n}"),
            };
            let folders = (1..).map(|n| Path::new("runs").join(name(n)));
            folders.into_iter().find(|path| !path.exists()).unwrap_or_else(|| "runs".into())
        })
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum PairsOf {
    Views,
    Folder,
    List,
}

impl PairsOf {
    fn of(self) -> PairSource {
        match self {
            Self::Views => PairSource::Views,
            Self::Folder => PairSource::Folder,
            Self::List => PairSource::List,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Expand {
    None,
    Rotations,
    Symmetries,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Optimizer {
    #[value(name = "adamw")]
    AdamW,
    Sgd,
    Lars,
}

impl Optimizer {
    fn name(self) -> OptimizerName {
        match self {
            Self::AdamW => OptimizerName::AdamW,
            Self::Sgd => OptimizerName::Sgd,
            Self::Lars => OptimizerName::Lars,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum MethodName {
    /// Each view finds the other among all, by any loss
    Simclr,
    /// What is predicted of each view finds it among all that a momentum encoder makes, one way
    MocoV3,
    /// What a momentum encoder makes of each view is predicted from the other; no negatives
    Byol,
    /// The same without a momentum encoder
    Simsiam,
}

impl MethodName {
    fn method(self) -> Method {
        match self {
            Self::Simclr => Method::Simclr,
            Self::MocoV3 => Method::MocoV3,
            Self::Byol => Method::Byol,
            Self::Simsiam => Method::Simsiam,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Views {
    Affine,
    Simclr,
}

impl Views {
    /// This recipe, with what the settings already say of it.
    fn choose(self, settings: &mut Settings) {
        match (self, &settings.view) {
            (Self::Affine, Recipe::Affine(_)) | (Self::Simclr, Recipe::Simclr(_)) => {}
            (Self::Affine, _) => settings.view = Recipe::Affine(Default::default()),
            (Self::Simclr, _) => settings.view = Recipe::Simclr(Default::default()),
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Encoder {
    /// Three convolutions and a linear layer: small images, such as digits and letters
    Convnet,
    /// Two hidden layers over the pixels: the fastest, for small images that are aligned
    Mlp,
    /// ResNet-18, 512 dimensions: photographs, and SimCLR's results on CIFAR
    Resnet18,
    /// ResNet-50, 2048 dimensions: more than twice the work of ResNet-18
    Resnet50,
    /// A small vision transformer, 192 dimensions: wants more data and longer training
    Vit,
    /// A vector for each token and the mean of a text's: the encoder of texts
    Static,
    /// A matrix, or a small network, over vectors that another model has made: its own [encoder] settings are
    /// `form` (linear, residual or mlp), `hidden` and `towers` (queries or each)
    Adapter,
}

impl Encoder {
    /// What it takes, where that is one kind of data and no other's encoder does.
    fn takes(self) -> Option<Kind> {
        match self {
            Self::Static => Some(Kind::Texts),
            Self::Adapter => Some(Kind::Vectors),
            _ => None,
        }
    }

    /// This encoder, with what the settings already say of it.
    fn choose(self, settings: &mut EncoderSettings) {
        let name = match self {
            Self::Convnet => EncoderName::ConvNet,
            Self::Mlp => EncoderName::Mlp,
            Self::Resnet18 => EncoderName::ResNet18,
            Self::Resnet50 => EncoderName::ResNet50,
            Self::Vit => EncoderName::Vit,
            Self::Static => EncoderName::Static,
            Self::Adapter => EncoderName::Adapter,
        };
        if name != settings.name {
            *settings = EncoderSettings::named(name);
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ViewsArguments {
    #[command(flatten)]
    seen: SeenArguments,
    /// The picture to write
    #[arg(long, value_name = "FILE", default_value = "sheet.png")]
    pub(crate) out: PathBuf,
    /// Images, spread over the data
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) images: usize,
    /// Views of each, or pairs in a row
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) columns: usize,
    /// Show pairs as training makes them, both views side by side, in place of images and their views;
    /// what a pair is may be said [default: two views, and of a list its rows]
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "auto")]
    pub(crate) pairs: Option<ShownPairs>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ShownPairs {
    Auto,
    Views,
    Folder,
    List,
}

impl ViewsArguments {
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        let mut settings = self.seen.settings(None, None)?;
        let of = match self.pairs {
            Some(ShownPairs::Views) => Some(PairSource::Views),
            Some(ShownPairs::Folder) => Some(PairSource::Folder),
            Some(ShownPairs::List) => Some(PairSource::List),
            Some(ShownPairs::Auto) | None => None,
        };
        settings.pairs.of = of.or(settings.pairs.of);
        Ok(settings)
    }
}

#[derive(Debug, Args)]
pub(crate) struct EmbedArguments {
    /// The run folder
    pub(crate) run: PathBuf,
    /// `digits` (embedded) or a folder of images [default: what the run was trained on]
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// The file to write: .npy (vectors alone), .csv or .parquet (with name and label)
    #[arg(long, value_name = "FILE", default_value = "embeddings.parquet")]
    pub(crate) out: PathBuf,
    /// How the columns of a .parquet are compressed [default: not at all, since floats hardly shrink]
    #[arg(long, value_enum)]
    pub(crate) compression: Option<Compress>,
    /// Embed so many random views of each image in its place, as training makes them, into a file each:
    /// two are pairs that `diagnose` takes
    #[arg(long, value_name = "N")]
    pub(crate) views: Option<usize>,
    /// Average the embeddings of N views of each image: of drawings in N poses, of photographs, with 2, of the
    /// picture and its mirror image [default: the run's, which is 1 unless it was trained otherwise]
    #[arg(long, value_name = "N", conflicts_with_all = ["views", "documents"])]
    pub(crate) average: Option<usize>,
    /// Cut embeddings to their first N numbers, at unit length: for runs of `train --matryoshka`
    #[arg(long, value_name = "N")]
    pub(crate) dimensions: Option<usize>,
    /// Embed vectors as documents: an adapter has another tower for them, or leaves them as they are
    #[arg(long, conflicts_with = "views")]
    pub(crate) documents: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Compress {
    None,
    Snappy,
    Zstd,
    Gzip,
    Lz4,
    Brotli,
}

impl EmbedArguments {
    /// The kind of file to write.
    pub(crate) fn format(&self) -> Result<Format, Error> {
        let compression = self.compression.map(|compress| match compress {
            Compress::None => Compression::None,
            Compress::Snappy => Compression::Snappy,
            Compress::Zstd => Compression::Zstd,
            Compress::Gzip => Compression::Gzip,
            Compress::Lz4 => Compression::Lz4,
            Compress::Brotli => Compression::Brotli,
        });
        Format::of(&self.out, compression)
    }

    /// The file of one of the views, counted from 1.
    pub(crate) fn out_of_view(&self, number: usize) -> PathBuf {
        let [stem, ending] = [self.out.file_stem(), self.out.extension()]
            .map(|part| part.unwrap_or_default().to_string_lossy());
        self.out.with_file_name(format!("{stem}-{number}.{ending}"))
    }
}

#[derive(Debug, Args)]
pub(crate) struct EvaluateArguments {
    /// The run folder
    pub(crate) run: PathBuf,
    /// `digits` (embedded), a folder with a sub-folder of images per class, or any other data that train
    /// takes [default: what the run was trained on]
    #[arg(long, num_args = 1..=2, value_names = ["DATA", "DOCUMENTS"])]
    data: Vec<String>,
    /// The vectors of what --data, pairs of names, mentions
    #[arg(long, value_name = "FILE", requires = "data")]
    vectors: Option<PathBuf>,
    /// Measure embeddings cut to their first numbers, too [default: to those of `train --matryoshka`]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) dimensions: Vec<usize>,
    /// Average the embeddings of N views of each image [default: the run's]
    #[arg(long, value_name = "N")]
    pub(crate) average: Option<usize>,
    /// Print the measures as JSON, as summary.json has them
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure one-shot classification within the folders of this data instead: groups (alphabets) of
    /// classes (characters) of images, or Lake's own runs; `folder` for that of --data
    #[arg(long, value_name = "DATA")]
    one_shot: Option<String>,
    /// Of these groups alone, by the names of their folders
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "one_shot")]
    only: Vec<String>,
    /// Runs, spread over the groups [default: 200]
    #[arg(long, value_name = "N", requires = "one_shot")]
    runs: Option<usize>,
    /// Classes in a run [default: 20]
    #[arg(long, value_name = "N", requires = "one_shot")]
    ways: Option<usize>,
    /// Another draw of runs [default: 0]
    #[arg(long, value_name = "N", requires = "one_shot")]
    seed: Option<u64>,
}

impl EvaluateArguments {
    /// The data to measure on; none for what the run was trained on.
    pub(crate) fn source(&self) -> Option<DataSource> {
        let data = self.data.first()?.clone();
        Some(DataSource { data, vector: vectors(&self.data, self.vectors.as_deref()) })
    }

    /// The one-shot task, where one is asked for.
    pub(crate) fn one_shot(&self) -> Option<OneShotTask> {
        let data = match (self.one_shot.as_deref()?, self.data.first()) {
            ("folder", Some(data)) => data,
            (data, _) => data,
        };
        let task = OneShotTask::new(data);
        Some(OneShotTask {
            only: self.only.clone(),
            runs: self.runs.unwrap_or(task.runs),
            ways: self.ways.unwrap_or(task.ways),
            seed: self.seed.unwrap_or(task.seed),
            average: self.average,
            ..task
        })
    }
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DiagnoseArguments {
    /// A file of embeddings [n, d], the queries: .npy, .parquet, .csv or .safetensors; or a run folder,
    /// whose pairs its model then projects
    queries: PathBuf,
    /// The file of the keys: row i belongs to row i of the queries
    keys: Option<PathBuf>,
    /// The temperature that similarities are divided by [default: the run's, or 0.1]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Where the data of the run is, if it has moved
    #[arg(long)]
    data: Option<String>,
    /// A label for each pair, to tell false negatives by: a line each, or whole numbers in a .npy, or
    /// the column `label` of a .csv or .parquet [default: those that files or images have]
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Pairs that are compared with all others, at random where there are more
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = at_least_2)]
    sample: usize,
    /// Diagnose embeddings cut to their first numbers, too [default: to those of `train --matryoshka`]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    dimensions: Vec<usize>,
    /// Print everything as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

fn at_least_2(text: &str) -> Result<usize, String> {
    let n: usize = text.parse().map_err(|e| format!("{e}"))?;
    if n >= 2 { Ok(n) } else { Err("at least 2 pairs are needed".to_owned()) }
}

impl DiagnoseArguments {
    pub(crate) fn asked(&self) -> DiagnosisRequest {
        let Self { queries, keys, temperature, data, labels, sample, dimensions, .. } =
            self.clone();
        let sample = Some(sample);
        DiagnosisRequest { queries, keys, temperature, data, labels, sample, dimensions }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// The run folder
    pub(crate) run: PathBuf,
    /// Whose folder to write [default: sentence-transformers, of an adapter numpy]
    #[arg(long, value_enum)]
    to: Option<Exported>,
    /// The folder to write; it must not exist
    pub(crate) out: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Exported {
    /// For SentenceTransformer(DIR)
    SentenceTransformers,
    /// For model2vec's StaticModel.from_pretrained(DIR), and model2vec-rs
    #[value(name = "model2vec")]
    Model2Vec,
    /// An adapter of vectors as arrays, and the lines of NumPy that use them
    #[value(name = "numpy")]
    NumPy,
}

impl ExportArguments {
    /// None for what suits the run.
    pub(crate) fn format(&self) -> Option<ExportFormat> {
        self.to.map(|to| match to {
            Exported::SentenceTransformers => ExportFormat::SentenceTransformers,
            Exported::Model2Vec => ExportFormat::Model2Vec,
            Exported::NumPy => ExportFormat::NumPy,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct ReportArguments {
    /// The run folder
    pub(crate) run: PathBuf,
    /// Another run of the same data, whose embeddings are cut, too, and drawn beside those of a run with
    /// --matryoshka: one that was trained without
    #[arg(long, value_name = "RUN")]
    pub(crate) beside: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArguments {
    /// The run folder
    pub(crate) run: PathBuf,
    /// The images to look for neighbours of, or where the run is of texts, texts
    #[arg(required = true, value_name = "QUERY")]
    pub(crate) queries: Vec<String>,
    /// What to search: `digits` (embedded), a folder of images, or any other data that train takes
    /// [default: what the run was trained on]
    #[arg(long)]
    pub(crate) data: Option<String>,
    /// Rank texts by their words, too: the sum of both scores, each by how far it stands out among all
    #[arg(long)]
    pub(crate) with_bm25: bool,
    /// Neighbours of each
    #[arg(short = 'k', long, value_name = "K", default_value_t = 10)]
    pub(crate) neighbours: usize,
    /// The picture to write: each image and its neighbours in a row [default: none]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Print what was found as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct MineArguments {
    /// The run folder, whose model says what is similar; none where --vectors says it
    #[arg(required_unless_present = "vectors")]
    pub(crate) run: Option<PathBuf>,
    /// The pairs, as .jsonl, .csv or .parquet: texts, or the names of vectors
    #[arg(long)]
    data: String,
    /// The vectors of what --data mentions: their column `name`, or the number of their row
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// The file to write, .jsonl or .csv: the pairs, with columns negative_1, negative_2, …
    #[arg(long, value_name = "FILE", default_value = "mined.jsonl")]
    pub(crate) out: PathBuf,
    /// Negatives of each pair, the most similar first
    #[arg(long, value_name = "N", default_value_t = 5)]
    negatives: usize,
    /// The ranks that they are taken from, among documents that are not known to belong to the query
    #[arg(long, value_name = "A-B", default_value = "1-100", value_parser = ranks)]
    ranks: [usize; 2],
    /// Leave out what is nearer to a query than this part of its own document's cosine: it may be a match
    /// that nobody wrote down
    #[arg(long, value_name = "SHARE", default_value_t = 0.95)]
    margin: f64,
}

fn ranks(text: &str) -> Result<[usize; 2], String> {
    let ends = text.split_once('-').and_then(|(a, b)| Some([a.parse().ok()?, b.parse().ok()?]));
    ends.ok_or_else(|| "two ranks are needed, as 1-100".to_owned())
}

impl MineArguments {
    pub(crate) fn source(&self) -> DataSource {
        let vector = vectors(&[], self.vectors.as_deref());
        DataSource { data: self.data.clone(), vector }
    }

    pub(crate) fn settings(&self) -> MineSettings {
        let Self { negatives, ranks: [first_rank, last_rank], margin, .. } = *self;
        MineSettings { negatives, first_rank, last_rank, margin }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum StudyCommand {
    /// What the temperature does: cross-entropy without one (τ = 1, one way) beside other temperatures,
    /// both ways and NT-Xent, same data, budget and seeds
    Temperature(StudyArguments),
    /// Which method suits the data: SimCLR, MoCo v3, BYOL and SimSiam, same data, encoder, budget and seeds
    Methods(StudyArguments),
}

impl StudyCommand {
    fn asked(&self) -> (Question, &StudyArguments) {
        match self {
            Self::Temperature(arguments) => (Question::Temperature, arguments),
            Self::Methods(arguments) => (Question::Methods, arguments),
        }
    }

    pub(crate) fn settings(&self) -> Result<StudySettings, Error> {
        let (question, arguments) = self.asked();
        arguments.settings(question)
    }

    /// The folder for what comes of it.
    pub(crate) fn out(&self) -> PathBuf {
        let (question, arguments) = self.asked();
        let own = match question {
            Question::Temperature => "study-temperature",
            Question::Methods => "study-methods",
        };
        arguments.out.clone().unwrap_or_else(|| own.into())
    }
}

#[derive(Debug, Args)]
pub(crate) struct StudyArguments {
    #[command(flatten)]
    seen: SeenArguments,
    /// The folder for what comes of it; it must not exist [default: study-temperature or study-methods]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What a pair is
    #[arg(long, value_enum)]
    pairs: Option<PairsOf>,
    /// Passes over the data in each run
    #[arg(long, value_name = "N", default_value_t = 10)]
    epochs: usize,
    /// Pairs in a batch
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Runs of each, with --seed and those after it
    #[arg(long, value_name = "N", default_value_t = 5)]
    seeds: usize,
    /// Judge by 20-way one-shot classification within the folders of this data, too: groups
    /// (alphabets) of classes (characters) of images
    #[arg(long, value_name = "DATA")]
    one_shot: Option<String>,
}

impl StudyArguments {
    fn settings(&self, question: Question) -> Result<StudySettings, Error> {
        let mut training = self.seen.settings(None, None)?;
        training.pairs.of = self.pairs.map(PairsOf::of).or(training.pairs.of);
        training.epochs = self.epochs;
        training.batch = self.batch.or(training.batch);
        let one_shot = self.one_shot.as_ref().map(OneShotTask::new);
        Ok(StudySettings { question, training, seeds: self.seeds, one_shot })
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchArguments {
    /// The loss
    #[arg(long, value_enum, default_value = "one-way")]
    loss: Loss,
    /// Pairs: rows of the queries, and of the keys
    #[arg(long, value_name = "N", default_value_t = 4096)]
    rows: usize,
    /// Dimension of the embeddings
    #[arg(long, value_name = "D", default_value_t = 256)]
    dim: usize,
    /// The temperature that similarities are divided by
    #[arg(long, value_name = "T", default_value_t = 0.1, allow_negative_numbers = true)]
    temperature: f64,
    /// Threads; 0 for as many as the machine has
    #[arg(long, value_name = "K", default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Loss {
    OneWay,
    Both,
    NtXent,
}

impl BenchArguments {
    pub(crate) fn case(&self) -> Case {
        let form = match self.loss {
            Loss::OneWay => Form::OneWay,
            Loss::Both => Form::BothWays,
            Loss::NtXent => Form::NtXent,
        };
        let Self { rows, dim, temperature, threads, .. } = *self;
        Case { form, rows, dim, temperature, threads }
    }
}
