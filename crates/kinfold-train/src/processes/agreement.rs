//! What processes have to be of one mind about: whether something went wrong, and that they do the same.

use super::Processes;
use crate::Error;
use kinfold_nn::ops::SumOverProcesses;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What [`Processes::roll_call`] finds.
pub(crate) struct RollCall {
    pub(crate) stop: bool,
    pub(crate) saved: usize,
}

impl Processes {
    /// What came out here, where nothing went wrong in any process; or else, for all of them, what went wrong
    /// in the first that failed.
    ///
    /// # Errors
    /// [`Error::Process`] where one failed; `here` itself where this process is alone.
    pub fn agree<T>(&self, here: Result<T, Error>) -> Result<T, Error> {
        let Some(world) = &self.world else { return here };
        let failed = match &here {
            Ok(_) => String::new(),
            Err(error) => {
                let usage = if error.is_usage() { 'u' } else { 'f' };
                format!("{usage}{error}")
            }
        };
        let all = world.texts(&failed);
        match all.iter().position(|failed| !failed.is_empty()) {
            None => here,
            Some(process) => {
                let (usage, reason) = all[process].split_at(1);
                Err(Error::Process {
                    process: process + 1,
                    processes: self.count(),
                    reason: reason.to_owned(),
                    usage: usage == "u",
                })
            }
        }
    }

    /// Whether any process says so.
    pub(crate) fn any(&self, here: bool) -> bool {
        self.summed(if here { 1.0 } else { 0.0 }) > 0.0
    }

    /// What is to be known before a step: whether any process was asked to stop, and the step of the first
    /// process's last checkpoint.
    pub(crate) fn roll_call(&self, stop: bool, saved: usize) -> RollCall {
        let Some(world) = &self.world else { return RollCall { stop, saved } };
        let saved = if self.is_first() { saved as f64 } else { 0.0 };
        let mut numbers = [if stop { 1.0 } else { 0.0 }, saved];
        world.sum(&mut numbers);
        RollCall { stop: numbers[0] > 0.0, saved: numbers[1] as usize }
    }

    /// What the first process has, for all; `first` is asked there alone.
    pub(crate) fn of_first<T: Serialize + DeserializeOwned>(
        &self,
        first: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(world) = &self.world else { return first() };
        let here = self.agree(if self.is_first() { first().map(Some) } else { Ok(None) })?;
        let unsent = |e: serde_json::Error| Error::Data(e.to_string());
        let text = here.map(|here| serde_json::to_vec(&here)).transpose().map_err(unsent)?;
        serde_json::from_slice(&world.of_first(text.unwrap_or_default())).map_err(unsent)
    }

    /// The first process's bytes, for all.
    pub(crate) fn bytes_of_first(&self, bytes: Vec<u8>) -> Vec<u8> {
        match &self.world {
            Some(world) => world.of_first(bytes),
            None => bytes,
        }
    }

    /// # Errors
    /// [`Error::Process`] where a process has another `text` than the first; `reason` says what that means,
    /// given the first's and its own. Neither is asked where this process is alone.
    pub(crate) fn same(
        &self,
        text: impl FnOnce() -> Result<String, Error>,
        reason: impl Fn(&str, &str) -> String,
    ) -> Result<(), Error> {
        let Some(world) = &self.world else { return Ok(()) };
        let all = world.texts(&self.agree(text())?);
        match all.iter().position(|other| *other != all[0]) {
            None => Ok(()),
            Some(process) => Err(Error::Process {
                process: process + 1,
                processes: self.count(),
                reason: reason(&all[0], &all[process]),
                usage: true,
            }),
        }
    }

    /// Waits for all processes; the first may have long work to do meanwhile.
    pub fn wait_for_all(&self) {
        if let Some(world) = &self.world {
            world.wait_for_all();
        }
    }

    /// # Errors
    /// Where a process is another build of kinfold, which may come to other numbers; `build` is what this
    /// one is known by.
    pub fn check_build(&self, build: &str) -> Result<(), Error> {
        self.same(|| Ok(build.to_owned()), |first, other| {
            format!(
                "it is another build of kinfold ({other}) than the first process ({first}); put one \
                 binary on all machines"
            )
        })
    }
}
