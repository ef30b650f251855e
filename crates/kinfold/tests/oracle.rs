//! The oracle itself: against central differences, closed forms and the published table.

use kinfold::loss::reference::{dense, info_nce};
use kinfold::{Batch, ContrastiveLoss, Embeddings, Objective, Preset, Similarity, Temperature};

mod common;
#[path = "common/sample.rs"]
mod sample;
use common::{forms, normal, orthonormal, tau};
use sample::{Sample, Setup, all_close, close, every_loss, has_labels, is_sigmoid, variations};

// ---------------------------------------------------------------------------------------------
// Central differences
// ---------------------------------------------------------------------------------------------

/// Similarity of each pair, as it is compared.
fn similarities(setup: &Setup) -> Vec<f64> {
    let Sample { queries, keys, d, .. } = &setup.sample;
    let keys = keys.as_ref().unwrap().chunks(*d).skip(setup.offset);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let length = |x: &[f64]| match setup.loss.similarity() {
        Similarity::Cosine => dot(x, x).sqrt().max(setup.norm_floor),
        Similarity::Dot => 1.0,
    };
    queries.chunks(*d).zip(keys).map(|(q, k)| dot(q, k) / (length(q) * length(k))).collect()
}

/// What the gradients are gradients of. The weights of pairs count as constants, so they are taken
/// from `fixed`, and the loss is spelled out: `ln neg − w s = (ln neg − s) + (1 − w) s`.
fn reduced(setup: &Setup, fixed: &Setup) -> f64 {
    let loss = setup.loss();
    let Objective::DecoupledWeighted { sigma } = loss.objective() else {
        let out = setup.sample.dense(&loss);
        return loss.reduced(out.mean, out.sum);
    };
    let out = setup.sample.dense(&loss.with_objective(Objective::Decoupled).unwrap());
    let e: Vec<f64> = similarities(fixed).iter().map(|s| (s / sigma).exp()).collect();
    let (all, n) = (e.iter().sum::<f64>(), e.len());
    let weights = setup.sample.weights.clone().unwrap_or_else(|| vec![1.0; out.rows.len()]);
    let similarities = similarities(setup);
    let terms = weights.iter().enumerate().map(|(row, weight)| {
        let w = 2.0 - n as f64 * e[row % n] / all;
        let logit = (similarities[row % n] - setup.margin) * loss.temperature().scale();
        weight * setup.factor * (1.0 - w) * logit
    });
    let sum = out.sum + terms.sum::<f64>();
    loss.reduced(sum / weights.iter().sum::<f64>(), sum)
}

/// Of a function at 0, to the fourth order.
fn central_difference(f: impl Fn(f64) -> f64) -> f64 {
    let h = 2e-4;
    (8.0 * (f(h) - f(-h)) - (f(2.0 * h) - f(-2.0 * h))) / (12.0 * h)
}

fn gradients_are_central_differences_of(setup: &Setup) {
    let out = setup.sample.dense(&setup.loss());
    let near = |what: &str, analytic: f64, change: &dyn Fn(&mut Setup, f64)| {
        let difference = central_difference(|by| {
            let mut shifted = setup.clone();
            change(&mut shifted, by);
            reduced(&shifted, setup)
        });
        let most = 1e-9 * analytic.abs().max(1.0);
        assert!(
            (analytic - difference).abs() <= most,
            "{what} of {}: {analytic}, but the difference is {difference}: {:?}",
            setup.name,
            setup.loss()
        );
    };
    let matrix = |what: &str, gradient: &[f64], of: &dyn Fn(&mut Sample) -> &mut [f64]| {
        assert_eq!(gradient.len(), of(&mut setup.sample.clone()).len(), "{what}");
        for (at, &analytic) in gradient.iter().enumerate() {
            near(what, analytic, &|x, by| of(&mut x.sample)[at] += by);
        }
    };
    matrix("queries", &out.queries, &|x| &mut x.queries);
    matrix("keys", &out.keys, &|x| x.keys.as_deref_mut().unwrap_or_default());
    matrix("negatives", &out.negatives, &|x| &mut x.negatives);
    near("log scale", out.log_scale, &|x, by| {
        let temperature = tau(x.loss.temperature().get() * (-by).exp());
        x.loss = x.loss.with_temperature(temperature);
    });
    match setup.loss.objective() {
        Objective::Sigmoid { bias } => near("bias", out.bias, &|x, by| {
            x.loss = x.loss.with_objective(Objective::Sigmoid { bias: bias + by }).unwrap();
        }),
        _ => assert_eq!(out.bias, 0.0),
    }
}

#[test]
fn gradients_are_central_differences() {
    let losses = every_loss(0.4);
    assert_eq!(losses.len(), 38, "forms, similarities and objectives that go together");
    let mut setups = 0;
    for loss in losses.into_iter().chain(every_loss(1.0)) {
        for setup in variations(loss) {
            gradients_are_central_differences_of(&setup);
            setups += 1;
        }
    }
    assert_eq!(setups, 2 * 339, "none was left out");
}

// ---------------------------------------------------------------------------------------------
// Closed forms
// ---------------------------------------------------------------------------------------------

#[test]
fn identical_embeddings_give_the_ceiling() {
    for n in [1, 2, 7, 32] {
        let x = vec![0.5; n * 4]; // of length 1, so that the dot product is 1, too
        for loss in every_loss(0.2) {
            let sample = Sample::pairs(&loss, &x, &x, 4);
            let at_ceiling = |loss: &ContrastiveLoss| {
                let (mean, ceiling) = (sample.dense(loss).mean, loss.ceiling(n));
                assert!((mean - ceiling).abs() < 1e-12, "{loss:?}, n = {n}: {mean}, {ceiling}");
            };
            at_ceiling(&loss.with_factor(3.0).unwrap());
            if !is_sigmoid(&loss) {
                at_ceiling(&loss.with_margin(0.1).unwrap());
            }
            if loss.objective() == Objective::Softmax {
                let smoothed = loss.with_label_smoothing(0.3).unwrap();
                at_ceiling(&smoothed);
                at_ceiling(&smoothed.with_margin(0.1).unwrap());
            }
            if let Ok(within) = loss.with_within_views(true) {
                at_ceiling(&within);
            }
        }
    }
}

/// The corners e_i − mean of the simplex: identical pairs, negatives at cosine −1/(n−1).
#[test]
fn the_simplex_gives_the_floor() {
    let mut floors = 0;
    for n in [2, 3, 17] {
        let mut x = vec![-1.0 / n as f64; n * n];
        (0..n).for_each(|i| x[i * n + i] += 1.0);
        for loss in every_loss(0.3).into_iter().filter(|x| x.similarity() == Similarity::Cosine) {
            let loss = if is_sigmoid(&loss) { loss } else { loss.with_margin(0.2).unwrap() };
            let loss = loss.with_factor(3.0).unwrap();
            let Some(floor) = loss.floor(n) else { continue };
            floors += 1;
            let mean = Sample::pairs(&loss, &x, &x, n).dense(&loss).mean;
            assert!((mean - floor).abs() < 1e-12, "{loss:?}, n = {n}: {mean}, not {floor}");
            for seed in 0..20 {
                let mean = Sample::random(&loss, seed, n, 4).dense(&loss).mean;
                assert!(mean > floor, "{loss:?}, n = {n}: {mean} is below the floor of {floor}");
            }
        }
    }
    assert_eq!(floors, 3 * 2 * 3, "sizes, objectives, forms");
}

/// Pairs along the axes: each pair's cosine is 1, every other 0.
#[test]
fn the_axes_give_closed_forms() {
    let (n, t) = (6, 0.4f64);
    let x = orthonormal(n);
    let (near, far) = ((1.0 / t).exp(), 1.0);
    for loss in every_loss(t) {
        let others = loss.candidates(n) as f64 - 1.0;
        // ln(1 + g/pos).
        let corrected = |share: f64| {
            let g = (others * far - share * others * near) / (1.0 - share);
            (g.max(others / near) / near).ln_1p()
        };
        let expected = match loss.objective() {
            Objective::Softmax | Objective::SupConOutside | Objective::SupConInside => {
                ((near + others * far) / near).ln()
            }
            Objective::Decoupled | Objective::DecoupledWeighted { .. } => (others / near).ln(),
            Objective::Debiased { positive_share } => corrected(positive_share),
            // Weights have no effect where all negatives are alike.
            Objective::HardNegatives { positive_share, .. } => corrected(positive_share),
            Objective::Sigmoid { bias } => {
                (1.0 + (-bias).exp() / near).ln() + others * (1.0 + bias.exp()).ln()
            }
            other => panic!("{other:?} has no closed form here"),
        };
        let out = Sample::pairs(&loss, &x, &x, n).dense(&loss);
        close(&format!("{loss:?}"), out.mean, expected, 1e-13);
        out.rows.iter().for_each(|row| close("row", *row, expected, 1e-13));
        close("sum", out.sum, expected * out.rows.len() as f64, 1e-13);
    }
}

/// Two things, one seen three times and one twice: several positives.
#[test]
fn several_positives_give_closed_forms() {
    let t = 0.4f64;
    let x: Vec<f64> =
        [0, 0, 1, 0, 1].iter().flat_map(|&i| orthonormal(2)[2 * i..][..2].to_vec()).collect();
    let labels = [5, 5, 6, 5, 7];
    let batch = Batch::labelled(Embeddings::new(&x, 2).unwrap(), &labels);
    let (near, far) = ((1.0 / t).exp(), 1.0);
    for (objective, margin) in [
        (Objective::SupConOutside, 0.0),
        (Objective::SupConInside, 0.0),
        (Objective::SupConOutside, 0.3),
        (Objective::SupConInside, 0.3),
    ] {
        let loss = ContrastiveLoss::sup_con(tau(t)).with_objective(objective).unwrap();
        let out = dense(&loss.with_margin(margin).unwrap(), &batch);
        // Positives are alike, so their mean is the same inside and outside.
        let positive = near * (-margin / t).exp();
        let three = ((2.0 * positive + 2.0 * far) / positive).ln();
        all_close("rows", &out.rows, &[three, three, 0.0, three, 0.0], 1e-14);
        close("mean", out.mean, 3.0 * three / 5.0, 1e-14);
    }
}

#[test]
fn smoothing_is_cross_entropy_with_a_smoothed_target() {
    let (n, t, a) = (5, 0.4f64, 0.3);
    let x = orthonormal(n);
    for loss in forms(t) {
        let loss = loss.with_label_smoothing(a).unwrap();
        let all = loss.candidates(n) as f64;
        let near = 1.0 / t;
        let expected = (near.exp() + all - 1.0).ln() - (1.0 - a) * near - a * near / all;
        close("smoothed", Sample::new(&x, &x, n).dense(&loss).mean, expected, 1e-14);
    }
}

#[test]
fn within_views_each_row_has_three_times_the_negatives() {
    let (n, t) = (4, 0.4f64);
    let x = orthonormal(n);
    let loss = ContrastiveLoss::info_nce(tau(t)).with_within_views(true).unwrap();
    let far = 3.0 * (n as f64 - 1.0) * (-1.0 / t).exp();
    let mut sample = Sample::new(&x, &x, n);
    close("without a guide", sample.dense(&loss).mean, far.ln_1p(), 1e-14);
    // A guide that finds query and key equal finds nothing closer, and a row is still no negative of
    // itself.
    let angles = [0.0f64, 0.3, 0.7, 1.1].map(|a| [a.cos(), a.sin()]).concat();
    sample.guide = Some([angles.clone(), angles.clone(), Vec::new()]);
    close("with a guide", sample.dense(&loss).mean, far.ln_1p(), 1e-14);
}

#[test]
fn a_guide_leaves_out_what_is_closer_than_the_pair() {
    let t = 0.5f64;
    let x = orthonormal(3);
    let loss = ContrastiveLoss::info_nce(tau(t));
    let mut sample = Sample::new(&x, &x, 3);
    sample.negatives = x[..6].to_vec();
    let at =
        |degrees: [f64; 3]| degrees.map(|a| [a.to_radians().cos(), a.to_radians().sin()]).concat();
    // Query 0 has its key 40° away, key 1 at 30° and key 2 at exactly the same 40°: only key 1 goes.
    // Of the negatives, the first is at 10° and goes, the second at 90°.
    let keys = [40.0, 30.0, 40.0];
    sample.guide = Some([at([0.0; 3]), at(keys), at([10.0, 90.0, 0.0])[..4].to_vec()]);
    let rows = sample.dense(&loss).rows;
    let (near, far) = ((1.0 / t).exp(), 1.0f64);
    // Query 1 has its key at 30°; nothing but the first negative is closer. For query 2 it is as for
    // query 0. Negatives are axes 0 and 1: the second is query 1's own.
    let expected = [2.0 * far, 2.0 * far + near, 2.0 * far].map(|neg| (neg / near).ln_1p());
    all_close("rows", &rows, &expected, 1e-14);
}

#[test]
fn ids_leave_out_known_duplicates() {
    let (n, t) = (4, 0.4f64);
    let x = orthonormal(n);
    for loss in every_loss(t).into_iter().filter(|loss| !has_labels(loss)) {
        let mut sample = Sample::random(&loss, 3, n, 3);
        let plain = sample.dense(&loss);
        sample.ids = Some([4, 3, 2, 1].to_vec());
        assert_eq!(sample.dense(&loss), plain, "ids that are all different change nothing");
        sample.ids = Some([7; 4].to_vec());
        let out = sample.dense(&loss);
        if is_sigmoid(&loss) {
            assert!(out.mean > 0.0 && out.mean < plain.mean, "the positive remains");
            continue;
        }
        // No negatives are left: nothing to learn.
        assert_eq!((out.mean, out.sum, out.log_scale), (0.0, 0.0, 0.0), "{loss:?}");
        assert!(out.queries.iter().chain(&out.keys).all(|g| *g == 0.0), "{loss:?}");
    }
    // Pairs 0 and 1 are of one thing, and a shared negative is of the thing of pair 2.
    let loss = ContrastiveLoss::info_nce(tau(t));
    let mut sample = Sample::new(&x, &x, n);
    sample.negatives = x[8..12].to_vec();
    sample.ids = Some([5, 5, 6, 8, 6].to_vec());
    let far = |count: f64| (count * (-1.0 / t).exp()).ln_1p();
    all_close("rows", &sample.dense(&loss).rows, &[far(3.0), far(3.0), far(3.0), far(4.0)], 1e-14);
    // Without an id of its own, the negative is everybody's. It is equal to query 2.
    sample.ids = Some([5, 5, 6, 8].to_vec());
    let itself = (1.0 + 3.0 * (-1.0 / t).exp()).ln_1p();
    let rows = sample.dense(&loss).rows;
    all_close("rows", &rows, &[far(3.0), far(3.0), itself, far(4.0)], 1e-14);
}

// ---------------------------------------------------------------------------------------------
// Precision
// ---------------------------------------------------------------------------------------------

/// Where `logsumexp − s` would be 0, every digit is there: of the loss, of its derivative and of
/// the gradient.
#[test]
fn a_tiny_loss_keeps_its_digits() {
    let (n, t) = (5, 0.0125f64);
    let x = orthonormal(n);
    for loss in forms(t) {
        let out = Sample::new(&x, &x, n).dense(&loss);
        let others = loss.candidates(n) as f64 - 1.0;
        let exact = others * (-1.0 / t).exp(); // ln(1 + x) = x, for an x of 1e-34
        let same = |what: &str, ours: f64, exact: f64| {
            assert!((ours / exact - 1.0).abs() < 1e-13, "{what} of {loss:?}: {ours:e}, {exact:e}");
        };
        same("value", out.mean, exact);
        same("row", out.rows[2], exact);
        same("log scale", out.log_scale, -exact / t);
        // A negative pushes either way with e^(−1/τ)/τ: in total each row's two embeddings feel it
        // twice a candidate, one way once from a query and once by a key.
        let rows = out.rows.len() as f64;
        let pushes = 2.0 * rows * others * (-1.0 / t).exp() / (t * rows);
        let total: f64 =
            (0..n * n).filter(|at| at / n != at % n).map(|at| out.queries[at] + out.keys[at]).sum();
        same("gradient", total, pushes);
    }
}

/// Logits of ±1e4, exactly: the first query's own key is the worst, the second's the best.
#[test]
fn huge_logits_give_their_difference() {
    let q = [100.0, 100.0];
    let k = [-100.0, 100.0];
    let cosine = (1e-4, Similarity::Cosine);
    for (t, similarity) in [(1.0, Similarity::Dot), cosine] {
        let loss = ContrastiveLoss::info_nce(tau(t)).with_similarity(similarity);
        let out = Sample::new(&q, &k, 1).dense(&loss);
        assert_eq!(out.rows, [2e4, 0.0]);
        assert_eq!((out.mean, out.log_scale), (1e4, 1e4));
        let decoupled = loss.with_objective(Objective::Decoupled).unwrap();
        assert_eq!(Sample::new(&q, &k, 1).dense(&decoupled).rows, [2e4, -2e4]);
    }
    // Logits of 2^20 and 2^20 − 1, which differ by 1: the first query prefers its own key by that.
    let far = 1_048_576.0;
    let loss = ContrastiveLoss::info_nce(tau(1.0)).with_similarity(Similarity::Dot);
    let out = Sample::new(&[far, far], &[1.0, 1.0 - 1.0 / far], 1).dense(&loss);
    let loses = 1.0f64.exp() / (1.0 + 1.0f64.exp());
    close("log scale", out.log_scale, (loses - (1.0 - loses)) / 2.0, 1e-15);
}

/// With logits of ±1e4 and τ = 0.001, whatever is set, every number is finite.
#[test]
fn huge_logits_overflow_nowhere() {
    for loss in every_loss(0.001) {
        for mut setup in variations(loss) {
            if loss.similarity() == Similarity::Dot {
                let larger = |x: &mut Vec<f64>| x.iter_mut().for_each(|x| *x *= 3.0);
                larger(&mut setup.sample.queries);
                setup.sample.keys.iter_mut().for_each(larger);
            }
            let out = setup.sample.dense(&setup.loss());
            let rest = vec![out.mean, out.sum, out.log_scale, out.bias];
            let all = [&out.rows, &out.queries, &out.keys, &out.negatives, &rest];
            let finite = all.into_iter().flatten().all(|x| x.is_finite());
            assert!(finite, "{} of {:?}", setup.name, setup.loss());
        }
    }
}

// ---------------------------------------------------------------------------------------------
// The question's own eight lines
// ---------------------------------------------------------------------------------------------

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
    let preset: ContrastiveLoss = "cross-entropy".parse::<Preset>().unwrap().loss();
    assert_eq!(preset, ContrastiveLoss::info_nce(tau(1.0)));
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
        same(loss.floor(n).unwrap(), floor);
        same((-loss.floor(n).unwrap()).exp(), probability);
        // Above 1,000 rows the dense oracle takes a while; the fast path is tied to it elsewhere.
        let x = orthonormal(n);
        let x = Embeddings::new(&x, n).unwrap();
        let value = if n <= 256 { info_nce(&loss, x, x).mean } else { continue };
        same(value, identity);
        same(loss.value((x, x)).unwrap().mean, identity);
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
    assert!((loss.value((q, k)).unwrap().mean - expected).abs() < 1e-14);
}

#[test]
fn a_temperature_must_be_positive_and_finite() {
    for wrong in [0.0, -0.1, f64::NAN, f64::INFINITY, 1e-310] {
        let error = Temperature::new(wrong).unwrap_err().to_string();
        assert!(error.starts_with("temperature is") && error.contains("above 0"), "{error}");
    }
}
