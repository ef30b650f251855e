//! What is wrong with two arrays of embeddings, in words.
//!
//! Row i of `keys` should belong to row i of `queries`. Here the keys are good, but for two faults that
//! real data has: a few rows are the same, and all of them lean to one side.
//!
//! `cargo run --release -p kinfold --example diagnose`

#![allow(clippy::print_stdout, reason = "an example prints")]

use kinfold::diagnosis::{Options, diagnose};
use kinfold::{Embeddings, Temperature};

const ROWS: usize = 500;
const DIM: usize = 32;

fn main() -> Result<(), kinfold::Error> {
    let queries = numbers(1, ROWS * DIM);
    let noise = numbers(2, ROWS * DIM);
    let mut keys: Vec<f32> = queries.iter().zip(&noise).map(|(q, e)| q + 0.3 * e).collect();
    for row in 1..20 {
        keys.copy_within(0..DIM, row * DIM);
    }
    let lean = |x: &f32| x + 0.8;
    let queries: Vec<f32> = queries.iter().map(lean).collect();
    let keys: Vec<f32> = keys.iter().map(lean).collect();

    let options = Options::new(Temperature::new(0.1)?);
    let (queries, keys) = (Embeddings::new(&queries, DIM)?, Embeddings::new(&keys, DIM)?);
    let diagnosis = diagnose(queries, keys, &options)?;
    println!("{}", diagnosis.verdict());
    for finding in &diagnosis.findings {
        println!("- {}\n  {}", finding.what, finding.change);
    }
    // `diagnosis.sections()` has every number behind it, with a sentence on each.
    Ok(())
}

/// Numbers between −1 and 1 that look random.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}
