//! What a run folder says of its run.
//!
//! Input: a run folder, also that of a run that was interrupted or ended by force. Output: its
//! settings, its steps and, where they are there, its summary and its snapshots.

use crate::metrics::{Step, steps};
use crate::snapshots::Seen;
use kinfold::{ContrastiveLoss, Temperature};
use kinfold_train::run::{CONFIG, Summary};
use kinfold_train::{Error, Settings, relative_path};
use std::path::Path;

/// What a run folder says.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// The name of the folder.
    pub(super) name: String,
    /// The folder as it was given.
    pub(super) path: String,
    pub(super) settings: Settings,
    /// The settings as the file has them.
    pub(super) config: String,
    pub(super) steps: Vec<Step>,
    /// What the loss is where nothing is learned.
    pub(super) ceiling: f64,
    /// None where the run was ended by force.
    pub(super) summary: Option<Summary>,
    pub(super) seen: Option<Seen>,
}

impl Facts {
    pub(super) fn read(run: &Path, summary: Option<&Summary>) -> Result<Self, Error> {
        let not = |reason: String| Error::NotARun { path: run.to_path_buf(), reason };
        let file = |name: &str| {
            std::fs::read_to_string(run.join(name)).map_err(|e| not(format!("{name}: {e}")))
        };
        let config = file(CONFIG)?;
        let settings = Settings::of_run(run)?;
        let mut steps = steps(run)?;
        let summary = summary.cloned().or_else(|| Summary::read(run));
        let loss = settings.contrastive_loss()?;
        let ceiling = bounds(&mut steps, &settings, loss, summary.as_ref());
        let absolute = std::path::absolute(run).unwrap_or_else(|_| run.to_path_buf());
        let name = absolute.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Self {
            name: name.unwrap_or_else(|| "run".to_owned()),
            path: relative_path(run).display().to_string(),
            settings,
            config,
            steps,
            ceiling,
            summary,
            seen: Seen::read(run),
        })
    }

    /// The mean loss of the last steps: of the last epoch where it is known.
    pub(super) fn loss(&self) -> Option<f64> {
        let last = self.steps.last().map(|step| step.loss);
        self.summary.as_ref().map(|summary| summary.loss).or(last)
    }

    /// The floor at the end.
    pub(super) fn floor(&self) -> Option<f64> {
        self.steps.last()?.floor
    }

    /// How far the loss has come from its ceiling to its floor, from 0 to 1.
    pub(super) fn way(&self) -> Option<f64> {
        let (loss, floor) = (self.loss()?, self.floor()?);
        (self.ceiling > floor).then(|| (self.ceiling - loss) / (self.ceiling - floor))
    }

    /// Whether each view is compared with its own other view alone, so that the loss has no temperature and is no
    /// entropy.
    pub(super) fn has_no_negatives(&self) -> bool {
        self.settings.method.has_no_negatives()
    }

    /// The temperature at the end, where the loss has one.
    pub(super) fn temperature(&self) -> Option<f64> {
        if self.has_no_negatives() {
            return None;
        }
        let last = self.steps.last().and_then(|step| step.temperature);
        let reached = self.summary.as_ref().map(|summary| summary.temperature);
        reached.or(last).or(self.settings.loss.temperature)
    }
}

/// Gives every step its floor, at the temperature it had, and returns the ceiling.
fn bounds(
    steps: &mut [Step],
    settings: &Settings,
    loss: ContrastiveLoss,
    summary: Option<&Summary>,
) -> f64 {
    let batch = settings.batch.unwrap_or(2);
    let reached = summary.map(|summary| summary.loss_ceiling);
    // Which candidates a row has, only the run itself knows where some are left out or queued.
    let plain = match summary {
        Some(summary) => summary.loss_floor.is_some(),
        None => !settings.loss.mask_labels && !settings.pairs.allow_same_class,
    };
    for step in steps.iter_mut().filter(|_| plain) {
        let at = step.temperature.and_then(|t| Temperature::new(t).ok());
        step.floor = at.map_or(loss, |t| loss.with_temperature(t)).floor(batch);
    }
    reached.unwrap_or_else(|| loss.ceiling(batch))
}
