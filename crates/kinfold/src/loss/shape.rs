//! The contract: what a loss may be given, and why something is refused. It is said here, once.
//!
//! Input: a loss and a [`BatchShape`], a batch without its data. Output: nothing, or the reason why they
//! do not go together. [`Batch`](super::Batch) asks this before it looks at numbers, and so do
//! the adapters for other frameworks, on every device.

use super::{ContrastiveLoss, Form, Objective};
use crate::Error;
use crate::conflict::Conflict;

/// The shapes of everything in a batch, each `[rows, dimension]` or a number of rows.
///
/// ```
/// use kinfold::loss::BatchShape;
/// use kinfold::{ContrastiveLoss, Temperature};
///
/// let shape = BatchShape { keys: Some([127, 64]), ..BatchShape::new([128, 64]) };
/// let loss = ContrastiveLoss::clip(Temperature::new(0.1)?);
/// let reason = loss.check(&shape).unwrap_err().to_string();
/// assert_eq!(reason, "keys have 127 rows but queries have 128");
/// # Ok::<(), kinfold::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// `[n, d]`.
    pub queries: [usize; 2],
    /// `[n, d]`, or `[m, d]` with an offset; none where rows are all there is.
    pub keys: Option<[usize; 2]>,
    /// Explicit negatives.
    pub negatives: Option<NegativesShape>,
    /// How many ids there are.
    pub ids: Option<usize>,
    /// How many labels there are.
    pub labels: Option<usize>,
    /// How many row weights there are.
    pub row_weights: Option<usize>,
    /// A guide's embeddings.
    pub guide: Option<GuideShape>,
}

/// The shape of explicit negatives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NegativesShape {
    /// `[m, d]`, of every query.
    Shared([usize; 2]),
    /// `[n, m, d]`, m rows of each query.
    PerQuery([usize; 3]),
}

/// The shapes of a guide's embeddings, each `[rows, dimension]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuideShape {
    /// Of the queries.
    pub queries: [usize; 2],
    /// Of the keys.
    pub keys: [usize; 2],
    /// Of the shared negatives.
    pub negatives: Option<[usize; 2]>,
}

impl BatchShape {
    /// Queries `[n, d]` and nothing else yet.
    pub fn new(queries: [usize; 2]) -> Self {
        Self {
            queries,
            keys: None,
            negatives: None,
            ids: None,
            labels: None,
            row_weights: None,
            guide: None,
        }
    }

    /// The same of the first `dim` features.
    pub(crate) fn prefix(&self, dim: usize) -> Self {
        let cut = |[rows, _]: [usize; 2]| [rows, dim];
        Self {
            queries: cut(self.queries),
            keys: self.keys.map(cut),
            negatives: self.negatives.map(|negatives| match negatives {
                NegativesShape::Shared(shared) => NegativesShape::Shared(cut(shared)),
                NegativesShape::PerQuery([n, m, _]) => NegativesShape::PerQuery([n, m, dim]),
            }),
            ..*self
        }
    }

    /// The number of rows that have a loss: n, or 2n where all views choose.
    pub fn rows(&self, form: Form) -> usize {
        let [queries, _] = self.queries;
        match form {
            Form::NtXent => queries + self.keys.map_or(0, |[keys, _]| keys),
            Form::OneWay | Form::BothWays => queries,
        }
    }
}

impl ContrastiveLoss {
    /// Whether this loss can be computed of such a batch, as far as that can be told without data.
    ///
    /// # Errors
    /// When settings do not go together, or shapes disagree with each other or with the loss.
    pub fn check(&self, batch: &BatchShape) -> Result<(), Error> {
        self.check_settings()?;
        let [n, dim] = batch.queries;
        if dim == 0 {
            return Err(Error::ZeroDimension);
        }
        if n == 0 {
            return Err(Error::Empty { matrix: "queries", needed: 1 });
        }
        if self.matryoshka.longest() > dim {
            let (what, given) = ("the longest prefix", self.matryoshka.longest());
            return Err(Error::Count { what, given, least: 1, most: dim });
        }
        self.check_labels(batch)?;
        self.check_keys(batch)?;
        self.check_negatives(batch)?;
        if let Some(given) = batch.ids {
            let [keys, _] = batch.keys.unwrap_or_default();
            let shared = match batch.negatives {
                Some(NegativesShape::Shared([rows, _])) => rows,
                _ => 0,
            };
            check_count("the number of ids", given, keys, keys + shared)?;
        }
        if let Some(given) = batch.row_weights {
            let rows = batch.rows(self.form());
            check_count("the number of row weights", given, rows, rows)?;
        }
        self.check_guide(batch)
    }

    fn check_labels(&self, batch: &BatchShape) -> Result<(), Error> {
        let needed = self.objective().has_labels();
        match batch.labels {
            None if needed => return Err(Conflict::LabelsMissing.into()),
            Some(_) if !needed => return Err(Conflict::LabelsUnused.into()),
            None => return Ok(()),
            Some(given) => {
                let [n, _] = batch.queries;
                check_count("the number of labels", given, n, n)?;
            }
        }
        if batch.ids.is_some() || batch.guide.is_some() {
            return Err(Conflict::LabelsWithIds.into());
        }
        Ok(())
    }

    fn check_keys(&self, batch: &BatchShape) -> Result<(), Error> {
        let keys = match batch.keys {
            Some(keys) => keys,
            None if self.objective().has_labels() => return Ok(()),
            None => return Err(Error::Empty { matrix: "keys", needed: 1 }),
        };
        let [n, _] = batch.queries;
        check_dimension(("queries", batch.queries), ("keys", keys))?;
        let [rows, _] = keys;
        if rows == 0 {
            return Err(Error::Empty { matrix: "keys", needed: 1 });
        }
        if self.form() != Form::OneWay || self.within_views {
            return check_rows(("keys", keys), ("queries", batch.queries));
        }
        let (last, offset) = (n - 1, self.offset);
        match offset.checked_add(last) {
            Some(positive) if positive < rows => Ok(()),
            _ => Err(Error::Offset { last, offset, keys: rows }),
        }
    }

    fn check_negatives(&self, batch: &BatchShape) -> Result<(), Error> {
        let Some(negatives) = batch.negatives else {
            return if self.in_batch { Ok(()) } else { Err(Conflict::NegativesMissing.into()) };
        };
        if self.form() != Form::OneWay || self.objective().is_sigmoid() {
            return Err(Conflict::NegativesForm.into());
        }
        let queries = ("queries", batch.queries);
        match negatives {
            NegativesShape::Shared(shared) => check_dimension(queries, ("negatives", shared)),
            NegativesShape::PerQuery(_) if self.within_views => {
                Err(Conflict::WithinViewsPerQuery.into())
            }
            NegativesShape::PerQuery([rows, _, dim]) => {
                check_rows(("negatives per query", [rows, dim]), queries)?;
                check_dimension(queries, ("negatives", [rows, dim]))
            }
        }
    }

    fn check_guide(&self, batch: &BatchShape) -> Result<(), Error> {
        let Some(guide) = batch.guide else { return Ok(()) };
        let plain = self.form() == Form::OneWay && self.objective() == Objective::Softmax;
        if !plain || !self.in_batch {
            return Err(Conflict::GuideForm.into());
        }
        let shared = match batch.negatives {
            None => None,
            Some(NegativesShape::Shared(shared)) => Some(shared),
            Some(NegativesShape::PerQuery(_)) => return Err(Conflict::GuideOffset.into()),
        };
        if self.offset != 0 {
            return Err(Conflict::GuideOffset.into());
        }
        if self.label_smoothing != 0.0 {
            return Err(Conflict::GuideSmoothing.into());
        }
        let queries = ("the guide's queries", guide.queries);
        let keys = ("the guide's keys", guide.keys);
        check_rows(queries, ("queries", batch.queries))?;
        check_rows(keys, ("keys", batch.keys.unwrap_or_default()))?;
        check_dimension(queries, keys)?;
        match (shared, guide.negatives) {
            (Some(shared), Some(negatives)) => {
                let negatives = ("the guide's negatives", negatives);
                check_rows(negatives, ("negatives", shared))?;
                check_dimension(queries, negatives)
            }
            (Some(_), None) => Err(Conflict::GuideNegativesMissing.into()),
            (None, Some(_)) => Err(Conflict::GuideNegativesUnused.into()),
            (None, None) => Ok(()),
        }
    }
}

/// Row weights are finite and at least 0, and not all of them are 0.
///
/// # Errors
/// [`Error::RowWeight`] for the first that is not, [`Conflict::WeightsZero`] where all are 0.
pub fn check_row_weights(weights: &[f64]) -> Result<(), Error> {
    if let Some(row) = weights.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        return Err(Error::RowWeight { row, given: weights[row] });
    }
    if weights.iter().all(|&w| w == 0.0) {
        return Err(Conflict::WeightsZero.into());
    }
    Ok(())
}

/// A matrix by its name: `[rows, dimension]`.
type Named = (&'static str, [usize; 2]);

fn check_dimension(
    (left, [_, left_dim]): Named,
    (right, [_, right_dim]): Named,
) -> Result<(), Error> {
    if left_dim == right_dim {
        return Ok(());
    }
    Err(Error::Dimension { left, left_dim, right, right_dim })
}

fn check_rows((left, [left_rows, _]): Named, (right, [right_rows, _]): Named) -> Result<(), Error> {
    if left_rows == right_rows {
        return Ok(());
    }
    Err(Error::Rows { left, left_rows, right, right_rows })
}

/// There are either `least` or `most` of them.
fn check_count(what: &'static str, given: usize, least: usize, most: usize) -> Result<(), Error> {
    if given == least || given == most {
        return Ok(());
    }
    Err(Error::Count { what, given, least, most })
}
