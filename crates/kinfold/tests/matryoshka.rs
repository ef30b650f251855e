//! Losses over prefixes: all at once or one by one, against the oracle, which adds up a loss for each.

use kinfold::loss::MOST_PREFIXES;
use kinfold::loss::reference::{Dense, dense};
use kinfold::runtime::Instructions;
use kinfold::{
    Batch, ContrastiveLoss, Element, Embeddings, Form, Prefix, Preset, Real, Reduction, Similarity,
};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

mod common;
#[path = "common/sample.rs"]
mod sample;
use common::{Executed, forms, normal, tau};
use sample::Sample;

/// Some numbers that follow from a seed.
struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, most: usize) -> usize {
        (self.0.next_u64() % most as u64) as usize
    }

    fn one<X: Copy>(&mut self, of: &[X]) -> X {
        of[self.below(of.len())]
    }

    fn prefixes(&mut self, dim: usize) -> Vec<Prefix> {
        let count = 1 + self.below(MOST_PREFIXES.min(dim));
        let mut dims: Vec<usize> = (1..=dim).collect();
        while dims.len() > count {
            dims.remove(self.below(dims.len()));
        }
        let prefix = |dim| Prefix { dim, weight: self.one(&[1.0, 0.25, 3.0]) };
        dims.into_iter().map(prefix).collect()
    }
}

fn close(what: &str, given: &[f64], right: &[f64], unit: f64, pull: f64) {
    assert_eq!(given.len(), right.len(), "{what}");
    let size = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let apart: Vec<f64> = given.iter().zip(right).map(|(a, b)| a - b).collect();
    let error = size(&apart) / size(right).max(pull).max(1e-290);
    assert!(error <= unit, "{what}: apart by {error:e}, which is above {unit:e}");
}

/// The engine's numbers in T are those of the oracle.
/// `pull` is what the terms of a gradient may add up to.
fn holds<T: Element>(
    what: &str,
    loss: &ContrastiveLoss,
    batch: &Batch<'_, T>,
    unit: f64,
    pull: f64,
) {
    let right: Dense = dense(loss, batch);
    let given = loss.value_and_gradient(*batch).unwrap();
    let scale = 1.0 + loss.temperature().scale();
    let largest = right.rows.iter().fold(1.0f64, |x, y| x.max(y.abs()));
    close(&format!("mean, {what}"), &[given.mean], &[right.mean], unit, largest);
    close(&format!("rows, {what}"), &given.rows, &right.rows, unit, largest);
    close(
        &format!("value alone, {what}"),
        &[loss.value(*batch).unwrap().mean],
        &[given.mean],
        0.0,
        1.0,
    );
    let all = right.rows.len() as f64 * largest * scale;
    close(&format!("log scale, {what}"), &[given.log_scale], &[right.log_scale], unit, all);
    let wide = |x: Vec<T::Real>| x.into_iter().map(Real::f64).collect::<Vec<_>>();
    for (part, given, right) in [
        ("queries", wide(given.queries), &right.queries),
        ("keys", wide(given.keys), &right.keys),
        ("negatives", wide(given.negatives), &right.negatives),
    ] {
        close(&format!("{part}, {what}"), &given, right, unit * scale, pull);
    }
}

fn narrow<T: Element>(x: &[f64]) -> Vec<T::Real> {
    x.iter().map(|&x| T::Real::from_f64(x)).collect()
}

/// Any number of prefixes, of any length, with any settings that go together.
#[test]
fn any_prefixes_equal_the_oracle() {
    for seed in 0..220 {
        let mut draw = Draw(ChaCha8Rng::seed_from_u64(seed));
        let (n, d) = (draw.one(&[1, 2, 5, 13, 33, 64, 97]), 1 + draw.below(70));
        let temperature = draw.one(&[0.02, 0.07, 0.3, 2.0, 10.0]);
        let loss = draw.one(&forms(temperature));
        let loss = loss.with_similarity(draw.one(&[Similarity::Cosine, Similarity::Dot]));
        let cold = loss.similarity() == Similarity::Dot && loss.temperature().get() < 0.3;
        let loss = if cold { loss.with_temperature(tau(0.5 * d as f64)) } else { loss };
        let loss = loss.with_reduction(draw.one(&[Reduction::Mean, Reduction::Sum]));
        let prefixes = draw.prefixes(d);
        let mut loss = loss.with_matryoshka(&prefixes).unwrap();
        let mut sample = Sample::random(&loss, seed, n, d);
        if draw.below(4) == 0 {
            loss = loss.with_margin(0.2).unwrap();
        }
        if draw.below(3) == 0 {
            sample.ids = Some((0..n as u64).map(|i| i % 7).collect());
        }
        if draw.below(3) == 0 {
            let rows = sample.batch().rows(loss.form());
            sample.weights = Some((0..rows).map(|i| (i % 3) as f64 + 0.5).collect());
        }
        if loss.form() == Form::OneWay && draw.below(2) == 0 {
            sample.per_query = draw.below(3) == 0;
            let rows = if sample.per_query { 2 * n } else { 1 + draw.below(40) };
            sample.negatives = normal(seed ^ 5, rows * d);
            if draw.below(4) == 0 {
                loss = loss.with_in_batch_negatives(false).unwrap();
            }
        }
        let what = format!("seed {seed}: {n}×{d}, {prefixes:?}, {loss:?}");
        // The shorter a prefix, the larger is what its cosine's gradient is made of.
        let shortest = prefixes.iter().flat_map(|prefix| {
            let rows = sample.queries.chunks(d).chain(sample.keys.iter().flat_map(|x| x.chunks(d)));
            rows.map(|row| row[..prefix.dim].iter().map(|x| x * x).sum::<f64>().sqrt())
        });
        let pull = shortest.fold(f64::INFINITY, f64::min).recip() / n as f64;
        holds(&what, &loss, &sample.batch(), 3e-12, pull);
        let executed = [1, 2, 3]
            .map(|threads| loss.with_threads(threads).value_and_gradient(sample.batch()).unwrap());
        assert!(
            executed.iter().all(|x| x.queries == executed[0].queries && x.keys == executed[0].keys)
        );
        let [queries, keys] =
            [&sample.queries, sample.keys.as_ref().unwrap()].map(|x| narrow::<f32>(x));
        let of = |x| Embeddings::new(x, d).unwrap();
        if sample.negatives.is_empty() {
            let mut batch = Batch::new(of(&queries), of(&keys));
            batch = sample.ids.as_ref().map_or(batch, |ids| batch.with_ids(ids));
            batch =
                sample.weights.as_ref().map_or(batch, |weights| batch.with_row_weights(weights));
            holds(&what, &loss, &batch, 2e-5, pull);
        }
    }
}

/// Exponentials that leave the range of one shift, and objectives that are no plain softmax, are computed
/// prefix by prefix.
#[test]
fn what_is_not_computed_at_once_is_right_as_well() {
    let (n, d) = (19, 12);
    let prefixes = [Prefix::new(3), Prefix { dim: 5, weight: 0.5 }, Prefix::new(12)];
    for loss in sample::every_loss(0.3) {
        let Ok(loss) = loss.with_matryoshka(&prefixes) else { continue };
        let sample = Sample::random(&loss, 3, n, d);
        holds(&format!("{loss:?}"), &loss, &sample.batch(), 1e-10, 1.0);
    }
    let cold = ContrastiveLoss::clip(tau(0.001)).with_matryoshka(&prefixes).unwrap();
    let sample = Sample::random(&cold, 3, n, d);
    holds("cold", &cold, &sample.batch(), 1e-10, 1.0);
    let [q, k] = [&sample.queries, sample.keys.as_ref().unwrap()].map(|x| narrow::<f32>(x));
    let [q, k] = [&q, &k].map(|x| Embeddings::new(x, d).unwrap());
    holds("cold, f32", &cold, &Batch::new(q, k), 1e-3, 1.0);
    let smoothed = ContrastiveLoss::info_nce(tau(0.2)).with_label_smoothing(0.1).unwrap();
    let smoothed = smoothed.with_matryoshka(&prefixes).unwrap();
    holds("smoothed", &smoothed, &sample.batch(), 1e-12, 1.0);
    let guided = Preset::SentenceTransformersGist.at(tau(0.2)).with_matryoshka(&prefixes).unwrap();
    let mut sample = sample;
    sample.guide = Some([normal(7, 2 * n), normal(8, 2 * n), Vec::new()]);
    holds("guided", &guided, &sample.batch(), 1e-11, 1.0);
}

/// Rows of all sizes, and rows whose first features are zeros or all but zeros.
#[test]
fn rows_that_begin_with_nothing() {
    let (n, d) = (40, 24);
    let (mut queries, mut keys) = (normal(1, n * d), normal(2, n * d));
    for (i, row) in queries.chunks_mut(d).chain(keys.chunks_mut(d)).enumerate() {
        match i % 5 {
            0 => row[..8].fill(0.0),
            1 => row[..8].iter_mut().for_each(|x| *x *= 1e-30),
            2 => row.iter_mut().for_each(|x| *x *= 1e18),
            3 => row[8..].iter_mut().for_each(|x| *x *= 1e-12),
            _ => {}
        }
    }
    let prefixes = [4, 8, 16, 24].map(Prefix::new);
    for loss in forms(0.2) {
        let loss = loss.with_matryoshka(&prefixes).unwrap();
        let of = |x| Embeddings::new(x, d).unwrap();
        let given = loss.value_and_gradient((of(&queries), of(&keys))).unwrap();
        let right = dense(&loss, &Batch::new(of(&queries), of(&keys)));
        close("mean", &[given.mean], &[right.mean], 1e-12, 1.0);
        // Row by row: their gradients are as far apart as the rows' lengths.
        for (given, right) in [(&given.queries, &right.queries), (&given.keys, &right.keys)] {
            for (given, right) in given.chunks(d).zip(right.chunks(d)) {
                close("a row's gradient", given, right, 1e-9, 0.0);
            }
        }
        let narrowed = [narrow::<f32>(&queries), narrow::<f32>(&keys)];
        let [q, k] = narrowed.each_ref().map(|x| Embeddings::new(x, d).unwrap());
        let in_f32 = loss.value((q, k)).unwrap();
        close("mean in f32", &[in_f32.mean], &[right.mean], 1e-5, 1.0);
    }
}

#[test]
fn one_prefix_of_all_features_is_the_loss_itself() {
    let (n, d) = (50, 20);
    let (queries, keys) = (normal(1, n * d), normal(2, n * d));
    let of = |x| Embeddings::new(x, d).unwrap();
    for loss in forms(0.1) {
        let plain = loss.value_and_gradient((of(&queries), of(&keys))).unwrap();
        let one = loss.with_matryoshka(&[Prefix::new(d)]).unwrap();
        let one = one.value_and_gradient((of(&queries), of(&keys))).unwrap();
        close("mean", &[one.mean], &[plain.mean], 1e-13, 1.0);
        close("queries", &one.queries, &plain.queries, 1e-11, 1e-3);
        assert_eq!(loss.with_matryoshka(&[]).unwrap(), loss);
        let twice =
            loss.with_matryoshka(&[Prefix::new(3), Prefix { dim: d, weight: 2.0 }]).unwrap();
        assert_eq!(twice.floor(n).unwrap(), 3.0 * loss.floor(n).unwrap());
        assert!((twice.ceiling(n) - 3.0 * loss.ceiling(n)).abs() < 1e-12);
    }
}

#[test]
fn what_is_no_list_of_prefixes_is_refused() {
    let loss = ContrastiveLoss::info_nce(tau(0.1));
    let says = |prefixes: &[Prefix]| loss.with_matryoshka(prefixes).unwrap_err().to_string();
    assert!(says(&[Prefix::new(4), Prefix::new(4)]).contains("same dimension"));
    assert!(says(&[Prefix::new(0)]).contains("dimension"));
    assert!(
        says(&[1, 2, 3, 4, 5, 6, 7, 8, 9].map(Prefix::new)).contains("number of prefixes is 9")
    );
    for weight in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(says(&[Prefix { dim: 2, weight }]).contains("the weight of a prefix"));
    }
    let x = normal(1, 12);
    let x = Embeddings::new(&x, 4).unwrap();
    let long = loss.with_matryoshka(&[Prefix::new(5)]).unwrap();
    let said = long.value((x, x)).unwrap_err().to_string();
    assert!(said.contains("the longest prefix is 5") && said.contains("between 1 and 4"), "{said}");
}

/// Panels that are full, and blocks, strips and chunks of all sizes; any instructions.
#[test]
fn larger_batches_equal_the_oracle() {
    for (n, d, seed) in [(160, 100, 1), (300, 33, 2), (129, 264, 3), (700, 17, 4)] {
        let prefixes = [d / 16, d / 7, d / 3, d - 1, d].map(|dim| Prefix::new(dim.max(1)));
        for loss in forms(0.1) {
            let Ok(loss) = loss.with_matryoshka(&prefixes) else { continue };
            let sample = Sample::random(&loss, seed, n, d);
            let right = sample.dense(&loss);
            for instructions in Instructions::available() {
                let loss = loss.with_instructions(instructions).with_threads(2);
                let given = loss.value_and_gradient(sample.batch()).unwrap();
                close("mean", &[given.mean], &[right.mean], 1e-12, 1.0);
                close("queries", &given.queries, &right.queries, 1e-10, 1e-3);
                close("keys", &given.keys, &right.keys, 1e-10, 1e-3);
            }
        }
    }
}
