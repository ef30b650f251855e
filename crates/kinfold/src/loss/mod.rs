//! The public losses and their settings.
//!
//! Comes in: a [`Batch`] of embeddings, queries and keys whose rows correspond. Goes out: the loss as
//! a number, and its gradients with respect to every matrix and to log(1/τ). Settings that have no
//! meaning together are refused when they are put together, shapes when a loss is called; behind that
//! the engine computes and cannot fail. The n × n matrix of similarities is never built, except in
//! [`mod@reference`], the oracle that everything here is tested against.
//!
//! Notation, as in the papers: `s_ij = ⟨q_i, k_j⟩ / τ` are the logits, `n` the number of pairs, `d`
//! the dimension. With cosine similarity rows are divided by `max(‖x‖, 1e-12)` first, and the
//! gradient goes back through that division.

mod batch;
mod objective;
mod output;
mod presets;
pub mod reference;

pub use batch::Batch;
pub(crate) use batch::{Guide, Negatives};
pub use objective::{Objective, Reduction};
pub use output::{GradientMut, Statistics, Value, ValueAndGradient};
pub use presets::Preset;

use crate::embeddings::{Element, Embeddings, NORM_FLOOR};
use crate::engine::{self, Instructions};
use crate::{Error, diagnosis};

/// The temperature τ that similarities are divided by: finite and above 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Temperature(f64);

impl Temperature {
    /// # Errors
    /// [`Error::Temperature`] when `value` is zero, negative, infinite, NaN, or so small that its
    /// inverse is infinite.
    pub fn new(value: f64) -> Result<Self, Error> {
        if value > 0.0 && value.is_finite() && value.recip().is_finite() {
            Ok(Self(value))
        } else {
            Err(Error::Temperature { given: value })
        }
    }

    /// τ itself.
    pub fn get(self) -> f64 {
        self.0
    }

    /// 1/τ, the factor between a similarity and its logit.
    pub fn scale(self) -> f64 {
        self.0.recip()
    }
}

/// Who is a candidate for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Form {
    /// Each query chooses among all keys: InfoNCE (van den Oord et al. 2018).
    OneWay,
    /// The mean of queries choosing among keys and keys choosing among queries: CLIP (Radford et
    /// al. 2021).
    BothWays,
    /// Each of the 2n embeddings chooses among the 2n − 1 others: NT-Xent (Chen et al. 2020).
    NtXent,
}

/// How two embeddings are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Similarity {
    /// The cosine of the angle between them; a row of zeros has cosine 0 with everything.
    Cosine,
    /// Their dot product as it is.
    Dot,
}

/// The contrastive loss: validated once, cheap to copy.
///
/// ```
/// use kinfold::{Embeddings, ContrastiveLoss, Temperature};
///
/// let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?).symmetric();
/// let queries = Embeddings::new(&[1.0f32, 0.1, 0.0, 1.0], 2)?; // two queries of dimension 2
/// let keys = Embeddings::new(&[1.0f32, 0.0, 0.2, 1.0], 2)?; // and their two keys
/// let out = loss.value_and_gradient(queries, keys)?;
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
pub struct ContrastiveLoss {
    temperature: Temperature,
    form: Form,
    similarity: Similarity,
    objective: Objective,
    pub(crate) margin: f64,
    pub(crate) label_smoothing: f64,
    reduction: Reduction,
    pub(crate) factor: f64,
    pub(crate) norm_floor: f64,
    pub(crate) in_batch: bool,
    pub(crate) within_views: bool,
    pub(crate) offset: usize,
    pub(crate) threads: usize,
    pub(crate) memory_budget: usize,
    pub(crate) instructions: Instructions,
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
            threads: 0,
            memory_budget: engine::DEFAULT_MEMORY_BUDGET,
            instructions: Instructions::best(),
        }
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
    /// [given](Batch::with_negatives). MoCo's queue is that.
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

    /// At most this many threads; 0, the default, means as many as the current rayon pool has. The
    /// result has the same bits whatever the number.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }

    /// Exponentials are kept between the passes as far as this many bytes reach, and computed twice
    /// otherwise; those of the first rows, unless that would be less than an eighth of them. 512 MiB
    /// unless said otherwise. One way has one pass and keeps none.
    #[must_use]
    pub fn with_memory_budget(self, bytes: usize) -> Self {
        Self { memory_budget: bytes, ..self }
    }

    /// Other instructions than the best that this machine has; for tests and comparisons.
    #[doc(hidden)]
    #[must_use]
    pub fn with_instructions(self, instructions: Instructions) -> Self {
        Self { instructions, ..self }
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

    /// What gradients are gradients of.
    pub fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// The mean or the sum, as the [reduction](Self::with_reduction) says.
    pub fn reduced(&self, mean: f64, sum: f64) -> f64 {
        match self.reduction {
            Reduction::Mean => mean,
            Reduction::Sum => sum,
        }
    }

    fn checked(self) -> Result<Self, Error> {
        self.meaningful().map(|()| self)
    }

    /// Every number is in its range, and the settings have a meaning together.
    pub(crate) fn meaningful(&self) -> Result<(), Error> {
        let within = |name, given: f64, right: bool, needed| {
            if right { Ok(()) } else { Err(Error::Setting { name, given, needed }) }
        };
        let share = |given: f64| {
            let needed = "at least 0 and below 1";
            within("the share of positives", given, (0.0..1.0).contains(&given), needed)
        };
        let above_0 = |given: f64| given > 0.0 && given.is_finite();
        match self.objective {
            Objective::DecoupledWeighted { sigma } => {
                within("sigma", sigma, above_0(sigma), "a finite number above 0")?;
            }
            Objective::Debiased { positive_share } => share(positive_share)?,
            Objective::HardNegatives { positive_share, concentration } => {
                share(positive_share)?;
                let right = concentration >= 0.0 && concentration.is_finite();
                within("the concentration", concentration, right, "a finite number of at least 0")?;
            }
            Objective::Sigmoid { bias } => {
                within("the bias", bias, bias.is_finite(), "a finite number")?;
            }
            Objective::Softmax
            | Objective::Decoupled
            | Objective::SupConOutside
            | Objective::SupConInside => {}
        }
        within("the margin", self.margin, self.margin.is_finite(), "a finite number")?;
        let smoothing = self.label_smoothing;
        within("label smoothing", smoothing, (0.0..=1.0).contains(&smoothing), "from 0 to 1")?;
        within("the factor", self.factor, above_0(self.factor), "a finite number above 0")?;
        let floor = self.norm_floor;
        within("the norm floor", floor, above_0(floor), "a finite number above 0")?;
        self.refusal().map_or(Ok(()), |reason| Err(Error::Meaningless(reason)))
    }

    /// Why the settings have no meaning together, where they have none.
    fn refusal(&self) -> Option<&'static str> {
        let Self { form, objective, .. } = *self;
        let smoothed = self.label_smoothing != 0.0;
        if objective.has_labels() && form != Form::NtXent {
            return Some(
                "SupCon compares every row with every other, so it has one form: build it with \
                 ContrastiveLoss::sup_con or from ContrastiveLoss::nt_xent",
            );
        }
        if objective.is_sigmoid() {
            if form == Form::NtXent {
                return Some(
                    "SigLIP is over pairs of a query and a key; NT-Xent's form has rows alone",
                );
            }
            if smoothed || self.margin != 0.0 {
                return Some(
                    "label smoothing and margins belong to a softmax; SigLIP judges every pair on \
                     its own",
                );
            }
        }
        if objective.is_corrected() && self.similarity == Similarity::Dot {
            return Some(
                "debiased and hard-negative weighting bound the negatives from below by exp(−1/τ), \
                 which holds for the cosine alone",
            );
        }
        if smoothed && objective.is_decoupled() {
            return Some(
                "label smoothing spreads the target over the softmax's candidates, and decoupled \
                 losses leave the positive out of them",
            );
        }
        if smoothed && (objective.is_corrected() || objective == Objective::SupConInside) {
            return Some(
                "label smoothing needs one softmax over all candidates, which this objective has not",
            );
        }
        if !self.in_batch && form != Form::OneWay {
            return Some(
                "without in-batch negatives keys have nothing to choose among: that has a meaning \
                 one way alone",
            );
        }
        if self.within_views
            && !(form == Form::OneWay && objective == Objective::Softmax && self.in_batch)
        {
            return Some(
                "pushing within views has a meaning for the plain loss one way with in-batch \
                 negatives; NT-Xent does it already",
            );
        }
        if self.within_views && (self.offset != 0 || smoothed) {
            return Some(
                "pushing within views has no meaning with an offset, which leaves some queries \
                 elsewhere, nor with label smoothing",
            );
        }
        if self.offset != 0 && form != Form::OneWay {
            return Some(
                "an offset has a meaning one way only: with some of the queries against all keys, \
                 the way back lacks queries; call one way twice, queries → keys and keys → queries, \
                 each with its offset",
            );
        }
        None
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

    /// The least value that `pairs` pairs of unit embeddings can reach, in any dimension: every pair
    /// identical and every negative at the simplex's cosine. In nats. None for objectives whose least
    /// value has no closed form, or depends on labels.
    pub fn floor(&self, pairs: usize) -> Option<f64> {
        diagnosis::floor(self, pairs)
    }

    /// The value when everything has collapsed into one point, given `pairs` pairs and nothing else
    /// (for the losses over labels, pairs that share theirs with nobody); for a softmax the logarithm
    /// of the number of candidates, which is also what nothing learned gives. In nats.
    pub fn ceiling(&self, pairs: usize) -> f64 {
        self.factor * engine::collapsed(self, pairs)
    }

    /// The loss alone. `queries` `[n, d]`, `keys` `[n, d]` (`[m, d]` with an
    /// [`offset`](Self::with_offset)).
    ///
    /// # Errors
    /// When shapes disagree, a matrix is empty, or a number is not finite.
    pub fn value<T: Element>(
        &self,
        queries: Embeddings<'_, T>,
        keys: Embeddings<'_, T>,
    ) -> Result<Value, Error> {
        self.value_of(&Batch::new(queries, keys))
    }

    /// The loss and all its gradients, in memory allocated here.
    ///
    /// # Errors
    /// As [`value`](Self::value).
    pub fn value_and_gradient<T: Element>(
        &self,
        queries: Embeddings<'_, T>,
        keys: Embeddings<'_, T>,
    ) -> Result<ValueAndGradient<T::Real>, Error> {
        self.value_and_gradient_of(&Batch::new(queries, keys))
    }

    /// The loss and all its gradients, those of the matrices in the caller's memory; what was there
    /// is overwritten.
    ///
    /// # Errors
    /// As [`value`](Self::value), and [`Error::Buffer`] when a buffer is not `n · d` long.
    pub fn value_and_gradient_into<T: Element>(
        &self,
        queries: Embeddings<'_, T>,
        keys: Embeddings<'_, T>,
        gradient: GradientMut<'_, T::Real>,
    ) -> Result<Value, Error> {
        self.value_and_gradient_of_into(&Batch::new(queries, keys), gradient)
    }

    /// The loss of a batch with negatives, ids, labels, weights or a guide.
    ///
    /// # Errors
    /// When something in the batch disagrees with the rest or with the loss, or is not finite.
    pub fn value_of<T: Element>(&self, batch: &Batch<'_, T>) -> Result<Value, Error> {
        batch.check(self)?;
        Ok(engine::run(self, batch, None))
    }

    /// The loss of a batch and all its gradients, in memory allocated here.
    ///
    /// # Errors
    /// As [`value_of`](Self::value_of).
    pub fn value_and_gradient_of<T: Element>(
        &self,
        batch: &Batch<'_, T>,
    ) -> Result<ValueAndGradient<T::Real>, Error> {
        let zeros = |x: Option<&Embeddings<'_, T>>| {
            vec![T::Real::default(); x.map_or(0, |x| x.rows() * x.dim())]
        };
        let mut queries = zeros(Some(&batch.queries));
        let mut keys = zeros(batch.keys.as_ref());
        let mut negatives = zeros(batch.negatives.given().as_ref());
        let gradient = GradientMut::new(&mut queries, &mut keys).with_negatives(&mut negatives);
        let value = self.value_and_gradient_of_into(batch, gradient)?;
        let Value { mean, sum, rows, log_scale, bias, statistics } = value;
        Ok(ValueAndGradient {
            mean,
            sum,
            rows,
            log_scale,
            bias,
            queries,
            keys,
            negatives,
            statistics,
        })
    }

    /// The loss of a batch and all its gradients, those of the matrices in the caller's memory; what
    /// was there is overwritten.
    ///
    /// # Errors
    /// As [`value_of`](Self::value_of), and [`Error::Buffer`] when a buffer has another length than
    /// what it is for; the one for negatives may be empty.
    pub fn value_and_gradient_of_into<T: Element>(
        &self,
        batch: &Batch<'_, T>,
        gradient: GradientMut<'_, T::Real>,
    ) -> Result<Value, Error> {
        batch.check(self)?;
        let numbers = |x: &Embeddings<'_, T>| x.rows() * x.dim();
        let negatives = batch.negatives.given().as_ref().map_or(0, numbers);
        for (matrix, needed, given, may_be_empty) in [
            ("queries", numbers(&batch.queries), gradient.queries.len(), false),
            ("keys", batch.keys.as_ref().map_or(0, numbers), gradient.keys.len(), false),
            ("negatives", negatives, gradient.negatives.len(), true),
        ] {
            if given != needed && !(may_be_empty && given == 0) {
                return Err(Error::Buffer { matrix, given, needed });
            }
        }
        Ok(engine::run(self, batch, Some(gradient)))
    }

    /// Bytes that one call needs beyond its inputs and outputs, for `queries` and `keys` rows of
    /// dimension `dim` computed in `T`; shared negatives count as keys. A guide needs up to four
    /// numbers more for each of its own, and for each of a strip's rows.
    pub fn scratch_bytes<T: Element>(&self, queries: usize, keys: usize, dim: usize) -> usize {
        engine::scratch_bytes::<T>(self, queries, keys, dim)
    }
}
