//! The gradients of a batch that several processes share: the same numbers as one process would find, up to
//! the order of sums.
//!
//! Input: a model that is the same in all of them, and this process's pairs of a batch. Output: in each process
//! the loss of the batch, and its gradients by the weights. Each encodes its pairs. Embeddings are gathered;
//! the loss of a process's own rows has gradients by all embeddings; these are summed, and each process takes
//! those of its own embeddings back through the encoder, and what the weights get from that is summed.

use super::{Found, in_parts, through, without_graph};
use crate::Error;
use crate::criterion::{Criterion, Loss, Projected};
use crate::processes::Processes;
use burn::optim::GradientsParams;
use burn::tensor::{Gradients, Tensor};
use kinfold_data::Pair;
use kinfold_nn::encoders::{Input, Model};
use kinfold_nn::ops::over_shared_batch;

/// The gradients of the loss of `pairs`, of which each process encodes its share, `chunk` at a time where that
/// is given; `views` are as in [`gradients`](super::gradients). With `shared_statistics` batch norm takes those
/// of all processes' pairs that are encoded together.
pub(crate) fn gradients_over(
    processes: &Processes,
    model: &Model,
    criterion: &mut Criterion,
    pairs: &[Pair],
    chunk: Option<usize>,
    shared_statistics: bool,
    views: &dyn Fn(&[Pair]) -> Result<Input, Error>,
) -> Result<Found, Error> {
    let place = processes.place();
    let (own, encoded) = (place.share(pairs.len()), place.encoded(pairs.len()));
    // A process without pairs encodes one that is another's: in the end, everything that the others do is done
    // here, too, and nothing comes of it.
    let counts = !own.is_empty();
    let statistics = processes.shared_batch(counts).filter(|_| shared_statistics);
    over_shared_batch(statistics, || {
        let largest = place.largest_share(pairs.len());
        // All processes take as many parts: the others wait for each one's statistics.
        let count = chunk.map_or(1, |chunk| largest.div_ceil(chunk)).max(1);
        let parts = in_parts(&pairs[encoded], count);
        let still = without_graph(model);
        let (mut rows, mut keys) = (Vec::new(), Vec::new());
        processes.timed("encoder, forward", || {
            for pairs in &parts {
                let views = views(pairs)?;
                keys.extend(criterion.keys(model, &views));
                rows.push(match count {
                    1 => criterion.rows(model, views),
                    _ => criterion.rows(&still, views).detach().require_grad(),
                });
            }
            Ok::<_, Error>(())
        })?;
        let keys = (!keys.is_empty()).then(|| Tensor::cat(keys, 0));
        let constant_keys = keys.is_some();
        let here = criterion.projected(rows.clone(), keys);
        let exchange = Exchange { processes, pairs: pairs.len(), constant_keys };
        let (loss, of_here, of_loss) = exchange.loss(criterion, &here, pairs)?;

        let of_model = processes.timed("encoder, backward", || {
            let pulled = |x: Tensor<2>, by: Tensor<2>| match counts {
                true => (x * by).sum(),
                false => x.sum() * 0.0,
            };
            let mut pull = pulled(here.queries, of_here.queries);
            if !constant_keys {
                pull = pull + pulled(here.keys, of_here.keys);
            }
            if let (Some(x), Some(by)) = (here.negatives, of_here.negatives) {
                pull = pull + pulled(x, by);
            }
            let mut gradients = pull.backward();
            if count == 1 {
                return Ok(GradientsParams::from_module(&mut gradients, model));
            }
            let of_rows = rows.iter().map(|rows| gradient(rows, &mut gradients)).collect();
            through(model, of_rows, |i| Ok(criterion.rows(model, views(parts[i])?)))
        })?;
        let of_model = processes
            .timed("gradients summed", || processes.summed_gradients(model, of_model, counts));
        let of_loss = processes.summed_gradients(criterion.module(), of_loss, true);
        Ok(Found { loss, of_model, of_loss })
    })
}

/// How the embeddings of a batch become its loss and their gradients.
struct Exchange<'a> {
    processes: &'a Processes,
    /// Of the batch.
    pairs: usize,
    /// Keys that have no gradient.
    constant_keys: bool,
}

impl Exchange<'_> {
    /// The loss of the batch, the gradients by the embeddings here, and those of what the loss learns, as far
    /// as they come from own rows.
    fn loss(
        &self,
        criterion: &mut Criterion,
        here: &Projected,
        pairs: &[Pair],
    ) -> Result<(Loss, Projected, GradientsParams), Error> {
        let processes = self.processes;
        let (one_way, per_pair) = (criterion.is_one_way(), criterion.negatives_per_pair());
        let gathered = |x: &Tensor<2>, each| processes.gathered(x.clone(), &self.counts(each));
        let all = processes.timed("embeddings gathered", || {
            Ok::<_, Error>(Projected {
                queries: match one_way {
                    // No other query matters to a row.
                    true => processes.placed(here.queries.clone(), &self.counts(1)),
                    false => gathered(&here.queries, 1)?,
                }
                .require_grad(),
                keys: match self.constant_keys {
                    true => gathered(&here.keys, 1)?,
                    false => gathered(&here.keys, 1)?.require_grad(),
                },
                negatives: here
                    .negatives
                    .as_ref()
                    .map(|x| Ok::<_, Error>(gathered(x, per_pair)?.require_grad()))
                    .transpose()?,
            })
        })?;
        let own = processes.share(self.pairs);
        let (loss, mut gradients) = processes.timed("loss", || {
            let loss = criterion.loss_of(all.clone(), pairs, Some(own));
            if processes.any(loss.is_err()) {
                // A process sees what is wrong in its own rows and in all columns; of the whole batch all
                // say the same.
                criterion.loss_of(all.clone(), pairs, None)?;
            }
            let loss = loss?;
            let gradients = loss.tensor.clone().backward();
            Ok::<_, Error>((loss, gradients))
        })?;
        let value = processes.summed(loss.value);
        let of_loss = criterion.gradients(&mut gradients);
        let scattered = |x: &Tensor<2>, gradients: &mut Gradients, each| {
            processes.summed_rows(gradient(x, gradients), &self.counts(each))
        };
        let of_here = processes.timed("gradients scattered", || {
            Ok::<_, Error>(Projected {
                queries: match one_way {
                    true => {
                        processes.own_rows(gradient(&all.queries, &mut gradients), &self.counts(1))
                    }
                    false => scattered(&all.queries, &mut gradients, 1)?,
                },
                keys: match self.constant_keys {
                    true => here.keys.clone(),
                    false => scattered(&all.keys, &mut gradients, 1)?,
                },
                negatives: all
                    .negatives
                    .as_ref()
                    .map(|x| scattered(x, &mut gradients, per_pair))
                    .transpose()?,
            })
        })?;
        Ok((Loss { value, ..loss }, of_here, of_loss))
    }

    /// How many rows each process has, so many of each pair.
    fn counts(&self, each: usize) -> Vec<usize> {
        let place = self.processes.place();
        place.shares(self.pairs).into_iter().map(|pairs| pairs * each).collect()
    }
}

/// The gradient of some rows, 0 where there is none.
fn gradient(rows: &Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
    match rows.grad_remove(gradients) {
        Some(gradient) => Tensor::from_inner(gradient),
        None => rows.clone().detach().zeros_like(),
    }
}
