//! What a loss is given, as tensors; [`kinfold::Batch`] says what each part means.
//!
//! Comes in: queries, keys and what else stands beside them. Goes out: a [`PairBatch`], not looked at
//! yet; shapes are checked when a loss is computed.

use burn::tensor::{Int, Tensor};
use kinfold::{Batch, ContrastiveLoss, Embeddings, Error, Form, Temperature};

/// Queries, their keys, and what else there is: negatives, identities, labels, weights, a guide.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use kinfold_burn::{InfoNceLossConfig, PairBatch};
///
/// let device = Device::flex().autodiff();
/// let random = |rows| Tensor::<2>::random([rows, 4], Distribution::Default, &device);
/// let hard = random(3).require_grad(); // negatives of every query
/// let batch = PairBatch::new(random(8), random(8)).with_negatives(hard.clone());
/// let loss = InfoNceLossConfig::new().init(&device).forward_batch(batch);
/// assert_eq!(hard.grad(&loss.backward()).unwrap().dims(), [3, 4]);
/// ```
#[derive(Debug, Clone)]
pub struct PairBatch {
    pub(crate) queries: Tensor<2>,
    pub(crate) keys: Option<Tensor<2>>,
    pub(crate) negatives: Option<Negatives>,
    pub(crate) ids: Option<Tensor<1, Int>>,
    pub(crate) labels: Option<Tensor<1, Int>>,
    pub(crate) row_weights: Option<Tensor<1>>,
    pub(crate) guide: Option<Guide>,
}

#[derive(Debug, Clone)]
pub(crate) enum Negatives {
    Shared(Tensor<2>),
    PerQuery(Tensor<3>),
}

impl Negatives {
    /// All of them as rows of one matrix, query by query; and how many each query has, where each has
    /// its own.
    pub(crate) fn rows(self) -> (Tensor<2>, Option<usize>) {
        match self {
            Self::Shared(x) => (x, None),
            Self::PerQuery(x) => {
                let [n, each, dim] = x.dims();
                // A size of 0 means something else to `reshape`.
                let rows = match n * each {
                    0 => Tensor::zeros([0, dim], (&x.device(), x.dtype())),
                    rows => x.reshape([rows, dim]),
                };
                (rows, Some(each))
            }
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Guide {
    pub(crate) queries: Tensor<2>,
    pub(crate) keys: Tensor<2>,
    pub(crate) negatives: Option<Tensor<2>>,
}

impl PairBatch {
    /// Queries `[n, d]` and keys `[n, d]`, whose rows correspond (`[m, d]` with an offset).
    pub fn new(queries: Tensor<2>, keys: Tensor<2>) -> Self {
        Self { keys: Some(keys), ..Self::rows_alone(queries) }
    }

    /// Embeddings `[n, d]` and their labels `[n]`, for the losses over labels.
    pub fn labelled(embeddings: Tensor<2>, labels: Tensor<1, Int>) -> Self {
        Self { labels: Some(labels), ..Self::rows_alone(embeddings) }
    }

    fn rows_alone(queries: Tensor<2>) -> Self {
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

    /// Negatives of every query, `[m, d]`. Where they are constants, as in a queue, detach them: no
    /// gradient is kept then.
    #[must_use]
    pub fn with_negatives(self, shared: Tensor<2>) -> Self {
        Self { negatives: Some(Negatives::Shared(shared)), ..self }
    }

    /// Negatives of each query alone, `[n, m, d]`.
    #[must_use]
    pub fn with_negatives_per_query(self, own: Tensor<3>) -> Self {
        Self { negatives: Some(Negatives::PerQuery(own)), ..self }
    }

    /// What each key is an embedding of, `[keys]`, and after these, where wanted, the same of the
    /// shared negatives. Other embeddings of the same are no negatives.
    #[must_use]
    pub fn with_ids(self, ids: Tensor<1, Int>) -> Self {
        Self { ids: Some(ids), ..self }
    }

    /// The label of each pair, `[n]`, for the losses over labels.
    #[must_use]
    pub fn with_labels(self, labels: Tensor<1, Int>) -> Self {
        Self { labels: Some(labels), ..self }
    }

    /// What each row's loss counts, at least 0 each: `[n]`, or `[2n]` where all views choose. They
    /// are constants; no gradient flows into them.
    #[must_use]
    pub fn with_row_weights(self, weights: Tensor<1>) -> Self {
        Self { row_weights: Some(weights), ..self }
    }

    /// A guide's embeddings of queries, keys and shared negatives, each `[rows, e]`: what it finds
    /// closer to a query than that query's key is no negative. They are constants.
    #[must_use]
    pub fn with_guide(
        self,
        queries: Tensor<2>,
        keys: Tensor<2>,
        negatives: Option<Tensor<2>>,
    ) -> Self {
        Self { guide: Some(Guide { queries, keys, negatives }), ..self }
    }

    /// Rows that choose: n, or 2n where all views do.
    pub(crate) fn rows(&self, form: Form) -> usize {
        let count = |x: &Tensor<2>| x.dims()[0];
        match form {
            Form::NtXent => count(&self.queries) + self.keys.as_ref().map_or(0, count),
            Form::OneWay | Form::BothWays => count(&self.queries),
        }
    }

    /// Everything that can be said without looking at numbers, as [`kinfold::ContrastiveLoss::value_of`] says
    /// it.
    pub(crate) fn check(&self, loss: &ContrastiveLoss) -> Result<(), Error> {
        if self.queries.dims()[0] == 0 {
            return Err(Error::Empty { matrix: "queries", needed: 1 });
        }
        self.meaningful(loss)?;
        let [n, dim] = self.queries.dims();
        let mut keys = 0;
        if let Some(x) = &self.keys {
            keys = x.dims()[0];
            same_dimension(("queries", dim), ("keys", x.dims()[1]))?;
            let (last, offset) = (n - 1, loss.offset());
            match loss.form() {
                _ if keys == 0 => return Err(Error::Empty { matrix: "keys", needed: 1 }),
                Form::OneWay if offset.checked_add(last).is_none_or(|at| at >= keys) => {
                    return Err(Error::Offset { last, offset, keys });
                }
                Form::OneWay => {}
                Form::BothWays | Form::NtXent => same_rows(("keys", keys), ("queries", n))?,
            }
        }
        self.check_per_query()?;
        let mut shared = 0;
        if let Some(Negatives::Shared(x)) = &self.negatives {
            shared = x.dims()[0];
            same_dimension(("queries", dim), ("negatives", x.dims()[1]))?;
        }
        let count = |what, given: usize, least: usize, most: usize| {
            let right = given == least || given == most;
            if right { Ok(()) } else { Err(Error::Count { what, given, least, most }) }
        };
        if let Some(labels) = &self.labels {
            count("the number of labels", labels.dims()[0], n, n)?;
        }
        if let Some(ids) = &self.ids {
            count("the number of ids", ids.dims()[0], keys, keys + shared)?;
        }
        if let Some(weights) = &self.row_weights {
            let rows = self.rows(loss.form());
            count("the number of row weights", weights.dims()[0], rows, rows)?;
        }
        self.check_guide()
    }

    /// Negatives per query have a row of the first dimension for each query. Only here can that be
    /// told: the engine sees them flat.
    pub(crate) fn check_per_query(&self) -> Result<(), Error> {
        let Some(Negatives::PerQuery(x)) = &self.negatives else { return Ok(()) };
        let [rows, _, dim] = x.dims();
        let [n, queries_dim] = self.queries.dims();
        same_rows(("negatives per query", rows), ("queries", n))?;
        same_dimension(("queries", queries_dim), ("negatives", dim))
    }

    fn check_guide(&self) -> Result<(), Error> {
        let Some(guide) = &self.guide else { return Ok(()) };
        let [rows, dim] = guide.queries.dims();
        same_rows(("the guide's queries", rows), ("queries", self.queries.dims()[0]))?;
        let [rows, keys_dim] = guide.keys.dims();
        let keys = self.keys.as_ref().map_or(0, |keys| keys.dims()[0]);
        same_rows(("the guide's keys", rows), ("keys", keys))?;
        same_dimension(("the guide's queries", dim), ("the guide's keys", keys_dim))?;
        if let (Some(theirs), Some(Negatives::Shared(ours))) = (&guide.negatives, &self.negatives) {
            let [rows, negatives_dim] = theirs.dims();
            same_rows(("the guide's negatives", rows), ("negatives", ours.dims()[0]))?;
            let negatives = ("the guide's negatives", negatives_dim);
            same_dimension(("the guide's queries", dim), negatives)?;
        }
        Ok(())
    }

    /// Whether what is given has a meaning together and with the loss. That is the engine's to say:
    /// it is asked with two rows of one number in place of each matrix.
    fn meaningful(&self, loss: &ContrastiveLoss) -> Result<(), Error> {
        const N: usize = 2;
        let offset = loss.offset().min(1);
        let loss = loss.with_offset(offset).with_temperature(Temperature::new(1.0)?);
        let ones = [1.0f32; 2 * N];
        let (counts, weights) = ([0; 2 * N], [1.0; 2 * N]);
        let rows = |rows: usize| Embeddings::new(&ones[..rows], 1);
        let mut batch = match (&self.keys, &self.labels) {
            (Some(_), _) => Batch::new(rows(N)?, rows(N + offset)?),
            (None, _) => Batch::labelled(rows(N)?, &counts[..N]),
        };
        let keys = if self.keys.is_some() { N + offset } else { 0 };
        if self.keys.is_none() && self.labels.is_none() {
            return Err(Error::Empty { matrix: "keys", needed: 1 });
        }
        if self.labels.is_some() {
            batch = batch.with_labels(&counts[..N]);
        }
        batch = match &self.negatives {
            None => batch,
            Some(Negatives::Shared(_)) => batch.with_negatives(rows(N)?),
            Some(Negatives::PerQuery(_)) => batch.with_negatives_per_query(rows(N)?),
        };
        if self.ids.is_some() {
            batch = batch.with_ids(&counts[..keys]);
        }
        if self.row_weights.is_some() {
            batch = batch.with_row_weights(&weights[..batch.rows(loss.form())]);
        }
        if let Some(guide) = &self.guide {
            let negatives = guide.negatives.as_ref().map(|_| rows(N)).transpose()?;
            batch = batch.with_guide(rows(N)?, rows(keys)?, negatives);
        }
        loss.value(&batch).map(drop)
    }
}

fn same_dimension(
    (left, left_dim): (&'static str, usize),
    (right, right_dim): (&'static str, usize),
) -> Result<(), Error> {
    if left_dim == right_dim {
        return Ok(());
    }
    Err(Error::Dimension { left, left_dim, right, right_dim })
}

fn same_rows(
    (left, left_rows): (&'static str, usize),
    (right, right_rows): (&'static str, usize),
) -> Result<(), Error> {
    if left_rows == right_rows {
        return Ok(());
    }
    Err(Error::Rows { left, left_rows, right, right_rows })
}
