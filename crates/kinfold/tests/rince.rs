//! RINCE (Chuang et al. 2022): engine and oracle against its definition. Its values grow like `e^(q/τ)`,
//! so it is compared at temperatures at which the type can hold them, and refused at others.

use kinfold::loss::reference::dense;
use kinfold::{Batch, ContrastiveLoss, Element, Embeddings, Error, Objective, Real, Reduction};

mod common;
use common::{Executed, forms, normal, orthonormal, relative_error, tau};

fn rince(loss: ContrastiveLoss, q: f64, lambda: f64) -> ContrastiveLoss {
    loss.with_objective(Objective::Rince { q, lambda }).unwrap()
}

/// Engine and oracle agree, relative to the size of each result.
fn agree<T: Element>(loss: &ContrastiveLoss, batch: Batch<'_, T>, digits: f64) {
    let (ours, right) = (loss.value_and_gradient(batch).unwrap(), dense(loss, &batch));
    let wide = |x: &[T::Real]| x.iter().map(|x| x.f64()).collect::<Vec<f64>>();
    let largest = right.rows.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    for (a, b) in ours.rows.iter().zip(&right.rows) {
        assert!((a - b).abs() <= digits * largest, "{loss:?}: {a:e}, not {b:e}");
    }
    for (name, a, b) in [
        ("queries", wide(&ours.queries), &right.queries),
        ("keys", wide(&ours.keys), &right.keys),
        ("negatives", wide(&ours.negatives), &right.negatives),
    ] {
        let error = relative_error(&a, b);
        assert!(error <= digits, "{name} of {loss:?}: {error:e}");
    }
    // A sum over all pairs in which most cancels: it is compared with what is added up.
    let added = right.rows.iter().map(|x| x.abs()).sum::<f64>() * loss.temperature().scale();
    let error = (ours.log_scale - right.log_scale).abs();
    assert!(error <= digits * added, "log scale of {loss:?}: {error:e} of {added:e}");
}

#[test]
fn the_engine_equals_the_oracle() {
    let (n, d) = (37, 9);
    let (q, k, more) = (normal(1, n * d), normal(2, n * d), normal(3, 5 * d));
    let weights: Vec<f64> = (0..2 * n).map(|i| (i % 3) as f64).collect();
    let ids: Vec<u64> = (0..n as u64).map(|i| i % 30).collect();
    let of = |x| Embeddings::new(x, d).unwrap();
    for (exponent, lambda) in [(0.1, 1.0), (0.5, 0.01), (0.5, 0.05), (1.0, 0.3)] {
        for t in [0.05, 0.1, 0.5, 1.0, 10.0] {
            for (form, loss) in forms(t).into_iter().enumerate() {
                let loss = rince(loss, exponent, lambda).with_reduction(Reduction::Sum);
                let rows = if form == 2 { 2 * n } else { n };
                let batch = Batch::new(of(&q), of(&k));
                for threads in [1, 3] {
                    agree(&loss.with_threads(threads), batch, 1e-11);
                }
                agree(&loss.with_memory_budget(0), batch, 1e-11);
                agree(&loss.with_margin(0.2).unwrap(), batch, 1e-11);
                agree(&loss, batch.with_row_weights(&weights[..rows]), 1e-11);
                agree(&loss, batch.with_ids(&ids), 1e-11);
                if form == 0 {
                    agree(&loss, batch.with_negatives(of(&more)), 1e-11);
                    agree(&loss, batch.with_negatives_per_query(of(&k)), 1e-11);
                    let alone = loss.with_in_batch_negatives(false).unwrap();
                    agree(&alone, batch.with_negatives(of(&more)), 1e-11);
                }
                let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<f32>>();
                let (q, k) = (narrow(&q), narrow(&k));
                let of = |x| Embeddings::<f32>::new(x, d).unwrap();
                agree(&loss, Batch::new(of(&q), of(&k)), 2e-6 * (10.0 + 1.0 / t));
            }
        }
    }
}

#[test]
fn the_oracle_is_the_definition_and_its_gradient_is_the_slope() {
    let (n, t, exponent, lambda) = (5, 0.4, 0.5, 0.05);
    let loss = rince(ContrastiveLoss::info_nce(tau(t)), exponent, lambda);
    // Pairs along the axes: each pair's cosine is 1, every other 0.
    let x = orthonormal(n);
    let axes = Embeddings::new(&x, n).unwrap();
    let (near, all) = ((1.0 / t).exp(), (1.0 / t).exp() + n as f64 - 1.0);
    let right = (-near.powf(exponent) + (lambda * all).powf(exponent)) / exponent;
    let found = dense(&loss, &Batch::new(axes, axes)).mean;
    assert!((found - right).abs() < 1e-13, "{found}, not {right}");

    let (q, k) = (normal(4, n * 3), normal(5, n * 3));
    let at = |q: &[f64]| {
        let (queries, keys) = (Embeddings::new(q, 3).unwrap(), Embeddings::new(&k, 3).unwrap());
        dense(&loss, &Batch::new(queries, keys))
    };
    let gradient = at(&q).queries;
    for i in 0..q.len() {
        let moved = |step: f64| {
            let mut moved = q.clone();
            moved[i] += step;
            at(&moved).mean
        };
        let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
        assert!((slope - gradient[i]).abs() < 1e-8, "{i}: {slope}, not {}", gradient[i]);
    }
}

/// As q tends to 0 it is InfoNCE plus ln λ.
#[test]
fn a_small_q_is_info_nce() {
    let (n, d, lambda) = (20, 6, 0.03f64);
    let (q, k) = (normal(6, n * d), normal(7, n * d));
    let batch = Batch::new(Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
    for plain in forms(0.3) {
        let right = plain.value_and_gradient(batch).unwrap();
        let found = rince(plain, 1e-7, lambda).value_and_gradient(batch).unwrap();
        assert!((found.mean - right.mean - lambda.ln()).abs() < 1e-5);
        assert!(relative_error(&found.queries, &right.queries) < 1e-5);
        assert!((found.log_scale - right.log_scale).abs() < 1e-5);
    }
}

/// A pair that agrees keeps its digits where λ is 1 and the loss almost 0.
#[test]
fn a_small_loss_keeps_its_digits() {
    let x = orthonormal(4);
    let axes = Embeddings::new(&x, 4).unwrap();
    let loss = rince(ContrastiveLoss::info_nce(tau(0.03)), 0.1, 1.0);
    let found = loss.value((axes, axes)).unwrap().mean;
    // e^(q/τ) (e^(q x) − 1)/q with x = ln(1 + 3 e^(−1/τ)), so small that e^(q x) − 1 is q x.
    let right = (0.1f64 / 0.03).exp() * 3.0 * (-1.0f64 / 0.03).exp();
    assert!((found / right - 1.0).abs() < 1e-9, "{found:e}, not {right:e}");
}

#[test]
fn what_cannot_be_held_is_an_error() {
    let x = [1.0f32, 0.0, 0.0, 1.0];
    let x = Embeddings::new(&x, 2).unwrap();
    let loss = rince(ContrastiveLoss::info_nce(tau(0.001)), 0.5, 0.01);
    let error = loss.value_and_gradient((x, x)).unwrap_err();
    assert_eq!(error, Error::Range { q: 0.5, temperature: 0.001, bits: 32 });
    assert_eq!(loss.value((x, x)).unwrap_err(), error);
    assert_eq!(
        error.to_string(),
        "e^(q s) leaves the range of 32-bit numbers, with q = 0.5 and logits at temperature 0.001; \
         lower q or raise the temperature"
    );
    for (q, lambda) in [(0.0, 0.1), (1.1, 0.1), (f64::NAN, 0.1), (0.5, 0.0), (0.5, f64::INFINITY)] {
        let plain = ContrastiveLoss::info_nce(tau(0.1));
        assert!(plain.with_objective(Objective::Rince { q, lambda }).is_err(), "{q} {lambda}");
    }
    let smoothed = rince(ContrastiveLoss::info_nce(tau(0.1)), 0.5, 0.1).with_label_smoothing(0.1);
    assert!(smoothed.unwrap_err().to_string().contains("label smoothing"));
}
