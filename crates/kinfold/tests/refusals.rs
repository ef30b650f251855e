//! What has no meaning is refused, with the reason: settings when they are put together or at the
//! latest when a loss is called, batches when a loss is called.

use kinfold::{Batch, ContrastiveLoss, Embeddings, Error, Objective, Similarity};

mod common;
use common::tau;

const OUT_OF_LABELS: Objective = Objective::SupConOutside;
const IN_LABELS: Objective = Objective::SupConInside;
const DECOUPLED: Objective = Objective::Decoupled;
const WEIGHTED: Objective = Objective::DecoupledWeighted { sigma: 0.5 };
const DEBIASED: Objective = Objective::Debiased { positive_share: 0.1 };
const HARD: Objective = Objective::HardNegatives { positive_share: 0.1, concentration: 1.0 };
const SIGMOID: Objective = Objective::Sigmoid { bias: -1.0 };

fn one_way() -> ContrastiveLoss {
    ContrastiveLoss::info_nce(tau(0.5))
}

fn both_ways() -> ContrastiveLoss {
    one_way().symmetric()
}

fn nt_xent() -> ContrastiveLoss {
    ContrastiveLoss::nt_xent(tau(0.5))
}

fn with(loss: ContrastiveLoss, objective: Objective) -> ContrastiveLoss {
    loss.with_objective(objective).unwrap()
}

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, reason: &str) {
    let text = result.expect_err(reason).to_string();
    assert!(text.contains(reason), "the reason is `{reason}`, but the error says `{text}`");
}

#[test]
fn numbers_out_of_their_range() {
    let (nan, infinite) = (f64::NAN, f64::INFINITY);
    let share = |positive_share| {
        let hard = Objective::HardNegatives { positive_share, concentration: 1.0 };
        [Objective::Debiased { positive_share }, hard].map(|x| one_way().with_objective(x))
    };
    for given in [-0.1, 1.0, nan] {
        for result in share(given) {
            let reason = format!("the share of positives is {given}, but it must be at least 0");
            refused(result, &reason);
        }
    }
    for given in [0.0, -1.0, infinite, nan] {
        let must = format!("is {given}, but it must be a finite number above 0");
        let sigma = Objective::DecoupledWeighted { sigma: given };
        refused(one_way().with_objective(sigma), &format!("sigma {must}"));
        refused(one_way().with_factor(given), &format!("the factor {must}"));
        refused(one_way().with_norm_floor(given), &format!("the norm floor {must}"));
    }
    for concentration in [-0.5, infinite, nan] {
        let hard = Objective::HardNegatives { positive_share: 0.1, concentration };
        refused(one_way().with_objective(hard), "the concentration is");
    }
    for given in [infinite, -infinite, nan] {
        let must = format!("is {given}, but it must be a finite number");
        refused(one_way().with_margin(given), &format!("the margin {must}"));
        refused(ContrastiveLoss::sig_lip(tau(0.1), given), &format!("the bias {must}"));
    }
    for given in [-0.1, 1.1, nan] {
        refused(one_way().with_label_smoothing(given), "label smoothing is");
    }
    // The ends of the ranges belong to them.
    for objective in [
        Objective::Debiased { positive_share: 0.0 },
        Objective::HardNegatives { positive_share: 0.0, concentration: 0.0 },
    ] {
        assert!(one_way().with_objective(objective).is_ok());
    }
    for smoothing in [0.0, 1.0] {
        assert!(one_way().with_label_smoothing(smoothing).is_ok());
    }
}

#[test]
fn settings_that_have_no_meaning_together() {
    let table = [
        (one_way().with_objective(OUT_OF_LABELS), "SupCon compares every row with every other"),
        (both_ways().with_objective(IN_LABELS), "SupCon compares every row with every other"),
        (nt_xent().with_objective(SIGMOID), "SigLIP is over pairs of a query and a key"),
        (with(one_way(), SIGMOID).with_label_smoothing(0.1), "SigLIP judges every pair on its own"),
        (with(both_ways(), SIGMOID).with_margin(0.1), "SigLIP judges every pair on its own"),
        (
            with(nt_xent(), DECOUPLED).with_label_smoothing(0.1),
            "decoupled losses leave the positive",
        ),
        (
            with(one_way(), WEIGHTED).with_label_smoothing(0.1),
            "decoupled losses leave the positive",
        ),
        (with(nt_xent(), DEBIASED).with_label_smoothing(0.1), "one softmax over all candidates"),
        (with(nt_xent(), HARD).with_label_smoothing(0.1), "one softmax over all candidates"),
        (with(nt_xent(), IN_LABELS).with_label_smoothing(0.1), "one softmax over all candidates"),
        (
            both_ways().with_in_batch_negatives(false),
            "without in-batch negatives keys have nothing",
        ),
        (nt_xent().with_in_batch_negatives(false), "without in-batch negatives keys have nothing"),
        (both_ways().with_within_views(true), "pushing within views has a meaning for the plain"),
        (nt_xent().with_within_views(true), "NT-Xent does it already"),
        (with(one_way(), DECOUPLED).with_within_views(true), "pushing within views has a meaning"),
        (
            one_way().with_in_batch_negatives(false).unwrap().with_within_views(true),
            "pushing within views has a meaning for the plain loss one way with in-batch",
        ),
        (one_way().with_offset(1).with_within_views(true), "no meaning with an offset"),
        (
            one_way().with_within_views(true).unwrap().with_label_smoothing(0.1),
            "nor with label smoothing",
        ),
    ];
    for (result, reason) in table {
        refused(result, reason);
    }
}

/// What can be set without an answer is refused when the loss is called.
#[test]
fn settings_that_are_refused_at_the_call() {
    let x = Embeddings::new(&[1.0, 0.0, 0.5, 1.0], 2).unwrap();
    let dot = Similarity::Dot;
    for (loss, reason) in [
        (with(nt_xent(), DEBIASED).with_similarity(dot), "holds for the cosine alone"),
        (with(one_way(), HARD).with_similarity(dot), "holds for the cosine alone"),
        (both_ways().with_offset(1), "an offset has a meaning one way only"),
        (nt_xent().with_offset(1), "an offset has a meaning one way only"),
        (one_way().with_within_views(true).unwrap().with_offset(1), "no meaning with an offset"),
        (with(one_way(), SIGMOID).with_label_smoothing(0.0).unwrap().with_offset(9), "only 2 keys"),
        (with(nt_xent(), OUT_OF_LABELS).symmetric(), "SupCon compares every row with every other"),
    ] {
        refused(loss.value((x, x)), reason);
        refused(loss.value_and_gradient((x, x)), reason);
    }
}

/// Rows of two numbers.
fn of(x: &[f64]) -> Embeddings<'_, f64> {
    Embeddings::new(x, 2).unwrap()
}

#[test]
fn batches_that_disagree_with_a_loss() {
    let numbers: Vec<f64> = (0..24).map(|i| f64::from(i) - 3.5).collect();
    let (none, two, three) = (of(&[]), of(&numbers[..4]), of(&numbers[..6]));
    let wide = Embeddings::new(&numbers[..6], 3).unwrap();
    let wide_pair = Embeddings::new(&numbers[..6], 3).unwrap();
    let plain = Batch::new(two, two);
    let labels = [1, 2];
    let sup_con = ContrastiveLoss::sup_con(tau(0.5));
    let given_alone = one_way().with_in_batch_negatives(false).unwrap();
    let one_way = one_way();
    for (loss, batch, reason) in [
        // Shapes.
        (one_way, Batch::new(none, two), "queries have no rows, but at least 1"),
        (one_way, Batch::new(two, none), "keys have no rows, but at least 1"),
        (one_way, Batch::new(two, wide), "queries have dimension 2 but keys have dimension 3"),
        (one_way, Batch::new(three, two), "query 2 has its positive at key 2 + 0, but there are"),
        (
            one_way.with_offset(1),
            plain,
            "query 1 has its positive at key 1 + 1, but there are only 2",
        ),
        (one_way.with_offset(usize::MAX), plain, "but there are only 2 keys"),
        (both_ways(), Batch::new(two, three), "keys have 3 rows but queries have 2"),
        (nt_xent(), Batch::new(three, two), "keys have 2 rows but queries have 3"),
        // Labels.
        (sup_con, plain, "a loss over labels needs labels"),
        (nt_xent(), plain.with_labels(&labels), "labels have a meaning for the losses over labels"),
        (
            one_way,
            Batch::labelled(two, &labels),
            "labels have a meaning for the losses over labels",
        ),
        (sup_con, plain.with_labels(&[1]), "the number of labels is 1, but it must lie between 2"),
        (sup_con, Batch::labelled(three, &labels), "the number of labels is 2"),
        (sup_con, plain.with_labels(&labels).with_ids(&labels), "there is nothing for ids"),
        (
            sup_con,
            plain.with_labels(&labels).with_guide(two, two, None),
            "there is nothing for ids or a guide to leave out",
        ),
        // Negatives.
        (both_ways(), plain.with_negatives(two), "explicit negatives are negatives of queries"),
        (nt_xent(), plain.with_negatives_per_query(two), "explicit negatives are negatives of"),
        (sup_con, plain.with_labels(&labels).with_negatives(two), "explicit negatives are"),
        (with(one_way, SIGMOID), plain.with_negatives(two), "explicit negatives are"),
        (given_alone, plain, "there are only those that are given, and none were"),
        (one_way, plain.with_negatives(wide), "queries have dimension 2 but negatives have"),
        (one_way, plain.with_negatives_per_query(wide_pair), "have dimension 2 but negatives have"),
        (
            one_way,
            plain.with_negatives_per_query(three),
            "3 negatives do not divide among 2 queries",
        ),
        (
            one_way.with_within_views(true).unwrap(),
            plain.with_negatives_per_query(two),
            "pushing within views has no meaning with negatives per query",
        ),
        (
            one_way.with_within_views(true).unwrap(),
            Batch::new(two, three),
            "keys have 3 rows but queries have 2",
        ),
        // Ids.
        (one_way, plain.with_ids(&[1]), "the number of ids is 1, but it must lie between 2 and 2"),
        (both_ways(), plain.with_ids(&[1, 2, 3]), "the number of ids is 3"),
        (
            one_way,
            plain.with_negatives(three).with_ids(&[1, 2, 3]),
            "the number of ids is 3, but it must lie between 2 and 5",
        ),
        (
            one_way,
            plain.with_negatives_per_query(two).with_ids(&[1, 2, 3, 4]),
            "the number of ids is 4, but it must lie between 2 and 2",
        ),
        // Weights.
        (both_ways(), plain.with_row_weights(&[1.0; 4]), "the number of row weights is 4"),
        (nt_xent(), plain.with_row_weights(&[1.0; 2]), "the number of row weights is 2"),
        (one_way, plain.with_row_weights(&[1.0, -1.0]), "the weight of row 1 is -1"),
        (one_way, plain.with_row_weights(&[f64::NAN, 1.0]), "the weight of row 0 is NaN"),
        (one_way, plain.with_row_weights(&[0.0, f64::INFINITY]), "the weight of row 1 is inf"),
        (one_way, plain.with_row_weights(&[0.0, 0.0]), "all row weights are 0"),
    ] {
        refused(loss.value(batch), reason);
        refused(loss.value_and_gradient(batch), reason);
    }
}

#[test]
fn guides_that_disagree_with_a_loss() {
    let numbers: Vec<f64> = (0..24).map(|i| f64::from(i) - 3.5).collect();
    let (two, three) = (of(&numbers[..4]), of(&numbers[..6]));
    let wide = Embeddings::new(&numbers[..6], 3).unwrap();
    let (plain, negatives) = (Batch::new(two, two), Batch::new(two, two).with_negatives(three));
    let guided = plain.with_guide(two, two, None);
    let alone = one_way().with_in_batch_negatives(false).unwrap();
    for (loss, batch, reason) in [
        (both_ways(), guided, "a guide has a meaning for the plain loss one way"),
        (nt_xent(), guided, "a guide has a meaning for the plain loss one way"),
        (with(one_way(), DECOUPLED), guided, "a guide has a meaning for the plain loss one way"),
        (
            alone,
            negatives.with_guide(two, two, Some(three)),
            "a guide has a meaning for the plain loss one way with in-batch negatives alone",
        ),
        (
            one_way().with_offset(1),
            Batch::new(two, three).with_guide(two, three, None),
            "it has no meaning with an offset",
        ),
        (one_way(), guided.with_negatives_per_query(two), "or with negatives per query"),
        (
            one_way().with_label_smoothing(0.1).unwrap(),
            guided,
            "label smoothing spreads the target over all candidates, and a guide",
        ),
        (
            one_way(),
            plain.with_guide(three, two, None),
            "the guide's queries have 3 rows but queries",
        ),
        (
            one_way(),
            plain.with_guide(two, three, None),
            "the guide's keys have 3 rows but keys have",
        ),
        (
            one_way(),
            plain.with_guide(two, wide, None),
            "the guide's queries have dimension 2 but the guide's keys have dimension 3",
        ),
        (one_way(), negatives.with_guide(two, two, None), "the guide's negatives are needed, too"),
        (
            one_way(),
            negatives.with_guide(two, two, Some(two)),
            "the guide's negatives have 2 rows but negatives have 3",
        ),
        (
            one_way(),
            plain.with_negatives(two).with_guide(two, two, Some(wide)),
            "the guide's queries have dimension 2 but the guide's negatives have dimension 3",
        ),
        (
            one_way(),
            plain.with_guide(two, two, Some(two)),
            "there are no shared negatives for it to judge",
        ),
    ] {
        refused(loss.value(batch), reason);
    }
    // A guide may have another dimension than what it judges.
    let other = Embeddings::new(&numbers[..2], 1).unwrap();
    assert!(one_way().value(plain.with_guide(other, other, None)).is_ok());
}

#[test]
fn numbers_that_are_not_finite() {
    let right = [1.0, 0.5, -0.5, 1.0];
    for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let mut wrong = right;
        wrong[2] = bad;
        let (right, wrong) = (of(&right), of(&wrong));
        let plain = Batch::new(right, right);
        for (batch, matrix) in [
            (Batch::new(wrong, right), "queries"),
            (Batch::new(right, wrong), "keys"),
            (plain.with_negatives(wrong), "negatives"),
            (plain.with_negatives_per_query(wrong), "negatives"),
            (plain.with_guide(wrong, right, None), "the guide's queries"),
            (plain.with_guide(right, wrong, None), "the guide's keys"),
            (
                plain.with_negatives(right).with_guide(right, right, Some(wrong)),
                "the guide's negatives",
            ),
        ] {
            let reason = format!("{matrix} hold {bad} at row 1, column 0");
            refused(one_way().value(batch), &reason);
        }
        let labelled = Batch::labelled(wrong, &[1, 1]);
        refused(ContrastiveLoss::sup_con(tau(0.5)).value(labelled), "queries hold");
    }
}
