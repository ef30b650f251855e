//! What a call allocates, counted: never more than `scratch_bytes` says, and that is a strip, not a
//! matrix.
#![allow(unsafe_code, reason = "an allocator that counts")]

use kinfold::diagnosis::{Options, diagnose};
use kinfold::{Batch, ContrastiveLoss, Embeddings, Form, GradientMut, Prefix, Similarity};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

mod common;
#[path = "common/sample.rs"]
mod sample;
use common::{Executed, forms, normal, tau};
use sample::{every_loss, has_labels};

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
fn peak(loss: &ContrastiveLoss, n: usize, d: usize, gradient: bool) -> usize {
    let x: Vec<f32> = normal(n as u64, 2 * n * d).iter().map(|&x| x as f32).collect();
    let (q, k) = x.split_at(n * d);
    let (q, k) = (Embeddings::new(q, d).unwrap(), Embeddings::new(k, d).unwrap());
    let mut out = [vec![0.0; n * d], vec![0.0; n * d]];
    // What earlier calls left would be taken and not be counted.
    kinfold::runtime::release_memory();
    let before = NOW.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    if gradient {
        let [queries, keys] = &mut out;
        loss.value_and_gradient_into((q, k), GradientMut::new(queries, keys)).unwrap();
    } else {
        loss.value((q, k)).unwrap();
    }
    PEAK.load(Ordering::SeqCst) - before
}

#[test]
fn prefixes_need_what_they_say_and_no_matrix() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    let prefixes = [1, 3, 8, 20, 32].map(Prefix::new);
    for loss in forms(0.1) {
        let loss = loss.with_threads(2).with_memory_budget(0).with_matryoshka(&prefixes).unwrap();
        let smoothed = loss.with_label_smoothing(0.1).unwrap();
        for loss in [loss, smoothed, loss.with_temperature(tau(0.001))] {
            for n in [64, 500, 4000] {
                let (peak, says) = (peak(&loss, n, 32, true), loss.scratch_bytes::<f32>(n, n, 32));
                // Exponentials that leave the range are computed prefix by prefix, after the attempt.
                let cold = loss.temperature().get() < 0.01;
                let says = if cold { 2 * says } else { says };
                assert!(peak <= says, "{n}: {peak} > {says}, {loss:?}");
                let rows = if loss.form() == Form::NtXent { 2 * n } else { n };
                assert!(n < 4000 || cold || says < rows * rows * 4, "{n}: {says}, {loss:?}");
            }
        }
    }
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

/// What may stand beside queries and keys.
const BESIDE: [&str; 7] = [
    "nothing",
    "ids",
    "smoothing and ids",
    "margin",
    "row weights",
    "shared negatives",
    "negatives per query",
];

/// What a call says it needs, and the peaks with gradients and without; None where what stands beside
/// has no meaning for the loss.
fn peaks(loss: &ContrastiveLoss, beside: &str, n: usize, d: usize) -> Option<[usize; 3]> {
    let loss = match beside {
        "margin" => loss.with_margin(0.1).ok()?,
        "smoothing and ids" => loss.with_label_smoothing(0.1).ok()?,
        _ => *loss,
    };
    let numbers = |seed, rows| normal(seed, rows * d).iter().map(|&x| x as f32).collect();
    let (q, k, x): (Vec<f32>, Vec<f32>, Vec<f32>) = (numbers(1, n), numbers(2, n), numbers(3, n));
    let [q, k, x] = [&q, &k, &x].map(|x| Embeddings::new(x, d).unwrap());
    // As many marks as can occur twice.
    let marks: Vec<u64> = (0..n as u64).map(|i| i / 2).collect();
    let mut batch = Batch::new(q, k);
    if has_labels(&loss) {
        batch = batch.with_labels(&marks);
    }
    let weights = vec![1.0; batch.rows(loss.form())];
    let batch = match beside {
        "ids" | "smoothing and ids" if !has_labels(&loss) => batch.with_ids(&marks),
        "row weights" => batch.with_row_weights(&weights),
        "shared negatives" => batch.with_negatives(x),
        "negatives per query" => batch.with_negatives_per_query(x),
        _ => batch,
    };
    let shared = if beside == "shared negatives" { n } else { 0 };
    let said = loss.scratch_bytes::<f32>(n, n + shared, d);
    let mut out = [vec![0.0; n * d], vec![0.0; n * d]];
    let counted = |call: &mut dyn FnMut() -> bool| {
        kinfold::runtime::release_memory();
        let before = NOW.load(Ordering::SeqCst);
        PEAK.store(before, Ordering::SeqCst);
        call().then(|| PEAK.load(Ordering::SeqCst) - before)
    };
    let forward = counted(&mut || loss.value(batch).is_ok())?;
    let both = counted(&mut || {
        let [queries, keys] = &mut out;
        let gradient = GradientMut::new(queries, keys);
        loss.value_and_gradient_into(batch, gradient).is_ok()
    })?;
    Some([said, both, forward])
}

#[test]
fn every_loss_needs_what_it_says_whatever_stands_beside() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    rayon::broadcast(|_| ());
    // The second temperature has the loss computed anew; wide rows have large sums.
    for loss in [0.1, 1e-4].into_iter().flat_map(every_loss) {
        let small = loss.with_memory_budget(0);
        for beside in BESIDE {
            let Some([said, both, forward]) = peaks(&small, beside, 300, 300) else { continue };
            assert!(both <= said, "{both} > {said} with {beside}: {loss:?}");
            assert!(forward <= said, "forward {forward} > {said} with {beside}: {loss:?}");
        }
    }
}

#[test]
fn no_loss_needs_a_matrix() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    rayon::broadcast(|_| ());
    let (n, d) = (6_000, 8);
    let of_interest = |loss: &ContrastiveLoss| loss.similarity() == Similarity::Cosine;
    for loss in every_loss(0.1).into_iter().filter(of_interest) {
        let small = loss.with_memory_budget(0);
        let [said, both, forward] = peaks(&small, "nothing", n, d).unwrap();
        assert!(both <= said && forward <= said, "{both}, {forward} > {said}: {loss:?}");
        assert!(said < 2 * both, "said {said} for {both}: {loss:?}");
        assert!(said < n * n * 4, "{said}: {loss:?}");
        // Four times the rows: sixteen times the matrix, but no more than four times the strips.
        let more = small.scratch_bytes::<f32>(4 * n, 4 * n, d);
        assert!(more < 5 * said && more < n * n * 4 * 4, "{said}, {more}: {loss:?}");
    }
}

#[test]
fn a_diagnosis_needs_no_matrix() {
    let _alone = ALONE.lock().unwrap_or_else(|e| e.into_inner());
    rayon::broadcast(|_| ());
    let d = 8;
    // All pairs, and a sample of them; buffers of at most 64 MiB are kept for the next call, too.
    for (sample, sizes) in [(usize::MAX, [3_000, 6_000]), (500, [6_000, 12_000])] {
        let needed = sizes.map(|n| {
            let x: Vec<f32> = normal(n as u64, 2 * n * d).iter().map(|&x| x as f32).collect();
            let (q, k) = x.split_at(n * d);
            let (q, k) = (Embeddings::new(q, d).unwrap(), Embeddings::new(k, d).unwrap());
            kinfold::runtime::release_memory();
            let before = NOW.load(Ordering::SeqCst);
            PEAK.store(before, Ordering::SeqCst);
            diagnose(q, k, &Options::new(tau(0.1)).with_sample(sample)).unwrap();
            PEAK.load(Ordering::SeqCst) - before
        });
        let matrix = sizes[1] * sizes[1] * 4;
        assert!(needed[1] < matrix, "{needed:?} for {sizes:?} pairs, sample {sample}");
        assert!(needed[1] < 3 * needed[0], "twice the pairs, but {needed:?} bytes");
    }
}
