//! The share that some pairs of a batch have in its loss, for processes that divide a batch among
//! themselves.
//!
//! Input: the embeddings of the whole batch, and which pairs are one's own. Output: what the rows of these
//! pairs contribute to the batch's loss. The shares of all processes add up to the loss, and so do their
//! gradients.
//!
//! A row's loss is that of one query among all columns, so every form comes apart into losses one way with
//! an offset:
//!
//! ```text
//! one way     own queries among all keys
//! both ways   half of that, and half of own keys among all queries
//! NT-Xent     own queries among all keys and, as negatives, all queries; own keys the other way round
//! ```

use crate::batch::Negatives;
use crate::{ContrastiveLoss, PairBatch};
use burn::tensor::{Int, Tensor};
use kinfold::{Error, Form, Objective, Reduction};
use std::ops::Range;

impl ContrastiveLoss {
    /// The share of the pairs `own` in the loss of a batch, `[1]`, in nats.
    ///
    /// Over parts that make up the batch, shares add up to
    /// [`try_forward_batch`](Self::try_forward_batch), and the gradients of shares to its gradients: each
    /// process computes its own rows against all columns. Pairs in no row have a share of 0.
    ///
    /// ```
    /// use burn::tensor::{Device, Distribution, Tensor};
    /// use kinfold_burn::{ContrastiveLossConfig, Form};
    ///
    /// let device = Device::flex().autodiff();
    /// let random = || Tensor::<2>::random([8, 4], Distribution::Default, &device).require_grad();
    /// let (queries, keys) = (random(), random());
    /// let loss = ContrastiveLossConfig::new().with_form(Form::NtXent).init(&device);
    ///
    /// let share = |own| loss.try_forward_share((queries.clone(), keys.clone()), own);
    /// let apart = share(0..3)? + share(3..8)?;
    /// let whole = loss.forward(queries.clone(), keys.clone());
    /// assert!((apart - whole).abs().into_scalar::<f32>() < 1e-6);
    /// # Ok::<(), kinfold_burn::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`try_forward_batch`](Self::try_forward_batch); where `own` ends beyond the batch; and where a row's
    /// loss is no matter of its own: over labels, with weights by all pairs
    /// ([`Objective::DecoupledWeighted`]), with a guide, and within views.
    pub fn try_forward_share(
        &self,
        batch: impl Into<PairBatch>,
        own: Range<usize>,
    ) -> Result<Tensor<1>, Error> {
        let batch = batch.into();
        self.settings().check_share(&batch.shape(), &own)?;
        let [n, _] = batch.queries.dims();
        // Only losses over labels do without keys, and these have no shares.
        let keys = batch.keys.clone().unwrap_or_else(|| batch.queries.clone());
        let form = self.settings().form();
        let counts = match (self.settings().reduction(), &batch.row_weights) {
            (Reduction::Sum, _) => 1.0,
            (Reduction::Mean, Some(weights)) => weights.clone().sum().into_scalar::<f64>(),
            (Reduction::Mean, None) => batch.shape().rows(form) as f64,
        };
        let part = if form == Form::BothWays { 0.5 } else { 1.0 };
        let share = Share { loss: self, batch: &batch, own, factor: part / counts };
        let queries = batch.queries.clone();
        match form {
            // The sigmoid loss is symmetric, so one direction is enough.
            _ if matches!(self.settings().objective(), Objective::Sigmoid { .. }) => {
                let share = Share { factor: 1.0 / counts, ..share };
                share.one_way(queries, keys, share.given(), 0..n)
            }
            Form::OneWay => share.one_way(queries, keys, share.given(), 0..n),
            Form::BothWays => {
                let there = share.one_way(queries.clone(), keys.clone(), share.given(), 0..n)?;
                Ok(there + share.one_way(keys, queries, share.given(), 0..n)?)
            }
            Form::NtXent => {
                let there = share.among_views(queries.clone(), keys.clone(), 0..n)?;
                Ok(there + share.among_views(keys, queries, n..2 * n)?)
            }
        }
    }
}

struct Share<'a> {
    loss: &'a ContrastiveLoss,
    batch: &'a PairBatch,
    own: Range<usize>,
    /// What the loss of each row is multiplied by.
    factor: f64,
}

/// What stands beside queries and keys.
struct Beside {
    negatives: Option<Negatives>,
    ids: Option<Tensor<1, Int>>,
}

impl Share<'_> {
    /// What the batch has beside queries and keys.
    fn given(&self) -> Beside {
        let PairBatch { negatives, ids, .. } = self.batch.clone();
        Beside { negatives, ids }
    }

    /// The own rows of `rows` among all columns and all other rows.
    fn among_views(
        &self,
        rows: Tensor<2>,
        columns: Tensor<2>,
        weights: Range<usize>,
    ) -> Result<Tensor<1>, Error> {
        let n = rows.dims()[0] as i64;
        // A row has the id of its positive, and is left out of its own negatives with that.
        let one_each = || Tensor::arange(0..n, &rows.device());
        let ids = self.batch.ids.clone().unwrap_or_else(one_each);
        let beside = Beside {
            negatives: Some(Negatives::Shared(rows.clone())),
            ids: Some(Tensor::cat(vec![ids.clone(), ids], 0)),
        };
        self.one_way(rows, columns, beside, weights)
    }

    /// The losses of the own rows of `rows` among `columns`, added up; their weights are among those at `weights`.
    fn one_way(
        &self,
        rows: Tensor<2>,
        columns: Tensor<2>,
        beside: Beside,
        weights: Range<usize>,
    ) -> Result<Tensor<1>, Error> {
        let Range { start, end } = self.own;
        let own_weights =
            |all: &Tensor<1>| all.clone().narrow(0, weights.start + start, end - start);
        // 0, and a gradient of 0 of everything that other shares have one of.
        let none = || {
            let learned = [&self.loss.log_scale, &self.loss.bias].into_iter().flatten();
            learned.fold(rows.clone().sum() * 0.0, |none, learned| {
                none + learned.val().cast(rows.dtype()) * 0.0
            })
        };
        if start >= end {
            return Ok(none());
        }
        let row_weights = self.batch.row_weights.as_ref().map(own_weights);
        if let Some(weights) = &row_weights
            && weights.clone().sum().into_scalar::<f64>() == 0.0
        {
            return Ok(none());
        }
        let own = |negatives| match negatives {
            Negatives::PerQuery(x) => {
                let [_, each, dim] = x.dims();
                Negatives::PerQuery(x.slice([start..end, 0..each, 0..dim]))
            }
            shared => shared,
        };
        let batch = PairBatch {
            negatives: beside.negatives.map(own),
            ids: beside.ids,
            row_weights,
            ..PairBatch::new(rows.clone().narrow(0, start, end - start), columns)
        };
        let settings = self.loss.settings();
        let offset = settings.offset() + start;
        let settings = settings.one_way().with_offset(offset).with_reduction(Reduction::Sum);
        let settings = settings.with_factor(settings.factor() * self.factor)?;
        self.loss.with_settings(settings).try_forward_batch(batch)
    }
}
