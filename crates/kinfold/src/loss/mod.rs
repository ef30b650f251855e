//! The public losses and their settings.
//!
//! Comes in: two [`Embeddings`], queries and keys, whose rows correspond. Goes out: the loss as a
//! number, and its gradients with respect to both matrices and to log(1/τ). Settings are validated
//! when they are made, shapes when a loss is called; behind that the engine
//! computes and cannot fail. The n × n matrix of similarities is never built, except in
//! [`mod@reference`], the oracle that everything here is tested against.
//!
//! Notation, as in the papers: `s_ij = ⟨q_i, k_j⟩ / τ` are the logits, `n` the number of pairs, `d`
//! the dimension. With cosine similarity rows are divided by `max(‖x‖, 1e-12)` first, and the
//! gradient goes back through that division.

mod presets;
pub mod reference;

pub use presets::Preset;

use crate::embeddings::{Element, Embeddings};
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
/// use kinfold::{Embeddings, InfoNce, Temperature};
///
/// let loss = InfoNce::new(Temperature::new(0.1)?).symmetric();
/// let queries = Embeddings::new(&[1.0f32, 0.1, 0.0, 1.0], 2)?; // two queries of dimension 2
/// let keys = Embeddings::new(&[1.0f32, 0.0, 0.2, 1.0], 2)?; // and their two keys
/// let out = loss.value_and_gradient(queries, keys)?;
/// assert!(out.mean < 1e-3); // both pairs are close, and far from each other
/// assert_eq!(out.queries.len(), 4);
/// # Ok::<(), kinfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct InfoNce {
    temperature: Temperature,
    form: Form,
    similarity: Similarity,
    pub(crate) offset: usize,
    pub(crate) threads: usize,
    pub(crate) memory_budget: usize,
    pub(crate) instructions: Instructions,
}

impl InfoNce {
    /// InfoNCE one way: the mean over queries of the cross-entropy between the logits against all
    /// keys and the query's own key.
    pub fn new(temperature: Temperature) -> Self {
        Self {
            temperature,
            form: Form::OneWay,
            similarity: Similarity::Cosine,
            offset: 0,
            threads: 0,
            memory_budget: engine::DEFAULT_MEMORY_BUDGET,
            instructions: Instructions::best(),
        }
    }

    /// NT-Xent, SimCLR's loss: queries and keys are two views of the same things, and every other
    /// view, of either matrix, is a candidate. The mean is over all 2n rows.
    pub fn nt_xent(temperature: Temperature) -> Self {
        Self { form: Form::NtXent, ..Self::new(temperature) }
    }

    /// Both ways: the mean of query → key and key → query, as CLIP has it.
    #[must_use]
    pub fn symmetric(self) -> Self {
        Self { form: Form::BothWays, ..self }
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

    /// The number of candidates that each row chooses among, given `pairs` pairs: n, or 2n − 1 for
    /// NT-Xent.
    pub fn candidates(&self, pairs: usize) -> usize {
        match self.form {
            Form::OneWay | Form::BothWays => pairs,
            Form::NtXent => (2 * pairs).saturating_sub(1),
        }
    }

    /// The least value that `pairs` pairs of unit embeddings can reach, in any dimension: every pair
    /// identical and every negative at the simplex's cosine. In nats.
    pub fn floor(&self, pairs: usize) -> f64 {
        diagnosis::floor(self.form, pairs, self.temperature)
    }

    /// The value when nothing has been learned or everything has collapsed: the logarithm of the
    /// number of candidates. In nats.
    pub fn ceiling(&self, pairs: usize) -> f64 {
        (self.candidates(pairs).max(1) as f64).ln()
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
        self.check(&queries, &keys)?;
        Ok(engine::run(self, queries, keys, None))
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
        let mut gradient = ValueAndGradient {
            mean: 0.0,
            log_scale: 0.0,
            queries: vec![T::Real::default(); queries.rows() * queries.dim()],
            keys: vec![T::Real::default(); keys.rows() * keys.dim()],
            statistics: Statistics::default(),
        };
        let value = self.value_and_gradient_into(
            queries,
            keys,
            GradientMut { queries: &mut gradient.queries, keys: &mut gradient.keys },
        )?;
        gradient.mean = value.mean;
        gradient.log_scale = value.log_scale;
        gradient.statistics = value.statistics;
        Ok(gradient)
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
        self.check(&queries, &keys)?;
        for (matrix, needed, given) in [
            ("queries", queries.rows() * queries.dim(), gradient.queries.len()),
            ("keys", keys.rows() * keys.dim(), gradient.keys.len()),
        ] {
            if given != needed {
                return Err(Error::Buffer { matrix, given, needed });
            }
        }
        Ok(engine::run(self, queries, keys, Some(gradient)))
    }

    /// Bytes that one call needs beyond its inputs and outputs, for `queries` and `keys` rows of
    /// dimension `dim` computed in `T`.
    pub fn scratch_bytes<T: Element>(&self, queries: usize, keys: usize, dim: usize) -> usize {
        engine::scratch_bytes::<T>(self, queries, keys, dim)
    }

    fn check<T: Element>(
        &self,
        queries: &Embeddings<'_, T>,
        keys: &Embeddings<'_, T>,
    ) -> Result<(), Error> {
        if queries.dim() != keys.dim() {
            return Err(Error::Dimension {
                left: "queries",
                left_dim: queries.dim(),
                right: "keys",
                right_dim: keys.dim(),
            });
        }
        if queries.rows() == 0 {
            return Err(Error::Empty { matrix: "queries", needed: 1 });
        }
        if keys.rows() == 0 {
            return Err(Error::Empty { matrix: "keys", needed: 1 });
        }
        match self.form {
            Form::OneWay => {
                let last = queries.rows() - 1;
                if self.offset.checked_add(last).is_none_or(|positive| positive >= keys.rows()) {
                    let (offset, keys) = (self.offset, keys.rows());
                    return Err(Error::Offset { last, offset, keys });
                }
            }
            Form::BothWays | Form::NtXent if self.offset != 0 => {
                return Err(Error::Meaningless(
                    "an offset has a meaning one way only: with some of the queries against all \
                     keys, the way back lacks queries; call one way twice, queries → keys and \
                     keys → queries, each with its offset",
                ));
            }
            Form::BothWays | Form::NtXent if queries.rows() != keys.rows() => {
                return Err(Error::Rows {
                    left: "keys",
                    left_rows: keys.rows(),
                    right: "queries",
                    right_rows: queries.rows(),
                });
            }
            Form::BothWays | Form::NtXent => {}
        }
        queries.check_finite("queries")?;
        keys.check_finite("keys")
    }
}

/// What a loss came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Value {
    /// The mean over rows, in nats.
    pub mean: f64,
    /// Its derivative with respect to log(1/τ); computed with the gradients, else 0.
    pub log_scale: f64,
    /// How it was computed.
    pub statistics: Statistics,
}

/// What a loss came to, and its gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct ValueAndGradient<R> {
    /// The mean over rows, in nats.
    pub mean: f64,
    /// Its derivative with respect to log(1/τ).
    pub log_scale: f64,
    /// Its gradient with respect to the queries, `[n, d]`.
    pub queries: Vec<R>,
    /// Its gradient with respect to the keys, `[n, d]`.
    pub keys: Vec<R>,
    /// How it was computed.
    pub statistics: Statistics,
}

/// The caller's memory for gradients.
#[derive(Debug)]
pub struct GradientMut<'a, R> {
    /// For the gradient with respect to the queries, `[n, d]` without gaps.
    pub queries: &'a mut [R],
    /// For the gradient with respect to the keys, `[n, d]` without gaps.
    pub keys: &'a mut [R],
}

/// How a loss was computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Exponentials were kept between passes, at least in part, rather than computed again.
    pub kept_exponentials: bool,
    /// Bytes allocated beyond inputs and outputs.
    pub scratch_bytes: usize,
}
