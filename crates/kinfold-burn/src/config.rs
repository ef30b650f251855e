//! The settings of the module, as burn-nn's losses have theirs.

use crate::InfoNceLoss;
use burn::config::Config;
use burn::tensor::Device;
use kinfold::{ContrastiveLoss, Error, Form, Objective, Similarity, Temperature};

/// What becomes of the rows' losses.
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Nothing: each row's loss, times its weight where it has one. `[n]`, or `[2n]` where all views
    /// choose, queries first.
    None,
    /// Their mean, by their weights where they have some. `[1]`.
    Mean,
    /// Their sum, each times its weight. `[1]`.
    Sum,
}

/// Settings of an [`InfoNceLoss`].
#[derive(Config, Debug)]
pub struct InfoNceLossConfig {
    /// The temperature τ that similarities are divided by; above 0.
    #[config(default = 0.1)]
    pub temperature: f64,
    /// Learn the temperature, from the one given (the parameter is log(1/τ)); and the sigmoid's bias,
    /// from the one that the objective has.
    #[config(default = false)]
    pub learned: bool,
    /// The least that [`InfoNceLoss::clamped`] leaves a learned log(1/τ); open-clip has 0.
    pub log_scale_min: Option<f64>,
    /// The greatest that [`InfoNceLoss::clamped`] leaves a learned log(1/τ); open-clip has ln 100.
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
    /// A margin that the positive must win by.
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
    /// Query i's positive is key i + `offset`.
    #[config(default = 0)]
    pub offset: usize,
    /// What becomes of the rows' losses.
    #[config(default = "Reduction::Mean")]
    pub reduction: Reduction,
}

impl InfoNceLossConfig {
    /// The module.
    ///
    /// # Panics
    /// When a number is out of its range or the settings have no meaning together;
    /// [`try_init`](Self::try_init) returns these as errors.
    pub fn init(&self, device: &Device) -> InfoNceLoss {
        self.try_init(device).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`init`](Self::init) that returns what is wrong with the settings.
    ///
    /// # Errors
    /// When a number is out of its range or the settings have no meaning together.
    pub fn try_init(&self, device: &Device) -> Result<InfoNceLoss, Error> {
        let temperature = Temperature::new(self.temperature)?;
        let loss = match self.form {
            Form::OneWay => ContrastiveLoss::info_nce(temperature),
            Form::BothWays => ContrastiveLoss::info_nce(temperature).symmetric(),
            Form::NtXent => ContrastiveLoss::nt_xent(temperature),
        };
        // A setting that has no meaning with the others is refused by whichever comes last.
        let loss = loss
            .with_similarity(self.similarity)
            .with_offset(self.offset)
            .with_objective(self.objective)?
            .with_margin(self.margin)?
            .with_label_smoothing(self.label_smoothing)?
            .with_in_batch_negatives(self.in_batch_negatives)?
            .with_within_views(self.within_views)?;
        let least = self.log_scale_min.unwrap_or(f64::NEG_INFINITY);
        let most = self.log_scale_max.unwrap_or(f64::INFINITY);
        let module = InfoNceLoss::new(loss)
            .with_reduction(self.reduction)
            .with_log_scale_bounds(least, most)?;
        Ok(if self.learned { module.learned(device) } else { module })
    }
}
