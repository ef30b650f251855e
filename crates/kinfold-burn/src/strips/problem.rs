//! The matrices that a loss compares, and what belongs to their rows.
//!
//! Input: a batch whose shapes agree. Output: a [`Problem`], which is linear in the number of rows.

use crate::PairBatch;
use crate::batch::Negatives;
use crate::learned::Learned;
use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Int, Tensor};
use kinfold::{ContrastiveLoss, Form, NORM_FLOOR, Objective, Similarity};

/// Places of the variables. The views of NT-Xent are stacked: one matrix, the queries above the keys,
/// in the place of the queries.
pub(super) const QUERIES: usize = 0;
pub(super) const KEYS: usize = 1;
pub(super) const NEGATIVES: usize = 2;
const SCALE: usize = 3;
const BIAS: usize = 4;

#[derive(Clone)]
pub(super) struct Problem {
    pub(super) loss: ContrastiveLoss,
    /// What the loss has derivatives with respect to: the matrices as they are compared (of unit
    /// length for the cosine), 1/τ and the bias of the sigmoid, `[1, 1]`.
    pub(super) variables: [Option<Tensor<2>>; 5],
    /// The id of each row of each matrix; a query has that of its key.
    pub(super) ids: [Option<Tensor<1, Int>>; 3],
    pub(super) labels: Option<Tensor<1, Int>>,
    row_weights: Option<Tensor<1>>,
    pub(super) guide: Option<[Option<Tensor<2>>; 3]>,
    /// The weight of each positive in the weighted decoupled loss, `[rows, 1]`; a constant.
    pub(super) positive_weights: Option<Tensor<2>>,
    /// The number of pairs: rows of the queries as given.
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
        let pairs = batch.queries.dims()[0];
        let keys = batch.keys.as_ref().map_or(0, |keys| keys.dims()[0]);
        let (negatives, per_query) = batch.negatives.map(Negatives::rows).unzip();
        // Normalisation stays in the caller's graph: it is linear in n, and its backward is Burn's.
        let compared = |x: Option<Tensor<2>>| {
            let x = x?.cast(dtype);
            Some(match loss.similarity() {
                Similarity::Cosine => normalised(x, loss.norm_floor()),
                Similarity::Dot => x,
            })
        };
        let [queries, keys_compared, negatives] =
            [Some(batch.queries), batch.keys, negatives].map(compared);
        let guide = batch.guide.map(|guide| {
            let guide = [Some(guide.queries), Some(guide.keys), guide.negatives];
            guide.map(|x| Some(normalised(x?.detach().cast(dtype), NORM_FLOOR)))
        });
        let mut out = Self {
            loss: *loss,
            variables: [queries, keys_compared, negatives, Some(scale), Some(bias)],
            ids: ids(batch.ids, pairs, keys, loss.offset()),
            labels: batch.labels,
            row_weights: batch.row_weights.map(|x| x.detach().cast(dtype)),
            guide,
            positive_weights: None,
            pairs,
            per_query: per_query.flatten(),
        };
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            out.positive_weights = Some(out.weights_of_pairs(sigma));
        }
        if loss.form() == Form::NtXent { out.stacked() } else { out }
    }

    /// Queries and keys as one matrix, and what belongs to their rows, too.
    fn stacked(mut self) -> Self {
        if let Some(keys) = self.variables[KEYS].take() {
            let queries = self.matrix(QUERIES);
            self.variables[QUERIES] = Some(Tensor::cat(vec![queries, keys], 0));
            let twice = |x: Tensor<1, Int>| Tensor::cat(vec![x.clone(), x], 0);
            self.ids = [self.ids[KEYS].take().map(twice), None, None];
            self.labels = self.labels.map(twice);
            let twice = |x: Tensor<2>| Tensor::cat(vec![x.clone(), x], 0);
            self.positive_weights = self.positive_weights.map(twice);
        }
        self
    }

    /// The same, with variables that begin a graph of their own.
    pub(super) fn with_leaves(&self) -> Self {
        let leaf = |x: &Tensor<2>| x.clone().detach().set_require_grad(x.is_tracked());
        let variables = self.variables.each_ref().map(|x| x.as_ref().map(leaf));
        Self { variables, ..self.clone() }
    }

    pub(super) fn device(&self) -> Device {
        self.scale().device()
    }

    pub(super) fn matrix(&self, which: usize) -> Tensor<2> {
        self.variables[which].clone().expect("the loss compares matrices that were given")
    }

    /// 1/τ, `[1, 1]`.
    pub(super) fn scale(&self) -> Tensor<2> {
        self.matrix(SCALE)
    }

    /// The bias of the sigmoid, `[1, 1]`.
    pub(super) fn bias(&self) -> Tensor<2> {
        self.matrix(BIAS)
    }

    /// The weights of the positives in the weighted decoupled loss.
    fn weights_of_pairs(&self, sigma: f64) -> Tensor<2> {
        let n = self.pairs;
        let keys = self.matrix(KEYS).narrow(0, self.loss.offset(), n);
        let pairs = (self.matrix(QUERIES) * keys).sum_dim(1).detach() / sigma;
        softmax(pairs, 0) * -(n as f64) + 2.0
    }

    /// What each row counts, `[rows, 1]`: its weight, divided by the sum of all for the mean.
    pub(super) fn weights(&self, mean: bool) -> Tensor<2> {
        let rows = self.matrix(QUERIES).dims()[0];
        let weights = match &self.row_weights {
            Some(weights) => weights.clone().reshape([rows, 1]),
            None => Tensor::ones([rows, 1], (&self.device(), self.scale().dtype())),
        };
        if !mean {
            return weights;
        }
        let sum = weights.clone().sum().reshape([1, 1]);
        weights / sum
    }
}

/// The id of each row of queries, keys and negatives: ids are given for keys and, perhaps, shared
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
