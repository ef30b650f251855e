//! The training loop.
//!
//! Comes in: settings, a folder for the run, a flag that asks it to stop, and somebody to tell.
//! Goes out: a run folder and its summary. It never prints and reads no clock but to tell how fast
//! it is; the same settings give the same weights, bit for bit.

use crate::criterion::{Criterion, Loss};
use crate::encoder::{Model, images_tensor};
use crate::evaluation::Evaluation;
use crate::optimizer::{adamw, learning_rate};
use crate::pairs::{Images, Pair, Pairs, Split};
use crate::report::{self, Snapshots};
use crate::run::{RunFolder, SavedModel, Summary, peak_memory_bytes};
use crate::{Error, Settings, views};
use burn::optim::{GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use serde::Serialize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What a run tells while it goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The data is there and training begins.
    Started {
        /// Every setting, decided.
        settings: &'a Settings,
        /// The images.
        images: &'a Images,
        /// Which of them are held out.
        split: &'a Split,
        /// What is trained on.
        pairs: &'a Pairs,
        /// Steps to come.
        steps: usize,
    },
    /// A step was taken.
    Stepped(Progress),
    /// Training is over; what was learned is being measured.
    Evaluating,
}

/// Where a run stands after a step.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Steps taken.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// The epoch of this step, counted from 1.
    pub epoch: usize,
    /// Whether this step ended its epoch.
    pub epoch_ended: bool,
    /// The batch's loss, in nats.
    pub loss: f64,
    /// The least this batch can reach; none where no closed form is known.
    pub floor: Option<f64>,
    /// What this batch has where nothing is learned.
    pub ceiling: f64,
    /// Pairs trained on each second so far.
    pub pairs_per_second: f64,
    /// Seconds to go, at this speed.
    pub seconds_left: f64,
}

/// A line of the metrics.
#[derive(Serialize)]
struct StepLine {
    step: usize,
    epoch: usize,
    loss: f64,
    learning_rate: f64,
    /// The temperature and the bias that the loss was computed with, where they are learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bias: Option<f64>,
}

/// The last line of the metrics.
#[derive(Serialize)]
struct EvaluationLine {
    step: usize,
    evaluation: Evaluation,
}

/// Trains an encoder as `settings` say, into the new folder `out`.
///
/// When `stop` becomes true the step that is under way is finished, and what there is is evaluated
/// and saved.
///
/// # Errors
/// When settings, data or folder cannot be used, when a file cannot be written, or when the loss is
/// not finite any more; the last keeps the last good weights.
pub fn train(
    settings: Settings,
    out: &Path,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Summary, Error> {
    let (summary, images, split) = run(settings, out, stop, tell)?;
    report::write(out, Some((&images, &split)))?;
    Ok(summary)
}

/// The same without the report; what was trained on comes along.
pub(crate) fn run(
    settings: Settings,
    out: &Path,
    stop: &AtomicBool,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(Summary, Images, Split), Error> {
    settings.check()?;
    if out.exists() {
        return Err(Error::RunExists(out.to_path_buf()));
    }
    let images = Images::load(&settings)?;
    let split = Split::new(&images, settings.hold_out);
    let pairs = Pairs::new(&images, &split, &settings.pairs)?;
    let settings = settings.decided(&pairs)?;
    let folder = RunFolder::create(out, &settings)?;
    let (seen, held_out) = (images.clone(), split.clone());
    let summary = Training::new(settings, images, split, pairs, folder)?.run(stop, tell)?;
    Ok((summary, seen, held_out))
}

struct Training {
    settings: Settings,
    images: Images,
    split: Split,
    pairs: Pairs,
    folder: RunFolder,
    criterion: Criterion,
    batch: usize,
    steps: usize,
    device: Device,
    optimizer: ModuleOptimizer,
    /// The last weights whose loss was finite.
    good: Option<Model>,
}

impl Training {
    fn new(
        settings: Settings,
        images: Images,
        split: Split,
        pairs: Pairs,
        folder: RunFolder,
    ) -> Result<Self, Error> {
        let batch = settings.batch.unwrap_or(pairs.largest_batch());
        let steps = settings.epochs * (pairs.len() / batch);
        let optimizer = adamw(&settings.optimizer);
        let device = Device::flex().autodiff();
        let criterion = Criterion::new(&settings, &images, &pairs, &device)?;
        Ok(Self {
            settings,
            images,
            split,
            pairs,
            folder,
            criterion,
            batch,
            steps,
            device,
            optimizer,
            good: None,
        })
    }

    fn run(mut self, stop: &AtomicBool, tell: &mut dyn FnMut(Event<'_>)) -> Result<Summary, Error> {
        let Self { settings, images, split, pairs, .. } = &self;
        tell(Event::Started { settings, images, split, pairs, steps: self.steps });
        let shape = self.settings.image_shape();
        let mut model =
            Model::random(&self.settings.encoder, shape, self.settings.seed, &self.device);
        let random = model.snapshot();
        let Self { settings, images, split, pairs, steps, folder, .. } = &self;
        let mut snapshots = Snapshots::new(settings, images, split, pairs, *steps, folder)?;
        snapshots.take(0, &model, &self.folder)?;

        let (mut step, mut epochs) = (0, 0);
        let (mut floor, mut ceiling) = (None, 0.0);
        let mut last_epoch = Vec::new();
        let start = Instant::now();
        for epoch in 0..self.settings.epochs {
            // At least one step is taken, so that there is something to save.
            if step > 0 && stop.load(Ordering::Relaxed) {
                break;
            }
            epochs += 1;
            last_epoch.clear();
            let batches = self.pairs.batches(self.batch, self.settings.seed, epoch);
            for (i, pairs) in batches.iter().enumerate() {
                let (next, of_batch) = self.step(model, pairs, epoch, step)?;
                (model, floor, ceiling) = (next, of_batch.floor, of_batch.ceiling);
                let loss = of_batch.value;
                step += 1;
                last_epoch.push(loss);
                snapshots.take(step, &model, &self.folder)?;
                let seconds = start.elapsed().as_secs_f64();
                tell(Event::Stepped(Progress {
                    step,
                    steps: self.steps,
                    epoch: epoch + 1,
                    epoch_ended: i + 1 == batches.len(),
                    loss,
                    floor,
                    ceiling,
                    pairs_per_second: (step * self.batch) as f64 / seconds,
                    seconds_left: seconds / step as f64 * (self.steps - step) as f64,
                }));
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        let seconds = start.elapsed().as_secs_f64();

        tell(Event::Evaluating);
        // From here on there are weights that took time to make.
        self.folder.keep();
        SavedModel::new(&self.settings).save(&model, &self.folder)?;
        snapshots.last(step, &model, &self.folder)?;
        let plain = self.device.clone().inner();
        let evaluation = Evaluation::new(&self.images, &self.split, &random, &model, &plain)?;
        if let Some(evaluation) = evaluation {
            self.folder.metric(&EvaluationLine { step, evaluation })?;
        }
        let summary = Summary {
            data: self.settings.data.clone(),
            pairs: self.pairs.len(),
            epochs,
            steps: step,
            interrupted: step < self.steps,
            seconds,
            pairs_per_second: (step * self.batch) as f64 / seconds,
            temperature: self.criterion.temperature()?,
            bias: self.criterion.bias()?,
            loss: last_epoch.iter().sum::<f64>() / last_epoch.len().max(1) as f64,
            loss_floor: floor,
            loss_ceiling: ceiling,
            peak_memory_bytes: peak_memory_bytes(),
            evaluation,
        };
        self.folder.write_summary(&summary)?;
        Ok(summary)
    }

    /// One step: views, encoder, loss, gradient, weights. Counted from 0.
    fn step(
        &mut self,
        model: Model,
        pairs: &[Pair],
        epoch: usize,
        step: usize,
    ) -> Result<(Model, Loss), Error> {
        let Settings { view, seed, optimizer, .. } = &self.settings;
        let views = views::pairs(&self.images, pairs, view, *seed, epoch)?;
        let rate = learning_rate(optimizer, step, self.steps);
        let views = images_tensor(views, self.settings.image_shape(), &self.device);
        let before = model.snapshot();
        let learns = self.criterion.learns();
        let temperature = learns.then(|| self.criterion.temperature()).transpose()?;
        let bias = self.criterion.bias()?;
        let loss = match self.criterion.loss(&model, views, pairs) {
            Ok(loss) => loss,
            Err(reason) => return Err(self.not_finite(step, rate, &reason, &before)),
        };
        self.folder.metric(&StepLine {
            step: step + 1,
            epoch: epoch + 1,
            loss: loss.value,
            learning_rate: rate,
            temperature,
            bias,
        })?;
        let mut gradients = loss.tensor.clone().backward();
        let of_model = GradientsParams::from_module(&mut gradients, &model);
        // These weights gave a finite loss; the ones that follow from it may not.
        self.good = Some(before);
        let model = self.optimizer.step(rate, model, of_model);
        self.criterion.step(rate, &mut gradients, &model);
        Ok((model, loss))
    }

    /// Keeps the last weights whose loss was finite, and says so.
    fn not_finite(&mut self, step: usize, rate: f64, reason: &Error, model: &Model) -> Error {
        let good = self.good.take();
        let weights = good.as_ref().unwrap_or(model).to_bytes();
        match weights.and_then(|weights| self.folder.write_last_good(&weights)) {
            Ok(kept) => Error::NotFinite {
                step: step + 1,
                reason: reason.to_string(),
                learning_rate: rate,
                kept,
            },
            Err(error) => error,
        }
    }
}
