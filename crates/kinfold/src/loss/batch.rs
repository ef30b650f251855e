//! What a loss is given: queries and keys, and whatever else stands beside them.
//!
//! Comes in: borrowed embeddings, identities, labels, weights. Goes out: a [`Batch`] whose shapes are
//! known to agree with each other and with the loss. It never copies.

use super::{ContrastiveLoss, Form, Objective};
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
/// let out = ContrastiveLoss::info_nce(Temperature::new(0.1)?).value_and_gradient_of(&batch)?;
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
    /// ([`Objective::SupConOutside`], [`Objective::SupConInside`]).
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
    /// dimension: whatever the guide finds closer (by cosine) to a query than that query's own key is
    /// no negative of it.
    #[must_use]
    pub fn with_guide(
        self,
        queries: Embeddings<'a, T>,
        keys: Embeddings<'a, T>,
        negatives: Option<Embeddings<'a, T>>,
    ) -> Self {
        Self { guide: Some(Guide { queries, keys, negatives }), ..self }
    }

    /// Rows that choose: n, or 2n where all views do.
    pub fn rows(&self, form: Form) -> usize {
        match form {
            Form::NtXent => self.queries.rows() + self.keys.map_or(0, |keys| keys.rows()),
            Form::OneWay | Form::BothWays => self.queries.rows(),
        }
    }

    /// Every shape agrees with every other and with `loss`, and every number is finite.
    pub(crate) fn check(&self, loss: &ContrastiveLoss) -> Result<(), Error> {
        loss.meaningful()?;
        let queries = &self.queries;
        if queries.rows() == 0 {
            return Err(Error::Empty { matrix: "queries", needed: 1 });
        }
        let labels = loss.objective().has_labels();
        match (labels, self.labels) {
            (true, None) => return Err(Error::Meaningless("a loss over labels needs labels")),
            (false, Some(_)) => {
                return Err(Error::Meaningless(
                    "labels have a meaning for the losses over labels alone; to leave known \
                     duplicates out, give ids",
                ));
            }
            (true, Some(labels)) if labels.len() != queries.rows() => {
                return Err(Error::Count {
                    what: "the number of labels",
                    given: labels.len(),
                    least: queries.rows(),
                    most: queries.rows(),
                });
            }
            _ => {}
        }
        if labels && (self.ids.is_some() || self.guide.is_some()) {
            return Err(Error::Meaningless(
                "with labels, rows that belong together are positives; there is nothing for ids or \
                 a guide to leave out",
            ));
        }
        match &self.keys {
            Some(keys) => self.check_keys(loss, keys)?,
            None if labels => {}
            None => return Err(Error::Empty { matrix: "keys", needed: 1 }),
        }
        self.check_negatives(loss)?;
        self.check_ids()?;
        self.check_weights(loss)?;
        self.check_guide(loss)?;
        queries.check_finite("queries")?;
        self.keys.map_or(Ok(()), |keys| keys.check_finite("keys"))?;
        self.negatives.given().map_or(Ok(()), |x| x.check_finite("negatives"))
    }

    fn check_keys(&self, loss: &ContrastiveLoss, keys: &Embeddings<'a, T>) -> Result<(), Error> {
        let queries = &self.queries;
        same_dimension(("queries", queries), ("keys", keys))?;
        if keys.rows() == 0 {
            return Err(Error::Empty { matrix: "keys", needed: 1 });
        }
        match loss.form() {
            Form::OneWay if !loss.within_views => {
                let last = queries.rows() - 1;
                let positive = loss.offset.checked_add(last);
                if positive.is_none_or(|positive| positive >= keys.rows()) {
                    let (offset, keys) = (loss.offset, keys.rows());
                    return Err(Error::Offset { last, offset, keys });
                }
            }
            _ if queries.rows() != keys.rows() => {
                return Err(Error::Rows {
                    left: "keys",
                    left_rows: keys.rows(),
                    right: "queries",
                    right_rows: queries.rows(),
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn check_negatives(&self, loss: &ContrastiveLoss) -> Result<(), Error> {
        let given = self.negatives.given().is_some();
        if given && (loss.form() != Form::OneWay || loss.objective().is_sigmoid()) {
            return Err(Error::Meaningless(
                "explicit negatives are negatives of queries, so they have a meaning where queries \
                 choose among keys, one way, alone",
            ));
        }
        if loss.within_views && matches!(self.negatives, Negatives::PerQuery(_)) {
            return Err(Error::Meaningless(
                "pushing within views has no meaning with negatives per query; give them as shared \
                 negatives",
            ));
        }
        match &self.negatives {
            Negatives::None if !loss.in_batch => Err(Error::Meaningless(
                "without the in-batch negatives there are only those that are given, and none were",
            )),
            Negatives::None => Ok(()),
            Negatives::Shared(negatives) => {
                same_dimension(("queries", &self.queries), ("negatives", negatives))
            }
            Negatives::PerQuery(negatives) => {
                if !negatives.rows().is_multiple_of(self.queries.rows()) {
                    return Err(Error::PerQuery {
                        negatives: negatives.rows(),
                        queries: self.queries.rows(),
                    });
                }
                same_dimension(("queries", &self.queries), ("negatives", negatives))
            }
        }
    }

    fn check_ids(&self) -> Result<(), Error> {
        let Some(ids) = self.ids else { return Ok(()) };
        let keys = self.keys.map_or(0, |keys| keys.rows());
        let shared = match &self.negatives {
            Negatives::Shared(negatives) => negatives.rows(),
            Negatives::None | Negatives::PerQuery(_) => 0,
        };
        if ids.len() == keys || ids.len() == keys + shared {
            return Ok(());
        }
        Err(Error::Count {
            what: "the number of ids",
            given: ids.len(),
            least: keys,
            most: keys + shared,
        })
    }

    fn check_weights(&self, loss: &ContrastiveLoss) -> Result<(), Error> {
        let Some(weights) = self.row_weights else { return Ok(()) };
        let rows = self.rows(loss.form());
        if weights.len() != rows {
            return Err(Error::Count {
                what: "the number of row weights",
                given: weights.len(),
                least: rows,
                most: rows,
            });
        }
        if let Some(row) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
            return Err(Error::RowWeight { row, given: weights[row] });
        }
        if weights.iter().all(|&w| w == 0.0) {
            return Err(Error::Meaningless(
                "all row weights are 0, so there is nothing to average",
            ));
        }
        Ok(())
    }

    fn check_guide(&self, loss: &ContrastiveLoss) -> Result<(), Error> {
        let Some(guide) = &self.guide else { return Ok(()) };
        if loss.form() != Form::OneWay || loss.objective() != Objective::Softmax || !loss.in_batch {
            return Err(Error::Meaningless(
                "a guide has a meaning for the plain loss one way with in-batch negatives alone",
            ));
        }
        if loss.offset != 0 || matches!(self.negatives, Negatives::PerQuery(_)) {
            return Err(Error::Meaningless(
                "a guide knows queries, keys and shared negatives; it has no meaning with an offset \
                 or with negatives per query",
            ));
        }
        let same_rows = |left, given: &Embeddings<'a, T>, right, needed: usize| {
            if given.rows() == needed {
                return Ok(());
            }
            Err(Error::Rows { left, left_rows: given.rows(), right, right_rows: needed })
        };
        if loss.label_smoothing != 0.0 {
            return Err(Error::Meaningless(
                "label smoothing spreads the target over all candidates, and a guide says which of \
                 them are not to be trusted",
            ));
        }
        same_rows("the guide's queries", &guide.queries, "queries", self.queries.rows())?;
        let keys = self.keys.map_or(0, |keys| keys.rows());
        same_rows("the guide's keys", &guide.keys, "keys", keys)?;
        same_dimension(("the guide's queries", &guide.queries), ("the guide's keys", &guide.keys))?;
        guide.queries.check_finite("the guide's queries")?;
        guide.keys.check_finite("the guide's keys")?;
        match (&self.negatives, &guide.negatives) {
            (Negatives::Shared(negatives), Some(theirs)) => {
                let (ours, rows) = ("negatives", negatives.rows());
                same_rows("the guide's negatives", theirs, ours, rows)?;
                let queries = ("the guide's queries", &guide.queries);
                same_dimension(queries, ("the guide's negatives", theirs))?;
                theirs.check_finite("the guide's negatives")
            }
            (Negatives::Shared(_), None) => Err(Error::Meaningless(
                "with a guide and shared negatives, the guide's negatives are needed, too",
            )),
            (_, Some(_)) => Err(Error::Meaningless(
                "the guide has negatives, but there are no shared negatives for it to judge",
            )),
            (_, None) => Ok(()),
        }
    }
}

fn same_dimension<T: Element>(
    (left, a): (&'static str, &Embeddings<'_, T>),
    (right, b): (&'static str, &Embeddings<'_, T>),
) -> Result<(), Error> {
    if a.dim() == b.dim() {
        return Ok(());
    }
    Err(Error::Dimension { left, left_dim: a.dim(), right, right_dim: b.dim() })
}
