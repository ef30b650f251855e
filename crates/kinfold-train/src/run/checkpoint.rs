//! Checkpoints: everything that decides how a run goes on.
//!
//! Input: where a run stands and the state of its parts. Output: a file,
//! `checkpoints/step-00000120.safetensors`, and from such a file the same again.
//!
//! The file is safetensors. Its tensors are the state, each named by its part: `model.…` and
//! `optimizer.…`; where the loss learns, `loss.…` and `loss_optimizer.…`; where it has a queue,
//! `queue.…` and `queue_model.…`; and numbers of the loop, `losses` of the epoch so far, the mean loss
//! over the last `whole` epoch, the last batch's `floor` and `ceiling`, and the `best` mean. Its
//! metadata has two entries: `kinfold`, a JSON object with the fields of [`Header`], and `crc32c`, the
//! checksum of the whole file as eight hexadecimal digits, computed with zeros in their place. A file
//! is written whole or not at all.
//!
//! The last one, the one before it and the best are kept. The best has the lowest mean loss over the
//! last whole epoch before it; of equals it is the latest.

use super::State;
use crate::{Error, Settings, shell_word};
use burn::tensor::{DType, TensorData};
use kinfold_data::{Data, Kind, Pairs};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The folder in a run folder.
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// Of the names and meanings of what is in the file.
const FORMAT: u32 = 1;

/// What stands around the checksum's digits in the file, and the digits while there are none.
const BEFORE: &[u8] = b"\"crc32c\":\"";
const BLANK: &[u8] = b"00000000";

/// Where a run stands, beside the state of its parts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Of the file.
    pub(crate) format: u32,
    /// The version of kinfold that wrote it.
    pub(crate) version: String,
    /// Every setting of the run, as `config.toml` has them.
    pub(crate) settings: String,
    /// What the run is trained on.
    pub(crate) data: Fingerprint,
    /// Steps taken.
    pub(crate) step: usize,
    /// The epoch of the last step, counted from 0.
    pub(crate) epoch: usize,
    /// Batches of that epoch that are done.
    pub(crate) batch: usize,
    /// Length of `metrics.jsonl`, in bytes.
    pub(crate) metrics: u64,
    /// Length of TensorBoard's file, in bytes.
    pub(crate) events: u64,
    /// Seconds of training, in all sittings.
    pub(crate) seconds: f64,
    /// The step of the best checkpoint so far.
    pub(crate) best: Option<usize>,
}

/// What some data is known by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    /// Rows of the data, of whatever kind; the name is as old as the file.
    images: usize,
    pairs: usize,
    /// The checksum of the names and labels in order.
    names: u32,
    /// The checksum of the images' contents; none in a checkpoint of a version that had none.
    #[serde(default)]
    contents: Option<u32>,
}

impl Fingerprint {
    pub(crate) fn new(data: &Data, pairs: &Pairs) -> Self {
        let items = data.items();
        let names = items.names.iter().zip(&items.labels).fold(0, |crc, (name, label)| {
            let crc = crc32c::crc32c_append(crc, name.as_bytes());
            crc32c::crc32c_append(crc32c::crc32c_append(crc, b"\0"), label.as_bytes())
        });
        let contents = Some(data.checksum());
        Self { images: items.len(), pairs: pairs.len(), names, contents }
    }

    /// As one tells it.
    pub(crate) fn in_words(&self, kind: Kind) -> String {
        let Self { images, pairs, names, contents } = self;
        format!(
            "{images} {} in {pairs} pairs, names and labels {names:08x}, contents {:08x}",
            kind.noun(),
            contents.unwrap_or_default()
        )
    }

    /// What differs now from what a checkpoint was made with.
    pub(crate) fn differs(&self, before: &Self, kind: Kind) -> Option<String> {
        let noun = kind.noun();
        let Self { images, pairs, names, contents } = before;
        if (self.images, self.pairs) != (*images, *pairs) {
            return Some(format!(
                "the data has {} {noun} and {} pairs now, but it had {images} and {pairs} when the \
                 checkpoint was written",
                self.images, self.pairs
            ));
        }
        let other = match (self.contents, contents) {
            _ if self.names != *names => "names or labels",
            (Some(now), Some(then)) if now != *then => "contents",
            _ => return None,
        };
        Some(format!("the {noun} have other {other} than when the checkpoint was written"))
    }
}

/// A checkpoint in memory.
pub(crate) struct Checkpoint {
    pub(crate) header: Header,
    pub(crate) state: State,
}

impl Header {
    pub(crate) fn new(settings: &Settings, data: Fingerprint) -> Result<Self, Error> {
        Ok(Self {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            settings: settings.to_toml()?,
            data,
            step: 0,
            epoch: 0,
            batch: 0,
            metrics: 0,
            events: 0,
            seconds: 0.0,
            best: None,
        })
    }
}

impl Checkpoint {
    /// The file.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        let unsaved = |e: &dyn std::fmt::Display| Error::Data(format!("no checkpoint: {e}"));
        let header = serde_json::to_string(&self.header).map_err(|e| unsaved(&e))?;
        let blank = String::from_utf8_lossy(BLANK).into_owned();
        let metadata =
            HashMap::from([("kinfold".to_owned(), header), ("crc32c".to_owned(), blank)]);
        let mut tensors = Vec::new();
        for (name, data) in self.state.iter() {
            let dtype = written(data.dtype())
                .ok_or_else(|| unsaved(&format!("{name} is {:?}", data.dtype())))?;
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes());
            tensors.push((name, view.map_err(|e| unsaved(&e))?));
        }
        let mut bytes = serialize(tensors, Some(metadata)).map_err(|e| unsaved(&e))?;
        let place = checksum_place(&bytes).ok_or_else(|| unsaved(&"no room for the checksum"))?;
        let digits = format!("{:08x}", crc32c::crc32c(&bytes));
        bytes[place..place + BLANK.len()].copy_from_slice(digits.as_bytes());
        Ok(bytes)
    }

    /// What a file holds, or why it cannot be used.
    pub(crate) fn from_bytes(mut bytes: Vec<u8>) -> Result<Self, String> {
        let place = checksum_place(&bytes).ok_or("it is damaged, or no checkpoint")?;
        let digits = place..place + BLANK.len();
        let noted = bytes[digits.clone()].to_vec();
        bytes[digits].copy_from_slice(BLANK);
        let computed = format!("{:08x}", crc32c::crc32c(&bytes));
        if noted != computed.as_bytes() {
            return Err(format!(
                "it is damaged: its checksum is {computed}, but {} was noted when it was written",
                String::from_utf8_lossy(&noted)
            ));
        }
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| e.to_string())?;
        let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get("kinfold"));
        let header = header.ok_or("it is no checkpoint")?;
        // Another format may have other fields.
        let fields: serde_json::Value = serde_json::from_str(header).map_err(|e| e.to_string())?;
        if fields["format"] != FORMAT {
            return Err(format!(
                "it has format {}, but this version of kinfold reads format {FORMAT}",
                fields["format"]
            ));
        }
        let header = serde_json::from_value(fields).map_err(|e| e.to_string())?;
        let mut state = State::default();
        for (name, view) in SafeTensors::deserialize(&bytes).map_err(|e| e.to_string())?.tensors() {
            let dtype =
                read(view.dtype()).ok_or_else(|| format!("{name} is {:?}", view.dtype()))?;
            let (data, shape) = (view.data().to_vec(), view.shape().to_vec());
            state.put(name, TensorData::from_bytes_vec(data, shape, dtype));
        }
        Ok(Self { header, state })
    }
}

/// Where the digits of the checksum are in a file.
fn checksum_place(bytes: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let header = bytes.get(8..usize::try_from(length).ok()?.checked_add(8)?)?;
    let found = header.windows(BEFORE.len()).position(|window| window == BEFORE)?;
    let place = 8 + found + BEFORE.len();
    (place + BLANK.len() <= 8 + header.len()).then_some(place)
}

const TYPES: [(DType, Dtype); 4] = [
    (DType::F32, Dtype::F32),
    (DType::F64, Dtype::F64),
    (DType::I64, Dtype::I64),
    (DType::U8, Dtype::U8),
];

fn written(dtype: DType) -> Option<Dtype> {
    TYPES.iter().find(|(ours, _)| *ours == dtype).map(|(_, theirs)| *theirs)
}

fn read(dtype: Dtype) -> Option<DType> {
    TYPES.iter().find(|(_, theirs)| *theirs == dtype).map(|(ours, _)| *ours)
}

/// The file of a step's checkpoint, relative to its run folder.
pub(crate) fn name(step: usize) -> String {
    format!("{CHECKPOINTS}/step-{step:08}.safetensors")
}

/// The steps that a run folder has checkpoints of, in order, and their files.
pub(crate) fn list(run: &Path) -> Vec<(usize, PathBuf)> {
    let entries = fs::read_dir(run.join(CHECKPOINTS)).into_iter().flatten().flatten();
    let step = |path: &Path| -> Option<usize> {
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("step-")?.strip_suffix(".safetensors")?.parse().ok()
    };
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((step(&entry.path())?, entry.path()))).collect();
    found.sort_unstable();
    found
}

/// The checkpoint that a run goes on from: this one, or the last; none where there is none yet.
///
/// # Errors
/// When it is damaged, or of another run; the error names the last one before it that is neither.
pub(crate) fn choose(
    run: &Path,
    named: Option<&Path>,
    settings: &Settings,
) -> Result<Option<(PathBuf, Checkpoint)>, Error> {
    let listed = list(run);
    let path = match (named, listed.last()) {
        (Some(path), _) => path,
        (None, Some((_, path))) => path,
        (None, None) => return Ok(None),
    };
    match open(path, settings) {
        Ok(checkpoint) => Ok(Some((path.to_path_buf(), checkpoint))),
        Err(reason) => {
            let same = |other: &Path| other.file_name() == path.file_name();
            let before = listed.iter().rev().skip_while(|(_, other)| !same(other)).skip(1);
            let usable = before.into_iter().find(|(_, other)| open(other, settings).is_ok());
            let help = match usable {
                Some((step, other)) => format!(
                    "the one before it, of step {step}, can be used: kinfold train --resume {}",
                    shell_word(&other.display().to_string())
                ),
                None => format!(
                    "there is none before it that can be used; to begin anew: kinfold train \
                     --config {} --out ANOTHER",
                    shell_word(&run.join(super::CONFIG).display().to_string())
                ),
            };
            Err(Error::Checkpoint { path: path.to_path_buf(), reason, help })
        }
    }
}

fn open(path: &Path, settings: &Settings) -> Result<Checkpoint, String> {
    let bytes = fs::read(path).map_err(|e| format!("it cannot be read: {e}"))?;
    let checkpoint = Checkpoint::from_bytes(bytes)?;
    let before = toml::from_str(&checkpoint.header.settings).map_err(|e| e.to_string())?;
    match settings.differ(&before) {
        Some(differ) => Err(format!("it is of a run with other settings: {differ}")),
        None => Ok(checkpoint),
    }
}

/// Deletes the checkpoints that are neither of this step, nor of the one before it, nor the best.
pub(crate) fn prune(run: &Path, step: usize, best: Option<usize>) -> Result<(), Error> {
    let listed = list(run);
    let before = listed.iter().rev().map(|(other, _)| *other).find(|&other| other < step);
    delete(listed, |other| other == step || Some(other) == before || Some(other) == best)
}

/// Deletes the checkpoints after this step: the run will pass there again.
pub(crate) fn delete_after(run: &Path, step: usize) -> Result<(), Error> {
    delete(list(run), |other| other <= step)
}

fn delete(listed: Vec<(usize, PathBuf)>, keep: impl Fn(usize) -> bool) -> Result<(), Error> {
    for (_, path) in listed.into_iter().filter(|(step, _)| !keep(*step)) {
        fs::remove_file(&path).map_err(Error::file("delete", &path))?;
    }
    Ok(())
}
