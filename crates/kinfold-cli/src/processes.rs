//! The processes that `mpirun` or a cluster's scheduler started together to share the work of one command.
//!
//! Input: what the launcher left in the environment. Output: [`Processes`], with as many threads each as there
//! are processors for; how their run ends, together; and what is said when it is ended from outside.

use crate::show;
use kinfold_train::{Error, Event, Processes};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How many processes each launcher says that it started: Open MPI's mpirun, those that speak PMI (MPICH, Intel
/// MPI, Slurm), Slurm where it speaks PMIx.
const LAUNCHERS: [&str; 3] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"];

/// How long after a signal it is said where the run stands, by when a short step is over: launchers kill a
/// second or more after they have asked.
const PATIENCE: Duration = Duration::from_millis(600);

/// How many processes were started together.
fn launched() -> usize {
    let said = |name: &&str| std::env::var(name).ok()?.parse().ok();
    LAUNCHERS.iter().find_map(said).unwrap_or(1)
}

/// The processes that share the work of this command.
///
/// # Errors
/// When there are several that do not know of each other.
#[cfg(feature = "mpi")]
pub(crate) fn begin() -> Result<Processes, Error> {
    let count = launched();
    if count == 1 {
        return Ok(Processes::alone());
    }
    let processes = Processes::of_mpi();
    if !processes.are_several() {
        return Err(Error::Setting(format!(
            "this was started as one of {count} processes, but to MPI it is alone: the launcher is another MPI's \
             than the one that kinfold was built with, or Slurm's srun needs --mpi=pmix"
        )));
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        let threads = threads(cores, all_cores(), processes.on_this_machine());
        // It fails only where there are threads already, and there is nothing yet that had any.
        let _ = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    }
    Ok(processes)
}

/// The processes that share the work of this command.
///
/// # Errors
/// When there are several: this build has no MPI.
#[cfg(not(feature = "mpi"))]
pub(crate) fn begin() -> Result<Processes, Error> {
    match launched() {
        1 => Ok(Processes::alone()),
        count => Err(Error::Setting(format!(
            "this was started as one of {count} processes, but this kinfold was built without MPI: cargo \
             install kinfold-cli --features mpi"
        ))),
    }
}

/// # Errors
/// When several processes were started for a command that they cannot share.
pub(crate) fn only_one(command: &str) -> Result<(), Error> {
    match launched() {
        1 => Ok(()),
        count => Err(Error::Setting(format!(
            "kinfold {command} was started as one of {count} processes, but only train and bench share their \
             work: run it without mpirun"
        ))),
    }
}

/// Threads for each of so many processes on a machine of `all` processors, of which this one may run on `own`:
/// its own where the launcher has given each its part, and else its part of what they all have.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "its tests need no MPI"))]
fn threads(own: usize, all: usize, processes: usize) -> usize {
    let sharing = (own * processes).div_ceil(all.max(own).max(1)).max(1);
    (own / sharing).max(1)
}

/// All processors of the machine, whichever this process may run on.
#[cfg(feature = "mpi")]
fn all_cores() -> usize {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines().filter(|line| line.starts_with("processor")).count()
}

/// What the running program is known by: its version, and its file.
pub(crate) fn build() -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    if let Ok(program) = std::env::current_exe().and_then(std::fs::read) {
        program.hash(&mut hasher);
    }
    format!("{}-{:08x}", env!("CARGO_PKG_VERSION"), hasher.finish() as u32)
}

/// Where a run stands, for whoever ends it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing(Arc<Mutex<At>>);

#[derive(Debug, Clone, Default)]
struct At {
    step: usize,
    /// The last checkpoint.
    saved: Option<PathBuf>,
    ended: bool,
}

impl Standing {
    fn at(&self) -> At {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, set: impl FnOnce(&mut At)) {
        set(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::Resumed { step, from } => self.set(|at| {
                (at.step, at.saved) = (*step, from.map(Into::into));
            }),
            Event::Stepped(progress) => self.set(|at| at.step = progress.step),
            Event::Saved { path, .. } => self.set(|at| at.saved = Some(path.to_path_buf())),
            _ => {}
        }
    }

    /// The run has ended by itself.
    pub(crate) fn end(&self) {
        self.set(|at| at.ended = true);
    }

    fn in_words(&self) -> String {
        let At { step, saved, .. } = self.at();
        let saved = match saved {
            Some(path) => format!(
                "the last checkpoint is {0}; resume with: kinfold train --resume {0}",
                show::path(&path)
            ),
            None => "no checkpoint had been written".to_owned(),
        };
        format!("after step {step}; {saved}")
    }
}

/// A flag that a signal makes true, as `mpirun` sends one to all on Ctrl-C, and when one of them has died. In
/// that case no step ends any more; in both there may not be much time. So this says where the run stands.
pub(crate) fn stop_together(processes: &Processes, standing: &Standing) -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let (asked, standing) = (Arc::clone(&stop), standing.clone());
    let (rank, count) = (processes.rank(), processes.count());
    let handler = move || {
        asked.store(true, Ordering::Relaxed);
        thread::sleep(PATIENCE);
        // The first and the last tell: they are on two machines, where there are several.
        if !standing.at().ended && (rank == 0 || rank + 1 == count) {
            let (number, stands) = (rank + 1, standing.in_words());
            show::note(&format!(
                "process {number} of {count}: the run is ended from outside, or by the end of another \
                 process, {stands}"
            ));
        }
    };
    if let Err(error) = ctrlc::set_handler(handler) {
        show::note(&format!("a signal will end this at once, without saving: {error}"));
    }
    stop
}

/// How a run of several processes ends that went wrong. What all know of is said once. Of what one alone knows,
/// the others could not be told otherwise than by ending them.
pub(crate) fn ended(error: &Error, processes: &Processes, standing: &Standing) -> ExitCode {
    standing.end();
    let code = if error.is_usage() { 2 } else { 1 };
    if let Error::Process { .. } = error {
        if processes.is_first() {
            show::error(error);
        }
        return ExitCode::from(code);
    }
    let (number, count) = (processes.rank() + 1, processes.count());
    let stands = standing.in_words();
    show::note(&format!("error: process {number} of {count}: {error}; all end {stands}"));
    processes.abort(code.into())
}

#[cfg(test)]
mod tests {
    use super::threads;

    #[test]
    fn processes_of_a_machine_do_not_take_each_other_s_processors() {
        // Each bound to its own, as mpirun does by default; to eight; to none.
        for (own, all, processes, expected) in
            [(1, 64, 4, 1), (8, 64, 8, 8), (64, 64, 8, 8), (2, 2, 4, 1), (2, 2, 1, 2), (6, 4, 2, 3)]
        {
            assert_eq!(threads(own, all, processes), expected, "{own} {all} {processes}");
        }
    }
}
