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
use crate::tensors::numbers;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use kinfold::Form;
use kinfold_burn::ContrastiveLoss;
use kinfold_data::Pair;
use kinfold_nn::encoders::{Input, Model};
use kinfold_nn::ops::over_shared_batch;
use std::ops::Range;

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
        processes.timed("forward pass", || {
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
        let constant_keys = criterion.has_constant_keys(model);
        let exchange = Exchange {
            processes,
            pairs: pairs.len(),
            negatives_per_pair: criterion.negatives_per_pair(),
            one_way: criterion.is_one_way(),
            constant_keys,
        };
        let (there, back) = criterion.projected(rows.clone(), keys);
        let (mut found, mut of_loss) = (Vec::new(), GradientsAccumulator::new());
        let mut part = |here: Projected| {
            let (loss, of_here, mut gradients) =
                exchange.loss(&here, &mut |all, own| criterion.loss_of(all, pairs, own))?;
            of_loss.accumulate(criterion.module(), criterion.gradients(&mut gradients));
            found.push((here, of_here));
            Ok::<_, Error>(loss)
        };
        let loss = part(there)?;
        let loss = loss.and(back.map(part).transpose()?);

        let of_model = processes.timed("backward pass", || {
            let pulled = |x: Tensor<2>, by: Tensor<2>| match counts {
                true => (x * by).sum(),
                false => x.sum() * 0.0,
            };
            let mut pulls = Vec::new();
            for (here, of_here) in found {
                pulls.push(pulled(here.queries, of_here.queries));
                if !constant_keys {
                    pulls.push(pulled(here.keys, of_here.keys));
                }
                pulls.extend(here.negatives.zip(of_here.negatives).map(|(x, by)| pulled(x, by)));
            }
            let mut gradients = Tensor::cat(pulls, 0).sum().backward();
            if count == 1 {
                return Ok(GradientsParams::from_module(&mut gradients, model));
            }
            let of_rows = rows.iter().map(|rows| gradient(rows, &mut gradients)).collect();
            through(model, of_rows, |i| Ok(criterion.rows(model, views(parts[i])?)))
        })?;
        let of_model = processes
            .timed("gradients summed", || processes.summed_gradients(model, of_model, counts));
        let of_loss = processes.summed_gradients(criterion.module(), of_loss.grads(), true);
        Ok(Found { loss, of_model, of_loss })
    })
}

/// The loss of `pairs` pairs whose queries and keys, `[own pairs, dim]`, processes have parts of, and its gradients,
/// which are dropped: what a step takes for it, for benchmarks. [`Processes::spent`] has the time of its parts.
///
/// # Errors
/// When there is no such loss, or the numbers are not finite.
pub fn shared_loss(
    processes: &Processes,
    loss: &kinfold::ContrastiveLoss,
    (queries, keys): (&[f32], &[f32]),
    pairs: usize,
    dim: usize,
) -> Result<f64, Error> {
    let device = Device::flex().autodiff();
    let tensor = |x: &[f32]| {
        let data = TensorData::new(x.to_vec(), [x.len() / dim, dim]);
        Tensor::<2>::from_data(data, &device)
    };
    let here = Projected { queries: tensor(queries), keys: tensor(keys), negatives: None };
    let one_way = loss.form() == Form::OneWay;
    let exchange =
        Exchange { processes, pairs, negatives_per_pair: 0, one_way, constant_keys: false };
    let module = ContrastiveLoss::new(*loss);
    let mut loss_of = |all: Projected, own: Option<Range<usize>>| {
        let own = own.unwrap_or(0..pairs);
        let tensor = module.try_forward_share((all.queries, all.keys), own)?;
        let value = f64::from(numbers(tensor.clone())?[0]);
        Ok(Loss { tensor, value, floor: None, ceiling: loss.ceiling(pairs) })
    };
    exchange.loss(&here, &mut loss_of).map(|(loss, ..)| loss.value)
}

/// How the embeddings of a batch become its loss and their gradients.
struct Exchange<'a> {
    processes: &'a Processes,
    /// Of the batch.
    pairs: usize,
    negatives_per_pair: usize,
    /// No query matters to another's row.
    one_way: bool,
    /// Keys have no gradient.
    constant_keys: bool,
}

/// The loss of a batch, or of its share that some pairs are.
type LossOf<'l> = dyn FnMut(Projected, Option<Range<usize>>) -> Result<Loss, Error> + 'l;

impl Exchange<'_> {
    /// The loss of the batch, the gradients by the embeddings here, and all those of own rows, of which what
    /// the loss learns may want its own.
    fn loss(
        &self,
        here: &Projected,
        loss_of: &mut LossOf<'_>,
    ) -> Result<(Loss, Projected, Gradients), Error> {
        let Self { processes, one_way, negatives_per_pair: per_pair, .. } = *self;
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
            let loss = loss_of(all.clone(), Some(own));
            if processes.any(loss.is_err()) {
                // A process sees what is wrong in its own rows and in all columns; of the whole batch all
                // say the same.
                loss_of(all.clone(), None)?;
            }
            let loss = loss?;
            let gradients = loss.tensor.clone().backward();
            Ok::<_, Error>((loss, gradients))
        })?;
        let value = processes.summed(loss.value);
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
        Ok((Loss { value, ..loss }, of_here, gradients))
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
