//! The oracle itself: against central differences, closed forms and the published table.

use kinfold::loss::reference::{Dense, info_nce};
use kinfold::{Embeddings, InfoNce, Preset, Similarity, Temperature};

mod common;
use common::{normal, orthonormal, tau};

fn dense(loss: &InfoNce, q: &[f64], k: &[f64], d: usize) -> Dense {
    info_nce(loss, Embeddings::new(q, d).unwrap(), Embeddings::new(k, d).unwrap())
}

fn every_loss(t: f64) -> [InfoNce; 6] {
    let t = tau(t);
    let cosine = [InfoNce::new(t), InfoNce::new(t).symmetric(), InfoNce::nt_xent(t)];
    let [a, b, c] = cosine;
    let dot = cosine.map(|loss| loss.with_similarity(Similarity::Dot));
    [a, b, c, dot[0], dot[1], dot[2]]
}

#[test]
fn gradients_are_central_differences() {
    let (n, d, step) = (5, 3, 1e-6);
    let (q, k) = (normal(1, n * d), normal(2, n * d));
    for t in [0.3, 1.0] {
        for loss in every_loss(t) {
            let out = dense(&loss, &q, &k, d);
            let close = |analytic: f64, up: f64, down: f64| {
                let difference = (up - down) / (2.0 * step);
                assert!((analytic - difference).abs() < 1e-8, "{loss:?}: {analytic} {difference}");
            };
            for at in 0..n * d {
                let shifted = |x: &[f64], by: f64| {
                    let mut x = x.to_vec();
                    x[at] += by;
                    x
                };
                let value = |by| dense(&loss, &shifted(&q, by), &k, d).mean;
                close(out.queries[at], value(step), value(-step));
                let value = |by| dense(&loss, &q, &shifted(&k, by), d).mean;
                close(out.keys[at], value(step), value(-step));
            }
            let value =
                |by: f64| dense(&loss.with_temperature(tau(t * f64::exp(-by))), &q, &k, d).mean;
            close(out.log_scale, value(step), value(-step));
        }
    }
}

#[test]
fn identical_embeddings_give_the_ceiling() {
    for n in [1, 2, 7, 32] {
        let x = vec![1.0; n * 4];
        for loss in every_loss(0.2) {
            let out = dense(&loss, &x, &x, 4);
            assert!((out.mean - loss.ceiling(n)).abs() < 1e-12, "{loss:?}, n = {n}");
        }
    }
}

#[test]
fn the_simplex_gives_the_floor() {
    // The corners e_i − mean of the simplex: identical pairs, negatives at cosine −1/(n−1).
    for n in [2, 3, 17] {
        let mut x = vec![-1.0 / n as f64; n * n];
        (0..n).for_each(|i| x[i * n + i] += 1.0);
        for loss in &every_loss(0.3)[..3] {
            let out = dense(loss, &x, &x, n);
            assert!((out.mean - loss.floor(n)).abs() < 1e-12, "{loss:?}, n = {n}");
        }
    }
}

/// The question's own eight lines: n, τ, ln n, the loss at the identity, the floor, and the
/// probability of the positive there.
#[test]
fn cross_entropy_is_the_published_table() {
    let table = [
        (32, 1.0, "3.466", "2.518", "2.488", "0.083"),
        (256, 1.0, "5.545", "4.552", "4.548", "0.011"),
        (256, 0.5, "5.545", "3.570", "3.562", "0.028"),
        (256, 0.1, "5.545", "0.01151", "0.01107", "0.989"),
        (256, 0.07, "5.545", "1.59e-4", "1.51e-4", "0.9998"),
        (4096, 0.1, "8.318", "0.1705", "0.1701", "0.844"),
    ];
    let preset: InfoNce = "cross-entropy".parse::<Preset>().unwrap().loss();
    assert_eq!(preset, InfoNce::new(tau(1.0)));
    for (n, t, ceiling, identity, floor, probability) in table {
        let loss = preset.with_temperature(tau(t));
        let same = |value: f64, printed: &str| {
            // Half a unit of the last digit printed.
            let (mantissa, exponent) = printed.split_once('e').unwrap_or((printed, "0"));
            let decimals = mantissa.split_once('.').map_or(0, |(_, digits)| digits.len());
            let unit = 10f64.powi(exponent.parse::<i32>().unwrap() - decimals as i32);
            let difference = (value - printed.parse::<f64>().unwrap()).abs();
            assert!(difference <= 0.5001 * unit, "n = {n}, τ = {t}: {value}, not {printed}");
        };
        same(loss.ceiling(n), ceiling);
        same(loss.floor(n), floor);
        same((-loss.floor(n)).exp(), probability);
        // Above 1,000 rows the dense oracle takes a while; the fast path is tied to it elsewhere.
        let x = orthonormal(n);
        let x = Embeddings::new(&x, n).unwrap();
        let value = if n <= 256 { info_nce(&loss, x, x).mean } else { continue };
        same(value, identity);
        same(loss.value(x, x).unwrap().mean, identity);
    }
}

/// `normalize`, `scores = out1 @ out2.T`, `cross_entropy(scores, arange(n))`, spelled out as PyTorch
/// computes it.
#[test]
fn cross_entropy_is_the_eight_lines() {
    let (n, d) = (9, 6);
    let (q, k) = (normal(5, n * d), normal(6, n * d));
    let unit = |x: &[f64]| -> Vec<Vec<f64>> {
        x.chunks(d)
            .map(|row| {
                let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
                row.iter().map(|v| v / length).collect()
            })
            .collect()
    };
    let (out1, out2) = (unit(&q), unit(&k));
    let mut expected = 0.0;
    for (i, a) in out1.iter().enumerate() {
        let scores: Vec<f64> =
            out2.iter().map(|b| a.iter().zip(b).map(|(a, b)| a * b).sum()).collect();
        let log_sum_exp = scores.iter().map(|s| s.exp()).sum::<f64>().ln();
        expected += (log_sum_exp - scores[i]) / n as f64;
    }
    let loss = Preset::CrossEntropy.loss();
    let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
    assert!((info_nce(&loss, q, k).mean - expected).abs() < 1e-14);
    assert!((loss.value(q, k).unwrap().mean - expected).abs() < 1e-14);
}

#[test]
fn a_temperature_must_be_positive_and_finite() {
    for wrong in [0.0, -0.1, f64::NAN, f64::INFINITY, 1e-310] {
        let error = Temperature::new(wrong).unwrap_err().to_string();
        assert!(error.starts_with("temperature is") && error.contains("above 0"), "{error}");
    }
}
