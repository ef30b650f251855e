//! What a call allocates, counted: never more than `scratch_bytes` says, and that is a strip, not a
//! matrix.
#![allow(unsafe_code, reason = "an allocator that counts")]

use kinfold::{Embeddings, GradientMut, InfoNce};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

mod common;
use common::{normal, tau};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

struct Counting;

fn grown(by: usize) {
    let now = NOW.fetch_add(by, Ordering::SeqCst) + by;
    PEAK.fetch_max(now, Ordering::SeqCst);
}

// SAFETY: every method does what the system's allocator does, and counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grown(layout.size());
        // SAFETY: passed on.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.dealloc(memory, layout) }
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grown(size);
        NOW.fetch_sub(layout.size(), Ordering::SeqCst);
        // SAFETY: passed on.
        unsafe { System.realloc(memory, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the counters are the process's.
static ALONE: Mutex<()> = Mutex::new(());

/// Bytes at the peak of a call, beyond what its caller holds.
fn peak(loss: &InfoNce, n: usize, d: usize, gradient: bool) -> usize {
    let x: Vec<f32> = normal(n as u64, 2 * n * d).iter().map(|&x| x as f32).collect();
    let (q, k) = x.split_at(n * d);
    let (q, k) = (Embeddings::new(q, d).unwrap(), Embeddings::new(k, d).unwrap());
    let mut out = [vec![0.0; n * d], vec![0.0; n * d]];
    // What earlier calls left would be taken and not be counted.
    kinfold::release_memory();
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    if gradient {
        let [queries, keys] = &mut out;
        loss.value_and_gradient_into(q, k, GradientMut::new(queries, keys)).unwrap();
    } else {
        loss.value(q, k).unwrap();
    }
    PEAK.load(Ordering::SeqCst) - before
}

fn forms(t: f64) -> [InfoNce; 3] {
    [InfoNce::new(tau(t)), InfoNce::new(tau(t)).symmetric(), InfoNce::nt_xent(tau(t))]
}

#[test]
fn a_call_needs_what_it_says_and_no_matrix() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    // The pool's own threads are not the call's.
    rayon::broadcast(|_| ());
    let d = 16;
    // The second temperature has the loss computed anew with each row's own reference.
    for loss in [0.1, 1e-4].into_iter().flat_map(forms) {
        let small = loss.with_memory_budget(0);
        let [mut said, mut needed] = [[0; 2]; 2];
        for (at, n) in [6_000, 12_000].into_iter().enumerate() {
            said[at] = small.scratch_bytes::<f32>(n, n, d);
            needed[at] = peak(&small, n, d, true);
            assert!(needed[at] <= said[at], "{} > {}: {loss:?}", needed[at], said[at]);
            assert!(said[at] < 2 * needed[at], "said {} for {}", said[at], needed[at]);
            // The matrix would be four bytes times n², or four times that for NT-Xent.
            assert!(said[at] < n * n * 4, "{loss:?}");
            let forward = peak(&small, n, d, false);
            assert!(forward <= said[at], "forward {forward} > {}: {loss:?}", said[at]);
        }
        assert!(said[1] < 3 * said[0], "twice the rows, but {said:?} bytes: {loss:?}");
    }
}

#[test]
fn exponentials_are_kept_within_the_budget() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    rayon::broadcast(|_| ());
    let (n, d) = (3_000, 8);
    for loss in &forms(0.1)[1..] {
        let none = loss.with_memory_budget(0);
        let without = none.scratch_bytes::<f32>(n, n, d);
        for budget in [40 << 20, 200 << 20] {
            let kept = loss.with_memory_budget(budget);
            let said = kept.scratch_bytes::<f32>(n, n, d);
            assert!(said <= without + budget, "{said} > {without} + {budget}: {loss:?}");
            let needed = peak(&kept, n, d, true);
            assert!(needed <= said, "{needed} > {said}: {loss:?}");
        }
    }
}
