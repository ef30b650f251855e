//! The contrastive losses as a Burn module: `Config → init → forward`, as burn-nn's losses are.
//!
//! Input: settings, then embeddings `[n, d]`. Output: the loss, `[1]` (or a number for each row),
//! differentiable with respect to every matrix, the temperature and the sigmoid's bias.

use crate::learned::Learned;
use crate::{PairBatch, fused, strips};
use burn::backend::DispatchDevice;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::tensor::{Device, Tensor};
use kinfold::{Error, Form, Objective, Prefix, Preset, Reduction, Similarity, Temperature};

/// Settings of a [`ContrastiveLoss`].
#[derive(Config, Debug)]
pub struct ContrastiveLossConfig {
    /// The temperature τ that similarities are divided by; above 0.
    #[config(default = 0.1)]
    pub temperature: f64,
    /// Learn the temperature, starting from the one given (the parameter is log(1/τ)); and the bias of
    /// the sigmoid, starting from that of the objective.
    #[config(default = false)]
    pub learned: bool,
    /// The least learned log(1/τ) that [`ContrastiveLoss::clamped`] leaves; 0 in OpenCLIP.
    pub log_scale_min: Option<f64>,
    /// The greatest learned log(1/τ) that [`ContrastiveLoss::clamped`] leaves; ln 100 in OpenCLIP.
    pub log_scale_max: Option<f64>,
    /// Who is a candidate for whom: InfoNCE one way, both ways (CLIP), or NT-Xent (SimCLR).
    #[config(default = "Form::OneWay")]
    pub form: Form,
    /// Cosine similarity, or the dot product as it is.
    #[config(default = "Similarity::Cosine")]
    pub similarity: Similarity,
    /// How the logits of a row become its loss: cross-entropy, decoupled, debiased, hard negatives,
    /// over labels, or the sigmoid.
    #[config(default = "Objective::Softmax")]
    pub objective: Objective,
    /// A margin by which the positive must win.
    #[config(default = 0.0)]
    pub margin: f64,
    /// The part of the target that is spread over all candidates, from 0 to 1.
    #[config(default = 0.0)]
    pub label_smoothing: f64,
    /// Whether the other keys of the batch are negatives.
    #[config(default = true)]
    pub in_batch_negatives: bool,
    /// Whether queries are pushed from queries, and keys from keys, too.
    #[config(default = false)]
    pub within_views: bool,
    /// The positive of query i is key i + `offset`.
    #[config(default = 0)]
    pub offset: usize,
    /// The prefixes of the embeddings that the loss is over (Matryoshka); none for all features.
    #[config(default = "Vec::new()")]
    pub matryoshka: Vec<Prefix>,
    /// How the losses of the rows become one number: their mean, weighted where rows have weights, or
    /// their weighted sum.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
}

impl ContrastiveLossConfig {
    /// The module.
    ///
    /// # Panics
    /// When a number is out of its range or the settings contradict each other;
    /// [`try_init`](Self::try_init) returns these as errors.
    pub fn init(&self, device: &Device) -> ContrastiveLoss {
        self.try_init(device).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`init`](Self::init) that returns what is wrong with the settings.
    ///
    /// # Errors
    /// When a number is out of its range or the settings contradict each other.
    pub fn try_init(&self, device: &Device) -> Result<ContrastiveLoss, Error> {
        let temperature = Temperature::new(self.temperature)?;
        let settings = match self.form {
            Form::OneWay => kinfold::ContrastiveLoss::info_nce(temperature),
            Form::BothWays => kinfold::ContrastiveLoss::clip(temperature),
            Form::NtXent => kinfold::ContrastiveLoss::nt_xent(temperature),
        };
        // Settings that contradict each other are refused by whichever comes last.
        let settings = settings
            .with_similarity(self.similarity)
            .with_offset(self.offset)
            .with_objective(self.objective)?
            .with_margin(self.margin)?
            .with_label_smoothing(self.label_smoothing)?
            .with_in_batch_negatives(self.in_batch_negatives)?
            .with_within_views(self.within_views)?
            .with_matryoshka(&self.matryoshka)?
            .with_reduction(self.reduction);
        let least = self.log_scale_min.unwrap_or(f64::NEG_INFINITY);
        let most = self.log_scale_max.unwrap_or(f64::INFINITY);
        let module = ContrastiveLoss::new(settings).with_log_scale_bounds(least, most)?;
        Ok(if self.learned { module.learned(device) } else { module })
    }
}

/// A contrastive loss; [`kinfold::ContrastiveLoss`] and [`Objective`] have the definitions.
///
/// Made by a [`ContrastiveLossConfig`], from a [preset](Self::preset), or from
/// [settings](Self::new) of kinfold's.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct ContrastiveLoss {
    /// log(1/τ), `[1]`, where it is learned.
    pub log_scale: Option<Param<Tensor<1>>>,
    /// The bias of [`Objective::Sigmoid`], `[1]`, where it is learned.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    settings: kinfold::ContrastiveLoss,
    #[module(skip)]
    log_scale_bounds: (f64, f64),
}

impl ModuleDisplay for ContrastiveLoss {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let settings = &self.settings;
        content
            .add("temperature", &settings.temperature().get())
            .add("learned", &self.log_scale.is_some())
            .add_debug_attribute("form", &settings.form())
            .add_debug_attribute("similarity", &settings.similarity())
            .add_debug_attribute("objective", &settings.objective())
            .add_debug_attribute("reduction", &settings.reduction())
            .optional()
    }
}

impl ContrastiveLoss {
    /// A loss with settings that are already validated, and a fixed temperature.
    pub fn new(settings: kinfold::ContrastiveLoss) -> Self {
        let log_scale_bounds = (f64::NEG_INFINITY, f64::INFINITY);
        Self { log_scale: None, bias: None, settings, log_scale_bounds }
    }

    /// The loss of a preset, at its own temperature, and with its bounds on a learned one.
    pub fn preset(preset: Preset) -> Self {
        let module = Self::new(preset.loss());
        let log_scale_bounds = preset.log_scale_bounds().unwrap_or(module.log_scale_bounds);
        Self { log_scale_bounds, ..module }
    }

    /// The least and the greatest log(1/τ) that [`clamped`](Self::clamped) leaves.
    ///
    /// # Errors
    /// When one is NaN, or the least is above the greatest.
    pub fn with_log_scale_bounds(self, least: f64, most: f64) -> Result<Self, Error> {
        if least <= most {
            return Ok(Self { log_scale_bounds: (least, most), ..self });
        }
        let (name, needed) = ("the least log(1/τ)", "a number that is not above the greatest");
        Err(Error::Setting { name, given: least, needed })
    }

    /// The same with a learned temperature that starts at the present one and, where the objective is
    /// the sigmoid, a learned bias that starts at the present one.
    #[must_use]
    pub fn learned(self, device: &Device) -> Self {
        let parameter =
            |start: f64| Some(Param::from_tensor(Tensor::from_floats([start as f32], device)));
        let log_scale = parameter(self.settings.temperature().scale().ln());
        let bias = match self.settings.objective() {
            Objective::Sigmoid { bias } => parameter(bias),
            _ => None,
        };
        Self { log_scale, bias, ..self }
    }

    /// The same with log(1/τ) back within its bounds; call it after each step of the optimizer, as
    /// OpenCLIP does. Nothing changes without bounds or with a fixed temperature.
    #[must_use]
    pub fn clamped(self) -> Self {
        let (least, most) = self.log_scale_bounds;
        if (least, most) == (f64::NEG_INFINITY, f64::INFINITY) {
            return self;
        }
        let clamp = |x: Tensor<1>| {
            let learned = x.is_require_grad();
            x.detach().clamp(least, most).detach().set_require_grad(learned)
        };
        Self { log_scale: self.log_scale.map(|parameter| parameter.map(clamp)), ..self }
    }

    /// The same with other settings; what is learned stays as it is.
    pub(crate) fn with_settings(&self, settings: kinfold::ContrastiveLoss) -> Self {
        Self { settings, ..self.clone() }
    }

    /// The settings; a learned temperature or bias is here as it was at the start.
    pub fn settings(&self) -> &kinfold::ContrastiveLoss {
        &self.settings
    }

    /// The loss, in nats.
    ///
    /// # Shapes
    /// - queries: `[n, d]`
    /// - keys: `[n, d]`; key i is the positive of query i
    /// - output: `[1]`
    ///
    /// # Panics
    /// When shapes disagree or a number is not finite;
    /// [`try_forward_batch`](Self::try_forward_batch) returns these as errors.
    pub fn forward(&self, queries: Tensor<2>, keys: Tensor<2>) -> Tensor<1> {
        self.forward_batch((queries, keys))
    }

    /// The loss of a batch with negatives, ids, labels, weights or a guide, in nats, `[1]`.
    ///
    /// # Panics
    /// When something in the batch disagrees with the rest or with the loss, or is not finite;
    /// [`try_forward_batch`](Self::try_forward_batch) returns these as errors.
    pub fn forward_batch(&self, batch: impl Into<PairBatch>) -> Tensor<1> {
        self.try_forward_batch(batch).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The loss of each row, times its weight where it has one: `[n]`, or `[2n]` for NT-Xent, queries
    /// first.
    ///
    /// # Panics
    /// As [`forward_batch`](Self::forward_batch); [`try_forward_no_reduction`] returns an error.
    ///
    /// [`try_forward_no_reduction`]: Self::try_forward_no_reduction
    pub fn forward_no_reduction(&self, batch: impl Into<PairBatch>) -> Tensor<1> {
        self.try_forward_no_reduction(batch).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`forward_batch`](Self::forward_batch) that returns what is wrong with the input.
    ///
    /// # Errors
    /// As [`kinfold::ContrastiveLoss::value`]. Devices other than the CPU do not look at numbers:
    /// there a NaN in the input is a NaN in the loss.
    pub fn try_forward_batch(&self, batch: impl Into<PairBatch>) -> Result<Tensor<1>, Error> {
        self.compute(batch.into(), Some(self.settings.reduction()))
    }

    /// [`forward_no_reduction`](Self::forward_no_reduction) that returns what is wrong with the input.
    ///
    /// Its gradient is not known before the backward pass. So devices other than the CPU keep the
    /// logits of all rows until then.
    ///
    /// # Errors
    /// As [`try_forward_batch`](Self::try_forward_batch).
    pub fn try_forward_no_reduction(
        &self,
        batch: impl Into<PairBatch>,
    ) -> Result<Tensor<1>, Error> {
        self.compute(batch.into(), None)
    }

    fn compute(&self, batch: PairBatch, reduction: Option<Reduction>) -> Result<Tensor<1>, Error> {
        match batch.queries.device().inner().as_dispatch() {
            DispatchDevice::Flex(_) => {
                self.settings.check(&batch.shape())?;
                fused::forward(&self.settings, reduction, batch, self.parameters())
            }
            #[allow(
                unreachable_patterns,
                reason = "which devices exist depends on Burn's features"
            )]
            _ => self.forward_in_strips(batch, reduction, strips::ROWS),
        }
    }

    /// The same in strips of tensor operations, `rows` rows at a time, which run on any device.
    #[doc(hidden)]
    pub fn forward_in_strips(
        &self,
        batch: PairBatch,
        reduction: Option<Reduction>,
        rows: usize,
    ) -> Result<Tensor<1>, Error> {
        self.settings.check(&batch.shape())?;
        Ok(strips::forward(&self.settings, reduction, batch, self.parameters(), rows))
    }

    fn parameters(&self) -> Learned {
        Learned {
            log_scale: self.log_scale.as_ref().map(Param::val),
            bias: self.bias.as_ref().map(Param::val),
        }
    }
}
