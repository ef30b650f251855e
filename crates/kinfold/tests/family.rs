//! Every loss of the family, with every setting, on the engine: against the oracle, over shapes,
//! temperatures, types and threads.

use kinfold::loss::reference::{Dense, dense};
use kinfold::runtime::{Execution, Instructions};
use kinfold::{Batch, ContrastiveLoss, Embeddings, Objective, Similarity, ValueAndGradient};
use proptest::prelude::*;

mod common;
#[path = "common/sample.rs"]
mod sample;
use common::{Executed, normal};
use sample::{Sample, Setup, close, every_loss, has_labels, together, variations};

fn size(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// Differences of gradients beside their size, or beside `pull`, what their terms add up to.
fn apart(given: &[f64], right: &[f64], pull: f64) -> f64 {
    assert_eq!(given.len(), right.len());
    let difference: Vec<f64> = given.iter().zip(right).map(|(a, b)| a - b).collect();
    size(&difference) / size(right).max(pull).max(1e-290)
}

struct Given {
    sum: f64,
    rows: Vec<f64>,
    log_scale: f64,
    bias: f64,
    gradients: [Vec<f64>; 3],
}

impl Given {
    fn new<R: kinfold::Real>(out: ValueAndGradient<R>) -> Self {
        let wide = |x: Vec<R>| x.into_iter().map(|x| x.f64()).collect();
        let gradients = [out.queries, out.keys, out.negatives].map(wide);
        let ValueAndGradient { sum, rows, log_scale, bias, .. } = out;
        Self { sum, rows, log_scale, bias, gradients }
    }
}

/// `unit` is what rounding alone makes of a logit.
fn same(
    name: &str,
    loss: &ContrastiveLoss,
    given: &Given,
    right: &Dense,
    sample: &Sample,
    unit: f64,
) {
    let what = |part: &str| format!("{name}, {part} of {loss:?}");
    let scale = loss.temperature().scale();
    // A loss may be a difference of terms as large as the logits.
    let close = |part: &str, a: f64, b: f64, size: f64| {
        let error = (a - b).abs() / b.abs().max(size);
        assert!(error <= unit, "{}: {a:e}, not {b:e}: {error:e} > {unit:e}", what(part));
    };
    let n = right.rows.len() as f64;
    close("sum", given.sum, right.sum, n);
    assert_eq!(given.rows.len(), right.rows.len(), "{}", what("rows"));
    given.rows.iter().zip(&right.rows).for_each(|(&a, &b)| close("rows", a, b, 1.0));
    close("log scale", given.log_scale, right.log_scale, n.max(scale));
    close("bias", given.bias, right.bias, n);
    let sized = |x: &[f64]| {
        let short = x.chunks(sample.d).map(size).fold(f64::INFINITY, f64::min).max(1e-12);
        let long = x.chunks(sample.d).map(size).fold(1e-12, f64::max);
        match loss.similarity() {
            Similarity::Cosine => short.recip(),
            Similarity::Dot => long,
        }
    };
    let mut inputs = vec![&sample.queries, sample.keys.as_ref().unwrap_or(&sample.queries)];
    inputs.push(&sample.negatives);
    let longest = inputs.iter().filter(|x| !x.is_empty()).map(|x| sized(x)).fold(0.0, f64::max);
    // Weights are at most 1 in all; a sum of n rows has n of them.
    let of_rows = if loss.reduction() == kinfold::Reduction::Sum { n } else { 1.0 };
    let pull = scale * longest * of_rows / n;
    for (part, (a, b)) in ["queries", "keys", "negatives"].iter().zip(given.gradients.iter().zip([
        &right.queries,
        &right.keys,
        &right.negatives,
    ])) {
        let error = apart(a, b, pull);
        assert!(error <= unit, "{}: apart by {error:e} > {unit:e}\n{a:?}\n{b:?}", what(part));
    }
}

/// Rounded to f32 and back, so that both types see the same numbers.
fn rounded(sample: &Sample) -> Sample {
    let round = |x: &Vec<f64>| x.iter().map(|&x| f64::from(x as f32)).collect::<Vec<_>>();
    Sample {
        queries: round(&sample.queries),
        keys: sample.keys.as_ref().map(round),
        negatives: round(&sample.negatives),
        guide: sample.guide.as_ref().map(|guide| guide.each_ref().map(round)),
        ..sample.clone()
    }
}

/// The same batch in f32.
fn in_f32(sample: &Sample, loss: &ContrastiveLoss) -> Given {
    let narrow = |x: &[f64]| x.iter().map(|&x| x as f32).collect::<Vec<_>>();
    let queries = narrow(&sample.queries);
    let keys = sample.keys.as_deref().map(narrow);
    let negatives = narrow(&sample.negatives);
    let guide = sample.guide.as_ref().map(|guide| guide.each_ref().map(|x| narrow(x)));
    let of = |x| Embeddings::new(x, sample.d).unwrap();
    let mut batch = match (&keys, &sample.labels) {
        (Some(keys), None) => Batch::new(of(&queries), of(keys)),
        (Some(keys), Some(labels)) => Batch::new(of(&queries), of(keys)).with_labels(labels),
        (None, labels) => Batch::labelled(of(&queries), labels.as_ref().unwrap()),
    };
    if !negatives.is_empty() || sample.empty {
        batch = match sample.per_query {
            true => batch.with_negatives_per_query(of(&negatives)),
            false => batch.with_negatives(of(&negatives)),
        };
    }
    if let Some(ids) = &sample.ids {
        batch = batch.with_ids(ids);
    }
    if let Some(weights) = &sample.weights {
        batch = batch.with_row_weights(weights);
    }
    if let Some(guide) = &guide {
        let [a, b, c] = guide.each_ref().map(|x| Embeddings::new(x, 2).unwrap());
        batch = batch.with_guide(a, b, Some(c).filter(|x| sample.empty || x.rows() > 0));
    }
    Given::new(loss.value_and_gradient(batch).unwrap())
}

/// A setup like `small`, with more rows: what stands beside them is repeated.
fn grown(small: &Setup, n: usize, d: usize, seed: u64, near: f64) -> Setup {
    let mut setup = small.clone();
    let old = small.sample.n();
    let rows = |seed, count: usize, d: usize| normal(seed, count * d);
    let sample = &mut setup.sample;
    sample.d = d;
    sample.queries = rows(seed, n, d);
    let extra = small.sample.keys.as_ref().map_or(0, |keys| keys.len() / small.sample.d - old);
    let noise = rows(seed ^ 1, n + extra, d);
    // Key i + offset belongs to query i.
    sample.keys = small.sample.keys.as_ref().map(|_| {
        let own = |at: usize| {
            at.checked_sub(small.offset * d).and_then(|at| setup_query(&sample.queries, at))
        };
        noise.iter().enumerate().map(|(at, x)| own(at).map_or(*x, |q| q + near * x)).collect()
    });
    if !small.sample.negatives.is_empty() {
        let per_row = small.sample.negatives.len() / small.sample.d;
        let count = if sample.per_query { per_row / old * n } else { per_row };
        sample.negatives = rows(seed ^ 2, count, d);
    }
    let repeat = |x: &Vec<u64>, count: usize| {
        (0..count).map(|i| x[i % x.len()] + (i / (4 * x.len())) as u64 * 100).collect::<Vec<_>>()
    };
    let negatives = sample.negatives.len() / d;
    let with_negatives = small.sample.ids.as_ref().is_some_and(|ids| ids.len() > old + extra);
    sample.ids = small
        .sample
        .ids
        .as_ref()
        .map(|ids| repeat(ids, n + extra + if with_negatives { negatives } else { 0 }));
    sample.labels = small.sample.labels.as_ref().map(|labels| repeat(labels, n));
    sample.weights = small.sample.weights.as_ref().map(|weights| {
        let count = weights.len() / old * n;
        (0..count).map(|i| weights[i % weights.len()]).collect()
    });
    if let Some(guide) = &mut sample.guide {
        let of_negatives = guide[2].len() / 2;
        *guide = [rows(seed ^ 3, n, 2), rows(seed ^ 4, n, 2), rows(seed ^ 5, of_negatives, 2)];
    }
    setup
}

fn setup_query(queries: &[f64], at: usize) -> Option<f64> {
    queries.get(at).copied()
}

fn all_setups(t: f64) -> Vec<Setup> {
    every_loss(t).into_iter().flat_map(variations).collect()
}

#[test]
fn every_setting_equals_the_oracle() {
    for t in [0.4, 1.0] {
        for setup in all_setups(t) {
            let loss = setup.loss();
            let right = setup.sample.dense(&loss);
            for set in Instructions::available() {
                let loss = loss.with_instructions(set);
                let out = loss.value_and_gradient(setup.sample.batch()).unwrap();
                let value = loss.value(setup.sample.batch()).unwrap();
                assert_eq!(value.mean.to_bits(), out.mean.to_bits(), "{} of {loss:?}", setup.name);
                same(setup.name, &loss, &Given::new(out), &right, &setup.sample, 1e-12);
            }
        }
    }
}

/// Far below the temperatures at which one reference serves all rows, with and without room for
/// exponentials, and where cosines are replaced by large products.
#[test]
fn small_temperatures_equal_the_oracle() {
    for t in [1e-3, 0.012, 0.05] {
        for setup in all_setups(t) {
            let loss = setup.loss();
            let right = setup.sample.dense(&loss);
            let unit = 2e-13
                * (10.0 + 1.0 / t)
                * if loss.similarity() == Similarity::Dot { 20.0 } else { 1.0 };
            let out = loss.value_and_gradient(setup.sample.batch()).unwrap();
            same(setup.name, &loss, &Given::new(out), &right, &setup.sample, unit);
            let sample = rounded(&setup.sample);
            let right = sample.dense(&loss);
            let unit = 2e6 * unit;
            same(setup.name, &loss, &in_f32(&sample, &loss), &right, &sample, unit);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_equals_the_oracle(
        which in any::<prop::sample::Index>(), n in 2usize..230, d in 1usize..70,
        log_t in -3.0f64..1.0, near in 0.05f64..1.5, keep in any::<bool>(), threads in 1usize..9,
        seed in any::<u64>(),
    ) {
        let t = 10f64.powf(log_t);
        let setups = all_setups(t);
        let setup = grown(which.get(&setups), n, d, seed, near);
        let sample = rounded(&setup.sample);
        let budget = if keep { usize::MAX } else { 0 };
        let loss = setup.loss().with_memory_budget(budget).with_threads(threads);
        let right = sample.dense(&loss);
        if on_edge(&loss, &sample, &right) {
            return Ok(());
        }
        let largest = if loss.similarity() == Similarity::Dot { 40.0 * d as f64 } else { 1.0 } / t;
        let out = loss.value_and_gradient(sample.batch()).unwrap();
        same(setup.name, &loss, &Given::new(out), &right, &sample, 4e-13 * (10.0 + largest));
        // Among so many, some similarities of a guide are so close that f32 cannot tell them apart, and
        // of some corrected negatives nothing is left that it could tell.
        if sample.guide.is_some() || is_corrected(&loss) {
            return Ok(());
        }
        // Products up to 1e4 leave f32 no digits after the point.
        same(setup.name, &loss, &in_f32(&sample, &loss), &right, &sample, 4e-6 * (3.0 + largest));
    }
}

fn is_corrected(loss: &ContrastiveLoss) -> bool {
    matches!(loss.objective(), Objective::Debiased { .. } | Objective::HardNegatives { .. })
}

/// Whether the oracle itself says something else of input that is off by 1e-10: corrected negatives
/// are a difference, of which little may be left, and they have a kink, which duplicates can hit.
fn on_edge(loss: &ContrastiveLoss, sample: &Sample, right: &Dense) -> bool {
    const OFF: f64 = 1e-10;
    if !is_corrected(loss) {
        return false;
    }
    let moved = |x: &Vec<f64>| -> Vec<f64> {
        x.iter().enumerate().map(|(i, x)| x * (1.0 + OFF * (i as f64 * 1.7).sin())).collect()
    };
    let other = Sample {
        queries: moved(&sample.queries),
        keys: sample.keys.as_ref().map(moved),
        negatives: moved(&sample.negatives),
        ..sample.clone()
    };
    let other = other.dense(loss);
    let scale = loss.temperature().scale();
    let most = 300.0 * OFF * (10.0 + scale);
    let rows = other.rows.iter().zip(&right.rows);
    let gradients = [&right.queries, &right.keys, &right.negatives];
    let others = [&other.queries, &other.keys, &other.negatives];
    rows.into_iter().any(|(a, b)| (a - b).abs() > most * b.abs().max(1.0))
        || gradients.iter().zip(others).any(|(a, b)| {
            let rows = a.chunks(sample.d).zip(b.chunks(sample.d));
            rows.into_iter().any(|(a, b)| apart(a, b, 0.0) > most && size(a) + size(b) > 1e-30)
        })
}

/// As [`same`], each row's gradient beside that row's own length, which may be 0.
fn same_by_rows(setup: &Setup, given: &Given, right: &Dense, sample: &Sample, digits: f64) {
    let loss = setup.loss();
    let what = |part: &str| format!("{part} of {loss:?}\n{sample:?}");
    let scale = loss.temperature().scale();
    let longest = |x: &[f64]| x.chunks(sample.d).map(size).fold(0.0, f64::max);
    let keys = sample.keys.as_deref().unwrap_or(&sample.queries);
    let longest = match loss.similarity() {
        Similarity::Cosine => 1.0,
        Similarity::Dot => {
            longest(&sample.queries).max(longest(keys)).max(longest(&sample.negatives))
        }
    };
    let (bias, power) = match loss.objective() {
        Objective::Sigmoid { bias } => (bias.abs(), 1.0),
        Objective::HardNegatives { concentration, .. } => (0.0, 1.0 + concentration),
        _ => (0.0, 1.0),
    };
    let largest = power * scale * (longest * longest + setup.margin.abs()) + bias;
    let unit = digits * (10.0 + largest);
    let close = |part: &str, a: f64, b: f64, size: f64| {
        let error = (a - b).abs() / b.abs().max(size);
        assert!(error <= unit, "{a:e}, not {b:e}: {error:e} > {unit:e}: {}", what(part));
    };
    let n = right.rows.len() as f64;
    close("sum", given.sum, right.sum, n);
    given.rows.iter().zip(&right.rows).for_each(|(&a, &b)| close("rows", a, b, 1.0));
    close("log scale", given.log_scale, right.log_scale, n.max(largest));
    close("bias", given.bias, right.bias, n);
    let of_rows = if loss.reduction() == kinfold::Reduction::Sum { n } else { 1.0 };
    let inputs = [&sample.queries[..], keys, &sample.negatives];
    let rights = [&right.queries, &right.keys, &right.negatives];
    for ((x, a), b) in inputs.iter().zip(&given.gradients).zip(rights) {
        assert_eq!(a.len(), b.len(), "{}", what("gradients"));
        let rows = x.chunks(sample.d).zip(a.chunks(sample.d)).zip(b.chunks(sample.d));
        for ((x, a), b) in rows {
            let by = match loss.similarity() {
                Similarity::Cosine => size(x).max(setup.norm_floor).recip(),
                Similarity::Dot => longest,
            };
            let error = apart(a, b, scale * by * of_rows * setup.factor * power);
            assert!(error <= unit, "{a:?}, not {b:?}: {error:e} > {unit:e}: {}", what("a row"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    /// Settings are tested together, not one at a time, as a batch may have them all.
    #[test]
    fn any_settings_together_equal_the_oracle(seed in any::<u64>()) {
        let Some(setup) = together(seed, 40) else { return Ok(()) };
        let (loss, sample) = (setup.loss(), rounded(&setup.sample));
        let right = sample.dense(&loss);
        let out = loss.value_and_gradient(sample.batch()).unwrap();
        let value = loss.value(sample.batch()).unwrap();
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&value.rows), bits(&out.rows), "forward alone: {loss:?}");
        if on_edge(&loss, &sample, &right) {
            return Ok(());
        }
        same_by_rows(&setup, &Given::new(out), &right, &sample, 3e-13);
        // In f32, similarities of a guide may be too close to tell apart, and what is left of
        // corrected negatives a difference without digits.
        if sample.guide.is_none() && !is_corrected(&loss) {
            same_by_rows(&setup, &in_f32(&sample, &loss), &right, &sample, 1e-6);
        }
    }
}

/// Rows without a negative whose positives are far below the reference, and rows whose negatives are
/// all their own, or all hidden, far below it.
#[test]
fn sums_are_found_wherever_they_are() {
    for t in [1e-3, 0.02, 1.0] {
        for (loss, name) in every_loss(t).into_iter().flat_map(|loss| [(loss, 0), (loss, 1)]) {
            let mut setups = variations(loss);
            for setup in &mut setups {
                let sample = &mut setup.sample;
                if let Some(keys) = &mut sample.keys {
                    keys.iter_mut().for_each(|x| *x = -*x);
                }
                let kept = if name == 0 { 7 } else { 100 };
                let marks = [&mut sample.ids, &mut sample.labels].into_iter().flatten().flatten();
                marks.enumerate().for_each(|(i, mark)| *mark = 7 + (i / kept) as u64);
            }
            for setup in setups {
                let (loss, sample) = (setup.loss(), rounded(&setup.sample));
                let right = sample.dense(&loss);
                let out = loss.value_and_gradient(sample.batch()).unwrap();
                same_by_rows(&setup, &Given::new(out), &right, &sample, 3e-13);
                if sample.guide.is_none() {
                    same_by_rows(&setup, &in_f32(&sample, &loss), &right, &sample, 1e-6);
                }
            }
        }
    }
}

/// With more rows than a strip has, some of them with a reference of their own; another setting for
/// each loss.
#[test]
fn several_strips_equal_the_oracle() {
    for (t, first) in [(0.1, 0), (1e-3, 1)] {
        let losses = every_loss(t).into_iter().enumerate().skip(first).step_by(9);
        for (at, loss) in losses {
            let setups = variations(loss);
            let small = &setups[(7 * at + 1) % setups.len()];
            let rows = if loss.form() == kinfold::Form::NtXent { 1_300 } else { 2_600 };
            let setup = grown(small, rows, 3, at as u64, 0.3);
            let (loss, sample) = (setup.loss().with_memory_budget(0), &setup.sample);
            let out = loss.value_and_gradient(sample.batch()).unwrap();
            let largest = if loss.similarity() == Similarity::Dot { 50.0 } else { 1.0 } / t;
            let unit = 4e-13 * (10.0 + largest);
            same(setup.name, &loss, &Given::new(out), &sample.dense(&loss), sample, unit);
        }
    }
}

/// What a guide finds as close as the positive stays a negative; rounding alone decides nothing.
#[test]
fn what_a_guide_finds_equal_stays() {
    let narrow = |seed, count| normal(seed, count).iter().map(|&x| x as f32).collect::<Vec<_>>();
    let (n, d) = (70, 24);
    let (q, k, of_q) = (narrow(1, n * d), narrow(2, n * d), narrow(3, n * d));
    let of_k = narrow(4, d).repeat(n);
    let [q, k, of_q, of_k] = [&q, &k, &of_q, &of_k].map(|x| Embeddings::new(x, d).unwrap());
    let loss = ContrastiveLoss::info_nce(common::tau(0.2));
    let right = loss.value((q, k)).unwrap();
    let guided = loss.value(Batch::new(q, k).with_guide(of_q, of_k, None)).unwrap();
    assert_eq!(guided.rows, right.rows);
}

/// A guide that finds keys as close as queries, whatever their lengths, and many things equal, has nothing
/// to say, however its cosines are rounded; and nothing is a negative of itself.
#[test]
fn ties_of_a_guide_hold_whatever_the_rounding() {
    fn holds<T: kinfold::Element>(narrow: impl Fn(f64) -> T, exact: f64) {
        let of = |x: &[f64]| x.iter().map(|&x| narrow(x)).collect::<Vec<_>>();
        for (dim, times) in [(1, 3.0), (2, 1.0 / 3.0), (7, 0.1), (33, 3.0), (300, 1e4), (769, 3.0)]
        {
            let (n, d) = (13, 5);
            let [q, k] = [of(&normal(1, n * d)), of(&normal(2, n * d))];
            // Two of each.
            let known = &normal(3, n.div_ceil(2) * dim).repeat(2)[..n * dim];
            let [of_q, of_k] =
                [of(known), of(&known.iter().map(|x| times * x).collect::<Vec<_>>())];
            let [q, k] = [&q, &k].map(|x| Embeddings::new(x, d).unwrap());
            let [of_q, of_k] = [&of_q, &of_k].map(|x| Embeddings::new(x, dim).unwrap());
            for within in [false, true] {
                let loss = ContrastiveLoss::info_nce(common::tau(0.2));
                let loss = loss.with_within_views(within).unwrap();
                let guided = Batch::new(q, k).with_guide(of_q, of_k, None);
                let right = loss.value((q, k)).unwrap().mean;
                for mean in [loss.value(guided).unwrap().mean, dense(&loss, &guided).mean] {
                    assert!((mean - right).abs() < exact, "dim {dim}, {within}: {mean} {right}");
                }
            }
        }
    }
    holds(|x| x as f32, 1e-6);
    holds(|x| x, 1e-14);
}

/// Weights of pairs whose similarities are a thousand times σ.
#[test]
fn a_small_sigma_overflows_nowhere() {
    let objective = Objective::DecoupledWeighted { sigma: 1e-3 };
    for form in common::forms(0.2) {
        let setup = &variations(form.with_objective(objective).unwrap())[0];
        let right = setup.sample.dense(&setup.loss());
        let out = setup.loss().value_and_gradient(setup.sample.batch()).unwrap();
        same("a small sigma", &setup.loss(), &Given::new(out), &right, &setup.sample, 1e-10);
    }
}

/// The same bits for every number of threads, whatever the loss.
/// Where most rows have no weight, passing over them changes rounding and nothing else; and still no number of
/// threads changes a bit.
#[test]
fn rows_without_weight_may_be_passed_over() {
    for t in [0.2, 0.004] {
        for loss in every_loss(t) {
            let mut sample = Sample::random(&loss, 3, 230, 7);
            let rows = sample.batch().rows(loss.form());
            // Here and there in the first block, a whole block, and the last row.
            let weight = |row: usize| match row {
                3 | 40 => 0.5,
                96..150 => 1.5,
                _ if row + 1 == rows => 1.0,
                _ => 0.0,
            };
            sample.weights = Some((0..rows).map(weight).collect());
            let execution = Execution::new().with_memory_budget(0);
            let all = loss.with_execution(execution).value_and_gradient(sample.batch()).unwrap();
            let skipping = |threads: usize| {
                let execution = execution.with_unweighted_rows_skipped(true).with_threads(threads);
                loss.with_execution(execution).value_and_gradient(sample.batch()).unwrap()
            };
            let some = skipping(1);
            close("mean", some.mean, all.mean, 1e-11);
            close("log scale", some.log_scale, all.log_scale, 1e-8);
            close("bias", some.bias, all.bias, 1e-9);
            for (some, all) in [(&some.queries, &all.queries), (&some.keys, &all.keys)] {
                let error = apart(some, all, 1e-3);
                assert!(error < 1e-9, "{loss:?}: {error:e}");
            }
            for row in (0..rows).filter(|&row| weight(row) > 0.0) {
                close("row", some.rows[row], all.rows[row], 1e-11);
            }
            for threads in [2, 3] {
                let other = skipping(threads);
                assert!(other.queries == some.queries && other.keys == some.keys, "{loss:?}");
                assert_eq!(other.rows, some.rows);
            }
        }
    }
}

#[test]
fn threads_leave_no_trace() {
    let setups = all_setups(0.1).into_iter().chain(all_setups(0.001));
    for setup in setups.step_by(5) {
        let setup = grown(&setup, 400, 24, 7, 0.5);
        let of = |threads| {
            let loss = setup.loss().with_threads(threads);
            loss.value_and_gradient(setup.sample.batch()).unwrap()
        };
        let one = of(1);
        for threads in [2, 5] {
            assert_eq!(of(threads), one, "{} of {:?}", setup.name, setup.loss());
        }
    }
}

/// A queue is a constant: the gradient of everything else is the same without its own.
#[test]
fn a_queue_needs_no_gradient() {
    let setups = all_setups(0.2).into_iter().filter(|setup| !setup.sample.negatives.is_empty());
    for setup in setups {
        let (loss, batch) = (setup.loss(), setup.sample.batch());
        let right = loss.value_and_gradient(batch).unwrap();
        let (mut queries, mut keys) = (vec![0.0; right.queries.len()], vec![0.0; right.keys.len()]);
        let gradient = kinfold::GradientMut::new(&mut queries, &mut keys);
        loss.value_and_gradient_into(batch, gradient).unwrap();
        assert_eq!((queries, keys), (right.queries, right.keys), "{}", setup.name);
    }
}

/// So are keys, as of a model that stays as it is, where that is allowed; elsewhere they are asked for.
#[test]
fn constant_keys_need_no_gradient() {
    let (mut allowed, mut refused) = (0, 0);
    for setup in all_setups(0.2) {
        for setup in [grown(&setup, 400, 24, 7, 0.5), setup] {
            let (loss, batch) = (setup.loss(), setup.sample.batch());
            let right = loss.value_and_gradient(batch).unwrap();
            if right.keys.is_empty() {
                continue;
            }
            let mut queries = vec![0.0; right.queries.len()];
            let gradient = kinfold::GradientMut::new(&mut queries, &mut []);
            let given = loss.value_and_gradient_into(batch, gradient);
            if loss.may_have_constant_keys() && setup.sample.negatives.is_empty() {
                let (value, parameters) = given.unwrap();
                assert_eq!(queries, right.queries, "{} of {loss:?}", setup.name);
                assert_eq!((value.sum, parameters.log_scale), (right.sum, right.log_scale));
                allowed += 1;
            } else {
                assert!(given.unwrap_err().to_string().contains("keys"), "{}", setup.name);
                refused += 1;
            }
        }
    }
    assert!(allowed > 20 && refused > 20, "{allowed} and {refused}");
}

/// Where the library you know returns 0: a loss of about 1e-12 keeps its digits, whichever it is.
#[test]
fn small_losses_keep_their_digits() {
    let n = 5;
    let x: Vec<f64> = (0..n * n).map(|at| f64::from(u8::from(at % (n + 1) == 0))).collect();
    for loss in every_loss(0.035) {
        let setup = &variations(loss)[0];
        let labels: Vec<u64> = (0..n as u64).collect();
        let sample =
            Sample { labels: has_labels(&loss).then_some(labels), ..Sample::new(&x, &x, n) };
        let right = sample.dense(&loss);
        let given = in_f32(&sample, &setup.loss());
        if right.mean.abs() < 1e-9 {
            let error = (given.sum / right.sum - 1.0).abs();
            assert!(error < 1e-4, "{loss:?}: {} is not {}", given.sum, right.sum);
        }
    }
}
