//! The shape of a problem: what a loss makes of a batch's numbers of rows.
//!
//! Input: a loss and [`BatchCounts`]. Output: a [`Shape`], the matrix of logits that the strips go through.
//! Every figure that does not depend on the data is read from it: the plan of a computation, its scratch
//! bytes, its number of products.

use crate::loss::{BatchShape, ContrastiveLoss, Form, NegativesShape};

/// The numbers of rows of a batch: of one that has been checked, or of one to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchCounts {
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    /// Negatives of every query.
    pub(crate) shared: usize,
    /// Negatives of each query alone.
    pub(crate) per_query: usize,
    pub(crate) dim: usize,
    /// Dimension of a guide's embeddings; 0 without a guide.
    pub(crate) guide_dim: usize,
    /// Labels say which rows are positives.
    pub(crate) labelled: bool,
}

impl BatchCounts {
    pub(crate) fn of(batch: &BatchShape) -> Self {
        let [queries, dim] = batch.queries;
        let (shared, per_query) = match batch.negatives {
            None => (0, 0),
            Some(NegativesShape::Shared([rows, _])) => (rows, 0),
            Some(NegativesShape::PerQuery([_, each, _])) => (0, each),
        };
        Self {
            queries,
            keys: batch.keys.map_or(0, |[rows, _]| rows),
            shared,
            per_query,
            dim,
            guide_dim: batch.guide.map_or(0, |guide| guide.queries[1]),
            labelled: batch.labels.is_some(),
        }
    }

    /// Queries and candidates of `loss`, before there is a batch; shared negatives count as keys.
    pub(crate) fn new(loss: &ContrastiveLoss, queries: usize, keys: usize, dim: usize) -> Self {
        let shared = if loss.in_batch { 0 } else { keys };
        Self {
            queries,
            keys,
            shared,
            per_query: 0,
            dim,
            guide_dim: 0,
            labelled: loss.objective().has_labels(),
        }
    }

    /// Terms of all dot products, at least n² d.
    pub(crate) fn dot_product_terms(&self) -> usize {
        let candidates = self.keys + self.shared + self.per_query;
        self.queries.saturating_mul(candidates.max(self.queries)).saturating_mul(self.dim)
    }
}

/// Which elements of the matrix of logits are computed, and where in it the positives are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Region {
    /// All rows with all columns; row i's positive is column i + `offset`.
    Rectangle { offset: usize },
    /// All rows with all columns, none of which is a positive; those are row i + `offset` of another
    /// matrix.
    NegativesOnly { offset: usize },
    /// Rows against themselves, each pair of rows once: row i with the columns above i. The positive
    /// of row i is its partner, where that is above i.
    Triangle { partner: Partner },
    /// Rows against themselves, row i with all columns but i; its positive is its partner.
    Square { partner: Partner },
}

/// Which row is another row's positive, where rows are compared with themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partner {
    /// The other view of the same thing, `pairs` rows further on, around the end.
    OtherView { pairs: usize },
    /// Listed for each row: the only other row of its label, where there is just one.
    Listed,
}

/// The matrix of logits: rows, columns, and what is computed of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) dim: usize,
    pub(crate) region: Region,
    /// Dimension of a guide's embeddings; 0 without a guide.
    pub(crate) guide_dim: usize,
    /// Columns, from the first on, whose gradient is asked for.
    pub(crate) gradient_columns: usize,
    /// A strip's part of the matrix is stored as a whole; otherwise, for the value alone, one chunk of
    /// columns at a time.
    pub(crate) whole_strips: bool,
}

impl Shape {
    /// The matrix of a loss and, if asked for, its gradients.
    pub(crate) fn new(loss: &ContrastiveLoss, batch: &BatchCounts, gradient: bool) -> Self {
        let BatchCounts { queries, keys, shared, guide_dim, labelled, .. } = *batch;
        let dim = loss.matryoshka().last().map_or(batch.dim, |longest| longest.dim);
        let (rows, columns, dim, region) = match loss.form() {
            Form::OneWay if loss.within_views => {
                // Both sides of a pair side by side; see within_views.rs.
                (queries, 2 * queries + keys + shared, 2 * dim, Region::Rectangle { offset: 0 })
            }
            Form::OneWay | Form::BothWays if loss.in_batch => {
                (queries, keys + shared, dim, Region::Rectangle { offset: loss.offset })
            }
            Form::OneWay | Form::BothWays => {
                (queries, shared, dim, Region::NegativesOnly { offset: loss.offset })
            }
            Form::NtXent => {
                let partner = match labelled {
                    true => Partner::Listed,
                    false => Partner::OtherView { pairs: queries },
                };
                let region = match loss.execution.skips_unweighted {
                    // A pair of rows is computed for each of both that has a weight.
                    true => Region::Square { partner },
                    false => Region::Triangle { partner },
                };
                (queries + keys, queries + keys, dim, region)
            }
        };
        let guide_dim = if loss.within_views { 2 * guide_dim } else { guide_dim };
        let (gradient_columns, whole_strips) = (columns, gradient);
        Self { rows, columns, dim, region, guide_dim, gradient_columns, whole_strips }
    }

    /// The same without the gradient of shared negatives, which are the last columns.
    pub(crate) fn with_constant_negatives(self, batch: &BatchCounts) -> Self {
        Self { gradient_columns: self.columns - batch.shared, ..self }
    }
}

/// The form to compute. The sigmoid loss is symmetric, so one direction is enough.
pub(crate) fn computed_form(loss: &ContrastiveLoss) -> Form {
    if loss.objective().is_sigmoid() { Form::OneWay } else { loss.form() }
}
