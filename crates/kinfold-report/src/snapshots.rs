//! How similar a fixed set of pairs is, before, during and after training.
//!
//! Input: a model, at a few steps. Output: `snapshots.json` in the run folder, and from there
//! what the report draws. The pairs are held-out ones where some are held out, in views that training
//! never sees. It never changes the model nor anything that training draws.

use burn::tensor::Device;
use kinfold_data::{Data, Pair, Pairs, Split};
use kinfold_nn::encoders::{Input, Model};
use kinfold_train::run::write_whole;
use kinfold_train::tensors::{input, numbers};
use kinfold_train::{Error, Settings};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

const FILE: &str = "snapshots.json";

/// The most pairs that are looked at.
const PAIRS: usize = 96;
/// So many must be held out; of fewer there would be too little to see.
const ENOUGH: usize = 32;

/// A pair that is looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// The name of the first member.
    pub(crate) a: String,
    /// The name of the second; by views the same.
    pub(crate) b: String,
    /// The first member's label; empty where there is none.
    pub(crate) label: String,
}

/// The similarities at one step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Moment {
    /// Steps taken before.
    pub(crate) step: usize,
    /// The cosine of every query with every key, `[n, n]`, in thousandths.
    cosines: Vec<i16>,
}

impl Moment {
    /// Pairs that were looked at.
    pub(crate) fn pairs(&self) -> usize {
        self.cosines.len().isqrt()
    }

    /// The cosine of a query and a key.
    pub(crate) fn cosine(&self, query: usize, key: usize) -> f64 {
        f64::from(self.cosines[query * self.pairs() + key]) / 1000.0
    }
}

/// What the file holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Whether the pairs were held out from training.
    pub(crate) held_out: bool,
    /// The pairs.
    pub(crate) pairs: Vec<Member>,
    /// What was seen, the earliest first.
    pub(crate) moments: Vec<Moment>,
}

impl Seen {
    /// What a run folder holds; none where it holds nothing that can be used.
    pub(crate) fn read(run: &Path) -> Option<Self> {
        let text = std::fs::read(run.join(FILE)).ok()?;
        let seen: Self = serde_json::from_slice(&text).ok()?;
        let n = seen.pairs.len();
        let whole = |moment: &Moment| moment.cosines.len() == n * n;
        (n >= 2 && seen.moments.iter().all(whole)).then_some(seen)
    }
}

/// The snapshots of a run that goes on: before its first step, after a third of all, at its end.
pub(crate) struct Snapshots {
    /// Both views of every pair, first every first one.
    views: Input,
    /// The step after which it is looked at once more.
    third: usize,
    seen: Seen,
    file: PathBuf,
}

impl Snapshots {
    /// Those of a run that has just begun, or goes on.
    pub(crate) fn new(
        settings: &Settings,
        data: &Data,
        split: &Split,
        steps: usize,
        run: &Path,
    ) -> Result<Self, Error> {
        let (pairs, held_out) = Pairs::to_look_at(data.items(), split, &settings.pairs, ENOUGH)?;
        // An epoch that does not come to pass: its views are new.
        let epoch = settings.epochs;
        let n = PAIRS.min(pairs.largest_batch());
        let chosen = pairs.batches(n, settings.seed, epoch).into_iter().next().unwrap_or_default();
        let items = data.items();
        let member = |pair: &Pair| Member {
            a: items.names[pair.a].clone(),
            b: items.names[pair.b].clone(),
            label: items.labels[pair.a].clone(),
        };
        let members: Vec<Member> = chosen.iter().map(member).collect();
        let earlier = Seen::read(run).filter(|seen| seen.pairs == members);
        let moments = earlier.map_or(Vec::new(), |seen| seen.moments);
        let views = data.draw_pairs(&chosen, &settings.view, settings.seed, epoch)?;
        Ok(Self {
            views: input(views, &Device::flex()),
            third: steps.div_ceil(3),
            seen: Seen { held_out, pairs: members, moments },
            file: run.join(FILE),
        })
    }

    /// Looks at the model after `step` steps, if it is time.
    pub(crate) fn take(&mut self, step: usize, model: &Model) -> Result<(), Error> {
        if step != 0 && step != self.third {
            return Ok(());
        }
        self.add(step, model)
    }

    /// Looks at the model after the last step that is taken.
    pub(crate) fn last(&mut self, step: usize, model: &Model) -> Result<(), Error> {
        // The end of an earlier sitting was no end.
        let third = self.third;
        self.seen.moments.retain(|moment| moment.step == 0 || moment.step == third);
        self.add(step, model)
    }

    fn add(&mut self, step: usize, model: &Model) -> Result<(), Error> {
        let n = self.seen.pairs.len();
        if n < 2 {
            return Ok(());
        }
        let mut projected = numbers(model.snapshot().project(self.views.clone()))?;
        let dim = projected.len() / (2 * n);
        normalise(&mut projected, dim);
        let (queries, keys) = projected.split_at(n * dim);
        let cosines = queries.chunks(dim).flat_map(|q| keys.chunks(dim).map(move |k| dot(q, k)));
        let cosines = cosines.map(|x| (1000.0 * x).round() as i16).collect();
        self.seen.moments.retain(|moment| moment.step < step);
        self.seen.moments.push(Moment { step, cosines });
        let text = serde_json::to_vec(&self.seen).map_err(|e| Error::Data(e.to_string()))?;
        let file = &self.file;
        write_whole(file, |to| to.write_all(&text).map_err(Error::file("write", file)))
    }
}

/// Makes every row as long as 1; a row of zeros stays.
pub(crate) fn normalise(rows: &mut [f32], dim: usize) {
    for row in rows.chunks_mut(dim) {
        let length = dot(row, row).sqrt().max(1e-12);
        row.iter_mut().for_each(|x| *x /= length);
    }
}

/// The product of two rows.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
