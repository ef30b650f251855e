//! Both paths of every loss, with every setting, against kinfold's dense oracle: value and every
//! gradient.

#[path = "../../kinfold/tests/common/mod.rs"]
mod common;
#[path = "../../kinfold/tests/common/sample.rs"]
mod sample;

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Distribution, Int, Tensor, TensorData};
use kinfold::loss::reference::{Dense, dense};
use kinfold::{Form, Objective, Preset, Similarity, Temperature};
use kinfold_burn::{ContrastiveLoss, ContrastiveLossConfig, Error, PairBatch, Reduction};
use sample::{Sample, every_loss, is_sigmoid, variations};

/// Rows of a strip; none for the operation over the engine.
type Path = Option<usize>;

fn forward(loss: &ContrastiveLoss, batch: PairBatch, path: Path) -> Result<Tensor<1>, Error> {
    match path {
        None => loss.try_forward_batch(batch),
        Some(rows) => loss.forward_in_strips(batch, Some(loss.settings().reduction()), rows),
    }
}

/// [`forward`] without a reduction.
fn forward_rows(loss: &ContrastiveLoss, batch: PairBatch, path: Path) -> Result<Tensor<1>, Error> {
    match path {
        None => loss.try_forward_no_reduction(batch),
        Some(rows) => loss.forward_in_strips(batch, None, rows),
    }
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

fn integers(x: &[u64], device: &Device) -> Tensor<1, Int> {
    let x: Vec<i64> = x.iter().map(|&x| x as i64).collect();
    Tensor::from_data(x.as_slice(), device)
}

/// A sample as tensors, those with a gradient apart, as they were given.
struct Tensors {
    queries: Tensor<2>,
    keys: Option<Tensor<2>>,
    shared: Option<Tensor<2>>,
    per_query: Option<Tensor<3>>,
    batch: PairBatch,
}

impl Tensors {
    fn new(sample: &Sample, dtype: DType, device: &Device) -> Self {
        let matrix = |x: &[f64], dim: usize| {
            let data = TensorData::new(x.to_vec(), [x.len() / dim, dim]);
            Tensor::<2>::from_data(data, (device, dtype))
        };
        let leaf = |x: &[f64]| matrix(x, sample.d).set_require_grad(device.is_autodiff());
        let queries = leaf(&sample.queries);
        let keys = sample.keys.as_deref().map(leaf);
        let labels = sample.labels.as_ref().map(|labels| integers(labels, device));
        let mut batch = match (&keys, &labels) {
            (Some(keys), _) => PairBatch::new(queries.clone(), keys.clone()),
            (None, labels) => PairBatch::labelled(queries.clone(), labels.clone().unwrap()),
        };
        if let Some(labels) = labels {
            batch = batch.with_labels(labels);
        }
        let (mut shared, mut per_query) = (None, None);
        if sample.per_query {
            let each = sample.negatives.len() / sample.d / sample.n();
            let shape = [sample.n(), each, sample.d];
            let data = TensorData::new(sample.negatives.clone(), shape);
            let own = Tensor::<3>::from_data(data, (device, dtype));
            let own = own.set_require_grad(device.is_autodiff());
            batch = batch.with_negatives_per_query(own.clone());
            per_query = Some(own);
        } else if sample.empty || !sample.negatives.is_empty() {
            let of_all = leaf(&sample.negatives);
            batch = batch.with_negatives(of_all.clone());
            shared = Some(of_all);
        }
        if let Some(ids) = &sample.ids {
            batch = batch.with_ids(integers(ids, device));
        }
        if let Some(weights) = &sample.weights {
            let data = TensorData::new(weights.clone(), [weights.len()]);
            batch = batch.with_row_weights(Tensor::from_data(data, (device, dtype)));
        }
        if let Some([queries, keys, negatives]) = &sample.guide {
            let judged = sample.empty || !negatives.is_empty();
            let negatives = judged.then(|| matrix(negatives, 2));
            batch = batch.with_guide(matrix(queries, 2), matrix(keys, 2), negatives);
        }
        Self { queries, keys, shared, per_query, batch }
    }
}

/// How far each kind of number may be off: values and gradients of matrices; numbers that come
/// through an f32 parameter.
#[derive(Clone, Copy)]
struct Tolerance(f64, f64);

fn assert_close(what: &str, ours: &[f64], theirs: &[f64], most: f64) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let size = theirs.iter().map(|x| x * x).sum::<f64>().sqrt();
    let error = ours.iter().zip(theirs).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    assert!(error <= most * size.max(0.1), "{what}: error {error:e}, size {size:e}");
}

/// `loss` of `sample`, temperature and bias learned, against the oracle. Without a reduction the
/// upstream gradient is a number of either sign for each row, else it is 3.
fn assert_is_oracle(
    what: &str,
    loss: kinfold::ContrastiveLoss,
    sample: &Sample,
    path: Path,
    dtype: DType,
    unreduced: bool,
    Tolerance(most, of_numbers): Tolerance,
) {
    let device = Device::flex().autodiff();
    // What comes through an f32 parameter is what it was rounded to.
    let log_scale = f64::from(loss.temperature().scale().ln() as f32);
    let loss = loss.with_temperature(Temperature::new((-log_scale).exp()).unwrap());
    let tensors = Tensors::new(sample, dtype, &device);
    let module = ContrastiveLoss::new(loss).learned(&device);
    let rows = sample.batch().rows(loss.form());
    let upstream = match unreduced {
        true => (0..rows).map(|row| [0.7, -1.3, 0.0, 2.0][row % 4]).collect(),
        false => vec![3.0],
    };
    let expected: Dense;
    let right: Vec<f64>;
    if unreduced {
        let own = sample.weights.clone().unwrap_or_else(|| vec![1.0; rows]);
        let weights = own.iter().zip(&upstream).map(|(w, g)| w * g).collect();
        let sample = Sample { weights: Some(weights), ..sample.clone() };
        expected = dense(&loss.with_reduction(Reduction::Sum), &sample.batch());
        right = expected.rows.iter().zip(&own).map(|(row, w)| row * w).collect();
    } else {
        expected = dense(&loss, &sample.batch());
        right = vec![loss.reduced(expected.mean, expected.sum)];
    }
    let forward = if unreduced { forward_rows } else { forward };
    let value = forward(&module, tensors.batch, path).unwrap();
    assert_eq!(value.dtype(), dtype, "{what}");
    assert_close(&format!("value, {what}"), &numbers(value.clone()), &right, most);

    let factors = TensorData::new(upstream, value.dims());
    let gradients = (value * Tensor::from_data(factors, (&device, dtype))).sum().backward();
    let times = if unreduced { 1.0 } else { 3.0 };
    let close = |which: &str, ours: Option<Vec<f64>>, theirs: &[f64], most: f64| {
        let theirs: Vec<f64> = theirs.iter().map(|x| x * times).collect();
        assert_close(&format!("{which}, {what}"), &ours.unwrap(), &theirs, most);
    };
    let of = |x: &Tensor<2>| x.grad(&gradients).map(numbers);
    close("queries", of(&tensors.queries), &expected.queries, most);
    if let Some(keys) = &tensors.keys {
        close("keys", of(keys), &expected.keys, most);
    }
    if let Some(shared) = &tensors.shared {
        close("negatives", of(shared), &expected.negatives, most);
    }
    if let Some(own) = &tensors.per_query {
        close("negatives", own.grad(&gradients).map(numbers), &expected.negatives, most);
    }
    let parameter = module.log_scale.as_ref().unwrap().val().grad(&gradients).map(numbers);
    close("log scale", parameter, &[expected.log_scale], of_numbers);
    assert_eq!(module.bias.is_some(), is_sigmoid(&loss));
    if let Some(bias) = &module.bias {
        let parameter = bias.val().grad(&gradients).map(numbers);
        close("bias", parameter, &[expected.bias], of_numbers);
    }
}

#[test]
fn every_loss_with_every_setting_is_the_oracle_s() {
    let mut count = 0;
    for loss in every_loss(0.3) {
        for setup in variations(loss) {
            for unreduced in [false, true] {
                // Strips of 2, 2 and 1 rows; and all rows in one.
                for path in [None, Some(2), Some(100)] {
                    let what = format!(
                        "{} of {:?}, path {path:?}, unreduced {unreduced}",
                        setup.name,
                        setup.loss()
                    );
                    let most = Tolerance(1e-9, 1e-6);
                    let (loss, sample) = (setup.loss(), &setup.sample);
                    assert_is_oracle(&what, loss, sample, path, DType::F64, unreduced, most);
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1000, "{count}");
}

#[test]
fn every_loss_is_the_oracle_s_in_f32_and_with_tails() {
    for t in [0.07, 0.5] {
        for loss in every_loss(t) {
            for (n, d) in [(2, 3), (23, 16), (40, 5)] {
                // Dot products of such rows are a few dozen; a temperature of 0.07 is for cosines.
                let mut sample = Sample::random(&loss, 5, n, d);
                let shrink = |x: &mut Vec<f64>| x.iter_mut().for_each(|x| *x *= 0.3);
                shrink(&mut sample.queries);
                sample.keys.as_mut().into_iter().for_each(shrink);
                for path in [None, Some(7), Some(64)] {
                    for unreduced in [false, true] {
                        let what = format!("{loss:?}, n = {n}, path {path:?}, {unreduced}");
                        let most = Tolerance(1e-4, 2e-4);
                        assert_is_oracle(&what, loss, &sample, path, DType::F32, unreduced, most);
                    }
                }
            }
        }
    }
}

#[test]
fn any_settings_together_are_the_oracle_s() {
    let device = Device::flex().autodiff();
    let mut count = 0;
    for setup in (0..600).filter_map(|seed| sample::together(seed, 12)) {
        let (loss, sample) = (setup.loss(), &setup.sample);
        let expected = dense(&loss, &sample.batch());
        let right = [loss.reduced(expected.mean, expected.sum)];
        for path in [None, Some(5)] {
            let what = format!("{loss:?} of {sample:?}, path {path:?}");
            let tensors = Tensors::new(sample, DType::F64, &device);
            let gradient =
                |value: Tensor<1>| numbers(tensors.queries.grad(&value.sum().backward()).unwrap());
            let module = ContrastiveLoss::new(loss);
            let value = forward(&module, tensors.batch.clone(), path).unwrap();
            assert_close(&what, &numbers(value.clone()), &right, 1e-7);
            assert_close(&what, &gradient(value), &expected.queries, 1e-6);
            let rows = forward_rows(&module, tensors.batch.clone(), path).unwrap();
            assert!(gradient(rows).iter().all(|x| x.is_finite()), "{what}");
        }
        count += 1;
    }
    assert!(count > 200, "{count}");
}

#[test]
fn a_small_loss_keeps_its_digits() {
    // Keys are near their queries, and pairs far apart: losses of 1e-8 and less, in f32.
    for loss in every_loss(0.045) {
        let axes = common::orthonormal(6);
        let keys: Vec<f64> =
            axes.iter().zip(common::normal(3, 36)).map(|(x, e)| x + 0.05 * e).collect();
        let sample = Sample::pairs(&loss, &axes, &keys, 6);
        let expected = sample.dense(&loss);
        if !(expected.mean > 0.0 && expected.mean < 1e-7) {
            continue;
        }
        for path in [None, Some(4)] {
            let device = Device::flex().autodiff();
            let tensors = Tensors::new(&sample, DType::F32, &device);
            let module = ContrastiveLoss::new(loss).learned(&device);
            let value = forward(&module, tensors.batch, path).unwrap();
            let gradients = value.backward();
            let learned = module.log_scale.as_ref().unwrap().val();
            for (what, ours, theirs) in [
                ("value", numbers(value), vec![expected.mean]),
                (
                    "queries",
                    numbers(tensors.queries.grad(&gradients).unwrap()),
                    expected.queries.clone(),
                ),
                (
                    "keys",
                    numbers(tensors.keys.as_ref().unwrap().grad(&gradients).unwrap()),
                    expected.keys.clone(),
                ),
                ("log scale", numbers(learned.grad(&gradients).unwrap()), vec![expected.log_scale]),
            ] {
                let error = common::relative_error(&ours, &theirs);
                assert!(error < 1e-5, "{what}, {loss:?}, path {path:?}: {error:e}");
            }
        }
    }
}

fn tau(t: f64) -> Temperature {
    Temperature::new(t).unwrap()
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

#[test]
fn a_module_without_autodiff_keeps_what_it_learned() {
    let device = Device::flex().autodiff();
    let right = kinfold::ContrastiveLoss::sig_lip(tau(0.3), -2.5).unwrap();
    let sample = Sample::random(&right, 1, 6, 4);
    let expected = dense(&right, &sample.batch()).mean;
    let mut module =
        ContrastiveLoss::new(kinfold::ContrastiveLoss::sig_lip(tau(0.9), 1.0).unwrap())
            .learned(&device);
    let set = |parameter: Option<Param<Tensor<1>>>, to: f64| {
        let to = Tensor::<1>::from_floats([to as f32], &device).require_grad();
        parameter.map(|parameter| parameter.map(|_| to))
    };
    module.log_scale = set(module.log_scale, right.temperature().scale().ln());
    module.bias = set(module.bias, -2.5);
    for (module, device) in [(module.valid(), Device::flex()), (module, device)] {
        for path in [None, Some(4)] {
            let batch = Tensors::new(&sample, DType::F64, &device).batch;
            let value = numbers(forward(&module, batch, path).unwrap())[0];
            assert!((value - expected).abs() < 1e-6, "{path:?}: {value} {expected}");
        }
    }
}

#[test]
fn an_upstream_gradient_of_one_sign_comes_through() {
    let device = Device::flex().autodiff();
    let loss = kinfold::ContrastiveLoss::nt_xent(tau(0.4));
    let module = ContrastiveLoss::new(loss.with_reduction(Reduction::Sum));
    let (q, k) = (random([5, 3], &device).require_grad(), random([5, 3], &device));
    let gradient = |value: Tensor<1>| numbers(q.grad(&value.backward()).unwrap());
    let batch = || PairBatch::new(q.clone(), k.clone());
    for path in [None, Some(4)] {
        for by in [1.5, -1.5, 0.0] {
            let rows = gradient(forward_rows(&module, batch(), path).unwrap().sum() * by);
            let sum = gradient(forward(&module, batch(), path).unwrap() * by);
            assert_close(&format!("path {path:?} by {by}"), &rows, &sum, 1e-6);
        }
    }
}

#[test]
fn what_the_guide_finds_as_close_as_the_key_stays_a_negative() {
    let loss = Preset::SentenceTransformersGist.loss().with_temperature(tau(0.5));
    let mut sample = Sample::random(&loss, 3, 5, 3);
    // To the guide some queries and keys are the same, but for their lengths.
    let queries = common::normal(4, 5 * 2);
    let mut keys = common::normal(5, 5 * 2);
    (2..6).for_each(|i| keys[i] = 3.0 * queries[i]);
    sample.guide = Some([queries, keys, Vec::new()]);
    for path in [None, Some(2), Some(9)] {
        let most = Tolerance(1e-9, 1e-6);
        assert_is_oracle(&format!("{path:?}"), loss, &sample, path, DType::F64, false, most);
    }
}

#[test]
fn prefixes_are_those_of_the_oracle() {
    let prefixes = [kinfold::Prefix { dim: 2, weight: 0.5 }, kinfold::Prefix::new(5)];
    for loss in common::forms(0.3) {
        let loss = loss.with_matryoshka(&prefixes).unwrap();
        let sample = Sample::random(&loss, 3, 9, 6);
        for path in [None, Some(2), Some(9)] {
            let most = Tolerance(1e-9, 1e-6);
            assert_is_oracle(&format!("{path:?}"), loss, &sample, path, DType::F64, false, most);
        }
    }
}

#[test]
fn half_numbers_are_computed_in_single_ones() {
    let device = Device::flex().autodiff();
    let loss = kinfold::ContrastiveLoss::nt_xent(tau(0.2));
    let sample = Sample::random(&loss, 6, 19, 8);
    for (dtype, eps) in [(DType::F16, 1e-3), (DType::BF16, 8e-3)] {
        let module = ContrastiveLoss::new(loss).learned(&device);
        for path in [None, Some(8)] {
            let tensors = Tensors::new(&sample, dtype, &device);
            let read = |x: &Tensor<2>| numbers(x.clone());
            let rounded =
                Sample::new(&read(&tensors.queries), &read(tensors.keys.as_ref().unwrap()), 8);
            let expected = rounded.dense(&loss);
            let value = forward(&module, tensors.batch, path).unwrap();
            let what = format!("{dtype:?}, path {path:?}");
            assert_eq!(value.dtype(), dtype);
            assert_close(&what, &numbers(value.clone()), &[expected.mean], eps);
            let gradients = value.backward();
            let queries = numbers(tensors.queries.grad(&gradients).unwrap());
            assert_close(&format!("queries, {what}"), &queries, &expected.queries, 4.0 * eps);
            let log_scale = module.log_scale.as_ref().unwrap().val().grad(&gradients).unwrap();
            assert_close(&what, &numbers(log_scale), &[expected.log_scale], 4.0 * eps);
        }
    }
}

#[test]
fn a_queue_of_constants_has_no_gradient_and_leaves_the_others_alone() {
    let device = Device::flex().autodiff();
    let (q, queue) = (random([6, 4], &device).require_grad(), random([9, 4], &device));
    let loss = ContrastiveLoss::preset(Preset::MoCo);
    for path in [None, Some(4)] {
        let gradient = |queue: Tensor<2>| {
            let batch = PairBatch::new(q.clone(), random([6, 4], &device).ones_like());
            let value = forward(&loss, batch.with_negatives(queue.clone()), path).unwrap();
            let gradients = value.backward();
            (numbers(q.grad(&gradients).unwrap()), queue.grad(&gradients).is_some())
        };
        let (constant, variable) =
            (gradient(queue.clone()), gradient(queue.clone().require_grad()));
        assert_eq!((constant.1, variable.1), (false, true));
        assert_close("queries", &constant.0, &variable.0, 1e-6);
    }
}

#[test]
fn a_learned_temperature_is_clamped_and_goes_on_learning() {
    let device = Device::flex().autodiff();
    let module = ContrastiveLoss::preset(Preset::OpenClip).learned(&device);
    let value = |module: &ContrastiveLoss| numbers(module.log_scale.as_ref().unwrap().val())[0];
    assert!((value(&module) - (1.0f64 / 0.07).ln()).abs() < 1e-6);
    for (given, expected) in [(9.0, 100f64.ln()), (-1.0, 0.0), (2.5, 2.5)] {
        let mut module = module.clone();
        let given = Tensor::<1>::from_floats([given], &device).require_grad();
        module.log_scale = module.log_scale.map(|parameter| parameter.map(|_| given));
        let module = module.clamped();
        assert!((value(&module) - expected).abs() < 1e-6, "{}", value(&module));
        let loss = module.forward(random([4, 3], &device), random([4, 3], &device));
        let gradients = loss.backward();
        assert!(module.log_scale.as_ref().unwrap().val().grad(&gradients).is_some());
    }
    assert!(ContrastiveLoss::preset(Preset::SigLip).with_log_scale_bounds(1.0, 0.0).is_err());
}

#[test]
fn settings_without_a_meaning_are_refused() {
    let device = Device::flex();
    let config = ContrastiveLossConfig::new().with_form(Form::BothWays);
    for (config, reason) in [
        (config.clone().with_temperature(0.0), "temperature is 0"),
        (config.clone().with_objective(Objective::SupConInside), "SupCon compares every row"),
        (config.clone().with_offset(1), "an offset has a meaning one way only"),
        (config.clone().with_in_batch_negatives(false), "one way alone"),
        (config.clone().with_label_smoothing(1.5), "label smoothing is 1.5"),
        (config.clone().with_log_scale_min(Some(3.0)).with_log_scale_max(Some(2.0)), "is 3, but"),
    ] {
        let error = config.try_init(&device).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    // Settings are text, too.
    let config = config.with_objective(Objective::Debiased { positive_share: 0.1 });
    let config = config.with_reduction(Reduction::Sum).with_margin(0.25);
    let again: ContrastiveLossConfig = serde_json::from_str(&config.to_string()).unwrap();
    assert_eq!(format!("{config:?}"), format!("{again:?}"));
}

#[test]
fn a_batch_that_disagrees_is_refused_on_both_paths() {
    let device = Device::flex();
    let one_way = ContrastiveLoss::new(kinfold::ContrastiveLoss::info_nce(tau(0.5)));
    let views = ContrastiveLoss::new(kinfold::ContrastiveLoss::nt_xent(tau(0.5)));
    let labelled = ContrastiveLoss::new(kinfold::ContrastiveLoss::sup_con(tau(0.5)));
    let alone = ContrastiveLoss::preset(Preset::MoCo);
    let within = kinfold::ContrastiveLoss::info_nce(tau(0.5)).with_within_views(true).unwrap();
    let within = ContrastiveLoss::new(within);
    let x = |rows| random([rows, 3], &device);
    let ints = |n: usize| Tensor::<1, Int>::zeros([n], &device);
    let pairs = || PairBatch::new(x(4), x(4));
    let cases: Vec<(&ContrastiveLoss, PairBatch, &str)> = vec![
        (&one_way, PairBatch::new(x(4), x(3)), "query 3 has its positive at key 3 + 0"),
        (&views, PairBatch::new(x(4), x(3)), "keys have 3 rows but queries have 4"),
        (&within, PairBatch::new(x(4), x(5)), "keys have 5 rows but queries have 4"),
        (&one_way, PairBatch::new(x(4), random([4, 2], &device)), "queries have dimension 3 but"),
        (&one_way, PairBatch::new(x(0), x(0)), "queries have no rows"),
        (&one_way, pairs().with_negatives(random([2, 5], &device)), "negatives have dimension 5"),
        (
            &one_way,
            pairs().with_negatives_per_query(random([2, 4, 3], &device)),
            "negatives per query have 2 rows but queries have 4",
        ),
        (&views, pairs().with_negatives(x(2)), "explicit negatives are negatives of queries"),
        (&one_way, pairs().with_ids(ints(5)), "the number of ids is 5"),
        (&one_way, pairs().with_labels(ints(4)), "labels have a meaning for the losses over"),
        (&labelled, pairs(), "a loss over labels needs labels"),
        (&labelled, PairBatch::labelled(x(4), ints(3)), "the number of labels is 3"),
        (
            &views,
            pairs().with_row_weights(Tensor::<1>::ones([4], &device)),
            "the number of row weights is 4",
        ),
        (&alone, pairs(), "without the in-batch negatives there are only those"),
        (&views, pairs().with_guide(x(4), x(4), None), "a guide has a meaning for the plain loss"),
        (&one_way, pairs().with_guide(x(3), x(4), None), "the guide's queries have 3 rows"),
    ];
    for (loss, batch, reason) in cases {
        for path in [None, Some(2)] {
            let error = forward(loss, batch.clone(), path).unwrap_err().to_string();
            assert!(error.contains(reason), "path {path:?}: {error}, not {reason}");
        }
    }
}

#[test]
fn shares_add_up_to_the_loss_of_the_batch_and_so_do_their_gradients() {
    let device = Device::flex().autodiff();
    let drawn = (0..600).filter_map(|seed| sample::together(seed, 12));
    let every = every_loss(0.3).into_iter().flat_map(variations).map(|setup| (setup, 1e-9));
    let mut count = 0;
    for (setup, most) in every.chain(drawn.map(|setup| (setup, 1e-6))) {
        let sample = &setup.sample;
        let n = sample.n();
        let module = ContrastiveLoss::new(setup.loss()).learned(&device);
        let tensors = Tensors::new(sample, DType::F64, &device);
        let whole = forward(&module, tensors.batch.clone(), None).unwrap();
        let scale = module.log_scale.as_ref().unwrap().val();
        let gradients_of = |value: Tensor<1>| {
            let value_of = numbers(value.clone());
            let gradients = value.sum().backward();
            let of = |x: Option<&Tensor<2>>| {
                x.map_or(vec![], |x| x.grad(&gradients).map_or(vec![], numbers))
            };
            let matrices = [
                of(Some(&tensors.queries)),
                of(tensors.keys.as_ref()),
                of(tensors.shared.as_ref()),
            ];
            let [queries, keys, negatives] = matrices;
            let scale = scale.grad(&gradients).map_or(vec![0.0], numbers);
            [value_of, queries, keys, negatives, scale]
        };
        let expected = gradients_of(whole);
        // One of them has no pairs.
        for cuts in [vec![0, n], vec![0, n / 3, n / 3, n], (0..=n).collect()] {
            let what = format!("{cuts:?}, {}, {setup:?}", setup.name);
            let (mut sums, mut of_parts): ([Vec<f64>; 5], f64) = Default::default();
            for own in cuts.windows(2).map(|cut| cut[0]..cut[1]) {
                let share = module.try_forward_share(tensors.batch.clone(), own).unwrap();
                let parts = gradients_of(share);
                of_parts += parts[4][0].abs();
                for (sum, more) in sums.iter_mut().zip(parts) {
                    sum.resize(sum.len().max(more.len()), 0.0);
                    sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
                }
            }
            for (ours, theirs) in sums.iter().zip(&expected).take(4) {
                assert_close(&what, ours, theirs, most);
            }
            // Each part of this is rounded to an f32, and so is the whole.
            let apart = (sums[4][0] - expected[4][0]).abs();
            let rounding = f64::from(f32::EPSILON) * (of_parts + expected[4][0].abs());
            assert!(apart <= rounding + most, "{what}: log scale {apart:e}, {rounding:e}");
            count += 1;
        }
    }
    assert!(count > 1000, "{count}");
    several_blocks_of_shares(&device);
    let module = ContrastiveLoss::preset(Preset::SimClrTf);
    let (q, k) = (random([3, 2], &device), random([3, 2], &device));
    let said = module.try_forward_share((q, k), 1..4).unwrap_err().to_string();
    assert!(said.contains("the end of a share is 4"), "{said}");
}

/// Shares that begin and end anywhere among the blocks and strips of the engine, in f32 and at temperatures at
/// which one shift is not enough for all rows.
fn several_blocks_of_shares(device: &Device) {
    let n = 700;
    for (t, most) in [(0.3, 2e-5), (0.005, 2e-4)] {
        for loss in every_loss(t).into_iter().filter(|loss| loss.similarity() == Similarity::Cosine)
        {
            let sample = Sample::random(&loss, 5, n, 9);
            let tensors = Tensors::new(&sample, DType::F32, device);
            let module = ContrastiveLoss::new(loss);
            let of = |value: Tensor<1>| {
                let gradients = value.sum().backward();
                let queries = numbers(tensors.queries.grad(&gradients).unwrap());
                let keys = tensors.keys.as_ref().unwrap().grad(&gradients).map(numbers).unwrap();
                [queries, keys].concat()
            };
            let whole = module.try_forward_batch(tensors.batch.clone()).unwrap();
            let (value, gradients) = (numbers(whole.clone())[0], of(whole));
            let (mut sum, mut of_sum) = (0.0, vec![0.0; gradients.len()]);
            for own in [0..1, 1..333, 333..600, 600..n] {
                let share = module.try_forward_share(tensors.batch.clone(), own).unwrap();
                sum += numbers(share.clone())[0];
                of_sum.iter_mut().zip(of(share)).for_each(|(sum, more)| *sum += more);
            }
            let what = format!("{n} pairs, {loss:?}");
            assert!((sum - value).abs() <= most * value.abs().max(0.1), "{what}: {sum} {value}");
            let error = common::relative_error(&of_sum, &gradients);
            assert!(error <= most, "{what}: {error:e}");
        }
    }
}
