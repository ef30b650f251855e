//! What must not change a loss, and losses that are each other, by the oracle.

use kinfold::loss::reference::Dense;
use kinfold::{ContrastiveLoss, Form, Objective, Reduction};

mod common;
#[path = "common/sample.rs"]
mod sample;
use common::{forms, normal, tau};
use sample::{Sample, all_close, close, every_loss, has_labels, is_sigmoid};

/// Everything but the rows, whose order may differ.
fn same(what: &str, a: &Dense, b: &Dense, most: f64) {
    close(what, a.mean, b.mean, most);
    close(what, a.sum, b.sum, most);
    close(what, a.log_scale, b.log_scale, most);
    close(what, a.bias, b.bias, most);
    all_close(what, &a.queries, &b.queries, most);
    all_close(what, &a.keys, &b.keys, most);
    all_close(what, &a.negatives, &b.negatives, most);
}

#[test]
fn queries_and_keys_may_be_exchanged() {
    for loss in every_loss(0.3).into_iter().filter(|loss| loss.form() != Form::OneWay) {
        let sample = Sample::random(&loss, 5, 6, 4);
        let (there, n) = (sample.dense(&loss), sample.n());
        let keys = sample.keys.clone().unwrap();
        let back = Sample { queries: keys, keys: Some(sample.queries.clone()), ..sample };
        let mut back = back.dense(&loss);
        std::mem::swap(&mut back.queries, &mut back.keys);
        if loss.form() == Form::NtXent {
            back.rows.rotate_left(n);
        }
        same(&format!("{loss:?}"), &back, &there, 1e-12);
        // Every pair on its own is the same both ways, but rows are those of the queries.
        if !is_sigmoid(&loss) {
            all_close("rows", &back.rows, &there.rows, 1e-12);
        }
    }
}

#[test]
fn the_order_of_pairs_has_no_meaning() {
    let order = [3, 0, 4, 1, 2];
    let (n, d) = (order.len(), 3);
    fn permuted<T: Copy>(order: &[usize], x: &[T], width: usize) -> Vec<T> {
        // Of each block of n rows, so that both views are permuted alike.
        let blocks = x.chunks(order.len() * width);
        let rows = |block: &[T]| -> Vec<T> {
            order.iter().flat_map(|&i| block[i * width..(i + 1) * width].to_vec()).collect()
        };
        blocks.flat_map(rows).collect()
    }
    for loss in every_loss(0.3) {
        let mut sample = Sample::random(&loss, 5, n, d);
        let rows = sample.batch().rows(loss.form());
        sample.weights = Some((0..rows).map(|row| 0.5 + row as f64).collect());
        sample.ids = (!has_labels(&loss)).then(|| [4, 5, 4, 6, 7].to_vec());
        let out = sample.dense(&loss);
        let other = Sample {
            queries: permuted(&order, &sample.queries, d),
            keys: sample.keys.as_ref().map(|x| permuted(&order, x, d)),
            ids: sample.ids.as_ref().map(|x| permuted(&order, x, 1)),
            labels: sample.labels.as_ref().map(|x| permuted(&order, x, 1)),
            weights: sample.weights.as_ref().map(|x| permuted(&order, x, 1)),
            ..sample
        };
        let other = other.dense(&loss);
        let expected = Dense {
            queries: permuted(&order, &out.queries, d),
            keys: permuted(&order, &out.keys, d),
            ..out.clone()
        };
        same(&format!("{loss:?}"), &other, &expected, 1e-12);
        all_close("rows", &other.rows, &permuted(&order, &out.rows, 1), 1e-12);
    }
}

#[test]
fn the_same_pair_twice_has_the_same_gradient_twice() {
    let (n, d) = (5, 3);
    for loss in every_loss(0.3) {
        let mut sample = Sample::random(&loss, 5, n, d);
        sample.queries.copy_within(0..d, 3 * d);
        sample.keys.as_mut().unwrap().copy_within(0..d, 3 * d);
        let out = sample.dense(&loss);
        for gradient in [&out.queries, &out.keys] {
            all_close(&format!("{loss:?}"), &gradient[..d], &gradient[3 * d..4 * d], 1e-12);
        }
        close("rows", out.rows[0], out.rows[3], 1e-12);
    }
}

#[test]
fn row_weights_count_rows() {
    for loss in every_loss(0.3) {
        let mut sample = Sample::random(&loss, 5, 5, 3);
        let plain = sample.dense(&loss);
        let rows = plain.rows.len();
        sample.weights = Some(vec![2.0; rows]);
        let twice = sample.dense(&loss);
        close("mean", twice.mean, plain.mean, 1e-14);
        close("sum", twice.sum, 2.0 * plain.sum, 1e-14);
        all_close("gradient", &twice.queries, &plain.queries, 1e-13);
        // The gradient of a sum that counts one row after the other adds up to that of the sum.
        let sum = loss.with_reduction(Reduction::Sum);
        let (mut queries, mut log_scale, mut bias) = (vec![0.0; 15], 0.0, 0.0);
        for row in 0..rows {
            let weights = (0..rows).map(|other| f64::from(u8::from(other == row))).collect();
            sample.weights = Some(weights);
            let out = sample.dense(&sum);
            close("one row", out.sum, plain.rows[row], 1e-14);
            assert_eq!(out.rows, plain.rows);
            queries.iter_mut().zip(&out.queries).for_each(|(sum, g)| *sum += g);
            (log_scale, bias) = (log_scale + out.log_scale, bias + out.bias);
        }
        sample.weights = None;
        let whole = sample.dense(&sum);
        all_close("sum of gradients", &queries, &whole.queries, 1e-12);
        close("sum of gradients", log_scale, whole.log_scale, 1e-12);
        close("sum of gradients", bias, whole.bias, 1e-12);
        close("mean", plain.log_scale * rows as f64, whole.log_scale, 1e-12);
    }
}

#[test]
fn shared_negatives_are_keys_of_nobody() {
    let (n, d, m) = (4, 3, 3);
    for loss in every_loss(0.3) {
        if loss.form() != Form::OneWay || is_sigmoid(&loss) {
            continue;
        }
        let mut sample = Sample::random(&loss, 5, n, d);
        sample.negatives = normal(9, m * d);
        sample.ids = Some([1, 2, 1, 3, 2, 4, 1].to_vec());
        let mut as_keys = sample.clone();
        as_keys.keys.as_mut().unwrap().append(&mut as_keys.negatives);
        let (out, mut expected) = (sample.dense(&loss), as_keys.dense(&loss));
        expected.negatives = expected.keys.split_off(n * d);
        same(&format!("{loss:?}"), &out, &expected, 1e-13);

        // And negatives of each query where each has the same ones.
        sample.ids = None;
        let shared = sample.dense(&loss);
        let own = sample.negatives.repeat(n);
        let mut own = Sample { negatives: own, per_query: true, ..sample }.dense(&loss);
        own.negatives = (0..m * d)
            .map(|at| own.negatives.iter().skip(at).step_by(m * d).sum::<f64>())
            .collect();
        same(&format!("{loss:?}"), &own, &shared, 1e-13);
    }
}

#[test]
fn workers_with_an_offset_make_up_the_whole() {
    let (n, d) = (6, 3);
    for loss in every_loss(0.3).into_iter().filter(|loss| loss.form() == Form::OneWay) {
        // The weights of pairs are those of all pairs, which no worker has.
        if matches!(loss.objective(), Objective::DecoupledWeighted { .. }) {
            continue;
        }
        let loss = loss.with_reduction(Reduction::Sum);
        let mut sample = Sample::random(&loss, 5, n, d);
        sample.ids = Some([1, 2, 1, 3, 2, 4].to_vec());
        let whole = sample.dense(&loss);
        let part = |from: usize, to: usize| {
            let queries = sample.queries[from * d..to * d].to_vec();
            Sample { queries, ..sample.clone() }.dense(&loss.with_offset(from))
        };
        let parts = [part(0, 4), part(4, 6)];
        let [a, b] = &parts;
        let keys: Vec<f64> = a.keys.iter().zip(&b.keys).map(|(a, b)| a + b).collect();
        all_close("queries", &[&a.queries[..], &b.queries].concat(), &whole.queries, 1e-13);
        all_close("keys", &keys, &whole.keys, 1e-13);
        all_close("rows", &[&a.rows[..], &b.rows].concat(), &whole.rows, 1e-14);
        close("sum", a.sum + b.sum, whole.sum, 1e-13);
        close("log scale", a.log_scale + b.log_scale, whole.log_scale, 1e-13);
    }
}

/// Where settings make one loss another, it is the same number.
#[test]
fn some_losses_are_each_other() {
    let of = |loss: ContrastiveLoss, objective| loss.with_objective(objective).unwrap();
    for loss in forms(0.3) {
        let sample = Sample::random(&loss, 5, 6, 3);
        let plain = sample.dense(&loss);
        let equal = |what: &str, other: &ContrastiveLoss, expected: &Dense| {
            same(what, &sample.dense(other), expected, 1e-12);
        };
        let debiased = |positive_share| of(loss, Objective::Debiased { positive_share });
        equal("nothing to correct", &debiased(0.0), &plain);
        let hard = |positive_share, concentration| {
            of(loss, Objective::HardNegatives { positive_share, concentration })
        };
        equal("β = 0", &hard(0.2, 0.0), &sample.dense(&debiased(0.2)));
        // e^(1/σ) of nearly no weight makes all pairs alike.
        let weighted = of(loss, Objective::DecoupledWeighted { sigma: 1e14 });
        equal("σ without end", &weighted, &sample.dense(&of(loss, Objective::Decoupled)));
        equal("no margin", &loss.with_margin(0.0).unwrap(), &plain);
    }
    // Labels that only the two of a pair share.
    let loss = ContrastiveLoss::nt_xent(tau(0.3));
    let sample = Sample::random(&loss, 5, 6, 3);
    let labelled = Sample { labels: Some((0..6).collect()), ..sample.clone() };
    for objective in [Objective::SupConOutside, Objective::SupConInside] {
        same("pairs", &labelled.dense(&of(loss, objective)), &sample.dense(&loss), 1e-14);
    }
    // Every pair on its own: one way and both ways have the same pairs.
    let loss = of(ContrastiveLoss::info_nce(tau(0.3)), Objective::Sigmoid { bias: -1.0 });
    same("sigmoid", &sample.dense(&loss), &sample.dense(&loss.symmetric()), 1e-13);
    // Keys before rows that are alone.
    let loss = ContrastiveLoss::sup_con(tau(0.3));
    let mut sample = Sample::random(&loss, 5, 6, 3);
    let mut two = sample.dense(&loss);
    sample.queries.extend(sample.keys.take().unwrap());
    sample.labels = sample.labels.map(|labels| labels.repeat(2));
    two.queries.append(&mut two.keys);
    same("rows alone", &sample.dense(&loss), &two, 1e-14);
}

#[test]
fn a_row_without_a_positive_gives_nothing_and_counts() {
    let x = normal(5, 6 * 3);
    for objective in [Objective::SupConOutside, Objective::SupConInside] {
        let loss = ContrastiveLoss::sup_con(tau(0.3)).with_objective(objective).unwrap();
        let mut sample = Sample::new(&x, &x, 3);
        (sample.keys, sample.labels) = (None, Some([1, 2, 1, 3, 2, 1].to_vec()));
        let out = sample.dense(&loss);
        assert_eq!(out.rows[3], 0.0);
        assert!(out.rows.iter().filter(|row| **row > 0.0).count() == 5);
        close("mean", out.mean, out.rows.iter().sum::<f64>() / 6.0, 1e-15);
        // It chooses nothing; counting it alone, no gradient is left.
        sample.weights = Some([0.0, 0.0, 0.0, 1.0, 0.0, 0.0].to_vec());
        let out = sample.dense(&loss);
        assert_eq!((out.mean, out.log_scale), (0.0, 0.0));
        assert!(out.queries.iter().all(|g| *g == 0.0));
    }
}

#[test]
fn one_pair_has_nothing_to_learn_but_a_sigmoid() {
    let (q, k) = (normal(5, 3), normal(6, 3));
    for loss in every_loss(0.3) {
        let out = Sample::pairs(&loss, &q, &k, 3).dense(&loss);
        if is_sigmoid(&loss) {
            assert!(out.mean > 0.0 && out.bias < 0.0, "{loss:?}");
            continue;
        }
        assert_eq!((out.mean, out.sum, out.log_scale, out.bias), (0.0, 0.0, 0.0, 0.0), "{loss:?}");
        assert!(out.queries.iter().chain(&out.keys).all(|g| *g == 0.0), "{loss:?}");
    }
}
