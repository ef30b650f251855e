//! What a run tells while it goes on.

use crate::Settings;
use kinfold_data::{Images, Pairs, Split};
use std::path::Path;

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
        /// Steps in all.
        steps: usize,
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
    /// Pairs trained on each second so far, in all sittings.
    pub pairs_per_second: f64,
    /// Seconds to go, at this speed.
    pub seconds_left: f64,
}
