//! The losses in strips of Burn's own tensor operations, for devices that kinfold's engine does not
//! run on. The logits of one strip, some rows × all candidates, are the largest thing held.
//!
//! 1. [`problem`]: the matrices that are compared, and what belongs to their rows;
//! 2. [`candidates`]: the similarities of a strip, and which of them are positives and negatives;
//! 3. [`terms`]: sums over each row's logits;
//! 4. [`rule`]: from these sums to each row's loss. Only here does one loss differ from another;
//! 5. this file: from the losses of rows to the value and its gradients.
//!
//! The gradients of a reduced loss are known as soon as a strip's losses are. So each strip has a graph
//! of its own, which Burn differentiates and frees before the next strip begins. They enter the
//! caller's graph as `s = Σ x·dx`: `value + (s − s.detach())` has that value, and the derivatives dx.
//! Without a reduction the upstream gradient is not known in time, and the strips stay in the caller's
//! graph.

mod candidates;
mod problem;
mod rule;
mod terms;

use crate::PairBatch;
use crate::learned::Learned;
use burn::tensor::Tensor;
use candidates::{Pass, Strip};
use kinfold::{ContrastiveLoss, Reduction};
use problem::Problem;
use rule::Numbers;
use terms::Terms;

/// Rows of logits held at a time.
pub(crate) const ROWS: usize = 1024;

/// The loss of a batch that has been checked, `rows` rows at a time; of each row without a reduction.
pub(crate) fn forward(
    loss: &ContrastiveLoss,
    reduction: Option<Reduction>,
    batch: PairBatch,
    learned: Learned,
    rows: usize,
) -> Tensor<1> {
    let each = loss.matryoshka().iter().map(|prefix| {
        let (loss, batch) = (loss.of_prefix(prefix), batch.prefix(prefix.dim));
        forward(&loss, reduction, batch, learned.clone(), rows)
    });
    if let Some(sum) = each.reduce(|sum, x| sum + x) {
        return sum;
    }
    let given = batch.queries.dtype();
    let problem = Problem::new(loss, batch, &learned);
    let value = match reduction {
        None => problem.unreduced(rows),
        Some(Reduction::Mean) => problem.reduced(true, rows),
        Some(Reduction::Sum) => problem.reduced(false, rows),
    };
    value.cast(given)
}

impl Problem {
    /// Each row's loss times its weight, `[rows]`, in the caller's graph.
    fn unreduced(&self, rows: usize) -> Tensor<1> {
        let weights = self.weights(false);
        let mut sum = weights.zeros_like();
        for pass in self.passes() {
            let strips = self.strips(&pass, rows);
            let losses = strips.map(|strip| self.row_losses(&pass, strip)).collect();
            sum = sum + Tensor::cat(losses, 0) * self.share(&pass);
        }
        (sum * weights).squeeze_dim::<1>(1)
    }

    /// `Σ weight · loss`, or the weighted mean, whose gradients are put into the caller's graph.
    fn reduced(&self, mean: bool, rows: usize) -> Tensor<1> {
        let weights = self.weights(mean);
        let mut value = Tensor::<1>::zeros([1], (&self.device(), weights.dtype()));
        let mut gradients = [const { None }; 5];
        for pass in self.passes() {
            for strip in self.strips(&pass, rows) {
                let leaves = self.with_leaves();
                let weight = weights.clone().narrow(0, strip.start, strip.rows) * self.share(&pass);
                let part = (leaves.row_losses(&pass, strip) * weight).sum();
                value = value + part.clone().detach();
                if part.is_tracked() {
                    leaves.add_gradients(&part, &mut gradients);
                }
            }
        }
        let products = self.variables.iter().zip(gradients);
        let products = products.filter_map(|(x, dx)| Some((x.clone()? * dx?.autodiff()).sum()));
        match products.reduce(|a, b| a + b) {
            Some(s) => value + (s.clone() - s.detach()),
            None => value,
        }
    }

    /// Adds the derivatives of `part` with respect to each variable.
    fn add_gradients(&self, part: &Tensor<1>, gradients: &mut [Option<Tensor<2>>; 5]) {
        let mut of_part = part.backward();
        for (x, sum) in self.variables.iter().zip(gradients) {
            let dx = x.as_ref().and_then(|x| x.grad_remove(&mut of_part));
            *sum = match (sum.take(), dx) {
                (Some(sum), Some(dx)) => Some(sum + dx),
                (sum, dx) => sum.or(dx),
            };
        }
    }

    /// The loss of each row of a strip, `[rows, 1]`.
    fn row_losses(&self, pass: &Pass, strip: Strip) -> Tensor<2> {
        let reference = rule::reference(self.loss.objective());
        let terms = Terms::new(self.candidates(pass, strip), self.scale(), reference);
        let weights = self.positive_weights.clone();
        let numbers = Numbers {
            scale: self.scale(),
            bias: self.bias(),
            positive_weight: weights.map(|w| w.narrow(0, strip.start, strip.rows)),
        };
        rule::row_losses(&self.loss, &terms, numbers)
    }

    /// What a row of a pass counts, before its weight.
    fn share(&self, pass: &Pass) -> f64 {
        self.loss.factor() * pass.share
    }
}
