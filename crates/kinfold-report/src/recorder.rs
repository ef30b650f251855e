//! An observer of training that leaves what a report needs.
//!
//! Input: the events of a run. Output: `snapshots.json` in its folder while it trains, and
//! `report.html` when it has been measured, just before the summary says that it is finished.

use crate::report;
use crate::snapshots::Snapshots;
use kinfold_train::{Error, Event};

/// Writes snapshots and the report of a run; hand it every event.
///
/// ```no_run
/// use kinfold_report::Recorder;
/// use kinfold_train::{Settings, train};
/// use std::path::Path;
/// use std::sync::atomic::AtomicBool;
///
/// let mut recorder = Recorder::new();
/// let stop = AtomicBool::new(false);
/// train(Settings::default(), Path::new("runs/digits"), &stop, &mut |event| {
///     recorder.on_event(&event)
/// })?;
/// # Ok::<(), kinfold_train::Error>(())
/// ```
pub struct Recorder {
    snapshots: Option<Snapshots>,
    reports: bool,
}

impl Recorder {
    /// A recorder of one run.
    #[allow(clippy::new_without_default, reason = "it begins something")]
    pub fn new() -> Self {
        Self { snapshots: None, reports: true }
    }

    /// Snapshots alone.
    pub(crate) fn without_report() -> Self {
        Self { snapshots: None, reports: false }
    }

    /// Writes what is due at this event.
    ///
    /// # Errors
    /// When data cannot be read, or a file cannot be written.
    pub fn on_event(&mut self, event: &Event<'_>) -> Result<(), Error> {
        match event {
            Event::Started { settings, data, split, steps, run, .. } => {
                self.snapshots = Some(Snapshots::new(settings, data, split, *steps, run)?);
                Ok(())
            }
            Event::Weights { step, model, last } => match &mut self.snapshots {
                Some(snapshots) if *last => snapshots.last(*step, model),
                Some(snapshots) => snapshots.take(*step, model),
                None => Ok(()),
            },
            Event::Measured { run, data, split, summary } if self.reports => {
                report::write(run, Some((data, split)), Some(summary)).map(drop)
            }
            _ => Ok(()),
        }
    }
}
