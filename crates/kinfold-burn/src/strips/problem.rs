//! The matrices that are compared, and what stands beside their rows.
//!
//! Comes in: a batch whose shapes agree. Goes out: a [`Problem`], in which all of them are linear in
//! the number of rows.

use crate::PairBatch;
use crate::batch::Negatives;
use crate::info_nce::Learned;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Int, Tensor};
use kinfold::{ContrastiveLoss, Form, NORM_FLOOR, Objective, Similarity};

/// Places of the matrices among those that are compared. Where all views choose, both are one matrix,
/// the queries above the keys, in the queries' place.
pub(super) const QUERIES: usize = 0;
pub(super) const KEYS: usize = 1;
pub(super) const NEGATIVES: usize = 2;

pub(super) struct Problem {
    pub(super) loss: ContrastiveLoss,
    /// As they are compared: of unit length for the cosine.
    pub(super) compared: [Option<Tensor<2>>; 3],
    /// 1/τ and the sigmoid's bias, `[1, 1]`.
    pub(super) scale: Tensor<2>,
    pub(super) bias: Tensor<2>,
    /// What each row of each matrix is of; a query is of what its key is of.
    pub(super) ids: [Option<Tensor<1, Int>>; 3],
    pub(super) labels: Option<Tensor<1, Int>>,
    row_weights: Option<Tensor<1>>,
    pub(super) guide: Option<[Option<Tensor<2>>; 3]>,
    /// What each positive's logit counts in the weighted decoupled loss, `[rows, 1]`.
    pub(super) positive_weights: Option<Tensor<2>>,
    /// Pairs: rows of the queries as given.
    pub(super) pairs: usize,
    /// Negatives of each query, where each has its own.
    pub(super) per_query: Option<usize>,
}

impl Problem {
    pub(super) fn new(loss: &ContrastiveLoss, batch: PairBatch, learned: &Learned) -> Self {
        let dtype = match batch.queries.dtype() {
            DType::F16 | DType::BF16 => DType::F32,
            dtype => dtype,
        };
        let device = batch.queries.device();
        let number = |learned: &Option<Tensor<1>>, fixed: f64| match learned {
            Some(x) => x.clone().cast(dtype).reshape([1, 1]),
            None => Tensor::<2>::from_data([[fixed]], (&device, dtype)),
        };
        let scale = number(&learned.log_scale, loss.temperature().scale());
        let scale = if learned.log_scale.is_some() { scale.exp() } else { scale };
        let bias = match loss.objective() {
            Objective::Sigmoid { bias } => number(&learned.bias, bias),
            _ => number(&None, 0.0),
        };
        let [pairs, dim] = batch.queries.dims();
        let keys = batch.keys.as_ref().map(|keys| keys.dims()[0]);
        let (negatives, per_query) = match batch.negatives {
            None => (None, None),
            Some(Negatives::Shared(x)) => (Some(x), None),
            Some(Negatives::PerQuery(x)) => {
                let each = x.dims()[1];
                (Some(x.reshape([pairs * each, dim])), Some(each))
            }
        };
        // Normalisation stays in Burn's graph: it is linear in n, and its backward is Burn's.
        let compared = [Some(batch.queries), batch.keys, negatives].map(|x| {
            let x = x?.cast(dtype);
            Some(match loss.similarity() {
                Similarity::Cosine => normalised(x, loss.norm_floor()),
                Similarity::Dot => x,
            })
        });
        let guide = batch.guide.map(|guide| {
            let guide = [Some(guide.queries), Some(guide.keys), guide.negatives];
            guide.map(|x| Some(normalised(x?.detach().cast(dtype), NORM_FLOOR)))
        });
        let mut out = Self {
            loss: *loss,
            compared,
            scale,
            bias,
            ids: ids(batch.ids, pairs, keys.unwrap_or(0), loss.offset()),
            labels: batch.labels,
            row_weights: batch.row_weights.map(|x| x.detach().cast(dtype)),
            guide,
            positive_weights: None,
            pairs,
            per_query,
        };
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            out.positive_weights = Some(out.weights_of_pairs(sigma));
        }
        if loss.form() == Form::NtXent { out.stacked() } else { out }
    }

    /// Queries and keys as one matrix, and what stands beside their rows, too.
    fn stacked(mut self) -> Self {
        if let [Some(queries), Some(keys), _] = self.compared {
            self.compared = [Some(Tensor::cat(vec![queries, keys], 0)), None, None];
            let twice = |x: Tensor<1, Int>| Tensor::cat(vec![x.clone(), x], 0);
            let ids = self.ids[KEYS].take();
            self.ids = [ids.map(twice), None, None];
            self.labels = self.labels.map(twice);
            self.positive_weights =
                self.positive_weights.map(|x| Tensor::cat(vec![x.clone(), x], 0));
        }
        self
    }

    /// The same, its numbers without a graph.
    pub(super) fn without_graph(&self) -> Self {
        Self {
            loss: self.loss,
            compared: self.compared.clone().map(|x| x.map(Tensor::inner)),
            scale: self.scale.clone().inner(),
            bias: self.bias.clone().inner(),
            ids: self.ids.clone().map(|x| x.map(Tensor::inner)),
            labels: self.labels.clone().map(Tensor::inner),
            row_weights: self.row_weights.clone().map(Tensor::inner),
            guide: self.guide.clone().map(|guide| guide.map(|x| x.map(Tensor::inner))),
            positive_weights: self.positive_weights.clone().map(Tensor::inner),
            ..*self
        }
    }

    pub(super) fn device(&self) -> Device {
        self.scale.device()
    }

    pub(super) fn matrix(&self, which: usize) -> Tensor<2> {
        self.compared[which].clone().expect("the loss compares matrices that were given")
    }

    pub(super) fn rows_of(&self, which: usize, start: usize, rows: usize) -> Tensor<2> {
        self.matrix(which).narrow(0, start, rows)
    }

    /// What each positive counts in the weighted decoupled loss; these count as constants.
    fn weights_of_pairs(&self, sigma: f64) -> Tensor<2> {
        let n = self.pairs;
        let keys = self.rows_of(KEYS, self.loss.offset(), n);
        let pairs = (self.matrix(QUERIES) * keys).sum_dim(1).detach() / sigma;
        softmax(pairs, 0) * -(n as f64) + 2.0
    }

    /// What each row counts, `[rows, 1]`: its weight, divided by the sum of all for the mean.
    pub(super) fn weights(&self, mean: bool) -> Tensor<2> {
        let rows = self.matrix(QUERIES).dims()[0];
        let weights = match &self.row_weights {
            Some(weights) => weights.clone().reshape([rows, 1]),
            None => self.scale.clone().detach().ones_like().expand([rows, 1]),
        };
        if !mean {
            return weights;
        }
        let sum = weights.clone().sum().reshape([1, 1]);
        weights / sum
    }
}

/// What each row of queries, keys and negatives is of: ids are given for keys and, perhaps, shared
/// negatives.
fn ids(
    ids: Option<Tensor<1, Int>>,
    pairs: usize,
    keys: usize,
    offset: usize,
) -> [Option<Tensor<1, Int>>; 3] {
    let Some(ids) = ids else { return [None, None, None] };
    let all = ids.dims()[0];
    let queries = ids.clone().narrow(0, offset, pairs);
    let negatives = (all > keys).then(|| ids.clone().narrow(0, keys, all - keys));
    [Some(queries), Some(ids.narrow(0, 0, keys)), negatives]
}

fn normalised(x: Tensor<2>, floor: f64) -> Tensor<2> {
    // The square root has no derivative at 0, so the floor comes before it.
    let length = x.clone().powi_scalar(2).sum_dim(1).clamp_min(floor * floor).sqrt();
    x / length
}
