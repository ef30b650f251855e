//! The error budget: against the f64 oracle, the fast path in f32 is never worse than the dense
//! computation in f32 on the same input.

use kinfold::loss::Form;
use kinfold::loss::reference::info_nce;
use kinfold::runtime::Instructions;
use kinfold::{ContrastiveLoss, Embeddings, Similarity};
use proptest::prelude::*;

mod common;
use common::{Executed, forms, normal};

/// What a program with a matrix of logits computes, all of it in f32.
struct Dense {
    mean: f32,
    gradient: [Vec<f32>; 2],
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Eight partial sums, as vectors would have it.
    let mut sums = [0.0; 8];
    for (l, (a, b)) in a.iter().zip(b).enumerate() {
        sums[l % 8] += a * b;
    }
    sums.iter().sum()
}

/// The mean cross-entropy of rows `s` `[n, m]` against `positive`, and its gradient.
fn cross_entropy(s: &[f32], m: usize, positive: impl Fn(usize) -> usize) -> (f32, Vec<f32>) {
    let n = s.len() / m;
    let mut mean = 0.0;
    let mut gradient = Vec::with_capacity(s.len());
    for (i, row) in s.chunks(m).enumerate() {
        let c = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let ones = vec![1.0; m];
        let e: Vec<f32> = row.iter().map(|s| (s - c).exp()).collect();
        let sum = dot(&e, &ones);
        mean += sum.ln() + c - row[positive(i)];
        let at = gradient.len() + positive(i);
        gradient.extend(e.iter().map(|e| e / sum / n as f32));
        gradient[at] -= 1.0 / n as f32;
    }
    (mean / n as f32, gradient)
}

fn transposed(s: &[f32], m: usize) -> Vec<f32> {
    (0..m).flat_map(|j| s.iter().skip(j).step_by(m).copied()).collect()
}

/// `a b`, `[n, m] · [m, d]`.
fn times(a: &[f32], b: &[f32], m: usize) -> Vec<f32> {
    let b = transposed(b, b.len() / m);
    a.chunks(m).flat_map(|row| b.chunks(m).map(|column| dot(row, column))).collect()
}

fn dense(loss: &ContrastiveLoss, q: &[f32], k: &[f32], d: usize) -> Dense {
    let (n, scale) = (q.len() / d, loss.temperature().scale() as f32);
    let cosine = loss.similarity() == Similarity::Cosine;
    let length = |x: &[f32]| if cosine { dot(x, x).sqrt().max(1e-12) } else { 1.0 };
    let compared = |x: &[f32]| -> Vec<f32> {
        x.chunks(d).flat_map(|x| x.iter().map(|v| v / length(x))).collect()
    };
    let logits = |a: &[f32], b: &[f32]| -> Vec<f32> {
        times(a, &transposed(b, d), d).iter().map(|s| s * scale).collect()
    };
    let scaled = |x: Vec<f32>| -> Vec<f32> { x.iter().map(|x| x * scale).collect() };
    let (a, b) = (compared(q), compared(k));
    let (mean, da, db) = if loss.form() == Form::NtXent {
        let z = [a.as_slice(), &b].concat();
        let mut s = logits(&z, &z);
        (0..2 * n).for_each(|i| s[i * 2 * n + i] = f32::NEG_INFINITY);
        let (mean, ds) = cross_entropy(&s, 2 * n, |i| (i + n) % (2 * n));
        let there = times(&ds, &z, 2 * n);
        let back = times(&transposed(&ds, 2 * n), &z, 2 * n);
        let dz: Vec<f32> = there.iter().zip(&back).map(|(a, b)| (a + b) * scale).collect();
        (mean, dz[..n * d].to_vec(), dz[n * d..].to_vec())
    } else {
        let s = logits(&a, &b);
        let (mut mean, mut ds) = cross_entropy(&s, n, |i| i);
        if loss.form() == Form::BothWays {
            let (back, dt) = cross_entropy(&transposed(&s, n), n, |i| i);
            mean = 0.5 * (mean + back);
            ds.iter_mut().zip(transposed(&dt, n)).for_each(|(s, t)| *s = 0.5 * (*s + t));
        }
        let db = times(&transposed(&ds, n), &a, n);
        (mean, scaled(times(&ds, &b, n)), scaled(db))
    };
    let through = |x: &[f32], g: Vec<f32>| -> Vec<f32> {
        if !cosine {
            return g;
        }
        let rows = x.chunks(d).zip(g.chunks(d));
        rows.flat_map(|(x, g)| {
            let length = length(x);
            let along = dot(x, g) / length;
            x.iter().zip(g).map(move |(x, g)| (g - along * x / length) / length)
        })
        .collect()
    };
    Dense { mean, gradient: [through(q, da), through(k, db)] }
}

fn distance(a: &[f32], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - b).powi(2)).sum::<f64>().sqrt()
}

fn size(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A few units in the last place.
const FLOOR: f64 = 4.0 * f32::EPSILON as f64;

/// Over all `inputs` together, by root mean square: rounding is a matter of luck on any one of them,
/// where a single logit may decide, for the dense computation as for ours.
fn within_budget(loss: &ContrastiveLoss, inputs: &[(Vec<f32>, Vec<f32>)], d: usize) {
    for instructions in Instructions::available() {
        // Squares of our errors, of the dense computation's, and of the sizes: loss, queries, keys.
        let mut squares = [[0.0; 3]; 3];
        for (q, k) in inputs {
            let of = |x| Embeddings::new(x, d).unwrap();
            let right = info_nce(loss, of(q), of(k));
            let dense = dense(loss, q, k, d);
            let ours = loss.with_instructions(instructions);
            let ours = ours.value_and_gradient((of(q), of(k))).unwrap();
            let apart = |a: f64| (a - right.mean).abs();
            let [queries, keys] = &dense.gradient;
            let errors = [
                (apart(ours.mean), apart(dense.mean.into()), right.mean),
                (
                    distance(&ours.queries, &right.queries),
                    distance(queries, &right.queries),
                    size(&right.queries),
                ),
                (distance(&ours.keys, &right.keys), distance(keys, &right.keys), size(&right.keys)),
            ];
            for (sums, (ours, theirs, size)) in squares.iter_mut().zip(errors) {
                *sums = [sums[0] + ours * ours, sums[1] + theirs * theirs, sums[2] + size * size];
            }
        }
        for (what, sums) in ["loss", "queries", "keys"].iter().zip(squares) {
            let [ours, theirs, size] = sums.map(f64::sqrt);
            assert!(
                ours <= theirs + FLOOR * size,
                "{what}: {ours:e} > {theirs:e} + {:e}, {instructions:?}, d = {d}, {loss:?}",
                FLOOR * size
            );
        }
    }
}

fn pairs(seed: u64, n: usize, d: usize, noise: f64) -> (Vec<f32>, Vec<f32>) {
    let q = normal(seed, n * d);
    let k = normal(seed ^ 1, n * d).iter().zip(&q).map(|(a, b)| (noise * a + b) as f32).collect();
    (q.iter().map(|&x| x as f32).collect(), k)
}

#[test]
fn never_worse_than_dense_f32() {
    for (n, d) in [(64, 32), (130, 64), (257, 128), (300, 300)] {
        for (noise, t) in [(1.0, 1.0), (1.0, 0.1), (0.3, 0.1), (1.0, 0.02)] {
            let inputs = [pairs(5 + n as u64, n, d, noise)];
            for loss in forms(t) {
                within_budget(&loss, &inputs, d);
                within_budget(&loss.with_memory_budget(0), &inputs, d);
            }
        }
    }
}

proptest! {
    // A statistical comparison of two roundings: the same draws each time, so that its answer is too.
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0),
        ..ProptestConfig::default()
    })]

    #[test]
    fn never_worse_than_dense_f32_wherever(
        n in 16usize..150, d in 8usize..150, log_t in -1.7f64..0.0, form in 0usize..3,
        noise in 0.3f64..2.0, seed in any::<u64>(),
    ) {
        let inputs: Vec<_> = (0..8).map(|i| pairs(seed.wrapping_add(2 * i), n, d, noise)).collect();
        within_budget(&forms(10f64.powf(log_t))[form], &inputs, d);
    }
}
