//! What a loss is given: queries and keys, and whatever else stands beside them.
//!
//! Input: borrowed embeddings, identities, labels, weights. Output: a [`Batch`] whose shapes are
//! known to agree with each other and with the loss. It never copies.

use super::shape::{BatchShape, GuideShape, NegativesShape, check_row_weights};
use super::{ContrastiveLoss, Form};
use crate::Error;
use crate::embeddings::{Element, Embeddings};

/// Queries, their keys, and what else there is: negatives, identities, labels, weights, a guide.
///
/// ```
/// use kinfold::{Batch, Embeddings, ContrastiveLoss, Temperature};
///
/// let queries = Embeddings::new(&[1.0f32, 0.1, 0.0, 1.0], 2)?;
/// let keys = Embeddings::new(&[1.0f32, 0.0, 0.2, 1.0], 2)?;
/// let hard = Embeddings::new(&[0.8f32, 0.6], 2)?; // a negative of every query
/// let batch = Batch::new(queries, keys).with_negatives(hard);
/// let out = ContrastiveLoss::info_nce(Temperature::new(0.1)?).value_and_gradient(batch)?;
/// assert_eq!(out.negatives.len(), 2);
/// # Ok::<(), kinfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a, T> {
    pub(crate) queries: Embeddings<'a, T>,
    /// None where rows are all there is and labels say who belongs to whom.
    pub(crate) keys: Option<Embeddings<'a, T>>,
    pub(crate) negatives: Negatives<'a, T>,
    pub(crate) ids: Option<&'a [u64]>,
    pub(crate) labels: Option<&'a [u64]>,
    pub(crate) row_weights: Option<&'a [f64]>,
    pub(crate) guide: Option<Guide<'a, T>>,
}

/// Negatives beside those that the batch itself has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Negatives<'a, T> {
    None,
    /// `[m, d]`, of every query.
    Shared(Embeddings<'a, T>),
    /// `[n · m, d]`, m rows of each query.
    PerQuery(Embeddings<'a, T>),
}

impl<'a, T: Element> Negatives<'a, T> {
    /// All of them, whosever they are.
    pub(crate) fn given(&self) -> Option<Embeddings<'a, T>> {
        match self {
            Self::None => None,
            Self::Shared(x) | Self::PerQuery(x) => Some(*x),
        }
    }
}

/// By how much a guide's cosine must be above that of the pair for it to say "closer". What is within it
/// is a tie, and rounding, which is a hundred times smaller, does not break ties: however a cosine is
/// summed up, equal embeddings are equally close.
pub const GUIDE_MARGIN: f64 = 1e-5;

/// Another model's embeddings of the same things, whose similarities tell false negatives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guide<'a, T> {
    pub(crate) queries: Embeddings<'a, T>,
    pub(crate) keys: Embeddings<'a, T>,
    pub(crate) negatives: Option<Embeddings<'a, T>>,
}

impl<'a, T: Element> Batch<'a, T> {
    /// Queries `[n, d]` and keys `[n, d]`, whose rows correspond (`[m, d]` with an
    /// [offset](ContrastiveLoss::with_offset)).
    pub fn new(queries: Embeddings<'a, T>, keys: Embeddings<'a, T>) -> Self {
        Self { keys: Some(keys), ..Self::rows_alone(queries) }
    }

    /// Embeddings `[n, d]` and their labels `[n]`, for the losses over labels
    /// ([`Objective::SupConOutside`](super::Objective::SupConOutside) and
    /// [`SupConInside`](super::Objective::SupConInside)).
    pub fn labelled(embeddings: Embeddings<'a, T>, labels: &'a [u64]) -> Self {
        Self { labels: Some(labels), ..Self::rows_alone(embeddings) }
    }

    fn rows_alone(queries: Embeddings<'a, T>) -> Self {
        Self {
            queries,
            keys: None,
            negatives: Negatives::None,
            ids: None,
            labels: None,
            row_weights: None,
            guide: None,
        }
    }

    /// Negatives of every query, `[m, d]`: hard ones, unpaired ones, or a queue of earlier keys.
    #[must_use]
    pub fn with_negatives(self, shared: Embeddings<'a, T>) -> Self {
        Self { negatives: Negatives::Shared(shared), ..self }
    }

    /// Negatives of each query alone, `[n · m, d]`: query i has rows i·m to (i + 1)·m.
    #[must_use]
    pub fn with_negatives_per_query(self, own: Embeddings<'a, T>) -> Self {
        Self { negatives: Negatives::PerQuery(own), ..self }
    }

    /// What each key is an embedding of, `[keys]`, and after these, where wanted, the same of the
    /// shared negatives. A query is of what its key is of. Columns of the row's own identity are left
    /// out, its positive excepted: they are known duplicates and no negatives.
    #[must_use]
    pub fn with_ids(self, ids: &'a [u64]) -> Self {
        Self { ids: Some(ids), ..self }
    }

    /// The label of each pair, `[n]`, for the losses over labels: both of its views have it, and
    /// every row of the same label is a positive.
    #[must_use]
    pub fn with_labels(self, labels: &'a [u64]) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// What each row's loss counts, at least 0 each: `[n]` for queries (and, both ways, for their
    /// keys), `[2n]` where all views choose, queries first. The mean divides by their sum.
    #[must_use]
    pub fn with_row_weights(self, weights: &'a [f64]) -> Self {
        Self { row_weights: Some(weights), ..self }
    }

    /// A guide's embeddings of queries, keys and, where there are any, shared negatives, of any
    /// dimension: whatever the guide finds closer to a query than that query's own key, by a cosine that is
    /// more than [`GUIDE_MARGIN`] above theirs, is no negative of it. Within views a query and a key are
    /// no negatives of themselves, whatever the guide says.
    #[must_use]
    pub fn with_guide(
        self,
        queries: Embeddings<'a, T>,
        keys: Embeddings<'a, T>,
        negatives: Option<Embeddings<'a, T>>,
    ) -> Self {
        Self { guide: Some(Guide { queries, keys, negatives }), ..self }
    }

    /// The same of the first `dim` features.
    pub(crate) fn prefix(&self, dim: usize) -> Self {
        let cut = |x: Embeddings<'a, T>| x.prefix(dim);
        Self {
            queries: cut(self.queries),
            keys: self.keys.map(cut),
            negatives: match self.negatives {
                Negatives::None => Negatives::None,
                Negatives::Shared(x) => Negatives::Shared(cut(x)),
                Negatives::PerQuery(x) => Negatives::PerQuery(cut(x)),
            },
            ..*self
        }
    }

    /// Rows that choose: n, or 2n where all views do.
    pub fn rows(&self, form: Form) -> usize {
        match form {
            Form::NtXent => self.queries.rows() + self.keys.map_or(0, |keys| keys.rows()),
            Form::OneWay | Form::BothWays => self.queries.rows(),
        }
    }

    /// The shapes of everything in it.
    ///
    /// # Errors
    /// [`Error::PerQuery`] when the rows of negatives per query do not divide among the queries.
    pub fn shape(&self) -> Result<BatchShape, Error> {
        let of = |x: &Embeddings<'a, T>| [x.rows(), x.dim()];
        let [n, _] = of(&self.queries);
        let negatives = match &self.negatives {
            Negatives::None => None,
            Negatives::Shared(shared) => Some(NegativesShape::Shared(of(shared))),
            Negatives::PerQuery(own) if n == 0 || own.rows().is_multiple_of(n) => {
                let each = own.rows().checked_div(n).unwrap_or(0);
                Some(NegativesShape::PerQuery([n, each, own.dim()]))
            }
            Negatives::PerQuery(own) => {
                return Err(Error::PerQuery { negatives: own.rows(), queries: n });
            }
        };
        let guide = self.guide.as_ref().map(|guide| GuideShape {
            queries: of(&guide.queries),
            keys: of(&guide.keys),
            negatives: guide.negatives.as_ref().map(of),
        });
        Ok(BatchShape {
            queries: of(&self.queries),
            keys: self.keys.as_ref().map(of),
            negatives,
            ids: self.ids.map(<[_]>::len),
            labels: self.labels.map(<[_]>::len),
            row_weights: self.row_weights.map(<[_]>::len),
            guide,
        })
    }

    /// The shapes of a batch in which every shape agrees with every other and with `loss`, and every
    /// number is finite.
    pub(crate) fn checked(&self, loss: &ContrastiveLoss) -> Result<BatchShape, Error> {
        let shape = self.shape()?;
        loss.check(&shape)?;
        self.row_weights.map_or(Ok(()), check_row_weights)?;
        let guide = self.guide.as_ref();
        for (matrix, given) in [
            ("queries", Some(self.queries)),
            ("keys", self.keys),
            ("negatives", self.negatives.given()),
            ("the guide's queries", guide.map(|guide| guide.queries)),
            ("the guide's keys", guide.map(|guide| guide.keys)),
            ("the guide's negatives", guide.and_then(|guide| guide.negatives)),
        ] {
            given.map_or(Ok(()), |given| given.check_finite(matrix))?;
        }
        Ok(shape)
    }
}

impl<'a, T: Element> From<(Embeddings<'a, T>, Embeddings<'a, T>)> for Batch<'a, T> {
    /// Queries and keys.
    fn from((queries, keys): (Embeddings<'a, T>, Embeddings<'a, T>)) -> Self {
        Self::new(queries, keys)
    }
}
