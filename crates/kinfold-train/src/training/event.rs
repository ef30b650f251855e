//! The events of a run.

use crate::evaluation::EvaluationProgress;
use crate::run::Summary;
use crate::{Error, Settings};
use kinfold_data::{Data, Pairs, Split};
use kinfold_nn::encoders::Model;
use std::path::Path;

/// What is called at each event. An error that it returns ends the run. Where several processes train, the first
/// has every event; the others have what tells where the run stands: `Started`, `Resumed`, `Stepped`, `Saved`.
pub type Observer<'o> = dyn FnMut(Event<'_>) -> Result<(), Error> + 'o;

/// An event of a run.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The data is there and training begins.
    Started {
        /// The run folder.
        run: &'a Path,
        /// Every setting, decided.
        settings: &'a Settings,
        /// The things that it is trained on and judged by.
        data: &'a Data,
        /// Which of them are held out.
        split: &'a Split,
        /// What is trained on.
        pairs: &'a Pairs,
        /// Steps in all.
        steps: usize,
        /// Processes that share each batch.
        processes: usize,
    },
    /// It does not begin but goes on.
    Resumed {
        /// Steps taken before.
        step: usize,
        /// The checkpoint; none where the run was stopped before its first and begins again.
        from: Option<&'a Path>,
    },
    /// A step was taken.
    Stepped(Progress),
    /// A checkpoint was written.
    Saved {
        /// Steps taken.
        step: usize,
        /// The file.
        path: &'a Path,
    },
    /// The weights before the first step, after each step and, once more, after the last one that is
    /// taken.
    Weights {
        /// Steps taken.
        step: usize,
        /// The model in training.
        model: &'a Model,
        /// No step follows in this sitting; the model has been saved.
        last: bool,
    },
    /// Training is over; what was learned is being measured.
    Evaluating(EvaluationProgress),
    /// Everything has been measured. The summary is written after this event: it says that the run is
    /// finished.
    Measured {
        /// The run folder.
        run: &'a Path,
        /// The things that it is trained on and judged by.
        data: &'a Data,
        /// Which of them are held out.
        split: &'a Split,
        /// What the run reached.
        summary: &'a Summary,
    },
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
    /// After an epoch that was judged, nDCG@10 of what is set aside of the training data.
    pub validation: Option<f64>,
    /// The least this batch can reach; none where no closed form is known.
    pub floor: Option<f64>,
    /// What this batch has where nothing is learned.
    pub ceiling: f64,
    /// Pairs trained on each second so far, in all sittings.
    pub pairs_per_second: f64,
    /// Seconds to go, at this speed.
    pub seconds_left: f64,
}
