//! What a loss is given, as tensors; [`kinfold::Batch`] says what each part means.
//!
//! Input: queries, keys and what else stands beside them. Output: a [`PairBatch`], unchecked. When a
//! loss is computed it describes its shapes, and `kinfold::ContrastiveLoss::check` decides.

use burn::tensor::{Int, Tensor};
use kinfold::loss::{BatchShape, GuideShape, NegativesShape};

/// Queries, their keys, and what else there is: negatives, identities, labels, weights, a guide.
///
/// ```
/// use burn::tensor::{Device, Distribution, Tensor};
/// use kinfold_burn::{ContrastiveLossConfig, PairBatch};
///
/// let device = Device::flex().autodiff();
/// let random = |rows| Tensor::<2>::random([rows, 4], Distribution::Default, &device);
/// let hard = random(3).require_grad(); // negatives of every query
/// let batch = PairBatch::new(random(8), random(8)).with_negatives(hard.clone());
/// let loss = ContrastiveLossConfig::new().init(&device).forward_batch(batch);
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

impl PairBatch {
    /// The same of the first `dim` features.
    pub(crate) fn prefix(&self, dim: usize) -> Self {
        let cut = |x: &Tensor<2>| x.clone().narrow(1, 0, dim);
        Self {
            queries: cut(&self.queries),
            keys: self.keys.as_ref().map(cut),
            negatives: self.negatives.as_ref().map(|negatives| match negatives {
                Negatives::Shared(x) => Negatives::Shared(cut(x)),
                Negatives::PerQuery(x) => Negatives::PerQuery(x.clone().narrow(2, 0, dim)),
            }),
            ..self.clone()
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) enum Negatives {
    Shared(Tensor<2>),
    PerQuery(Tensor<3>),
}

impl Negatives {
    pub(crate) fn is_tracked(&self) -> bool {
        match self {
            Self::Shared(x) => x.is_tracked(),
            Self::PerQuery(x) => x.is_tracked(),
        }
    }

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

impl From<(Tensor<2>, Tensor<2>)> for PairBatch {
    fn from((queries, keys): (Tensor<2>, Tensor<2>)) -> Self {
        Self::new(queries, keys)
    }
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

    /// The shapes of everything in it, by which kinfold says whether it can be computed.
    pub(crate) fn shape(&self) -> BatchShape {
        BatchShape {
            queries: self.queries.dims(),
            keys: self.keys.as_ref().map(Tensor::dims),
            negatives: self.negatives.as_ref().map(|negatives| match negatives {
                Negatives::Shared(x) => NegativesShape::Shared(x.dims()),
                Negatives::PerQuery(x) => NegativesShape::PerQuery(x.dims()),
            }),
            ids: self.ids.as_ref().map(length),
            labels: self.labels.as_ref().map(length),
            row_weights: self.row_weights.as_ref().map(|x| x.dims()[0]),
            guide: self.guide.as_ref().map(|guide| GuideShape {
                queries: guide.queries.dims(),
                keys: guide.keys.dims(),
                negatives: guide.negatives.as_ref().map(Tensor::dims),
            }),
        }
    }
}

fn length(x: &Tensor<1, Int>) -> usize {
    x.dims()[0]
}
