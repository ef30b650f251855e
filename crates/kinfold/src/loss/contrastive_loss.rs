//! The settings of a loss.
//!
//! Input: numbers and choices. Output: a [`ContrastiveLoss`] whose settings are in range and go
//! together. What it computes is in [`compute`](crate::compute).

use super::objective::{Objective, Reduction, above_0, finite, in_range};
use super::{Form, Matryoshka, Prefix, Similarity, Temperature};
use crate::Error;
use crate::conflict::Conflict;
use crate::embeddings::NORM_FLOOR;
use crate::execution::Execution;

/// The contrastive loss: validated once, cheap to copy.
///
/// ```
/// use kinfold::{Embeddings, ContrastiveLoss, Temperature};
///
/// let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?).symmetric();
/// let queries = Embeddings::new(&[1.0f32, 0.1, 0.0, 1.0], 2)?; // two queries of dimension 2
/// let keys = Embeddings::new(&[1.0f32, 0.0, 0.2, 1.0], 2)?; // and their two keys
/// let out = loss.value_and_gradient((queries, keys))?;
/// assert!(out.mean < 1e-3); // both pairs are close, and far from each other
/// assert_eq!(out.queries.len(), 4);
/// # Ok::<(), kinfold::Error>(())
/// ```
///
/// Every other loss of the family is the same type with another [`Objective`]:
///
/// ```
/// use kinfold::{ContrastiveLoss, Objective, Temperature};
///
/// let decoupled = ContrastiveLoss::nt_xent(Temperature::new(0.1)?).with_objective(Objective::Decoupled)?;
/// // What has no meaning is refused, with the reason.
/// let refused = decoupled.with_label_smoothing(0.1).unwrap_err();
/// assert!(refused.to_string().contains("label smoothing"));
/// # Ok::<(), kinfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(remote = "Self", deny_unknown_fields))]
pub struct ContrastiveLoss {
    pub(super) temperature: Temperature,
    pub(super) form: Form,
    pub(super) similarity: Similarity,
    pub(super) objective: Objective,
    pub(crate) margin: f64,
    pub(crate) label_smoothing: f64,
    pub(super) reduction: Reduction,
    pub(crate) factor: f64,
    pub(crate) norm_floor: f64,
    pub(crate) in_batch: bool,
    pub(crate) within_views: bool,
    pub(crate) offset: usize,
    #[cfg_attr(feature = "serde", serde(default))]
    pub(crate) matryoshka: Matryoshka,
    /// Not part of what the loss is, nor of its settings in a file.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) execution: Execution,
}

impl ContrastiveLoss {
    /// InfoNCE one way: the mean over queries of the cross-entropy between the logits against all
    /// keys and the query's own key.
    pub fn info_nce(temperature: Temperature) -> Self {
        Self {
            temperature,
            form: Form::OneWay,
            similarity: Similarity::Cosine,
            objective: Objective::Softmax,
            margin: 0.0,
            label_smoothing: 0.0,
            reduction: Reduction::Mean,
            factor: 1.0,
            norm_floor: NORM_FLOOR,
            in_batch: true,
            within_views: false,
            offset: 0,
            matryoshka: Matryoshka::default(),
            execution: Execution::new(),
        }
    }

    /// InfoNCE both ways, CLIP's loss: [`info_nce`](Self::info_nce), [`symmetric`](Self::symmetric).
    pub fn clip(temperature: Temperature) -> Self {
        Self::info_nce(temperature).symmetric()
    }

    /// NT-Xent, SimCLR's loss: queries and keys are two views of the same things, and every other
    /// view, of either matrix, is a candidate. The mean is over all 2n rows.
    pub fn nt_xent(temperature: Temperature) -> Self {
        Self { form: Form::NtXent, ..Self::info_nce(temperature) }
    }

    /// SupCon with the mean over positives outside the logarithm ([`Objective::SupConOutside`]):
    /// every row chooses among all others, and those of its label are its positives.
    pub fn sup_con(temperature: Temperature) -> Self {
        Self { objective: Objective::SupConOutside, ..Self::nt_xent(temperature) }
    }

    /// SigLIP ([`Objective::Sigmoid`]): every pair of a query and a key on its own.
    ///
    /// # Errors
    /// When the bias is not finite.
    pub fn sig_lip(temperature: Temperature, bias: f64) -> Result<Self, Error> {
        Self::info_nce(temperature).with_objective(Objective::Sigmoid { bias })
    }

    /// Both ways: the mean of query → key and key → query, as CLIP has it.
    #[must_use]
    pub fn symmetric(self) -> Self {
        Self { form: Form::BothWays, ..self }
    }

    /// Another way from logits to a loss than cross-entropy.
    ///
    /// # Errors
    /// When a number in it is out of range, or it has no meaning with the other settings.
    pub fn with_objective(self, objective: Objective) -> Result<Self, Error> {
        Self { objective, ..self }.checked()
    }

    /// Another similarity than the cosine.
    #[must_use]
    pub fn with_similarity(self, similarity: Similarity) -> Self {
        Self { similarity, ..self }
    }

    /// Another temperature, as training with a learned one needs at each step.
    #[must_use]
    pub fn with_temperature(self, temperature: Temperature) -> Self {
        Self { temperature, ..self }
    }

    /// A margin that the positive must win by: its logit is `(similarity − margin) / τ`.
    ///
    /// # Errors
    /// When it is not finite, or has no meaning with the other settings.
    pub fn with_margin(self, margin: f64) -> Result<Self, Error> {
        Self { margin, ..self }.checked()
    }

    /// So much of the target, from 0 to 1, is spread evenly over all candidates, the positive
    /// included, as PyTorch's cross-entropy has it.
    ///
    /// # Errors
    /// When it is not between 0 and 1, or has no meaning with the other settings.
    pub fn with_label_smoothing(self, label_smoothing: f64) -> Result<Self, Error> {
        Self { label_smoothing, ..self }.checked()
    }

    /// What gradients are gradients of: the mean, unless said otherwise, or the sum.
    #[must_use]
    pub fn with_reduction(self, reduction: Reduction) -> Self {
        Self { reduction, ..self }
    }

    /// Multiplies the loss, each row's as well, and its gradients; for definitions that differ from
    /// others' by a constant.
    ///
    /// # Errors
    /// When it is not a finite number above 0.
    pub fn with_factor(self, factor: f64) -> Result<Self, Error> {
        Self { factor, ..self }.checked()
    }

    /// The least length that the cosine divides by, 1e-12 unless said otherwise.
    ///
    /// # Errors
    /// When it is not a finite number above 0.
    pub fn with_norm_floor(self, norm_floor: f64) -> Result<Self, Error> {
        Self { norm_floor, ..self }.checked()
    }

    /// Whether the other keys of the batch are negatives; without them there are only those that are
    /// [given](super::Batch::with_negatives). MoCo's queue is that.
    ///
    /// # Errors
    /// When that has no meaning with the other settings.
    pub fn with_in_batch_negatives(self, in_batch: bool) -> Result<Self, Error> {
        Self { in_batch, ..self }.checked()
    }

    /// Whether a query is also pushed from the other queries, and its key from the other keys, all in
    /// one softmax (as GISTEmbed has it, Solatorio 2024): candidates of row i are `⟨q_i, k_j⟩`,
    /// `⟨q_i, q_j⟩` and `⟨k_i, k_j⟩`.
    ///
    /// # Errors
    /// When that has no meaning with the other settings.
    pub fn with_within_views(self, within_views: bool) -> Result<Self, Error> {
        Self { within_views, ..self }.checked()
    }

    /// Query i's positive is key i + `offset`: for workers that hold some of the queries and all of
    /// the keys. Only [`Form::OneWay`] has a meaning then; both ways are two such calls.
    #[must_use]
    pub fn with_offset(self, offset: usize) -> Self {
        Self { offset, ..self }
    }

    /// The sum of the losses over the first features of each row, and over more of them, each times its
    /// weight (Matryoshka, Kusupati et al. 2022): embeddings that can be cut to any of these dimensions.
    /// The cosine is that of what is left. In place of the loss over all features, which is one of them
    /// where their number is given, too. None is the loss over all features.
    ///
    /// A softmax among in-batch and shared negatives, without label smoothing, a guide or pushing within
    /// views, is computed at the price of little more than one loss, however many prefixes there are; any
    /// other is computed once for each prefix.
    ///
    /// # Errors
    /// When there are more than [`MOST_PREFIXES`](super::MOST_PREFIXES), or a dimension is 0 or given
    /// twice, or a weight is not a finite number above 0.
    pub fn with_matryoshka(self, prefixes: &[Prefix]) -> Result<Self, Error> {
        Ok(Self { matryoshka: Matryoshka::new(prefixes)?, ..self })
    }

    /// How it is computed: threads, memory. The result has the same bits.
    #[must_use]
    pub fn with_execution(self, execution: Execution) -> Self {
        Self { execution, ..self }
    }

    /// Who is a candidate for whom.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The temperature.
    pub fn temperature(&self) -> Temperature {
        self.temperature
    }

    /// How two embeddings are compared.
    pub fn similarity(&self) -> Similarity {
        self.similarity
    }

    /// How a row's logits become its loss.
    pub fn objective(&self) -> Objective {
        self.objective
    }

    /// The margin that the positive must win by.
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// The part of the target that is spread over all candidates.
    pub fn label_smoothing(&self) -> f64 {
        self.label_smoothing
    }

    /// What the loss is multiplied by.
    pub fn factor(&self) -> f64 {
        self.factor
    }

    /// The least length that the cosine divides by.
    pub fn norm_floor(&self) -> f64 {
        self.norm_floor
    }

    /// Whether the other keys of the batch are negatives.
    pub fn in_batch_negatives(&self) -> bool {
        self.in_batch
    }

    /// Whether a query is also pushed from the other queries, and its key from the other keys.
    pub fn within_views(&self) -> bool {
        self.within_views
    }

    /// The key of query 0.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The prefixes of the embeddings that the loss is over, the shortest first; empty for all features.
    pub fn matryoshka(&self) -> &[Prefix] {
        self.matryoshka.as_slice()
    }

    /// The loss over the first `prefix.dim` features alone, which are all that it is to be given, times the
    /// prefix's weight: what [`with_matryoshka`](Self::with_matryoshka) adds up.
    #[must_use]
    pub fn of_prefix(&self, prefix: &Prefix) -> Self {
        let factor = self.factor * prefix.weight;
        Self { matryoshka: Matryoshka::default(), factor, ..*self }
    }

    /// What gradients are gradients of.
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// How it is computed.
    pub fn execution(&self) -> Execution {
        self.execution
    }

    /// The mean or the sum, as the [reduction](Self::with_reduction) says.
    pub fn reduced(&self, mean: f64, sum: f64) -> f64 {
        match self.reduction {
            Reduction::Mean => mean,
            Reduction::Sum => sum,
        }
    }

    fn checked(self) -> Result<Self, Error> {
        self.check_settings().map(|()| self)
    }

    /// Every number is in its range, and the settings go together.
    pub(crate) fn check_settings(&self) -> Result<(), Error> {
        self.objective.check()?;
        finite("the margin", self.margin)?;
        let smoothing = self.label_smoothing;
        in_range("label smoothing", smoothing, (0.0..=1.0).contains(&smoothing), "from 0 to 1")?;
        above_0("the factor", self.factor)?;
        above_0("the norm floor", self.norm_floor)?;
        self.conflict().map_or(Ok(()), |conflict| Err(conflict.into()))
    }

    /// The first two settings that do not go together.
    fn conflict(&self) -> Option<Conflict> {
        let Self { form, objective, in_batch, within_views, .. } = *self;
        let smoothed = self.label_smoothing != 0.0;
        let one_way = form == Form::OneWay;
        let plain = one_way && in_batch && objective == Objective::Softmax;
        let conflicts = [
            (objective.has_labels() && form != Form::NtXent, Conflict::SupConForm),
            (objective.is_sigmoid() && form == Form::NtXent, Conflict::SigmoidForm),
            (objective.is_sigmoid() && (smoothed || self.margin != 0.0), Conflict::SigmoidSoftmax),
            (
                objective.is_corrected() && self.similarity == Similarity::Dot,
                Conflict::CorrectedDot,
            ),
            (smoothed && objective.is_decoupled(), Conflict::SmoothingDecoupled),
            (smoothed && !objective.is_cross_entropy(), Conflict::SmoothingObjective),
            (!in_batch && !one_way, Conflict::InBatchForm),
            (within_views && !plain, Conflict::WithinViewsForm),
            (within_views && (self.offset != 0 || smoothed), Conflict::WithinViewsOffset),
            (self.offset != 0 && !one_way, Conflict::OffsetForm),
        ];
        conflicts.into_iter().find_map(|(applies, conflict)| applies.then_some(conflict))
    }

    /// The number of candidates that each row chooses among, given `pairs` pairs and nothing else: n,
    /// 2n − 1 for NT-Xent, 3n − 2 with [within views](Self::with_within_views).
    pub fn candidates(&self, pairs: usize) -> usize {
        match self.form {
            Form::OneWay if self.within_views => (3 * pairs).saturating_sub(2),
            Form::OneWay | Form::BothWays => pairs,
            Form::NtXent => (2 * pairs).saturating_sub(1),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for ContrastiveLoss {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// Settings that are out of range or do not go together are refused, in the usual words.
#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for ContrastiveLoss {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::deserialize(deserializer)?.checked().map_err(serde::de::Error::custom)
    }
}
