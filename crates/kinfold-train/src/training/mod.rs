//! The training loop.
//!
//! Input: settings and a new run folder, or the folder of a run to resume; a stop flag, an observer.
//! Output: a run folder and its summary. It never prints, and reads the clock only to tell how fast it
//! is and when to save. The same settings give the same weights, bit for bit, in one sitting or in
//! many.

mod early_stopping;
mod event;
mod loader;
mod state;

pub use event::{Event, Observer, Progress};

use crate::criterion::{Criterion, Loss};
use crate::evaluation::{Task, untrained, weighted};
use crate::gradients::{Found, gradients};
use crate::memory;
use crate::optimizer::{Optimizer, learning_rate};
use crate::run::{
    Checkpoint, Evaluation, Fingerprint, Header, Retrieval, RunFolder, SavedModel, State, Summary,
    not_finite, peak_memory_bytes, run_folder,
};
use crate::settings::CheckpointSettings;
use crate::tensors::input;
use crate::{Error, Settings};
use burn::tensor::Device;
use early_stopping::{EarlyStopping, VALIDATION};
use kinfold_data::{Data, Pair, Pairs, Split};
use kinfold_nn::encoders::{Input, Model};
use kinfold_nn::ops::release_memory;
use loader::{Batch, Loader};
use serde::Serialize;
use state::TrainState;
use std::cell::Cell;
use std::path::{Path, PathBuf};
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

/// Trains an encoder as `settings` say, into the new folder `out`.
///
/// When `stop` becomes true the step that is under way is finished, and what there is is evaluated
/// and saved.
///
/// # Errors
/// When settings, data or folder cannot be used, when a file cannot be written, or when the loss is
/// not finite any more; the last keeps the last good weights. An error of the observer ends the run.
pub fn train(
    settings: Settings,
    out: &Path,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<Summary, Error> {
    let mut settings = settings.begun()?;
    settings.check()?;
    if out.exists() {
        return Err(Error::RunExists(out.to_path_buf()));
    }
    let data = settings.read()?;
    let shape = settings.shape(&data);
    memory::check_model(&settings.encoder, shape)?;
    let split = data.split(settings.hold_out);
    settings.pairs.of = settings.pairs_of(&data)?;
    let parts = Parts::new(&settings, &data, split)?;
    let settings = settings.decided(shape, &parts.pairs)?;
    settings.check_memory(shape)?;
    let folder = RunFolder::create(out, &settings)?;
    for (name, text) in data.files()? {
        folder.write(name, text.as_bytes())?;
    }
    let (training, model) = Training::new(settings, data, parts, folder)?;
    training.run(model, stop, on_event)
}

/// Goes on with a run that was stopped, from its last checkpoint or, where `path` is a checkpoint in
/// its folder, from that; in the end it is the run that was never stopped, bit for bit.
///
/// `data` says where the data is, if it has moved.
///
/// # Errors
/// As [`train`]; and when the run is finished or in use, when its checkpoint is damaged or of another
/// run, or when the data is not what it was.
pub fn resume(
    path: &Path,
    data: Option<&str>,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<Summary, Error> {
    let run = run_folder(path);
    let (folder, settings) = RunFolder::open(run)?;
    settings.check()?;
    let found = folder.checkpoint((run != path).then_some(path), &settings)?;
    let mut here = settings.clone();
    if let Some(data) = data {
        data.clone_into(&mut here.data);
    }
    here.use_tokenizer_of(run);
    let data = here.read()?;
    let shape = settings.shape(&data);
    let parts = Parts::new(&settings, &data, data.split(settings.hold_out))?;
    if let Some((_, checkpoint)) = &found {
        let now = Fingerprint::new(&data, &parts.pairs);
        if let Some(reason) = now.differs(&checkpoint.header.data, data.kind()) {
            return Err(Error::CannotResume { run: run.to_path_buf(), reason });
        }
    }
    let settings = settings.decided(shape, &parts.pairs)?;
    let mut begin = settings.clone();
    if found.is_some() {
        // Every weight comes from the checkpoint; what training began with may be gone by now.
        begin.encoder.init = None;
    }
    let (mut training, model) = Training::new(begin, data, parts, folder)?;
    training.settings = settings;
    let step = found.as_ref().map_or(0, |(_, checkpoint)| checkpoint.header.step);
    let from = found.as_ref().map(|(path, _)| path.clone());
    let model = training.go_on(model, found)?;
    on_event(Event::Resumed { step, from: from.as_deref() })?;
    training.run(model, stop, on_event)
}

/// What is done with the data.
struct Parts {
    split: Split,
    /// What is trained on without what is set aside, its test part; none where nothing is.
    aside: Option<Split>,
    pairs: Pairs,
}

impl Parts {
    fn new(settings: &Settings, data: &Data, split: Split) -> Result<Self, Error> {
        let (items, share) = (data.items(), settings.early_stopping.share);
        let aside = (share > 0.0).then(|| split.with_validation(items, share, VALIDATION));
        let pairs = Pairs::new(items, aside.as_ref().unwrap_or(&split), &settings.pairs)?;
        Ok(Self { split, aside, pairs })
    }
}

struct Training {
    settings: Settings,
    data: Arc<Data>,
    split: Split,
    pairs: Arc<Pairs>,
    folder: RunFolder,
    criterion: Criterion,
    batch: usize,
    steps: usize,
    device: Device,
    optimizer: Optimizer,
    state: TrainState,
    early_stopping: Option<EarlyStopping>,
    /// The last weights whose loss was finite.
    good: Option<Model>,
}

impl Training {
    /// A run before its first step, and its model.
    fn new(
        settings: Settings,
        data: Data,
        Parts { split, aside, pairs }: Parts,
        folder: RunFolder,
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
            settings,
            data: Arc::new(data),
            split,
            pairs: Arc::new(pairs),
            folder,
            criterion,
            batch,
            steps,
            device,
            optimizer,
            state: TrainState::default(),
            early_stopping,
            good: None,
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
            self.folder.rewind(None)?;
            return Ok(model);
        };
        let model = self
            .restore(model, &header, state)
            .map_err(|e| Error::CannotResume { run: path, reason: e.to_string() })?;
        self.folder.rewind(Some(&header))?;
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

    /// Writes a checkpoint.
    fn save(&mut self, model: &Model, seconds: f64) -> Result<(), Error> {
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
        self.folder.save(header, state)
    }

    fn run(
        mut self,
        mut model: Model,
        stop: &AtomicBool,
        on_event: &mut Observer<'_>,
    ) -> Result<Summary, Error> {
        let Self { settings, data, split, pairs, .. } = &self;
        let run = self.folder.path();
        on_event(Event::Started { run, settings, data, split, pairs, steps: self.steps })?;
        if self.state.step == 0 {
            on_event(Event::Weights { step: 0, model: &model, last: false })?;
            if let Some(stopping) = &mut self.early_stopping {
                stopping.judge(&self.data, &model)?;
            }
        }
        let place = (self.state.epoch, self.state.done);
        let loader = Loader::start(&self.settings, &self.data, &self.pairs, place);
        let (start, mut saved) = (Instant::now(), Instant::now());
        for batch in loader {
            // At least one step is taken, so that there is something to save.
            let over = self.early_stopping.as_ref().is_some_and(EarlyStopping::is_over);
            if over || self.state.step > 0 && stop.load(Ordering::Relaxed) {
                break;
            }
            model = self.step(model, batch?, start, on_event)?;
            on_event(Event::Weights { step: self.state.step, model: &model, last: false })?;
            if self.is_due(saved) {
                self.check_weights(&model)?;
                self.save(&model, self.seconds(start))?;
                saved = Instant::now();
            }
        }
        let seconds = self.seconds(start);
        self.check_weights(&model)?;
        if self.is_interrupted() {
            self.save(&model, seconds)?;
        }
        let best = self.early_stopping.as_ref().map(|stopping| stopping.best().clone());
        self.finish(&best.unwrap_or(model), seconds, on_event)
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
        on_event: &mut Observer<'_>,
    ) -> Result<Summary, Error> {
        // From here on there are weights that took time to make, and no step follows.
        self.folder.keep();
        self.optimizer.release();
        self.good = None;
        release_memory();
        SavedModel::new(&self.settings).save(model, &self.folder)?;
        on_event(Event::Weights { step: self.state.step, model, last: true })?;
        let plain = self.device.clone().inner();
        let Settings { encoder, seed, .. } = &self.settings;
        let shape = self.settings.shape(&self.data);
        let random = || Ok(Model::random(encoder, shape, *seed, &plain)?);
        let trained = model.snapshot();
        let evaluation = Evaluation::new(
            &self.data,
            &self.split,
            &random,
            &trained,
            &self.settings.loss.matryoshka,
            &plain,
            &mut |progress| on_event(Event::Evaluating(progress)),
        )?;
        let task = Task::new(&self.data, &self.split, &self.split.test_pairs);
        let untrained = || untrained(&self.settings, &self.data, &plain);
        let retrieval = Retrieval::new(&self.data, task, &untrained, &trained, &plain)?;
        let TrainState { step, epoch, floor, ceiling, .. } = self.state;
        if let Some(evaluation) = &evaluation {
            self.folder.metric(step, &EvaluationLine { step, evaluation })?;
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
            evaluation,
            retrieval,
        };
        // The summary says that a run is finished, so it comes last.
        let (run, data, split) = (self.folder.path(), &*self.data, &self.split);
        on_event(Event::Measured { run, data, split, summary: &summary })?;
        self.folder.write_summary(&summary)?;
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
        let (model, loss) = self.learn(model, &mut batch)?;
        self.state.stepped(&batch, &loss);
        let validation = match &mut self.early_stopping {
            Some(stopping) if batch.last => Some(stopping.judge(&self.data, &model)?),
            _ => None,
        };
        if let Some(validation) = validation {
            let step = self.state.step;
            self.folder.metric(step, &ValidationLine { step, validation })?;
        }
        let TrainState { step, epoch, .. } = self.state;
        let seconds = self.seconds(start);
        let pairs_per_second = (step * self.batch) as f64 / seconds;
        let mut scalars = vec![("pairs_per_second".to_owned(), pairs_per_second)];
        scalars.extend(loss.floor.map(|floor| ("loss_floor".to_owned(), floor)));
        self.folder.scalars(step, &scalars)?;
        on_event(Event::Stepped(Progress {
            step,
            steps: self.steps,
            epoch: epoch + 1,
            epoch_ended: batch.last,
            loss: loss.value,
            validation,
            floor: loss.floor,
            ceiling: loss.ceiling,
            pairs_per_second,
            seconds_left: seconds / step as f64 * (self.steps - step) as f64,
        }))?;
        Ok(model)
    }

    /// One step: views, encoder, loss, gradient, weights.
    fn learn(&mut self, model: Model, batch: &mut Batch) -> Result<(Model, Loss), Error> {
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
        let found = gradients(&model, &mut self.criterion, &batch.pairs, *chunk, &views);
        let Found { loss, of_model, mut of_loss } = match found {
            Err(reason @ Error::Embeddings(_)) => {
                let reason = reason.to_string();
                return Err(self.not_finite("loss is", step + 1, rate, reason, &before));
            }
            found => found?,
        };
        // These weights gave a finite loss; the ones that follow from it may not.
        self.good = Some(before);
        let model = self.optimizer.step(rate, model, of_model);
        self.criterion.step(rate, &mut of_loss, &model);
        let line = StepLine {
            step: step + 1,
            epoch: epoch + 1,
            loss: loss.value,
            learning_rate: rate,
            gradient_norm: self.optimizer.gradient_norm(),
            temperature,
            bias,
        };
        self.folder.metric(step + 1, &line)?;
        Ok((model, loss))
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
        let weights = good.as_ref().unwrap_or(model).to_bytes();
        match weights.map_err(Error::from).and_then(|weights| self.folder.write_last_good(&weights))
        {
            Ok(kept) => Error::NotFinite { what, step, reason, learning_rate, kept },
            Err(error) => error,
        }
    }
}
