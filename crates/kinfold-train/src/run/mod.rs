//! A run folder: what a run was asked, what happened, what came out.
//!
//! Comes in: settings, steps, weights, a summary. Goes out: files. Each file is written whole or
//! not at all: under a temporary name first, then renamed. A run that fails before it has anything
//! to keep leaves nothing behind.

mod model;

pub(crate) use model::SavedModel;

use crate::evaluation::Evaluation;
use crate::{Error, Settings};
use serde::Serialize;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub(crate) const CONFIG: &str = "config.toml";
pub(crate) const METRICS: &str = "metrics.jsonl";
pub(crate) const SUMMARY: &str = "summary.json";

/// What a run reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `digits`, or the folder.
    pub data: String,
    /// Pairs trained on in an epoch.
    pub pairs: usize,
    /// Epochs begun.
    pub epochs: usize,
    /// Steps taken.
    pub steps: usize,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// Seconds of training.
    pub seconds: f64,
    /// Pairs trained on each second.
    pub pairs_per_second: f64,
    /// The temperature at the end.
    pub temperature: f64,
    /// The sigmoid's bias at the end, where it is learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<f64>,
    /// The mean loss over the last epoch's steps, in nats.
    pub loss: f64,
    /// The least that the last batch could reach; none where no closed form is known.
    pub loss_floor: Option<f64>,
    /// What the last batch has where nothing is learned.
    pub loss_ceiling: f64,
    /// The most memory the process held, where the system tells.
    pub peak_memory_bytes: Option<u64>,
    /// What the embeddings are worth, each measure for raw pixels, the random encoder and the
    /// trained one; nothing where there are no labels to judge with.
    pub evaluation: Option<Evaluation>,
}

/// The folder of a run that is going on.
pub(crate) struct RunFolder {
    path: PathBuf,
    metrics: File,
    /// Bytes of whole lines in the metrics.
    written: u64,
    /// Something in it is worth keeping.
    keep: bool,
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
        let file = path.join(METRICS);
        let metrics = File::create_new(&file).map_err(|e| {
            // Nothing is in it yet, so nothing is lost with it.
            let _ = fs::remove_dir(path);
            Error::file("create", &file)(e)
        })?;
        let folder = Self { path: path.to_path_buf(), metrics, written: 0, keep: false };
        let text = toml::to_string(settings)
            .map_err(|e| Error::Setting(format!("settings cannot be written: {e}")))?;
        folder.write(CONFIG, text.as_bytes())?;
        Ok(folder)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds one line to the metrics, whole or not at all.
    pub(crate) fn metric(&mut self, line: &impl Serialize) -> Result<(), Error> {
        let mut text = serde_json::to_vec(line).map_err(|e| Error::Data(e.to_string()))?;
        text.push(b'\n');
        match self.metrics.write_all(&text) {
            Ok(()) => {
                self.written += text.len() as u64;
                Ok(())
            }
            Err(e) => {
                // On a full disk part of a line may stand; cutting needs no space.
                let _ = self.metrics.set_len(self.written);
                Err(Error::file("write", &self.path.join(METRICS))(e))
            }
        }
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
        let checkpoints = self.path.join("checkpoints");
        fs::create_dir_all(&checkpoints).map_err(Error::file("create", &checkpoints))?;
        let path = self.write("checkpoints/last-good.safetensors", weights)?;
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
        if !self.keep {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Lets `fill` write a file that appears under its name only when it is complete and on disk.
pub(crate) fn write_whole(
    path: &Path,
    fill: impl FnOnce(&mut File) -> Result<(), Error>,
) -> Result<(), Error> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let partial = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
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
pub(crate) fn peak_memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
