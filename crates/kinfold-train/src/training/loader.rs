//! The batches of a run, drawn one ahead: while the encoder works on a batch, a thread draws the views
//! of the next.
//!
//! Input: data, pairs, and the place in the run to begin at. Output: batches in their order,
//! the same to the last bit however fast they are drawn.

use crate::processes::Place;
use crate::{Error, Settings};
use kinfold_data::{Data, Pair, Pairs, Views};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// What a step is taken with.
pub(super) struct Batch {
    /// Counted from 0.
    pub(super) epoch: usize,
    /// Its place in the epoch, counted from 0.
    pub(super) place: usize,
    /// Whether it is the last of its epoch.
    pub(super) last: bool,
    pub(super) pairs: Vec<Pair>,
    /// A view of each member of each pair that is encoded in this process, and their negatives, as
    /// [`Data::draw_batch`] has them; none where they are encoded in chunks, so that they need not fit into memory.
    pub(super) views: Option<Views>,
}

/// Ends when it is dropped, after the batch that is being drawn.
pub(super) struct Loader(Receiver<Result<Batch, Error>>);

impl Loader {
    /// The batches after the first `done` of `epoch`, with the views that are this process's.
    pub(super) fn start(
        settings: &Settings,
        data: &Arc<Data>,
        pairs: &Arc<Pairs>,
        (epoch, done): (usize, usize),
        process: Place,
    ) -> Self {
        // With no room in the channel, one batch is drawn and waits in the thread.
        let (send, receive) = sync_channel(0);
        let (settings, data, pairs) = (settings.clone(), data.clone(), pairs.clone());
        thread::spawn(move || {
            for batch in batches(&settings, &data, &pairs, (epoch, done), process) {
                let failed = batch.is_err();
                // Nobody takes them any more, or the data cannot be read.
                if send.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        Self(receive)
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.recv().ok()
    }
}

fn batches(
    settings: &Settings,
    data: &Data,
    pairs: &Pairs,
    (first, done): (usize, usize),
    process: Place,
) -> impl Iterator<Item = Result<Batch, Error>> {
    let Settings { batch, seed, epochs, view, chunk, .. } = settings;
    let batch = batch.unwrap_or(pairs.largest_batch());
    let whole = chunk.is_none_or(|chunk| chunk >= process.largest_share(batch));
    (first..*epochs).flat_map(move |epoch| {
        let batches = pairs.batches(batch, *seed, epoch);
        let n = batches.len();
        let done = if epoch == first { done } else { 0 };
        batches.into_iter().enumerate().skip(done).map(move |(place, pairs)| {
            let encoded = &pairs[process.encoded(pairs.len())];
            let views = whole.then(|| data.draw_batch(encoded, view, *seed, epoch));
            let views = views.transpose()?;
            Ok(Batch { epoch, place, last: place + 1 == n, pairs, views })
        })
    })
}
