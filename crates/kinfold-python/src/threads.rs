//! Threads that PyTorch has, in place of our own.
//!
//! PyTorch computes on OpenMP's threads, which look for more work for some milliseconds after each
//! operation, without pause. Threads of ours would have to share their processors with them, just
//! before a loss as well as after it; so the engine computes on them.
#![allow(unsafe_code, reason = "OpenMP is called by its address")]

use std::ffi::{c_uint, c_void};

/// `GOMP_parallel` of the OpenMP library that PyTorch has loaded: its address, as Python has found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenMp(pub(crate) usize);

/// What `GOMP_parallel` runs, what for, on how many threads, flags.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

type Work<'w> = &'w (dyn Fn() + Sync);

impl OpenMp {
    /// Runs `call` with losses on so many of OpenMP's threads.
    pub(crate) fn run<R>(self, threads: usize, call: impl FnOnce() -> R) -> R {
        let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
        let address = std::ptr::with_exposed_provenance::<c_void>(self.0);
        // SAFETY: Python's half has asked the dynamic linker for this very symbol (`torch/_threads.py`).
        let parallel = unsafe { std::mem::transmute::<*const c_void, Parallel>(address) };
        let fork = |work: Work<'_>| {
            let mut work = work;
            // SAFETY: it runs `each` on its threads and returns when all are done, so that the work is
            // there as long as they need it; no panic of the work's comes out of it.
            unsafe { parallel(each, (&raw mut work).cast(), threads, 0) };
        };
        kinfold::runtime::on_threads_of(fork, call)
    }
}

extern "C" fn each(work: *mut c_void) {
    // SAFETY: `run` has pointed it at its work, which is shared by all threads.
    let work = unsafe { *work.cast::<Work<'_>>() };
    work();
}
