//! The gradients of a batch's loss: at once, or in chunks, so that a batch of any size needs the
//! memory of a chunk (cached gradients, Gao et al. 2021).
//!
//! Input: a model, a criterion, pairs, and what makes their views. Output: the loss, and the
//! gradients of the model's weights and of what the loss learns. Nothing is moved here but batch
//! norm's running statistics, once for each chunk.
//!
//! In chunks, every pair is encoded twice. First without a graph: the loss of all embeddings
//! together gives each its gradient. Then a chunk at a time with a graph, through which the chunk's
//! stored gradients flow back; the weights' gradients are added up. Views are made twice, too, as
//! they are functions of the pair: kept, they would be the most of the memory. The sum is the whole
//! batch's gradient, unless an encoder looks across a batch: batch norm sees a chunk.

mod over_processes;

pub(crate) use over_processes::gradients_over;
pub use over_processes::shared_loss;

use crate::Error;
use crate::criterion::{Criterion, Loss};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Gradients, Tensor};
use kinfold_data::Pair;
use kinfold_nn::encoders::{Input, Model};

/// What a batch's backward pass gives.
pub(crate) struct Found {
    pub(crate) loss: Loss,
    pub(crate) of_model: GradientsParams,
    /// Of what the loss learns.
    pub(crate) of_loss: GradientsParams,
}

/// The gradients of the loss of `pairs`; `views` makes theirs, `2n`, first every first
/// view, and then the negatives of each. At most `chunk` pairs are encoded at a time, where it is given.
pub(crate) fn gradients(
    model: &Model,
    criterion: &mut Criterion,
    pairs: &[Pair],
    chunk: Option<usize>,
    views: &dyn Fn(&[Pair]) -> Result<Input, Error>,
) -> Result<Found, Error> {
    let Some(chunk) = chunk.filter(|&chunk| chunk < pairs.len()) else {
        let views = views(pairs)?;
        let keys = criterion.keys(model, &views).into_iter().collect();
        let loss = criterion.loss(vec![criterion.rows(model, views)], keys, pairs)?;
        let mut of_loss = loss.tensor.clone().backward();
        let of_model = GradientsParams::from_module(&mut of_loss, model);
        let of_loss = criterion.gradients(&mut of_loss);
        return Ok(Found { loss, of_model, of_loss });
    };
    let chunks = parts(pairs, chunk);
    let still = without_graph(model);
    let (mut rows, mut keys) = (Vec::new(), Vec::new());
    for pairs in &chunks {
        let views = views(pairs)?;
        keys.extend(criterion.keys(model, &views));
        rows.push(criterion.rows(&still, views));
    }
    let (loss, of_rows, mut of_loss) = of_rows(rows, |rows| criterion.loss(rows, keys, pairs))?;
    let of_loss = criterion.gradients(&mut of_loss);
    let of_model = through(model, of_rows, |i| Ok(criterion.rows(model, views(chunks[i])?)))?;
    Ok(Found { loss, of_model, of_loss })
}

/// As few parts as there can be of at most `chunk` pairs, of the same size but for one pair: a small
/// rest would have poor statistics.
fn parts(pairs: &[Pair], chunk: usize) -> Vec<&[Pair]> {
    in_parts(pairs, pairs.len().div_ceil(chunk.max(1)))
}

fn in_parts(pairs: &[Pair], parts: usize) -> Vec<&[Pair]> {
    let n = pairs.len();
    (0..parts).map(|i| &pairs[n * i / parts..n * (i + 1) / parts]).collect()
}

/// A module that computes what `module` does in training, but builds no graph and moves running
/// statistics of its own.
fn without_graph<M: Module>(module: &M) -> M {
    module.valid().train().no_grad()
}

/// The loss of rows that are known, their gradients, and all others.
fn of_rows(
    rows: Vec<Tensor<2>>,
    loss: impl FnOnce(Vec<Tensor<2>>) -> Result<Loss, Error>,
) -> Result<(Loss, Vec<Tensor<2>>, Gradients), Error> {
    let rows: Vec<_> = rows.into_iter().map(|rows| rows.detach().require_grad()).collect();
    let loss = loss(rows.clone())?;
    let mut gradients = loss.tensor.clone().backward();
    let of_rows = rows
        .into_iter()
        .map(|rows| match rows.grad_remove(&mut gradients) {
            Some(gradient) => Tensor::from_inner(gradient),
            None => rows.detach().zeros_like(),
        })
        .collect();
    Ok((loss, of_rows, gradients))
}

/// The gradients of a module's weights, by those of its rows: `encode(i)` are the rows of chunk i.
fn through<M: Module>(
    module: &M,
    of_rows: Vec<Tensor<2>>,
    encode: impl Fn(usize) -> Result<Tensor<2>, Error>,
) -> Result<GradientsParams, Error> {
    let mut sum = GradientsAccumulator::new();
    for (i, of_rows) in of_rows.into_iter().enumerate() {
        let mut gradients = (encode(i)? * of_rows).sum().backward();
        sum.accumulate(module, GradientsParams::from_module(&mut gradients, module));
    }
    Ok(sum.grads())
}

#[cfg(test)]
mod tests;
