//! The training loop.
//!
//! Input: settings and a new run folder, or the folder of a run to resume; a stop flag, an observer.
//! Output: a run folder and its summary. It never prints, and reads the clock only to tell how fast it
//! is and when to save. The same settings give the same weights, bit for bit, in one sitting or in
//! many.

mod begin;
mod early_stopping;
mod event;
mod loader;
mod state;

pub use begin::{resume, resume_over, train, train_over};
pub use event::{Event, Observer, Progress};

use crate::criterion::{Criterion, Loss};
use crate::evaluation::{Judged, Task, untrained, weighted};
use crate::gradients::{Found, gradients, gradients_over};
use crate::optimizer::{Optimizer, learning_rate};
use crate::processes::Processes;
use crate::run::{
    Checkpoint, Evaluation, Fingerprint, Header, Retrieval, RunFolder, SavedModel, Shared, State,
    Summary, checkpoint_name, checksum, not_finite, peak_memory_bytes,
};
use crate::settings::{CheckpointSettings, Statistics};
use crate::tensors::input;
use crate::{Error, Settings};
use begin::Parts;
use burn::tensor::Device;
use early_stopping::EarlyStopping;
use kinfold_data::{Data, Pair, Pairs, Split};
use kinfold_nn::encoders::{Input, Model};
use kinfold_nn::ops::release_memory;
use loader::{Batch, Loader};
use serde::Serialize;
use state::TrainState;
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A line of the metrics.
#[derive(Serialize)]
struct StepLine {
    step: usize,
    epoch: usize,
    loss: f64,
    learning_rate: f64,
    /// The norm of all of the model's gradients together, before clipping.
    gradient_norm: f64,
    /// The temperature and the bias that the loss was computed with, where they are learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bias: Option<f64>,
}

/// The line of an epoch that was judged.
#[derive(Serialize)]
struct ValidationLine {
    step: usize,
    /// nDCG@10 of what is set aside of the training data.
    validation: f64,
}

/// The last line of the metrics.
#[derive(Serialize)]
struct EvaluationLine<'e> {
    step: usize,
    evaluation: &'e Evaluation,
}

struct Training<'p> {
    processes: &'p Processes,
    settings: Settings,
    data: Arc<Data>,
    split: Split,
    pairs: Arc<Pairs>,
    run: PathBuf,
    /// The first process's alone: it is the one that writes.
    folder: Option<RunFolder>,
    criterion: Criterion,
    batch: usize,
    steps: usize,
    device: Device,
    optimizer: Optimizer,
    state: TrainState,
    early_stopping: Option<EarlyStopping>,
    /// The last weights whose loss was finite.
    good: Option<Model>,
    /// What went wrong here since processes last agreed that nothing did.
    failed: Option<Error>,
}

impl<'p> Training<'p> {
    /// A run before its first step, and its model.
    fn new(
        processes: &'p Processes,
        settings: Settings,
        data: Data,
        Parts { split, aside, pairs }: Parts,
        (run, folder): (PathBuf, Option<RunFolder>),
    ) -> Result<(Self, Model), Error> {
        let batch = settings.batch.unwrap_or(pairs.largest_batch());
        let steps = settings.epochs * (pairs.len() / batch);
        let device = Device::flex().autodiff();
        let shape = settings.shape(&data);
        let criterion = Criterion::new(&settings, (data.items(), shape), &pairs, &device)?;
        let Settings { encoder, seed, .. } = &settings;
        let model = Model::initial(encoder, shape, *seed, &device)?;
        let model = weighted(model, &settings, &data, &device);
        let optimizer = Optimizer::new(&settings.optimizer, &model);
        let early_stopping = EarlyStopping::new(&settings, &data, aside.as_ref(), &model)?;
        let training = Self {
            processes,
            settings,
            data: Arc::new(data),
            split,
            pairs: Arc::new(pairs),
            run,
            folder,
            criterion,
            batch,
            steps,
            device,
            optimizer,
            state: TrainState::default(),
            early_stopping,
            good: None,
            failed: None,
        };
        Ok((training, model))
    }

    /// Everything as it was when a checkpoint was written, or else as it is before the first step.
    fn go_on(
        &mut self,
        model: Model,
        found: Option<(PathBuf, Checkpoint)>,
    ) -> Result<Model, Error> {
        let Some((path, Checkpoint { header, state })) = found else {
            self.folder.as_mut().map_or(Ok(()), |folder| folder.rewind(None))?;
            return Ok(model);
        };
        let model = self
            .restore(model, &header, state)
            .map_err(|e| Error::CannotResume { run: path, reason: e.to_string() })?;
        self.folder.as_mut().map_or(Ok(()), |folder| folder.rewind(Some(&header)))?;
        Ok(model)
    }

    fn restore(&mut self, model: Model, header: &Header, mut state: State) -> Result<Model, Error> {
        let model = state.take_module("model", model)?;
        self.optimizer.restore(state.take_all("optimizer"))?;
        self.criterion.restore(&mut state, &self.device)?;
        if let Some(stopping) = &mut self.early_stopping {
            stopping.restore(&mut state)?;
        }
        self.state = TrainState::restore(header, &mut state)?;
        Ok(model)
    }

    /// Writes a checkpoint, where this is the process that writes; its file.
    fn save(&mut self, model: &Model, seconds: f64) -> Result<Option<PathBuf>, Error> {
        let Some(folder) = &mut self.folder else { return Ok(None) };
        let data = Fingerprint::new(&self.data, &self.pairs);
        let mut header = Header::new(&self.settings, data)?;
        let mut state = State::default();
        // Unlike the model, a snapshot has batch norm's statistics of the last step, too.
        state.put_module("model", &model.snapshot());
        state.put_all("optimizer", self.optimizer.state());
        self.criterion.state(&mut state);
        if let Some(stopping) = &self.early_stopping {
            stopping.save(&mut state);
        }
        self.state.save(seconds, &mut header, &mut state);
        folder.save(header, state).map(Some)
    }

    fn run(
        mut self,
        mut model: Model,
        stop: &AtomicBool,
        on_event: &mut Observer<'_>,
    ) -> Result<Summary, Error> {
        let processes = self.processes;
        let Self { settings, data, split, pairs, run, steps, .. } = &self;
        let (steps, processes_count) = (*steps, processes.count());
        on_event(Event::Started {
            run,
            settings,
            data,
            split,
            pairs,
            steps,
            processes: processes_count,
        })?;
        if self.state.step == 0 {
            if processes.is_first() {
                on_event(Event::Weights { step: 0, model: &model, last: false })?;
            }
            if let Some(stopping) = &mut self.early_stopping {
                stopping.judge(&self.data, &model, processes)?;
            }
        }
        let done = (self.state.epoch, self.state.done);
        let mut loader =
            Loader::start(&self.settings, &self.data, &self.pairs, done, processes.place());
        let first_step = self.state.step;
        let (start, mut saved) = (Instant::now(), Instant::now());
        let mut saved_step = 0;
        while self.state.step < self.steps {
            let batch = processes.timed("views", || loader.next());
            let batch = batch.unwrap_or_else(|| {
                Err(Error::Data("the thread that draws views has ended too early".to_owned()))
            });
            let failed = self.failed.take();
            let batch = processes.agree(failed.map_or(batch, Err))?;
            // At least one step is taken, so that there is something to save.
            let over = self.early_stopping.as_ref().is_some_and(EarlyStopping::is_over);
            let roll = processes.roll_call(stop.load(Ordering::Relaxed), saved_step);
            if roll.saved > saved_step {
                saved_step = roll.saved;
                let path = self.run.join(checkpoint_name(saved_step));
                on_event(Event::Saved { step: saved_step, path: &path })?;
            }
            if over || self.state.step > 0 && roll.stop {
                break;
            }
            model = self.step(model, batch, start, on_event)?;
            if self.folder.is_none() || self.failed.is_some() {
                continue;
            }
            let step = self.state.step;
            let mut after = || {
                on_event(Event::Weights { step, model: &model, last: false })?;
                if !self.is_due(saved) {
                    return Ok(());
                }
                self.check_weights(&model)?;
                if let Some(path) = self.save(&model, self.seconds(start))? {
                    on_event(Event::Saved { step, path: &path })?;
                    (saved, saved_step) = (Instant::now(), step);
                }
                Ok(())
            };
            self.failed = after().err();
        }
        let seconds = self.seconds(start);
        let mut ended = || {
            if let Some(failed) = self.failed.take() {
                return Err(failed);
            }
            if self.folder.is_some() {
                self.check_weights(&model)?;
            }
            if self.is_interrupted()
                && let Some(path) = self.save(&model, seconds)?
            {
                on_event(Event::Saved { step: self.state.step, path: &path })?;
            }
            Ok(())
        };
        let ended = ended();
        processes.agree(ended)?;
        self.same_weights(&model)?;
        let shared = self.shared(self.state.step - first_step);
        let best = self.early_stopping.as_ref().map(|stopping| stopping.best().clone());
        let model = best.unwrap_or(model);
        let summary = match processes.is_first() {
            true => self.finish(&model, seconds, shared, on_event).map(Some),
            false => Ok(None),
        };
        processes.wait_for_all();
        let summary = processes.agree(summary)?;
        processes.of_first(|| {
            summary.ok_or_else(|| Error::Data("the first process has no summary".to_owned()))
        })
    }

    /// # Errors
    /// When processes hold different weights, as no sum that all have alike can bring about.
    fn same_weights(&self, model: &Model) -> Result<(), Error> {
        let step = self.state.step;
        let sum = || Ok(format!("{:08x}", checksum(model)));
        self.processes.same(sum, |first, own| {
            format!(
                "its weights at step {step} have the checksum {own}, but those of the first process have \
                 {first}: MPI gave them different sums"
            )
        })
    }

    /// What so many steps took each.
    fn shared(&self, steps: usize) -> Option<Shared> {
        let per_step = |all: f64| all / steps.max(1) as f64;
        self.processes.are_several().then(|| Shared {
            count: self.processes.count(),
            bytes_per_step: per_step(self.processes.sent() as f64),
            seconds_per_step: self
                .processes
                .spent()
                .into_iter()
                .map(|(part, seconds)| (part.to_owned(), per_step(seconds)))
                .collect(),
        })
    }

    /// Whether steps are left that would be taken.
    fn is_interrupted(&self) -> bool {
        let over = self.early_stopping.as_ref().is_some_and(EarlyStopping::is_over);
        self.state.step < self.steps && !over
    }

    /// Seconds of training, in all sittings.
    fn seconds(&self, start: Instant) -> f64 {
        self.state.earlier + start.elapsed().as_secs_f64()
    }

    /// Whether it is time for a checkpoint; after the last step it is not any more.
    fn is_due(&self, saved: Instant) -> bool {
        let CheckpointSettings { every_steps, every_minutes } = self.settings.checkpoint;
        let step = self.state.step;
        let by_steps = every_steps > 0 && step.is_multiple_of(every_steps);
        let by_time = every_minutes > 0.0 && saved.elapsed().as_secs_f64() >= 60.0 * every_minutes;
        step < self.steps && (by_steps || by_time)
    }

    /// Measures what was learned, and writes it and the model.
    fn finish(
        mut self,
        model: &Model,
        seconds: f64,
        shared: Option<Shared>,
        on_event: &mut Observer<'_>,
    ) -> Result<Summary, Error> {
        let Some(mut folder) = self.folder.take() else {
            return Err(Error::Data("only the process that writes can finish a run".to_owned()));
        };
        // From here on there are weights that took time to make, and no step follows.
        folder.keep();
        self.optimizer.release();
        self.good = None;
        release_memory();
        SavedModel::new(&self.settings).save(model, &folder)?;
        on_event(Event::Weights { step: self.state.step, model, last: true })?;
        let plain = self.device.clone().inner();
        let Settings { encoder, seed, .. } = &self.settings;
        let shape = self.settings.shape(&self.data);
        let random = || Ok(Model::random(encoder, shape, *seed, &plain)?);
        let trained = model.snapshot();
        let evaluation = Evaluation::new(
            &self.data,
            &self.split,
            Judged {
                random: &random,
                trained: &trained,
                views: &self.settings.averaged_views()?,
                dims: &self.settings.loss.matryoshka,
            },
            &plain,
            &mut |progress| on_event(Event::Evaluating(progress)),
        )?;
        let task = Task::new(&self.data, &self.split, &self.split.test_pairs);
        let untrained = || untrained(&self.settings, &self.data, &plain);
        let retrieval = Retrieval::new(&self.data, task, &untrained, &trained, &plain)?;
        let TrainState { step, epoch, floor, ceiling, .. } = self.state;
        if let Some(evaluation) = &evaluation {
            folder.metric(step, &EvaluationLine { step, evaluation })?;
        }
        let summary = Summary {
            data: self.settings.data.clone(),
            pairs: self.pairs.len(),
            epochs: epoch + 1,
            steps: step,
            best_epoch: self.early_stopping.as_ref().map(EarlyStopping::best_epoch),
            interrupted: self.is_interrupted(),
            seconds,
            pairs_per_second: (step * self.batch) as f64 / seconds,
            temperature: self.criterion.temperature()?,
            bias: self.criterion.bias()?,
            loss: self.state.loss(),
            loss_floor: floor,
            loss_ceiling: ceiling,
            peak_memory_bytes: peak_memory_bytes(),
            processes: shared,
            evaluation,
            retrieval,
        };
        // The summary says that a run is finished, so it comes last.
        let (run, data, split) = (folder.path(), &*self.data, &self.split);
        on_event(Event::Measured { run, data, split, summary: &summary })?;
        folder.write_summary(&summary)?;
        Ok(summary)
    }

    /// A step, and its event.
    fn step(
        &mut self,
        model: Model,
        mut batch: Batch,
        start: Instant,
        on_event: &mut Observer<'_>,
    ) -> Result<Model, Error> {
        let (model, loss, line) = self.learn(model, &mut batch)?;
        self.state.stepped(&batch, &loss);
        let validation = match &mut self.early_stopping {
            Some(stopping) if batch.last => {
                Some(stopping.judge(&self.data, &model, self.processes)?)
            }
            _ => None,
        };
        if batch.last {
            self.same_weights(&model)?;
        }
        // What follows is written here alone; where that fails, the others are told before the next step.
        self.failed = self.tell(&line, &loss, validation, batch.last, start, on_event).err();
        Ok(model)
    }

    /// Writes what a step came to, and tells it.
    fn tell(
        &mut self,
        line: &StepLine,
        loss: &Loss,
        validation: Option<f64>,
        epoch_ended: bool,
        start: Instant,
        on_event: &mut Observer<'_>,
    ) -> Result<(), Error> {
        let TrainState { step, epoch, .. } = self.state;
        let seconds = self.seconds(start);
        let pairs_per_second = (step * self.batch) as f64 / seconds;
        if let Some(folder) = &mut self.folder {
            folder.metric(step, line)?;
            if let Some(validation) = validation {
                folder.metric(step, &ValidationLine { step, validation })?;
            }
            let mut scalars = vec![("pairs_per_second".to_owned(), pairs_per_second)];
            scalars.extend(loss.floor.map(|floor| ("loss_floor".to_owned(), floor)));
            folder.scalars(step, &scalars)?;
        }
        on_event(Event::Stepped(Progress {
            step,
            steps: self.steps,
            epoch: epoch + 1,
            epoch_ended,
            loss: loss.value,
            validation,
            floor: loss.floor,
            ceiling: loss.ceiling,
            pairs_per_second,
            seconds_left: seconds / step as f64 * (self.steps - step) as f64,
        }))
    }

    /// One step: views, encoder, loss, gradient, weights.
    fn learn(&mut self, model: Model, batch: &mut Batch) -> Result<(Model, Loss, StepLine), Error> {
        let (step, epoch) = (self.state.step, batch.epoch);
        let Settings { view, seed, optimizer, chunk, .. } = &self.settings;
        let rate = learning_rate(optimizer, self.batch, step, self.steps);
        let ahead = Cell::new(batch.views.take());
        let views = |pairs: &[Pair]| {
            let views = match ahead.take() {
                Some(views) => views,
                None => self.data.draw_batch(pairs, view, *seed, epoch)?,
            };
            Ok::<Input, Error>(input(views, &self.device))
        };
        let before = model.snapshot();
        let learns = self.criterion.learns();
        let temperature = learns.then(|| self.criterion.temperature()).transpose()?;
        let bias = self.criterion.bias()?;
        let (processes, criterion) = (self.processes, &mut self.criterion);
        let found = match processes.are_several() {
            true => {
                let shared = self.settings.processes.batch_norm == Statistics::Sync;
                gradients_over(processes, &model, criterion, &batch.pairs, *chunk, shared, &views)
            }
            false => gradients(&model, criterion, &batch.pairs, *chunk, &views),
        };
        let Found { loss, of_model, of_loss } = match found {
            Err(reason @ Error::Embeddings(_)) => {
                let reason = reason.to_string();
                let error = self.not_finite("loss is", step + 1, rate, reason, &before);
                // All processes have seen the same.
                return processes.agree(Err(error));
            }
            found => found?,
        };
        // These weights gave a finite loss; the ones that follow from it may not.
        self.good = Some(before);
        let model = processes.timed("weights", || {
            let model = self.optimizer.step(rate, model, of_model);
            let done = (step + 1) as f64 / self.steps as f64;
            self.criterion.step(rate, of_loss, &model, done);
            model
        });
        let line = StepLine {
            step: step + 1,
            epoch: epoch + 1,
            loss: loss.value,
            learning_rate: rate,
            gradient_norm: self.optimizer.gradient_norm(),
            temperature,
            bias,
        };
        Ok((model, loss, line))
    }

    /// Whether the weights are worth being kept. A step from weights whose loss was finite may lead to
    /// ones that are not, and no loss has told yet.
    fn check_weights(&mut self, model: &Model) -> Result<(), Error> {
        let Some(name) = not_finite(model) else { return Ok(()) };
        let step = self.state.step;
        let rate = learning_rate(&self.settings.optimizer, self.batch, step.max(1) - 1, self.steps);
        let reason = format!("{name} holds NaN or infinity");
        Err(self.not_finite("weights are", step, rate, reason, model))
    }

    /// Keeps the last weights whose loss was finite, and says so.
    fn not_finite(
        &mut self,
        what: &'static str,
        step: usize,
        learning_rate: f64,
        reason: String,
        model: &Model,
    ) -> Error {
        let good = self.good.take();
        let weights = good.as_ref().unwrap_or(model).to_bytes().map_err(Error::from);
        let kept = weights.and_then(|weights| match &mut self.folder {
            Some(folder) => folder.write_last_good(&weights),
            None => Ok(self.run.clone()),
        });
        match kept {
            Ok(kept) => Error::NotFinite { what, step, reason, learning_rate, kept },
            Err(error) => error,
        }
    }
}
