//! The fast path against the oracle, over shapes, temperatures, threads, types and bad input.

use kinfold::loss::reference::info_nce;
use kinfold::runtime::Instructions;
use kinfold::{ContrastiveLoss, Element, Embeddings, Error, Real, Similarity, bf16, f16};
use proptest::prelude::*;

mod common;
use common::{Executed, forms, normal, relative_error, tau};

/// Value and gradients equal the oracle's, to a tolerance in units of the logits' own rounding:
/// an error of `unit` in a cosine is an error of `unit / τ` in a logit.
fn equals_oracle<T: Element>(
    loss: &ContrastiveLoss,
    q: Embeddings<T>,
    k: Embeddings<T>,
    unit: f64,
) {
    let expected = info_nce(loss, q, k);
    let out = loss.value_and_gradient((q, k)).unwrap();
    let value = loss.value((q, k)).unwrap().mean;
    assert_eq!(value.to_bits(), out.mean.to_bits(), "forward alone gives the same value");
    let small = |what: &str, error: f64| {
        assert!(error <= unit, "{what}: {error:e} > {unit:e} with {loss:?}");
    };
    small("loss", (out.mean - expected.mean).abs() / expected.mean.abs().max(1.0));
    // A gradient may be a difference of nearly equal terms (with d = 1 it is 0): what counts then is
    // its size beside those terms, which are at most `pull`.
    let wide = |x: &[T::Real]| x.iter().map(|x| x.f64()).collect::<Vec<_>>();
    let gradient = |what: &str, out: &[T::Real], right: &[f64], own: Embeddings<T>, other| {
        let pull = expected.mean.clamp(0.0, 1.0) * loss_pull(loss, own, other);
        let error = relative_error(&wide(out), right) * size(right).max(1e-300);
        let error = if size(right) == 0.0 { size(&wide(out)) } else { error };
        // Below the least normal number there are no digits to keep.
        let least = if size_of::<T::Real>() == 4 { f64::from(f32::MIN_POSITIVE) } else { 1e-307 };
        let lost = least * (right.len() as f64).sqrt() * loss.temperature().scale().max(1.0);
        let error = (error - lost).max(0.0);
        small(what, error / size(right).max(pull).max(1e-290));
    };
    gradient("queries", &out.queries, &expected.queries, q, k);
    gradient("keys", &out.keys, &expected.keys, k, q);
    let scale = expected.log_scale.abs().max(1.0);
    small("log scale", (out.log_scale - expected.log_scale).abs() / scale);
}

fn size(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The size of the terms that a gradient adds up: 1/(n·τ) for each row, divided by the row's length
/// for the cosine, times the length of the other side's longest row for the dot product.
fn loss_pull<T: Element>(loss: &ContrastiveLoss, own: Embeddings<T>, other: Embeddings<T>) -> f64 {
    let length =
        |x: &Embeddings<T>, i| size(&x.row(i).iter().map(|x| x.real().f64()).collect::<Vec<_>>());
    let longest = (0..other.rows()).map(|i| length(&other, i)).fold(0.0, f64::max);
    let terms = (0..own.rows()).map(|i| match loss.similarity() {
        Similarity::Dot => longest,
        Similarity::Cosine => length(&own, i).max(1e-12).recip(),
    });
    size(&terms.collect::<Vec<_>>()) * loss.temperature().scale() / own.rows() as f64
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn f64_equals_the_oracle(
        n in 1usize..150, d in 1usize..80, log_t in -3.0f64..1.0, form in 0usize..3,
        dot in any::<bool>(), threads in 1usize..9, seed in any::<u64>(),
    ) {
        let similarity = if dot { Similarity::Dot } else { Similarity::Cosine };
        let t = 10f64.powf(log_t);
        let loss = forms(t)[form].with_similarity(similarity).with_threads(threads);
        // Keys near their queries, so that the loss is neither 0 nor at its ceiling.
        let q = normal(seed, n * d);
        let k: Vec<f64> =
            normal(seed ^ 1, n * d).iter().zip(&q).map(|(a, b)| 0.3 * a + b).collect();
        let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
        let largest = if dot { 40.0 * d as f64 / t } else { 1.0 / t };
        equals_oracle(&loss, q, k, 1e-13 * (10.0 + largest));
    }

    #[test]
    fn rectangles_equal_the_oracle(
        n in 1usize..90, more in 0usize..200, at in 0.0f64..1.0, d in 1usize..40, seed in any::<u64>(),
    ) {
        let offset = (more as f64 * at) as usize;
        let (q, k) = (normal(seed, n * d), normal(seed ^ 1, (n + more) * d));
        let loss = ContrastiveLoss::info_nce(tau(0.2)).with_offset(offset);
        let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
        equals_oracle(&loss, q, k, 1e-12);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every instruction set, wide rows, kept and recomputed exponentials, f32.
    #[test]
    fn f32_equals_the_oracle(
        n in 1usize..330, d in 1usize..600, log_t in -3.0f64..1.0, form in 0usize..3,
        keep in any::<bool>(), threads in 1usize..9, seed in any::<u64>(),
    ) {
        let t = 10f64.powf(log_t);
        let budget = if keep { usize::MAX } else { 0 };
        let loss = forms(t)[form].with_threads(threads).with_memory_budget(budget);
        let q: Vec<f32> = normal(seed, n * d).iter().map(|&x| x as f32).collect();
        let k = normal(seed ^ 1, n * d);
        let k: Vec<f32> = k.iter().zip(&q).map(|(a, b)| 0.3 * *a as f32 + b).collect();
        let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
        for set in Instructions::available() {
            equals_oracle(&loss.with_instructions(set), q, k, 1e-6 * (2.0 + 1.0 / t));
        }
    }
}

/// A cosine of rows that are shorter than 1, each in its own way, is one all the same.
#[test]
fn short_rows_equal_the_oracle() {
    for (length, t) in [0.5, 1e-3, 1e-9].into_iter().flat_map(|l| [1e-3, 0.01, 0.1].map(|t| (l, t)))
    {
        for loss in forms(t) {
            let (q, noise) = (normal(1, 20 * 8), normal(2, 20 * 8));
            let x = q.iter().zip(&noise).map(|(q, x)| (q + 0.1 * x) * length);
            let k: Vec<f32> = x.map(|x| x as f32).collect();
            let q: Vec<f32> = q.iter().map(|&x| (x * 1e-2) as f32).collect();
            let (q, k) = (Embeddings::new(&q, 8).unwrap(), Embeddings::new(&k, 8).unwrap());
            equals_oracle(&loss, q, k, 1e-6 * (2.0 + 1.0 / t));
        }
    }
}

/// Around every edge of tiles, panels, blocks and chunks.
#[test]
fn tails_equal_the_oracle() {
    for (n, d) in [2, 5, 6, 7, 8, 15, 16, 17, 31, 33, 47, 48, 49, 95, 96, 97, 127, 129]
        .into_iter()
        .flat_map(|n| [1, 6, 7, 16, 17].map(|d| (n, d)))
        .chain([(255, 3), (256, 2), (257, 1), (40, 255), (40, 256), (40, 257), (33, 513)])
    {
        let (q, k) = (normal(1, n * d), normal(2, n * d));
        let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
        for set in Instructions::available() {
            for loss in forms(0.5) {
                // The oracle adds up n² terms one after the other, which is its own rounding.
                equals_oracle(&loss.with_instructions(set), q, k, 1e-13 * (10.0 + n as f64));
            }
        }
    }
}

/// So many rows that there are several strips, and exponentials of none, some or all of them are
/// kept: the oracle's numbers, and the same bits for every number of threads.
#[test]
fn several_strips_equal_the_oracle() {
    let d = 3;
    for (loss, n) in forms(0.5).into_iter().zip([3_000, 3_000, 1_500]) {
        let (q, k) = (normal(31, n * d), normal(32, n * d));
        let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
        let expected = info_nce(&loss, q, k);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
        for budget in [0, 60 << 20, 500 << 20] {
            let loss = loss.with_memory_budget(budget);
            let out = loss.with_threads(1).value_and_gradient((q, k)).unwrap();
            assert!((out.mean / expected.mean - 1.0).abs() < 1e-13);
            assert!((out.log_scale / expected.log_scale - 1.0).abs() < 1e-10);
            assert!(relative_error(&out.queries, &expected.queries) < 1e-11);
            assert!(relative_error(&out.keys, &expected.keys) < 1e-11);
            let again = pool.install(|| loss.with_threads(3).value_and_gradient((q, k)).unwrap());
            assert_eq!(out, again, "{budget}");
        }
    }
}

/// Temperatures on both sides of where one reference for all exponentials stops being safe, and
/// rows whose every negative lies far below it.
#[test]
fn every_reference_equals_the_oracle() {
    let (n, d) = (60, 4);
    let q: Vec<f32> = normal(41, n * d).iter().map(|&x| x as f32).collect();
    let mut k: Vec<f32> = normal(42, n * d).iter().map(|&x| x as f32).collect();
    for t in [0.1, 0.03, 0.02, 0.015, 0.012, 0.01, 0.008, 0.005, 0.002, 0.001, 1e-4] {
        let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
        for loss in forms(t) {
            equals_oracle(&loss, q, k, 1e-6 * (1.0 + 1.0 / t));
        }
    }
    // All keys point one way and the queries the other.
    k.chunks_mut(d).for_each(|row| row[0] = 40.0);
    let against: Vec<f32> = k.iter().map(|x| -x).collect();
    for t in [1.0, 0.1, 0.02, 0.01] {
        let (q, k) = (Embeddings::new(&against, d).unwrap(), Embeddings::new(&k, d).unwrap());
        for loss in forms(t) {
            equals_oracle(&loss, q, k, 1e-6 * (1.0 + 1.0 / t));
        }
    }
}

#[test]
fn strips_and_their_tails_equal_the_oracle() {
    let d = 5;
    for n in [63, 64, 65, 255, 256, 257, 300] {
        let (q, k) = (normal(1, n * d), normal(2, n * d));
        for loss in forms(0.5) {
            let (q, k) = (Embeddings::new(&q, d).unwrap(), Embeddings::new(&k, d).unwrap());
            equals_oracle(&loss, q, k, 1e-12);
        }
    }
}

#[test]
fn every_number_of_threads_gives_the_same_bits() {
    let (n, d) = (333, 17);
    let wide = normal(3, 2 * n * d);
    let x: Vec<f32> = wide.iter().map(|&x| x as f32).collect();
    let (q, k) = x.split_at(n * d);
    let (q, k) = (Embeddings::new(q, d).unwrap(), Embeddings::new(k, d).unwrap());
    let pool = rayon::ThreadPoolBuilder::new().num_threads(8).build().unwrap();
    for loss in forms(0.1) {
        let one = loss.with_threads(1).value_and_gradient((q, k)).unwrap();
        for threads in 2..=8 {
            let many =
                pool.install(|| loss.with_threads(threads).value_and_gradient((q, k)).unwrap());
            assert_eq!(one, many, "{threads} threads");
        }
    }
}

#[test]
fn half_precision_is_read_as_it_is() {
    let (n, d) = (40, 24);
    let (q, k) = (normal(7, n * d), normal(8, n * d));
    let half = |x: &[f64]| x.iter().map(|&x| f16::from_f64(x)).collect::<Vec<_>>();
    let brain = |x: &[f64]| x.iter().map(|&x| bf16::from_f64(x)).collect::<Vec<_>>();
    for loss in forms(0.2) {
        let (a, b) = (half(&q), half(&k));
        equals_oracle(
            &loss,
            Embeddings::new(&a, d).unwrap(),
            Embeddings::new(&b, d).unwrap(),
            1e-5,
        );
        let (a, b) = (brain(&q), brain(&k));
        equals_oracle(
            &loss,
            Embeddings::new(&a, d).unwrap(),
            Embeddings::new(&b, d).unwrap(),
            1e-5,
        );
    }
}

/// Where f32 frameworks return 0, the loss and its gradient keep their relative precision.
#[test]
fn a_tiny_loss_keeps_its_digits() {
    let n = 16;
    for (t, about) in [(0.05, 3e-8), (0.033, 1e-12)] {
        let x: Vec<f32> = common::orthonormal(n).iter().map(|&x| x as f32).collect();
        let x = Embeddings::new(&x, n).unwrap();
        for loss in forms(t) {
            let expected = info_nce(&loss, x, x);
            assert!(expected.mean < 3.0 * about && expected.mean > 0.0, "{}", expected.mean);
            let out = loss.value_and_gradient((x, x)).unwrap();
            assert!((out.mean / expected.mean - 1.0).abs() < 1e-5);
            assert!((out.log_scale / expected.log_scale - 1.0).abs() < 1e-5);
            let wide: Vec<f64> = out.queries.iter().map(|x| x.f64()).collect();
            assert!(relative_error(&wide, &expected.queries) < 1e-5);
        }
    }
}

/// Raw products of ±1e4 and τ = 0.001: nothing overflows.
#[test]
fn huge_logits_give_the_oracles_value() {
    let x: Vec<f32> = normal(11, 20 * 4).iter().map(|&x| (50.0 * x) as f32).collect();
    let y: Vec<f32> = normal(12, 20 * 4).iter().map(|&x| (50.0 * x) as f32).collect();
    let (x, y) = (Embeddings::new(&x, 4).unwrap(), Embeddings::new(&y, 4).unwrap());
    for loss in forms(1.0) {
        equals_oracle(&loss.with_similarity(Similarity::Dot), x, y, 1e-3);
    }
    for loss in forms(0.001) {
        equals_oracle(&loss, x, y, 1e-3);
    }
}

#[test]
fn rows_may_be_strided_duplicate_or_zero() {
    let (n, d, stride) = (30, 6, 11);
    let wide = normal(21, n * stride);
    let mut tight: Vec<f64> = wide.chunks(stride).flat_map(|row| &row[..d]).copied().collect();
    let strided = Embeddings::strided(&wide, n, d, stride).unwrap();
    for loss in forms(0.3) {
        let same = Embeddings::new(&tight, d).unwrap();
        let (a, b) =
            (loss.value_and_gradient((strided, same)), loss.value_and_gradient((same, same)));
        assert_eq!(a.unwrap(), b.unwrap());
    }
    tight.copy_within(0..3 * d, 3 * d);
    tight[..d].fill(0.0);
    let keys = normal(22, n * d);
    for loss in forms(0.3) {
        let (q, k) = (Embeddings::new(&tight, d).unwrap(), Embeddings::new(&keys, d).unwrap());
        equals_oracle(&loss, q, k, 1e-12);
    }
}

#[test]
fn bad_input_is_an_error_that_names_it() {
    let x = vec![1.0f32; 12];
    let four = Embeddings::new(&x, 3).unwrap();
    let three = Embeddings::new(&x[..9], 3).unwrap();
    let wide = Embeddings::new(&x, 4).unwrap();
    let none = Embeddings::new(&x[..0], 3).unwrap();
    let loss = ContrastiveLoss::info_nce(tau(0.1));
    let message = |result: Result<kinfold::Value, Error>| result.unwrap_err().to_string();

    let text = message(loss.symmetric().value((four, three)));
    assert_eq!(text, "keys have 3 rows but queries have 4");
    let text = message(ContrastiveLoss::nt_xent(tau(0.1)).value((three, four)));
    assert_eq!(text, "keys have 4 rows but queries have 3");
    let text = message(loss.value((four, three)));
    assert_eq!(text, "query 3 has its positive at key 3 + 0, but there are only 3 keys");
    assert!(message(loss.with_offset(usize::MAX).value((four, four))).contains("only 4 keys"));
    assert!(
        message(loss.symmetric().with_offset(1).value((three, three))).contains("one way only")
    );
    let text = message(loss.value((four, wide)));
    assert_eq!(text, "queries have dimension 3 but keys have dimension 4");
    assert_eq!(
        message(loss.value((none, four))),
        "queries have no rows, but at least 1 are needed"
    );

    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut y = x.clone();
        y[7] = bad;
        let text = message(loss.value((four, Embeddings::new(&y, 3).unwrap())));
        assert!(text.starts_with("keys hold") && text.contains("row 2, column 1"), "{text}");
    }
    assert!(matches!(Embeddings::new(&x, 5), Err(Error::Ragged { given: 12, dim: 5 })));
    assert!(matches!(Embeddings::new(&x, 0), Err(Error::ZeroDimension)));
    assert!(matches!(Embeddings::strided(&x, 2, 3, 2), Err(Error::Stride { .. })));
    assert!(matches!(Embeddings::strided(&x, 3, 3, 5), Err(Error::Length { needed: 13, .. })));
    assert!(matches!(Embeddings::strided(&x, usize::MAX, 3, 5), Err(Error::Length { .. })));
    let text = "no-such".parse::<kinfold::Preset>().unwrap_err().to_string();
    assert!(text.starts_with("there is no preset `no-such`; there are: cross-entropy, "), "{text}");
    let (mut small, mut right) = (vec![0.0; 11], vec![0.0; 12]);
    let buffers = kinfold::GradientMut::new(&mut small, &mut right);
    let error = loss.value_and_gradient_into((four, four), buffers).unwrap_err();
    assert!(error.to_string().contains("queries holds 11 numbers, but 12 are needed"));
}
