//! How a run begins, or goes on: settings and data become a [`Training`] before its next step.
//!
//! Input: settings and a new run folder, or the folder of a run to resume. Output: the run's summary, from the
//! loop. Where there are several processes, each reads the data; that settings, data and weights are the same
//! in all of them is seen to here, before the first step.

use super::Training;
use super::early_stopping::VALIDATION;
use super::event::{Event, Observer};
use crate::processes::Processes;
use crate::run::{Checkpoint, Fingerprint, RunFolder, Summary, run_folder};
use crate::{Error, Settings, memory};
use kinfold_data::{Data, Pairs, Split};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Trains an encoder as `settings` say, into the new folder `out`.
///
/// When `stop` becomes true the step that is under way is finished, and what there is is evaluated
/// and saved.
///
/// # Errors
/// When settings, data or folder cannot be used, when a file cannot be written, or when the loss is
/// not finite any more; the last keeps the last good weights. An error of the observer ends the run.
pub fn train(
    settings: Settings,
    out: &Path,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<Summary, Error> {
    train_over(&Processes::alone(), settings, out, stop, on_event)
}

/// [`train`] over several processes that share each batch, all of which call this with the same settings. It is
/// the run of one process, up to rounding. The first process writes `out`, as it says; whichever `stop` becomes
/// true ends the run.
///
/// # Errors
/// As [`train`]; and when processes have other settings or data than the first. What
/// all processes know of is [`Error::Process`]; whoever gets another error has to [abort](Processes::abort), since
/// the others wait for it.
pub fn train_over(
    processes: &Processes,
    settings: Settings,
    out: &Path,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<Summary, Error> {
    let checked = |settings: Settings| {
        let settings = settings.begun()?;
        settings.check()?;
        Ok(settings)
    };
    let mut settings = processes.agree(checked(settings))?;
    same_settings(&settings, processes)?;
    let out = processes.of_first(|| match out.exists() {
        true => Err(Error::RunExists(out.to_path_buf())),
        false => Ok(out.to_path_buf()),
    })?;
    let mut read = || {
        let data = settings.read()?;
        let shape = settings.shape(&data);
        memory::check_model(&settings.encoder, shape)?;
        let split = data.split(settings.hold_out);
        settings.pairs.of = settings.pairs_of(&data)?;
        let parts = Parts::new(&settings, &data, split)?;
        Ok((data, shape, parts))
    };
    let read = read();
    let (data, shape, parts) = processes.agree(read)?;
    same_data(&data, &parts.pairs, processes)?;
    // Without a batch size it is one that memory has room for, and the first process's is as good as any.
    let settings = of_first(processes, || settings.decided(shape, &parts.pairs))?;
    processes.agree(settings.check_memory(shape, processes))?;
    let create = || {
        let folder = RunFolder::create(&out, &settings)?;
        for (name, text) in data.files()? {
            folder.write(name, text.as_bytes())?;
        }
        Ok(folder)
    };
    let folder = processes.agree(processes.is_first().then(create).transpose())?;
    let training = Training::new(processes, settings, data, parts, (out, folder));
    let (training, model) = processes.agree(training)?;
    training.same_weights(&model)?;
    training.run(model, stop, on_event)
}

/// Goes on with a run that was stopped, from its last checkpoint or, where `path` is a checkpoint in
/// its folder, from that; in the end it is the run that was never stopped, bit for bit.
///
/// `data` says where the data is, if it has moved.
///
/// # Errors
/// As [`train`]; and when the run is finished or in use, when its checkpoint is damaged or of another
/// run, or when the data is not what it was.
pub fn resume(
    path: &Path,
    data: Option<&str>,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<Summary, Error> {
    resume_over(&Processes::alone(), path, data, stop, on_event)
}

/// [`resume`] over several processes, as many as one likes: the checkpoint does not know how many wrote it. The
/// first reads it for all.
///
/// # Errors
/// As [`resume`] and [`train_over`].
pub fn resume_over(
    processes: &Processes,
    path: &Path,
    data: Option<&str>,
    stop: &AtomicBool,
    on_event: &mut Observer<'_>,
) -> Result<Summary, Error> {
    let opened = || {
        let run = run_folder(path);
        let (folder, settings) = RunFolder::open(run)?;
        settings.check()?;
        let found = folder.checkpoint((run != path).then_some(path), &settings)?;
        Ok((folder, settings, found))
    };
    let opened = processes.agree(processes.is_first().then(opened).transpose())?;
    let run = processes.of_first(|| Ok(run_folder(path).to_path_buf()))?;
    let (folder, settings, found) = match opened {
        Some((folder, settings, found)) => (Some(folder), Some(settings), found),
        None => (None, None, None),
    };
    let settings = of_first(processes, || settings.ok_or_else(|| nothing("settings")))?;
    let found = found_by_first(processes, found)?;
    let read = || {
        let mut here = settings.clone();
        if let Some(data) = data {
            data.clone_into(&mut here.data);
        }
        here.use_tokenizer_of(&run);
        let data = here.read()?;
        let parts = Parts::new(&settings, &data, data.split(settings.hold_out))?;
        if let Some((_, checkpoint)) = &found {
            let now = Fingerprint::new(&data, &parts.pairs);
            if let Some(reason) = now.differs(&checkpoint.header.data, data.kind()) {
                return Err(Error::CannotResume { run: run.clone(), reason });
            }
        }
        Ok((data, parts))
    };
    let (data, parts) = processes.agree(read())?;
    same_data(&data, &parts.pairs, processes)?;
    let shape = settings.shape(&data);
    let settings = of_first(processes, || settings.decided(shape, &parts.pairs))?;
    let mut begin = settings.clone();
    if found.is_some() {
        // Every weight comes from the checkpoint; what training began with may be gone by now.
        begin.encoder.init = None;
    }
    let step = found.as_ref().map_or(0, |(_, checkpoint)| checkpoint.header.step);
    let from = found.as_ref().map(|(path, _)| path.clone());
    let goes_on = || {
        let (mut training, model) = Training::new(processes, begin, data, parts, (run, folder))?;
        training.settings = settings;
        let model = training.go_on(model, found)?;
        Ok((training, model))
    };
    let (training, model) = processes.agree(goes_on())?;
    training.same_weights(&model)?;
    on_event(Event::Resumed { step, from: from.as_deref() })?;
    training.run(model, stop, on_event)
}

/// What is done with the data.
pub(super) struct Parts {
    pub(super) split: Split,
    /// What is trained on without what is set aside, its test part; none where nothing is.
    pub(super) aside: Option<Split>,
    pub(super) pairs: Pairs,
}

impl Parts {
    fn new(settings: &Settings, data: &Data, split: Split) -> Result<Self, Error> {
        let (items, share) = (data.items(), settings.early_stopping.share);
        let aside = (share > 0.0).then(|| split.with_validation(items, share, VALIDATION));
        let pairs = Pairs::new(items, aside.as_ref().unwrap_or(&split), &settings.pairs)?;
        Ok(Self { split, aside, pairs })
    }
}

fn same_settings(settings: &Settings, processes: &Processes) -> Result<(), Error> {
    processes.same(
        || settings.to_toml(),
        |first, own| {
            let parsed = |text: &str| toml::from_str::<Settings>(text).ok();
            let differ = match (parsed(own), parsed(first)) {
                (Some(own), Some(first)) => own.differ(&first),
                _ => None,
            };
            let differ = differ.unwrap_or_else(|| "they cannot be read".to_owned());
            format!("it has other settings than the first process: {differ}")
        },
    )
}

fn same_data(data: &Data, pairs: &Pairs, processes: &Processes) -> Result<(), Error> {
    let fingerprint = || Ok(Fingerprint::new(data, pairs).in_words(data.kind()));
    processes.same(fingerprint, |first, own| {
        format!("it has other data than the first process: {own}; the first has {first}")
    })
}

/// The first process's settings, for all.
fn of_first(
    processes: &Processes,
    first: impl FnOnce() -> Result<Settings, Error>,
) -> Result<Settings, Error> {
    if !processes.are_several() {
        return first();
    }
    let text = processes.of_first(|| first()?.to_toml())?;
    toml::from_str(&text).map_err(|e| Error::Setting(e.to_string()))
}

/// The checkpoint that the first process found, for all.
fn found_by_first(
    processes: &Processes,
    found: Option<(PathBuf, Checkpoint)>,
) -> Result<Option<(PathBuf, Checkpoint)>, Error> {
    if !processes.are_several() {
        return Ok(found);
    }
    let path = processes.of_first(|| Ok(found.as_ref().map(|(path, _)| path.clone())))?;
    let Some(path) = path else { return Ok(None) };
    let bytes = found.as_ref().map(|(_, checkpoint)| checkpoint.to_bytes()).transpose();
    let bytes = processes.bytes_of_first(processes.agree(bytes)?.unwrap_or_default());
    let checkpoint = match found {
        Some((_, checkpoint)) => Ok(checkpoint),
        None => Checkpoint::from_bytes(bytes).map_err(Error::Data),
    };
    Ok(Some((path, processes.agree(checkpoint)?)))
}

fn nothing(what: &str) -> Error {
    Error::Data(format!("the first process has no {what}"))
}
