//! Where a run stands: what its loop has to remember, beside the model and what moves it.

use super::loader::Batch;
use crate::Error;
use crate::criterion::Loss;
use crate::run::{Header, State};

#[derive(Default)]
pub(super) struct TrainState {
    /// Steps taken.
    pub(super) step: usize,
    /// The epoch of the last step, counted from 0.
    pub(super) epoch: usize,
    /// Batches of that epoch that are done.
    pub(super) done: usize,
    /// Their losses.
    losses: Vec<f64>,
    /// The mean loss over the last whole epoch.
    whole: Option<f64>,
    /// Of the last batch.
    pub(super) floor: Option<f64>,
    /// Of the last batch.
    pub(super) ceiling: f64,
    /// The best checkpoint's step and its mean loss over the last whole epoch before it.
    best: Option<(usize, f64)>,
    /// Seconds of training in earlier sittings.
    pub(super) earlier: f64,
}

impl TrainState {
    /// A step was taken with this batch.
    pub(super) fn stepped(&mut self, batch: &Batch, loss: &Loss) {
        if batch.place == 0 {
            self.losses.clear();
        }
        self.step += 1;
        (self.epoch, self.done) = (batch.epoch, batch.place + 1);
        (self.floor, self.ceiling) = (loss.floor, loss.ceiling);
        self.losses.push(loss.value);
        if batch.last {
            self.whole = Some(self.loss());
        }
    }

    /// The mean loss of the epoch so far.
    pub(super) fn loss(&self) -> f64 {
        self.losses.iter().sum::<f64>() / self.losses.len().max(1) as f64
    }

    /// Into a checkpoint, which may be the best.
    pub(super) fn save(&mut self, seconds: f64, header: &mut Header, state: &mut State) {
        if let Some(whole) = self.whole
            && self.best.is_none_or(|(_, best)| whole <= best)
        {
            self.best = Some((self.step, whole));
        }
        header.step = self.step;
        header.epoch = self.epoch;
        header.batch = self.done;
        header.seconds = seconds;
        header.best = self.best.map(|(step, _)| step);
        let option = |number: Option<f64>| number.into_iter().collect();
        state.put_numbers("losses", self.losses.clone());
        state.put_numbers("whole", option(self.whole));
        state.put_numbers("floor", option(self.floor));
        state.put_numbers("ceiling", vec![self.ceiling]);
        state.put_numbers("best", option(self.best.map(|(_, whole)| whole)));
    }

    /// From a checkpoint.
    pub(super) fn restore(header: &Header, state: &mut State) -> Result<Self, Error> {
        let mut first =
            |name: &str| state.take_numbers(name).map(|numbers| numbers.first().copied());
        Ok(Self {
            whole: first("whole")?,
            floor: first("floor")?,
            ceiling: first("ceiling")?.unwrap_or(0.0),
            best: header.best.zip(first("best")?),
            losses: state.take_numbers("losses")?,
            step: header.step,
            epoch: header.epoch,
            done: header.batch,
            earlier: header.seconds,
        })
    }
}
