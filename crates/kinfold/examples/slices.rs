//! InfoNCE in a training loop written by hand, over plain slices.
//!
//! A linear map W is trained so that W·x finds its pair y among 256. Nothing here is a framework: the
//! loss gives gradients by the embeddings, and the chain rule for W is one more loop.
//!
//! `cargo run --release -p kinfold --example slices`

#![allow(clippy::print_stdout, reason = "an example prints")]

use kinfold::{ContrastiveLoss, Embeddings, GradientMut, Temperature, measures};

const PAIRS: usize = 256;
const DIM: usize = 16;

fn main() -> Result<(), kinfold::Error> {
    // Pairs: y is x with its numbers in reverse order. W has to learn that.
    let x = numbers(PAIRS * DIM);
    let y: Vec<f32> = x.chunks(DIM).flat_map(|row| row.iter().rev().copied()).collect();
    let keys = Embeddings::new(&y, DIM)?;

    let loss = ContrastiveLoss::info_nce(Temperature::new(0.1)?);
    println!("floor {:.3}, ceiling {:.3}", loss.floor(PAIRS).unwrap_or(0.0), loss.ceiling(PAIRS));

    let mut w: Vec<f32> = numbers(DIM * DIM).iter().map(|v| 0.1 * v).collect();
    let (mut of_queries, mut of_keys) = (vec![0.0; x.len()], vec![0.0; y.len()]);
    for step in 0..=200 {
        // Forward: q = W x.
        let q: Vec<f32> =
            x.chunks(DIM).flat_map(|x| w.chunks(DIM).map(move |w| dot(w, x))).collect();
        let queries = Embeddings::new(&q, DIM)?;
        let gradient = GradientMut::new(&mut of_queries, &mut of_keys);
        let (value, _) = loss.value_and_gradient_into((queries, keys), gradient)?;
        if step % 50 == 0 {
            let recall = measures::retrieval(queries, keys)?.recall(1);
            println!("step {step:>3}  loss {:.3}  recall@1 {recall:.3}", value.mean);
        }
        // Backward: dL/dW = Σ (dL/dq) xᵀ, and a step down.
        for (slope, x) in of_queries.chunks(DIM).zip(x.chunks(DIM)) {
            for (w, slope) in w.chunks_mut(DIM).zip(slope) {
                w.iter_mut().zip(x).for_each(|(w, x)| *w -= 0.5 * slope * x);
            }
        }
    }
    Ok(())
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Numbers between −1 and 1 that look random.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 1u64;
    let next = |_| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}
