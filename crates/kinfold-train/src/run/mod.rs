//! A run folder: what a run was asked, what happened, what came out.
//!
//! Input: settings, steps, checkpoints, weights, a summary. Output: files. Each file is written
//! whole or not at all: under a temporary name first, then renamed; but the metrics and TensorBoard's
//! events grow, line by line. A run that fails before it has anything to keep leaves nothing behind.
//! One process at a time has a run folder.

mod appended;
mod checkpoint;
mod model;
mod state;
mod summary;
mod tensorboard;

pub use crate::settings::CONFIG;
pub(crate) use checkpoint::{Checkpoint, Fingerprint, Header, name as checkpoint_name};
pub use model::SavedModel;
pub(crate) use state::{State, checksum, not_finite};
pub use summary::{
    ByDimension, Estimate, Evaluation, Measured, NEIGHBOURS, Retrieval, Retrieved, ScoredPairs,
    Shared, Summary,
};

use crate::memory::system_bytes;
use crate::{Error, Settings};
use appended::Appended;
use checkpoint::CHECKPOINTS;
use serde::Serialize;
use serde_json::Value;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A line for each step, then the evaluation.
pub const METRICS: &str = "metrics.jsonl";
/// What a run reached; its last file.
pub const SUMMARY: &str = "summary.json";
/// How the temporary name of a file ends.
const PARTIAL: &str = ".partial";
/// Who holds this file has the folder; left behind by a process that was killed, it says nothing.
const LOCK: &str = ".lock";

/// The folder of a run that is going on.
pub(crate) struct RunFolder {
    path: PathBuf,
    metrics: Appended,
    events: Appended,
    /// Something in it is worth keeping.
    keep: bool,
    /// Held as long as this lives.
    _lock: File,
}

impl RunFolder {
    /// A new folder with the settings in it.
    pub(crate) fn create(path: &Path, settings: &Settings) -> Result<Self, Error> {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(Error::file("create", parent))?;
        }
        fs::create_dir(path).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => Error::RunExists(path.to_path_buf()),
            _ => Error::file("create", path)(e),
        })?;
        let made = Self::make(path, settings);
        if made.is_err() {
            // Nothing is in it yet, so nothing is lost with it.
            let _ = fs::remove_dir_all(path);
        }
        made
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn make(path: &Path, settings: &Settings) -> Result<Self, Error> {
        let lock = lock(path)?;
        // First what it takes to begin again.
        let file = path.join(CONFIG);
        write_whole(&file, |config| {
            config.write_all(settings.to_toml()?.as_bytes()).map_err(Error::file("write", &file))
        })?;
        let metrics = Appended::create(path.join(METRICS))?;
        let mut events = Appended::create(path.join(tensorboard::EVENTS))?;
        events.append(&tensorboard::version())?;
        Ok(Self { path: path.to_path_buf(), metrics, events, keep: false, _lock: lock })
    }

    /// The folder of a run that was stopped, to go on with, and its settings.
    pub(crate) fn open(path: &Path) -> Result<(Self, Settings), Error> {
        let not = |reason: String| Error::NotARun { path: path.to_path_buf(), reason };
        let config = path.join(CONFIG);
        if !config.is_file() {
            return Err(not(format!("there is no {CONFIG} in it")));
        }
        let settings = Settings::from_file(&config)?;
        let lock = lock(path)?;
        if settings.version != env!("CARGO_PKG_VERSION") {
            return Err(Error::CannotResume {
                run: path.to_path_buf(),
                reason: format!(
                    "kinfold {} began it and this is kinfold {}, which may come to other numbers: go \
                     on with that version, or begin anew with --config {}",
                    settings.version,
                    env!("CARGO_PKG_VERSION"),
                    config.display()
                ),
            });
        }
        if let Some(steps) = finished(path) {
            let reason = format!("it is finished: it took all its {steps} steps");
            return Err(Error::CannotResume { run: path.to_path_buf(), reason });
        }
        for folder in [path.to_path_buf(), path.join(CHECKPOINTS)] {
            remove_partial(&folder);
        }
        let metrics = Appended::open(path.join(METRICS))?;
        let events = Appended::open(path.join(tensorboard::EVENTS))?;
        let folder = Self { path: path.to_path_buf(), metrics, events, keep: true, _lock: lock };
        Ok((folder, settings))
    }

    /// The checkpoint to go on from: the one named, or the last; none where there is none yet.
    pub(crate) fn checkpoint(
        &self,
        named: Option<&Path>,
        settings: &Settings,
    ) -> Result<Option<(PathBuf, Checkpoint)>, Error> {
        let Some((path, found)) = checkpoint::choose(&self.path, named, settings)? else {
            return Ok(None);
        };
        let (has, had) = (self.metrics.written(), found.header.metrics);
        if has < had {
            let reason = format!(
                "{METRICS} has {has} bytes, but it had {had} when the checkpoint was written"
            );
            return Err(Error::CannotResume { run: self.path.clone(), reason });
        }
        Ok(Some((path, found)))
    }

    /// Forgets what happened after the checkpoint that the run goes on from, or everything.
    pub(crate) fn rewind(&mut self, to: Option<&Header>) -> Result<(), Error> {
        let (step, metrics, events) =
            to.map_or((0, 0, 0), |header| (header.step, header.metrics, header.events));
        // In this order, so that a checkpoint never names more lines than there are.
        checkpoint::delete_after(&self.path, step)?;
        self.metrics.cut(metrics)?;
        // Nothing depends on these; who deleted them may go on without.
        self.events.cut(if events <= self.events.written() { events } else { 0 })?;
        if self.events.written() == 0 {
            self.events.append(&tensorboard::version())?;
        }
        Ok(())
    }

    /// Writes a checkpoint, and deletes those that it makes superfluous.
    pub(crate) fn save(&mut self, mut header: Header, state: State) -> Result<PathBuf, Error> {
        let folder = self.path.join(CHECKPOINTS);
        fs::create_dir_all(&folder).map_err(Error::file("create", &folder))?;
        self.metrics.sync()?;
        header.metrics = self.metrics.written();
        header.events = self.events.written();
        let (step, best) = (header.step, header.best);
        let path =
            self.write(&checkpoint::name(step), &Checkpoint { header, state }.to_bytes()?)?;
        self.keep();
        checkpoint::prune(&self.path, step, best)?;
        Ok(path)
    }

    /// Adds one line to the metrics, and its numbers to TensorBoard's events.
    pub(crate) fn metric(&mut self, step: usize, line: &impl Serialize) -> Result<(), Error> {
        let unwritten = |e: serde_json::Error| Error::Data(e.to_string());
        let mut text = serde_json::to_vec(line).map_err(unwritten)?;
        text.push(b'\n');
        self.metrics.append(&text)?;
        let mut numbers = Vec::new();
        flatten("", &serde_json::to_value(line).map_err(unwritten)?, &mut numbers);
        numbers.retain(|(name, _)| name != "step" && name != "epoch");
        self.scalars(step, &numbers)
    }

    /// Adds numbers of a step to TensorBoard's events alone.
    pub(crate) fn scalars(&mut self, step: usize, scalars: &[(String, f64)]) -> Result<(), Error> {
        self.events.append(&tensorboard::scalars(step, scalars))
    }

    /// Writes a file of the folder whole or not at all.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let path = self.path.join(name);
        write_whole(&path, |file| file.write_all(bytes).map_err(Error::file("write", &path)))?;
        Ok(path)
    }

    /// From here on, a failure leaves the folder as it is.
    pub(crate) fn keep(&mut self) {
        self.keep = true;
    }

    /// The weights before a step that went wrong.
    pub(crate) fn write_last_good(&mut self, weights: &[u8]) -> Result<PathBuf, Error> {
        let checkpoints = self.path.join(CHECKPOINTS);
        fs::create_dir_all(&checkpoints).map_err(Error::file("create", &checkpoints))?;
        let path = self.write(&format!("{CHECKPOINTS}/last-good.safetensors"), weights)?;
        self.keep();
        Ok(path)
    }

    /// What the run reached; its last file.
    pub(crate) fn write_summary(&self, summary: &Summary) -> Result<(), Error> {
        let mut text =
            serde_json::to_vec_pretty(summary).map_err(|e| Error::Data(e.to_string()))?;
        text.push(b'\n');
        self.write(SUMMARY, &text).map(drop)
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.keep {
            let _ = fs::remove_file(self.path.join(LOCK));
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// The run folder that a path to resume from names: itself, or that of its checkpoint.
pub fn run_folder(path: &Path) -> &Path {
    match path.parent().and_then(Path::parent) {
        Some(run) if path.is_file() => run,
        _ => path,
    }
}

/// The folder is this process's until the file is dropped.
fn lock(folder: &Path) -> Result<File, Error> {
    let path = folder.join(LOCK);
    loop {
        let file = File::options().create(true).append(true).open(&path);
        let file = file.map_err(Error::file("create", &path))?;
        match file.try_lock() {
            // Unless whoever had it before has just deleted it.
            Ok(()) if path.exists() => return Ok(file),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::RunInUse(folder.to_path_buf())),
            Err(TryLockError::Error(e)) => return Err(Error::file("lock", &path)(e)),
        }
    }
}

/// The steps of a run that came to its end.
fn finished(run: &Path) -> Option<usize> {
    let summary = Summary::read(run)?;
    (!summary.interrupted).then_some(summary.steps)
}

/// Deletes what a process that was killed was writing.
fn remove_partial(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(PARTIAL) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// The numbers of a JSON object and of those in it, by their paths.
fn flatten(name: &str, value: &Value, numbers: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(fields) => {
            for (field, value) in fields {
                let name = if name.is_empty() { field } else { &format!("{name}/{field}") };
                flatten(name, value, numbers);
            }
        }
        value => numbers.extend(value.as_f64().map(|number| (name.to_owned(), number))),
    }
}

/// Lets `fill` write a file that appears under its name only when it is complete and on disk.
///
/// # Errors
/// What `fill` returns, or when the file cannot be created.
pub fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let partial = path.with_file_name(format!(".{name}.{}{PARTIAL}", std::process::id()));
    let written = (|| {
        let mut file = File::create(&partial).map_err(Error::file("create", path))?;
        fill(&mut file)?;
        file.sync_all().map_err(Error::file("write", path))?;
        fs::rename(&partial, path).map_err(Error::file("create", path))
    })();
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

/// The most memory this process has held, in bytes, where Linux tells.
pub fn peak_memory_bytes() -> Option<u64> {
    system_bytes("/proc/self/status", "VmHWM:")
}
