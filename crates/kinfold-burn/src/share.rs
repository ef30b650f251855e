//! The share that some pairs of a batch have in its loss, for processes that divide a batch among
//! themselves.
//!
//! Input: the embeddings of the whole batch, and which pairs are one's own. Output: what the rows of these
//! pairs contribute to the batch's loss: the other rows have a weight of 0, and the engine passes over them. The
//! shares of all processes add up to the loss, and so do their gradients.

use crate::{ContrastiveLoss, PairBatch};
use burn::tensor::{Tensor, TensorData};
use kinfold::{Error, Reduction};
use std::ops::Range;

impl ContrastiveLoss {
    /// The share of the pairs `own` in the loss of a batch, `[1]`, in nats.
    ///
    /// Over parts that make up the batch, shares add up to
    /// [`try_forward_batch`](Self::try_forward_batch), and the gradients of shares to its gradients: each
    /// process computes its own rows against all columns (on the CPU; other devices compute all rows). The share
    /// of no pairs is 0.
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
    /// As [`try_forward_batch`](Self::try_forward_batch), and where `own` ends beyond the batch.
    pub fn try_forward_share(
        &self,
        batch: impl Into<PairBatch>,
        own: Range<usize>,
    ) -> Result<Tensor<1>, Error> {
        let batch = batch.into();
        let settings = self.settings();
        settings.check(&batch.shape())?;
        let [pairs, _] = batch.queries.dims();
        if own.end > pairs {
            let (what, given) = ("the end of a share", own.end);
            return Err(Error::Count { what, given, least: 0, most: pairs });
        }
        let rows = batch.shape().rows(settings.form());
        let of_all: Vec<f64> = match &batch.row_weights {
            Some(weights) => weights.to_data().iter().collect(),
            None => vec![1.0; rows],
        };
        // Where all views choose, those of the keys are below those of the queries.
        let is_own = |row: usize| own.contains(&(row % pairs));
        let of_own = |(row, weight): (usize, &f64)| if is_own(row) { *weight } else { 0.0 };
        let weights: Vec<f64> = of_all.iter().enumerate().map(of_own).collect();
        if weights.iter().all(|&weight| weight == 0.0) {
            return Ok(self.nothing(&batch));
        }
        let factor = match settings.reduction() {
            Reduction::Sum => 1.0,
            Reduction::Mean => of_all.iter().sum::<f64>().recip(),
        };
        let execution = settings.execution().with_unweighted_rows_skipped(true);
        let settings = settings.with_execution(execution).with_reduction(Reduction::Sum);
        let settings = settings.with_factor(settings.factor() * factor)?;
        let (device, dtype) = (batch.queries.device(), batch.queries.dtype());
        let weights = Tensor::from_data(TensorData::new(weights, [rows]), (&device, dtype));
        self.with_settings(settings).try_forward_batch(batch.with_row_weights(weights))
    }

    /// 0, with a gradient of 0 of everything that other shares have one of.
    fn nothing(&self, batch: &PairBatch) -> Tensor<1> {
        let learned = [&self.log_scale, &self.bias].into_iter().flatten();
        learned.fold(batch.queries.clone().sum() * 0.0, |nothing, learned| {
            nothing + learned.val().cast(batch.queries.dtype()) * 0.0
        })
    }
}
