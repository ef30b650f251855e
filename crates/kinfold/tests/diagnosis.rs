//! Verdicts on made cases: each has to be told by its first finding, and what is healthy by none.

use kinfold::diagnosis::{Diagnosis, Kind, Options, Severity, diagnose};
use kinfold::{ContrastiveLoss, Embeddings, Preset};

mod common;
use common::{normal, tau};

/// Pairs in f32, as they come from an encoder.
#[derive(Clone)]
struct Pairs {
    queries: Vec<f32>,
    keys: Vec<f32>,
    dim: usize,
}

fn unit(rows: &[f64], dim: usize) -> Vec<f64> {
    let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
    rows.chunks(dim).flat_map(|row| row.iter().map(move |x| x / length(row))).collect()
}

fn plus(a: &[f64], b: &[f64], factor: f64) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

impl Pairs {
    fn new(queries: &[f64], keys: &[f64], dim: usize) -> Self {
        let single = |x: &[f64]| x.iter().map(|&x| x as f32).collect();
        Self { queries: single(queries), keys: single(keys), dim }
    }

    fn diagnosed(&self, temperature: f64) -> Diagnosis {
        let queries = Embeddings::new(&self.queries, self.dim).unwrap();
        let keys = Embeddings::new(&self.keys, self.dim).unwrap();
        diagnose(queries, keys, &Options::new(tau(temperature))).unwrap()
    }

    fn first(&self, temperature: f64) -> Option<Kind> {
        self.diagnosed(temperature).findings.first().map(|finding| finding.kind)
    }
}

const NOISE: f64 = 0.3;

/// Directions spread evenly, each query with a key near it.
fn healthy(n: usize, d: usize, seed: u64) -> Pairs {
    let [a, b] = even(n, d, seed);
    Pairs::new(&a, &b, d)
}

fn even(n: usize, d: usize, seed: u64) -> [Vec<f64>; 2] {
    let middle = unit(&normal(seed, n * d), d);
    let view = |seed| unit(&plus(&middle, &unit(&normal(seed, n * d), d), NOISE), d);
    [view(seed + 1000), view(seed + 2000)]
}

/// A cluster for each of `classes`, and pairs within them.
fn clustered(n: usize, d: usize, classes: usize, seed: u64) -> Pairs {
    let centres = unit(&normal(seed + 1, classes * d), d);
    let centre = |i: usize| centres[i % classes * d..][..d].iter().copied();
    let centres: Vec<f64> = (0..n).flat_map(centre).collect();
    let middle = unit(&plus(&centres, &unit(&normal(seed + 2, n * d), d), 0.8), d);
    let view = |seed| unit(&plus(&middle, &unit(&normal(seed, n * d), d), 0.25), d);
    Pairs::new(&view(seed + 3), &view(seed + 4), d)
}

fn around(point: &[f64], n: usize, spread: f64, seed: u64) -> Vec<f64> {
    let d = point.len();
    let points: Vec<f64> = (0..n).flat_map(|_| point.iter().copied()).collect();
    plus(&points, &unit(&normal(seed, n * d), d), spread)
}

fn shifted(x: &[f32], dim: usize, by: usize) -> Vec<f32> {
    let (first, rest) = x.split_at(by * dim);
    [rest, first].concat()
}

/// Every shape and seed that cases are made at.
fn cases() -> impl Iterator<Item = (usize, usize, u64)> {
    let shapes = [(64, 16), (64, 128), (200, 257), (300, 40)];
    shapes.into_iter().flat_map(|(n, d)| (0..2).map(move |seed| (n, d, seed))).chain([(800, 64, 2)])
}

/// Every case's first finding is `expected`.
fn each(expected: Option<Kind>, made: impl Fn(usize, usize, u64) -> (Pairs, f64)) {
    for (n, d, seed) in cases() {
        let (pairs, temperature) = made(n, d, seed);
        let diagnosis = pairs.diagnosed(temperature);
        let first = diagnosis.findings.first().map(|finding| finding.kind);
        assert_eq!(first, expected, "n = {n}, d = {d}, seed {seed}: {diagnosis:#?}");
    }
}

#[test]
fn healthy_embeddings_have_nothing_wrong() {
    each(None, |n, d, seed| (healthy(n, d, seed), 0.1));
    each(None, |n, d, seed| (clustered(n, d, 32, seed), 0.1));
}

#[test]
fn untrained_embeddings_are_told() {
    each(Some(Kind::Untrained), |n, d, seed| {
        (Pairs::new(&normal(seed, n * d), &normal(seed + 99, n * d), d), 0.1)
    });
    // Two encoders, each with an offset of its own, as networks have before training.
    each(Some(Kind::Untrained), |n, d, seed| {
        let offset = |seed| around(&unit(&normal(seed, d), d), n, 0.7, seed + 7);
        (Pairs::new(&offset(seed + 5), &offset(seed + 500), d), 0.1)
    });
}

#[test]
fn an_untrained_encoder_of_related_things_is_a_cone() {
    each(Some(Kind::Cone), |n, d, seed| {
        let [a, b] = even(n, d, seed);
        let offset = around(&unit(&normal(seed + 3, d), d), n, 0.0, 0);
        (Pairs::new(&plus(&offset, &a, 0.5), &plus(&offset, &b, 0.5), d), 0.1)
    });
}

#[test]
fn a_collapse_to_a_point_is_told() {
    for spread in [0.0, 1e-6, 0.05] {
        each(Some(Kind::CollapsedToPoint), |n, d, seed| {
            let point = unit(&normal(seed, d), d);
            let side = |seed| around(&point, n, spread, seed);
            (Pairs::new(&side(seed + 1), &side(seed + 2), d), 0.1)
        });
    }
}

#[test]
fn a_collapse_to_two_clusters_is_told() {
    for opposite in [false, true] {
        each(Some(Kind::CollapsedToTwoClusters), |n, d, seed| {
            let points = unit(&normal(seed, 2 * d), d);
            let second: Vec<f64> = match opposite {
                true => points[..d].iter().map(|x| -x).collect(),
                false => points[d..].to_vec(),
            };
            let side = |seed| {
                let m = n / 3;
                [around(&points[..d], m, 0.05, seed), around(&second, n - m, 0.05, seed + 1)]
                    .concat()
            };
            (Pairs::new(&side(seed + 10), &side(seed + 20), d), 0.1)
        });
    }
}

#[test]
fn a_temperature_too_high_is_told() {
    for temperature in [1.0, 10.0] {
        each(Some(Kind::TemperatureTooHigh), |n, d, seed| (healthy(n, d, seed), temperature));
    }
    let severity = |temperature| healthy(300, 40, 1).diagnosed(temperature).findings[0].severity;
    assert_eq!((severity(1.0), severity(0.5)), (Severity::Warning, Severity::Note));
}

#[test]
fn a_temperature_too_low_is_told() {
    for temperature in [0.01, 0.003] {
        each(Some(Kind::TemperatureTooLow), |n, d, seed| (healthy(n, d, seed), temperature));
    }
    // Where queries do not find their keys, the loss is the worse for it.
    each(Some(Kind::TemperatureTooLow), |n, d, seed| {
        let middle = unit(&normal(seed, n * d), d);
        let noise = |seed| unit(&plus(&middle, &unit(&normal(seed, n * d), d), 1.0), d);
        (Pairs::new(&noise(seed + 1), &noise(seed + 2), d), 0.005)
    });
}

#[test]
fn the_suggested_temperature_is_a_cure() {
    for (n, d, seed) in cases() {
        for temperature in [0.003, 1.0] {
            let pairs = healthy(n, d, seed);
            let suggested = pairs.diagnosed(temperature).suggestion.temperature;
            assert_eq!(pairs.first(suggested), None, "n = {n}, d = {d}: {suggested}");
        }
    }
}

/// Every third row a copy of the one before.
fn copied(pairs: &Pairs) -> Pairs {
    let Pairs { dim, .. } = *pairs;
    let copy = |x: &[f32]| {
        let mut x = x.to_vec();
        for i in (1..x.len() / dim).step_by(3) {
            x.copy_within((i - 1) * dim..i * dim, i * dim);
        }
        x
    };
    Pairs { queries: copy(&pairs.queries), keys: copy(&pairs.keys), dim }
}

#[test]
fn duplicates_are_told_and_their_floor() {
    each(Some(Kind::Duplicates), |n, d, seed| (copied(&healthy(n, d, seed)), 0.1));
    let copies = copied(&healthy(300, 32, 1)).diagnosed(0.1).duplicates;
    // Two of every three rows are one of two.
    let expected = 2.0 / 3.0;
    assert!((copies.keys - expected).abs() < 1e-12 && (copies.queries - expected).abs() < 1e-12);
    assert!((copies.floor - expected * 2f64.ln()).abs() < 1e-12);
    assert!((copies.near_floor - copies.floor).abs() < 1e-12 && copies.near == 0.0);
    // A loss that everything else is done for is at that floor.
    let identical = healthy(300, 300, 1);
    let keys = identical.keys.clone();
    let identical = copied(&Pairs { queries: keys, ..identical }).diagnosed(0.02);
    assert!((identical.loss.value - identical.duplicates.floor).abs() < 1e-6);
}

#[test]
fn near_duplicates_are_told() {
    each(Some(Kind::NearDuplicates), |n, d, seed| {
        let mut pairs = copied(&healthy(n, d, seed));
        let noise = normal(seed + 5, n * d);
        for x in [&mut pairs.queries, &mut pairs.keys] {
            x.iter_mut().zip(&noise).for_each(|(x, noise)| *x += 1e-4 * *noise as f32);
        }
        (pairs, 0.1)
    });
}

#[test]
fn shuffled_pairs_are_told() {
    let shuffled = |pairs: Pairs, by| Pairs { keys: shifted(&pairs.keys, pairs.dim, by), ..pairs };
    each(Some(Kind::ShuffledPairs), |n, d, seed| (shuffled(healthy(n, d, seed), 1), 0.1));
    each(Some(Kind::ShuffledPairs), |n, d, seed| (shuffled(clustered(n, d, 10, seed), 3), 0.1));
}

#[test]
fn some_mismatched_pairs_are_told_and_how_many() {
    each(Some(Kind::MismatchedPairs), |n, d, seed| {
        let Pairs { queries, mut keys, dim } = healthy(n, d, seed);
        let m = n / 3;
        let wrong = shifted(&keys[..m * dim], dim, 1);
        keys[..m * dim].copy_from_slice(&wrong);
        let pairs = Pairs { queries, keys, dim };
        let told = pairs.diagnosed(0.1).retrieval.mismatched;
        assert!((told - 1.0 / 3.0).abs() < 0.2, "{told}");
        (pairs, 0.1)
    });
}

#[test]
fn a_modality_gap_is_told() {
    for size in [1.0, 2.0] {
        each(Some(Kind::ModalityGap), |n, d, seed| {
            let [a, b] = even(n, d, seed);
            let offset = around(&unit(&normal(seed + 3, d), d), n, 0.0, 0);
            (Pairs::new(&a, &plus(&b, &offset, size), d), 0.1)
        });
    }
}

#[test]
fn hubs_few_dimensions_same_sides_and_zeros_are_told() {
    // A tenth of the dimensions, and less, hold everything.
    let thin = |n: usize, d: usize| {
        let Pairs { queries, keys, dim } = healthy(n, 8, 4);
        let wide = |x: &[f32]| -> Vec<f32> {
            x.chunks(dim)
                .flat_map(|row| (0..d).map(|i| row.get(i).copied().unwrap_or(0.0)))
                .collect()
        };
        Pairs { queries: wide(&queries), keys: wide(&keys), dim: d }
    };
    assert_eq!(thin(500, 256).first(0.12), Some(Kind::FewDimensions));
    let same = healthy(200, 32, 5);
    let same = Pairs { keys: same.queries.clone(), ..same };
    assert_eq!(same.first(0.1), Some(Kind::SameOnBothSides));
    // One key in the middle of a cap of queries is nearer to them than their own are.
    let mut hubs = healthy(400, 64, 6);
    let hub = unit(&normal(77, 64), 64);
    for i in 0..200 {
        for (l, hub) in hub.iter().enumerate() {
            hubs.queries[i * 64 + l] += *hub as f32;
            if i == 0 {
                hubs.keys[l] = *hub as f32;
            }
        }
    }
    let found = hubs.diagnosed(0.12).findings;
    assert!(found.iter().any(|finding| finding.kind == Kind::Hubs), "{found:?}");
    let mut zeros = healthy(200, 32, 5);
    zeros.keys[..64].fill(0.0);
    let diagnosis = zeros.diagnosed(0.1);
    assert_eq!(diagnosis.duplicates.zero_rows, 2);
    assert_eq!(diagnosis.findings[0].kind, Kind::ZeroRows);
}

#[test]
fn labels_tell_false_negatives() {
    let (n, d, classes) = (400, 64, 8);
    let pairs = clustered(n, d, classes, 3);
    let labels: Vec<u64> = (0..n).map(|i| (i % classes) as u64).collect();
    let queries = Embeddings::new(&pairs.queries, d).unwrap();
    let keys = Embeddings::new(&pairs.keys, d).unwrap();
    let options = Options::new(tau(0.1)).with_labels(&labels);
    let diagnosis = diagnose(queries, keys, &options).unwrap();
    let same = diagnosis.false_negatives.unwrap();
    assert_eq!((same.labels, same.per_row), (classes, 49.0));
    assert!((same.share - 49.0 / 399.0).abs() < 1e-12);
    assert!((same.floor - 50f64.ln()).abs() < 1e-12);
    // The push, by the definition.
    let [q, k] = [queries, keys].map(|x| unit(&x.to_f64(), d));
    let push = |i: usize, same: bool| -> f64 {
        let others = (0..n).filter(|&j| j != i && (labels[i] == labels[j] || !same));
        let dot = |j: usize| (0..d).map(|l| q[i * d + l] * k[j * d + l]).sum::<f64>();
        others.map(|j| (dot(j) / 0.1).exp()).sum()
    };
    let expected = (0..n).map(|i| push(i, true) / push(i, false)).sum::<f64>() / n as f64;
    assert!((same.push - expected).abs() < 1e-5, "{} {expected}", same.push);
    let found = diagnosis.findings.iter().find(|f| f.kind == Kind::FalseNegatives).unwrap();
    assert_eq!(found.severity, Severity::Note);
}

#[test]
fn the_numbers_are_the_definitions() {
    for (n, d, t) in [(2, 1, 0.5), (2, 3, 0.1), (37, 5, 0.07), (150, 40, 0.3)] {
        let pairs = healthy(n, d, 9);
        let diagnosis = pairs.diagnosed(t);
        let [q, k] = [&pairs.queries, &pairs.keys].map(|x| Embeddings::new(x, d).unwrap());
        let loss = ContrastiveLoss::info_nce(tau(t));
        assert_eq!(diagnosis.loss.value, loss.value((q, k)).unwrap().mean);
        assert_eq!(diagnosis.loss.keys_to_queries, loss.value((k, q)).unwrap().mean);
        assert_eq!(diagnosis.loss.floor, loss.floor(n).unwrap());
        for under in &diagnosis.presets {
            let preset: Preset = under.name.parse().unwrap();
            let same = preset.loss().with_similarity(kinfold::Similarity::Cosine);
            assert_eq!(under.loss, same.value((q, k)).unwrap().mean, "{}", under.name);
        }
        assert_eq!(diagnosis.presets.len(), 13);

        let [q, k] = [q, k].map(|x| unit(&x.to_f64(), d));
        let cosine = |i: usize, j: usize| (0..d).map(|l| q[i * d + l] * k[j * d + l]).sum::<f64>();
        let mean = |of: &dyn Fn(usize) -> f64| (0..n).map(of).sum::<f64>() / n as f64;
        let others = |i: usize| (0..n).filter(move |&j| j != i);
        let near = |what: &str, a: f64, b: f64| {
            assert!((a - b).abs() < 2e-5 * (1.0 + b.abs()), "{what} of {n}, {d}, {t}: {a} {b}");
        };
        let similar = &diagnosis.similarities;
        near("pairs", similar.pairs.mean, mean(&|i| cosine(i, i)));
        let of_others = |of: &dyn Fn(f64) -> f64| {
            mean(&|i| others(i).map(|j| of(cosine(i, j))).sum::<f64>() / (n - 1) as f64)
        };
        let middle = of_others(&|x| x);
        near("non-pairs", similar.non_pairs.mean, middle);
        near("spread", similar.non_pairs.spread.powi(2), of_others(&|x| (x - middle).powi(2)));
        let nearest = |i| others(i).map(|j| cosine(i, j)).fold(-1.0, f64::max);
        near("nearest", similar.nearest, mean(&nearest));
        assert_eq!(similar.pairs.histogram.iter().sum::<u64>(), n as u64);
        assert_eq!(similar.non_pairs.histogram.iter().sum::<u64>(), (n * (n - 1)) as u64);

        let weight = |i: usize, j: usize| ((cosine(i, j) - cosine(i, i)) / t).exp();
        let sum = |i: usize, power| others(i).map(|j| weight(i, j).powi(power)).sum::<f64>();
        let probability = |i: usize| 1.0 / (1.0 + sum(i, 1));
        near("probability", diagnosis.choice.probability, mean(&probability));
        let mut effective: Vec<f64> = (0..n).map(|i| sum(i, 1).powi(2) / sum(i, 2)).collect();
        effective.sort_by(f64::total_cmp);
        near("effective", diagnosis.choice.effective_negatives, effective[n / 2]);
        let hardest = |i: usize| {
            let mut weights: Vec<f64> = others(i).map(|j| weight(i, j)).collect();
            weights.sort_by(|a, b| b.total_cmp(a));
            weights[..(n - 1).div_ceil(100)].iter().sum::<f64>() / sum(i, 1)
        };
        near("hardest", diagnosis.choice.hardest_share, mean(&hardest));
        let at = diagnosis.sweep.iter().find(|at| at.temperature == t).unwrap();
        near("pull", at.pull, mean(&|i| (1.0 - probability(i)) / t));
        let gradient = |i: usize| {
            let p = |j: usize| weight(i, j) * probability(i);
            let along = |l: usize| {
                let pushed: f64 = others(i).map(|j| p(j) * k[j * d + l]).sum();
                (pushed - (1.0 - probability(i)) * k[i * d + l]) / t
            };
            let g: Vec<f64> = (0..d).map(along).collect();
            let out: f64 = g.iter().zip(&q[i * d..]).map(|(g, q)| g * q).sum();
            g.iter().zip(&q[i * d..]).map(|(g, q)| (g - out * q).powi(2)).sum::<f64>().sqrt()
        };
        near("gradient", diagnosis.loss.gradient, mean(&gradient));
    }
}

#[test]
fn a_sample_stands_for_all() {
    let pairs = healthy(3000, 24, 2);
    let all = pairs.diagnosed(0.1);
    let queries = Embeddings::new(&pairs.queries, 24).unwrap();
    let keys = Embeddings::new(&pairs.keys, 24).unwrap();
    let options = Options::new(tau(0.1)).with_sample(500);
    let some = diagnose(queries, keys, &options).unwrap();
    assert_eq!((some.sample.rows, all.sample.rows), (500, 3000));
    // The sampled rows choose among all, so these are the same quantities.
    let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.15, "{a} {b}");
    near(some.loss.value, all.loss.value);
    near(some.choice.effective_negatives, all.choice.effective_negatives);
    near(some.similarities.nearest, all.similarities.nearest);
    near(some.retrieval.queries_to_keys.recall_at_1, all.retrieval.queries_to_keys.recall_at_1);
    assert_eq!(some.geometry.alignment, all.geometry.alignment.clone());
    assert_eq!(some.loss.floor, all.loss.floor);
    let other = diagnose(queries, keys, &options.with_seed(1)).unwrap();
    assert_ne!(some.loss.value, other.loss.value);
}

#[test]
fn threads_do_not_matter() {
    let pairs = clustered(700, 33, 5, 1);
    let labels: Vec<u64> = (0..700).map(|i| i % 5).collect();
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let queries = Embeddings::new(&pairs.queries, 33).unwrap();
        let keys = Embeddings::new(&pairs.keys, 33).unwrap();
        let options = Options::new(tau(0.1)).with_labels(&labels).with_sample(300);
        pool.install(|| format!("{:?}", diagnose(queries, keys, &options).unwrap()))
    };
    let one = run(1);
    assert!(!one.contains("NaN"), "{one}");
    assert_eq!(one, run(2));
    assert_eq!(one, run(5));
}

#[test]
fn every_number_is_finite_however_odd_the_input() {
    let odd: [(&str, Vec<f32>, usize); 6] = [
        ("zeros", vec![0.0; 40], 4),
        ("one dimension", vec![1.0, -1.0, 2.0, -3.0, 5.0, 1.0], 1),
        ("two rows", vec![1.0, 2.0, 3.0, 1.0], 2),
        ("large", vec![1e38, -1e38, 3e38, 1e37, 1.0, 2.0], 2),
        ("small", vec![1e-40, 2e-40, 3e-40, -1e-40, 1e-38, 0.0], 2),
        ("equal", vec![1.0; 60], 3),
    ];
    for (name, x, dim) in odd {
        let pairs = Pairs { queries: x.clone(), keys: x, dim };
        for temperature in [1e-6, 1e-3, 0.1, 1.0, 1e6] {
            let diagnosis = pairs.diagnosed(temperature);
            let zeros = name == "zeros";
            assert_eq!(diagnosis.findings.first().is_some_and(|f| f.kind == Kind::ZeroRows), zeros);
            let said = format!("{diagnosis:?}");
            assert!(
                !said.contains("NaN") && !said.contains(": inf"),
                "{name}, {temperature}: {said}"
            );
        }
    }
}

#[test]
fn what_cannot_be_diagnosed_is_said() {
    let x = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0];
    let said = |a: &[f32], b: &[f32], dims: (usize, usize), options: &Options<'_>| {
        let (a, b) = (Embeddings::new(a, dims.0).unwrap(), Embeddings::new(b, dims.1).unwrap());
        diagnose(a, b, options).unwrap_err().to_string()
    };
    let plain = Options::new(tau(0.1));
    assert_eq!(said(&x, &x[..4], (2, 2), &plain), "keys have 2 rows but queries have 3");
    assert_eq!(
        said(&x, &x, (2, 3), &plain),
        "keys have 2 rows but queries have 3",
        "rows are told before dimensions"
    );
    assert_eq!(
        said(&x[..4], &x, (2, 3), &plain),
        "queries have dimension 2 but keys have dimension 3"
    );
    assert_eq!(
        said(&x[..2], &x[..2], (2, 2), &plain),
        "queries have 1 row, but at least 2 are needed"
    );
    let mut hole = x;
    hole[3] = f32::NAN;
    assert_eq!(
        said(&x, &hole, (2, 2), &plain),
        "keys hold NaN at row 1, column 1; every number must be finite"
    );
    assert_eq!(
        said(&x, &x, (2, 2), &plain.with_labels(&[1, 2])),
        "labels have 2 rows but queries have 3"
    );
    assert!(said(&x, &x, (2, 2), &plain.with_sample(1)).contains("the sample is 1"));
}

#[test]
fn each_number_has_a_sentence() {
    let diagnosis = copied(&healthy(200, 16, 1)).diagnosed(0.1);
    for section in diagnosis.sections() {
        for line in &section.lines {
            assert!(line.meaning.ends_with('.') && !line.value.is_empty(), "{line:?}");
        }
    }
    assert_eq!(diagnosis.verdict(), "1 warning:");
    let healthy = healthy(200, 16, 1).diagnosed(0.1);
    assert_eq!(healthy.verdict(), "Nothing is wrong that could be seen from the embeddings.");
}

/// Sorted by class, as files are; pairs are told apart within their class.
fn sorted(n: usize, d: usize, seed: u64) -> Pairs {
    let classes = n / 20;
    let Pairs { queries, keys, .. } = clustered(n, d, classes, seed);
    let order = (0..classes).flat_map(|class| (class..n).step_by(classes));
    let order: Vec<usize> = order.collect();
    let by = |x: Vec<f32>| order.iter().flat_map(|&i| x[i * d..][..d].to_vec()).collect();
    Pairs { queries: by(queries), keys: by(keys), dim: d }
}

fn reordered(pairs: &Pairs, order: impl Iterator<Item = usize>) -> Pairs {
    let keys = order.flat_map(|i| pairs.keys[i * pairs.dim..][..pairs.dim].to_vec()).collect();
    Pairs { keys, ..pairs.clone() }
}

#[test]
fn pairs_that_lie_elsewhere_are_found_there() {
    let (n, d) = (400, 40);
    let pairs = sorted(n, d, 3);
    assert_eq!(pairs.first(0.1), None);
    let labels: Vec<u64> = (0..n as u64).map(|i| i / 20).collect();
    let told = |pairs: &Pairs, labels: Option<&[u64]>| {
        let queries = Embeddings::new(&pairs.queries, d).unwrap();
        let keys = Embeddings::new(&pairs.keys, d).unwrap();
        let mut options = Options::new(tau(0.1));
        if let Some(labels) = labels {
            options = options.with_labels(labels);
        }
        let finding = diagnose(queries, keys, &options).unwrap().findings.remove(0);
        assert_eq!((finding.kind, finding.severity), (Kind::ShuffledPairs, Severity::Problem));
        finding.what + &finding.change
    };
    for by in [1, 7] {
        let shifted = reordered(&pairs, (0..n).map(|i| (i + n - by) % n));
        assert!(told(&shifted, None).contains(&format!("at row i + {by}")));
        let shifted = reordered(&pairs, (0..n).map(|i| (i + by) % n));
        assert!(told(&shifted, None).contains(&format!("at row i − {by}")));
    }
    assert!(told(&reordered(&pairs, (0..n).rev()), None).contains("n − 1 − i"));
    // A permutation of each class of 20.
    let within = reordered(&pairs, (0..n).map(|i| i / 20 * 20 + (i * 7 + 3) % 20));
    assert!(told(&within, Some(&labels)).contains("the query's label"));
    assert!(told(&within, None).contains("closer than any other"));
    // The sample does not matter.
    let shifted = reordered(&pairs, (0..n).map(|i| (i + n - 1) % n));
    let queries = Embeddings::new(&shifted.queries, d).unwrap();
    let keys = Embeddings::new(&shifted.keys, d).unwrap();
    let sampled = diagnose(queries, keys, &Options::new(tau(0.1)).with_sample(150)).unwrap();
    assert_eq!(sampled.retrieval.elsewhere.unwrap().offset, 1);
}

#[test]
fn files_that_do_not_fit_each_other_are_told() {
    let pairs = healthy(300, 40, 1);
    let negated = Pairs { keys: pairs.keys.iter().map(|x| -x).collect(), ..pairs.clone() };
    assert_eq!(negated.first(0.1), Some(Kind::NegatedKeys));
    // Keys in axes of their own: reflected again and again.
    let mut turned = clustered(300, 40, 60, 2);
    for seed in 0..200 {
        let axis = unit(&normal(seed, 40), 40);
        for row in turned.keys.chunks_mut(40) {
            let along: f64 = row.iter().zip(&axis).map(|(x, a)| f64::from(*x) * a).sum();
            row.iter_mut().zip(&axis).for_each(|(x, a)| *x -= (2.0 * along * a) as f32);
        }
    }
    assert_eq!(turned.first(0.1), Some(Kind::UnrelatedSpaces));
    // Both ways in one file: every query is a key of its partner's row.
    let both = Pairs {
        queries: [&pairs.queries[..], &pairs.keys].concat(),
        keys: [&pairs.keys[..], &pairs.queries].concat(),
        dim: 40,
    };
    assert_eq!(both.first(0.1), Some(Kind::QueriesAmongKeys));
    let mut loud = pairs.clone();
    for x in [&mut loud.queries, &mut loud.keys] {
        x.chunks_mut(40).for_each(|row| row[7] *= 1000.0);
    }
    let diagnosis = loud.diagnosed(0.1);
    assert_eq!(diagnosis.findings[0].kind, Kind::OneDimension);
    assert_eq!(diagnosis.geometry.keys.largest_dimension.number, 7);
    for n in [2, 6, 20] {
        let found = healthy(n, 16, 2).diagnosed(0.5).findings;
        assert!(found.iter().any(|finding| finding.kind == Kind::FewPairs), "{n}: {found:?}");
    }
}

#[test]
fn few_points_and_few_dimensions_are_no_duplicates() {
    // Eight points, and rows at them.
    let (n, d) = (320, 40);
    let points = unit(&normal(5, 8 * d), d);
    let at = |seed| {
        let side: Vec<f64> = (0..n).flat_map(|i| points[i % 8 * d..][..d].to_vec()).collect();
        plus(&side, &normal(seed, n * d), 1e-3)
    };
    let diagnosis = Pairs::new(&at(1), &at(2), d).diagnosed(0.1);
    assert_eq!(diagnosis.findings[0].kind, Kind::CollapsedToClusters);
    assert_eq!((diagnosis.findings.len(), diagnosis.duplicates.points.count.round()), (1, 8.0));
    // A circle: every row has a neighbour at a cosine of 0.999.
    let angle = |i: usize| i as f64 * 2.399963;
    let side = |by: f64| -> Vec<f64> {
        (0..n).flat_map(|i| [(angle(i) + by).cos(), (angle(i) + by).sin()]).collect()
    };
    let circle = Pairs::new(&side(0.0), &side(0.001), 2).diagnosed(0.1);
    assert_eq!(circle.duplicates.near, 0.0);
    assert_eq!(circle.findings[0].kind, Kind::FewDimensions, "{:?}", circle.findings);
}

#[test]
fn a_cone_is_a_fault_where_it_costs() {
    let (n, d) = (300, 40);
    let [a, b] = even(n, d, 1);
    let offset = around(&unit(&normal(3, d), d), n, 0.0, 0);
    let cone = |x: &[f64]| plus(&offset, x, 0.5);
    let free = Pairs::new(&cone(&a), &cone(&b), d).diagnosed(0.1);
    let finding = &free.findings[0];
    assert_eq!((finding.kind, finding.severity), (Kind::Cone, Severity::Note), "{finding:?}");
    // Lengths along the offset that say nothing of the pair drown what does.
    let uneven = |x: &[f64], seed| {
        let lengths = normal(seed, n);
        let along: Vec<f64> =
            (0..n * d).map(|i| offset[i] * (1.0 + 0.3 * lengths[i / d])).collect();
        plus(&along, x, 0.25)
    };
    let costs = Pairs::new(&uneven(&a, 8), &uneven(&b, 9), d).diagnosed(0.1);
    let centring = costs.retrieval.centring.unwrap();
    assert!(centring.after.recall_at_1 > centring.before.recall_at_1, "{centring:?}");
}

#[test]
fn problems_come_first_and_nothing_contradicts_them() {
    for pairs in [healthy(200, 40, 1), clustered(300, 33, 10, 2), sorted(200, 16, 3)] {
        for temperature in [0.003, 0.01, 0.1, 1.0, 10.0] {
            for change in 0..5 {
                let mut pairs = pairs.clone();
                match change {
                    1 => pairs = copied(&pairs),
                    2 => pairs.keys = shifted(&pairs.keys, pairs.dim, 1),
                    3 => pairs.keys.iter_mut().for_each(|x| *x += 1.0),
                    4 => pairs.queries.iter_mut().chain(&mut pairs.keys).for_each(|x| *x += 0.5),
                    _ => {}
                }
                let diagnosis = pairs.diagnosed(temperature);
                let severities = diagnosis.findings.iter().map(|finding| finding.severity);
                assert!(severities.is_sorted_by(|a, b| a >= b), "{:?}", diagnosis.findings);
                let suggested = format!("about {},", diagnosis.suggestion.temperature);
                for finding in &diagnosis.findings {
                    let said = &finding.change;
                    assert!(!said.contains("lower the temp") && !said.contains("raise the temp"));
                    let of_temperature = format!("{:?}", finding.kind).starts_with("Temperature");
                    assert_eq!(
                        said.contains("about 0."),
                        of_temperature && said.contains(&suggested)
                    );
                }
            }
        }
    }
}

#[test]
fn the_training_says_what_went_wrong_in_it() {
    use kinfold::diagnosis::Training;
    let untrained = Pairs::new(&normal(1, 200 * 16), &normal(2, 200 * 16), 16);
    let weak = {
        let [a, b] = even(200, 16, 4);
        Pairs::new(&plus(&a, &normal(7, 200 * 16), 0.6), &plus(&b, &normal(8, 200 * 16), 0.6), 16)
    };
    let ceiling = 5.0;
    let told = |pairs: &Pairs, losses: &[f64], norms: &[f64]| {
        let training = Training {
            losses,
            gradient_norms: norms,
            ceiling,
            learning_rate: Some(10.0),
            optimizer: Some("adamw"),
            ..Training::default()
        };
        let queries = Embeddings::new(&pairs.queries, 16).unwrap();
        let keys = Embeddings::new(&pairs.keys, 16).unwrap();
        let options = Options::new(tau(0.1)).with_training(training);
        let finding = diagnose(queries, keys, &options).unwrap().findings.remove(0);
        (finding.kind, finding.change)
    };
    let falling: Vec<f64> = (0..100).map(|i| 5.0 - 0.01 * f64::from(i)).collect();
    let norms = |at: &dyn Fn(usize) -> f64| (0..100).map(at).collect::<Vec<f64>>();
    let steady = norms(&|_| 1.0);
    let (kind, change) = told(&weak, &falling, &steady);
    assert_eq!(kind, Kind::WeaklyTrained);
    assert!(change.contains("train longer"), "{change}");
    let (kind, change) = told(&untrained, &[5.0; 100], &steady);
    assert_eq!(kind, Kind::Untrained);
    assert!(change.contains("raise the learning rate (10 with adamw)"), "{change}");
    // A loss that was thrown above the ceiling and stays there, gradients that explode, vanish, or sink at
    // once, a loss that came back, and one that is no number.
    let mut thrown = [5.0; 100];
    thrown[2] = 9.0;
    let mut back = falling.clone();
    back[60..].fill(4.99);
    let mut broken = falling.clone();
    broken[99] = f64::NAN;
    for (losses, norms) in [
        (&thrown[..], &steady),
        (&[5.0; 100], &norms(&|i| if i == 5 { 100.0 } else { 1.0 })),
        (&[5.0; 100], &norms(&|i| if i < 50 { 1.0 } else { 1e-6 })),
        (&falling, &norms(&|i| if i == 0 { 4.0 } else { 0.006 })),
        (&back, &steady),
        (&broken, &steady),
    ] {
        let (kind, change) = told(&weak, losses, norms);
        assert_eq!(kind, Kind::Diverged, "{losses:?}");
        assert!(change.starts_with("Lower the learning rate (10 with adamw)"), "{change}");
    }
}
