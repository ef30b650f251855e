//! What a loss is, and what it may be given: settings, batches, results. Nothing here computes, but
//! for [`mod@reference`], the dense f64 oracle that the engine is tested against.
//!
//! A [`ContrastiveLoss`] holds settings that go together; a [`Batch`] holds embeddings and what stands
//! beside them. Whether the two go together is decided in one place, by
//! [`ContrastiveLoss::check`], over a [`BatchShape`], a batch without its data: adapters for other
//! frameworks describe their tensors and ask. After that the engine cannot fail.
//!
//! Notation, as in the papers: `s_ij = ⟨q_i, k_j⟩ / τ` are the logits, `n` the number of pairs, `d`
//! the dimension. With cosine similarity rows are divided by `max(‖x‖, 1e-12)` first, and the
//! gradient goes back through that division.

mod batch;
pub(crate) mod bounds;
mod contrastive_loss;
mod matryoshka;
mod objective;
mod output;
mod presets;
pub mod reference;
mod shape;

pub use crate::conflict::Conflict;
pub use batch::{Batch, GUIDE_MARGIN};
pub(crate) use batch::{Guide, Negatives};
pub use contrastive_loss::ContrastiveLoss;
pub(crate) use matryoshka::Matryoshka;
pub use matryoshka::{MOST_PREFIXES, Prefix};
pub use objective::{Objective, Reduction};
pub use output::{GradientMut, ParameterGradient, Statistics, Value, ValueAndGradient};
pub use presets::Preset;
pub use shape::{BatchShape, GuideShape, NegativesShape, check_row_weights};

use crate::Error;

/// The temperature τ that similarities are divided by: finite and above 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "f64", into = "f64"))]
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

impl TryFrom<f64> for Temperature {
    type Error = Error;

    fn try_from(value: f64) -> Result<Self, Error> {
        Self::new(value)
    }
}

impl From<Temperature> for f64 {
    fn from(temperature: Temperature) -> Self {
        temperature.get()
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
