//! The loss over the processes of `mpirun`, part by part, beside one process that computes all of it.
//!
//! Input: a case, and processes. Output: seconds of each part, and the bytes that a process has to send. All
//! take turns with the first one alone, while the others wait.

use crate::bench::{Case, Seconds, checked, computed, loss_of, pairs, timed};
use kinfold::GradientMut;
use kinfold_train::{Error, Processes, shared_loss};
use serde::Serialize;
use std::collections::BTreeMap;

/// Rounds; as many in every process.
const ROUNDS: usize = 5;

/// What was measured, value and all gradients in f32, seen from the first process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct SharedRecord {
    /// `one-way`, `both` or `nt-xent`.
    pub(crate) loss: &'static str,
    /// Pairs of all processes together.
    pub(crate) rows: usize,
    /// Dimension.
    pub(crate) dim: usize,
    /// Processes.
    pub(crate) processes: usize,
    /// Threads of each.
    pub(crate) threads: usize,
    /// The loss, in nats.
    pub(crate) value: f64,
    /// Of a call.
    pub(crate) seconds: Seconds,
    /// Of its parts. What a process waits for the others is part of what it waits for.
    pub(crate) parts: BTreeMap<&'static str, Seconds>,
    /// Bytes that a process sends for a call, as the ring algorithm does.
    pub(crate) bytes_sent: u64,
    /// The same loss by the first process alone, on as many threads.
    pub(crate) alone: Seconds,
}

/// Measures a case over processes, all of which call this.
///
/// # Errors
/// As [`bench`](crate::bench::bench).
pub(crate) fn bench(case: Case, processes: &Processes) -> Result<SharedRecord, Error> {
    let Case { rows, dim, .. } = case;
    let temperature = processes.agree(checked(case))?;
    let (loss, name) = loss_of(case.form, temperature);
    let (queries, keys) = pairs(rows, dim);
    let (mut of_queries, mut of_keys) = (vec![0.0; rows * dim], vec![0.0; rows * dim]);
    let mut alone = || {
        let gradient = GradientMut::new(&mut of_queries, &mut of_keys);
        computed(&loss, [&queries, &keys], dim, gradient)
    };
    let own = processes.share(rows);
    let part = |x: &'_ [f32]| x[own.start * dim..own.end * dim].to_vec();
    let (own_queries, own_keys) = (part(&queries), part(&keys));
    let mut together = || shared_loss(processes, &loss, (&own_queries, &own_keys), rows, dim);
    let value = together()?;
    if processes.is_first() {
        alone()?;
    }
    let (mut seconds, mut alone_seconds) = (Vec::new(), Vec::new());
    let mut parts: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let mut bytes_sent = 0;
    for _ in 0..ROUNDS {
        processes.wait_for_all();
        let (before, sent) = (processes.spent(), processes.sent());
        seconds.push(timed(&mut together)?);
        bytes_sent = processes.sent() - sent;
        for ((part, after), (_, before)) in processes.spent().into_iter().zip(before) {
            parts.entry(part).or_default().push(after - before);
        }
        processes.wait_for_all();
        if processes.is_first() {
            alone_seconds.push(timed(&mut alone)?);
        }
    }
    processes.wait_for_all();
    if alone_seconds.is_empty() {
        alone_seconds.push(0.0);
    }
    Ok(SharedRecord {
        loss: name,
        rows,
        dim,
        processes: processes.count(),
        threads: rayon::current_num_threads(),
        value,
        seconds: Seconds::of(seconds),
        parts: parts.into_iter().map(|(part, seconds)| (part, Seconds::of(seconds))).collect(),
        bytes_sent,
        alone: Seconds::of(alone_seconds),
    })
}
