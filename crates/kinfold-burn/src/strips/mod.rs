//! The losses in strips of Burn's own tensor operations, for devices that kinfold's engine does not
//! run on. A strip of logits, so many rows × all candidates, is the largest thing it holds.
//!
//! Gradients are computed with the value, on tensors without a graph, and put back into the graph
//! as `s = Σ x·dx`: `value + (s − s.detach())` is the value, and its derivative is dx. Without a
//! reduction the upstream gradient is not known in time, and Burn differentiates the same operations
//! itself.
//!
//! 1. [`problem`]: the matrices that are compared;
//! 2. [`candidates`]: what a strip of rows chooses among, and the logits;
//! 3. [`row`]: from a strip's logits to losses and slopes;
//! 4. here: from slopes to gradients.

mod candidates;
mod problem;
mod row;

use crate::PairBatch;
use crate::config::Reduction;
use crate::info_nce::Learned;
use burn::tensor::{DType, Tensor};
use candidates::{Block, Pass, Right};
use kinfold::ContrastiveLoss;
use problem::Problem;
use row::RowLosses;

/// Rows of logits held at a time.
pub(crate) const ROWS: usize = 1024;

/// The loss of a batch that has been checked, `rows` rows at a time.
pub(crate) fn forward(
    loss: &ContrastiveLoss,
    reduction: Reduction,
    batch: PairBatch,
    learned: Learned,
    rows: usize,
) -> Tensor<1> {
    let given = batch.queries.dtype();
    let graph = Problem::new(loss, batch, &learned);
    let value = match reduction {
        Reduction::None => graph.rows_alone(rows),
        Reduction::Mean | Reduction::Sum => reduced(&graph, &learned, reduction, rows),
    };
    value.cast(given)
}

fn reduced(graph: &Problem, learned: &Learned, reduction: Reduction, rows: usize) -> Tensor<1> {
    let plain = graph.without_graph();
    let weights = plain.weights(reduction == Reduction::Mean);
    let sums = plain.sums(&weights, rows);
    if !graph.device().is_autodiff() {
        return sums.value;
    }
    let compared = graph.compared.iter().zip(sums.compared);
    let mut carrier = Tensor::<1>::zeros_like(&sums.value).autodiff();
    for (x, dx) in compared.filter_map(|(x, dx)| Some((x.clone()?, dx?))) {
        carrier = carrier + (x * dx.autodiff()).sum();
    }
    let dtype = graph.dtype();
    let numbers = [(&learned.log_scale, sums.log_scale), (&learned.bias, sums.bias)];
    for (x, dx) in numbers.into_iter().filter_map(|(x, dx)| Some((x.clone()?, dx))) {
        carrier = carrier + (x.cast(dtype) * dx.autodiff()).sum();
    }
    sums.value.autodiff() + (carrier.clone() - carrier.detach())
}

/// A value and its gradients.
struct Sums {
    value: Tensor<1>,
    /// With respect to the matrices that are compared.
    compared: [Option<Tensor<2>>; 3],
    /// With respect to log(1/τ).
    log_scale: Tensor<1>,
    bias: Tensor<1>,
}

impl Problem {
    /// Each row's loss times its weight, in the graph.
    fn rows_alone(&self, strip: usize) -> Tensor<1> {
        let mut sum: Option<Tensor<2>> = None;
        for pass in self.passes() {
            let strips = self.strips(&pass, strip);
            let values = strips.map(|(start, rows)| {
                let (logits, _) = self.strip(&pass, start, rows);
                self.row_losses(logits).value * self.share(&pass)
            });
            let rows = Tensor::cat(values.collect(), 0);
            sum = Some(match sum {
                None => rows,
                Some(sum) => sum + rows,
            });
        }
        let rows = sum.unwrap_or_else(|| self.weights(false).zeros_like());
        (rows * self.weights(false)).squeeze_dim::<1>(1)
    }

    /// `Σ weight · loss` and its gradients; `weights` is `[rows, 1]`.
    fn sums(&self, weights: &Tensor<2>, strip: usize) -> Sums {
        let zero = weights.clone().slice([0..1, 0..1]).zeros_like().reshape([1]);
        let mut sums = Sums {
            value: zero.clone(),
            compared: self.compared.each_ref().map(|x| x.as_ref().map(Tensor::zeros_like)),
            log_scale: zero.clone(),
            bias: zero,
        };
        for pass in self.passes() {
            for (start, rows) in self.strips(&pass, strip) {
                let (logits, blocks) = self.strip(&pass, start, rows);
                let RowLosses { value, slopes, log_scale, bias } = self.row_losses(logits);
                let weight = weights.clone().narrow(0, start, rows) * self.share(&pass);
                sums.value = sums.value + (value * weight.clone()).sum();
                sums.log_scale = sums.log_scale + (log_scale * weight.clone()).sum();
                sums.bias = sums.bias + (bias * weight.clone()).sum();
                let slopes = slopes * weight * self.scale.clone();
                let mut column = 0;
                for block in blocks {
                    let columns = block.columns;
                    let slopes = slopes.clone().narrow(1, column, columns);
                    self.spread(&mut sums.compared, &block, rows, slopes);
                    column += columns;
                }
            }
        }
        sums
    }

    /// Adds what a block's slopes `[rows, columns]` are to the two matrices that it compares.
    fn spread(
        &self,
        into: &mut [Option<Tensor<2>>; 3],
        block: &Block,
        rows: usize,
        slopes: Tensor<2>,
    ) {
        let left = self.rows_of(block.left, block.left_start, rows);
        let dim = left.dims()[1];
        let (of_left, matrix, first, of_right) = match block.right {
            Right::All(matrix) => {
                let right = self.matrix(matrix);
                (slopes.clone().matmul(right), matrix, 0, slopes.transpose().matmul(left))
            }
            Right::Own { matrix, first, each } => {
                let right = self.rows_of(matrix, first, rows * each).reshape([rows, each, dim]);
                let of_left = slopes.clone().reshape([rows, 1, each]).matmul(right);
                let left = left.reshape([rows, 1, dim]);
                let of_right = slopes.reshape([rows, each, 1]).matmul(left);
                let of_left = of_left.reshape([rows, dim]);
                (of_left, matrix, first, of_right.reshape([rows * each, dim]))
            }
        };
        add_rows(&mut into[block.left], block.left_start, of_left);
        add_rows(&mut into[matrix], first, of_right);
    }

    /// What a row of a pass counts, before its weight.
    fn share(&self, pass: &Pass) -> f64 {
        self.loss.factor() * pass.share
    }

    /// Where a pass's strips begin, and how many rows they have.
    fn strips(&self, pass: &Pass, strip: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let rows = self.matrix(pass.chooser).dims()[0];
        let strip = strip.max(1);
        (0..rows).step_by(strip).map(move |start| (start, strip.min(rows - start)))
    }

    fn dtype(&self) -> DType {
        self.scale.dtype()
    }
}

/// Rows of `sum` from `first` on gain `x`.
fn add_rows(sum: &mut Option<Tensor<2>>, first: usize, x: Tensor<2>) {
    let Some(before) = sum.take() else { return };
    let [rows, dim] = x.dims();
    if before.dims()[0] == rows {
        *sum = Some(before + x);
        return;
    }
    let range = [first..first + rows, 0..dim];
    let part = before.clone().slice(range.clone());
    *sum = Some(before.slice_assign(range, part + x));
}
