//! Every loss of the family with something to compute it of, for tests that hold for all of them.
#![allow(dead_code, reason = "each test file takes what it needs")]

use super::common::{Executed, forms, normal};
use kinfold::loss::reference::{Dense, dense};
use kinfold::{Batch, ContrastiveLoss, Embeddings, Form, Objective, Reduction, Similarity};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub(crate) const OBJECTIVES: [Objective; 10] = [
    Objective::Softmax,
    Objective::Decoupled,
    Objective::DecoupledWeighted { sigma: 0.5 },
    Objective::Debiased { positive_share: 0.1 },
    // So large a share that some rows are at the lower bound, and at it depend on τ only.
    Objective::Debiased { positive_share: 0.6 },
    Objective::HardNegatives { positive_share: 0.1, concentration: 1.0 },
    Objective::HardNegatives { positive_share: 0.3, concentration: 2.5 },
    Objective::SupConOutside,
    Objective::SupConInside,
    Objective::Sigmoid { bias: -2.0 },
];

/// Every objective in every form and with every similarity that it has a meaning with.
pub(crate) fn every_loss(t: f64) -> Vec<ContrastiveLoss> {
    let similarities = [Similarity::Cosine, Similarity::Dot];
    let forms = forms(t).into_iter();
    let compared =
        forms.flat_map(|form| similarities.map(|similarity| form.with_similarity(similarity)));
    let all = compared.flat_map(|loss| OBJECTIVES.map(|objective| loss.with_objective(objective)));
    all.filter_map(Result::ok).collect()
}

pub(crate) fn has_labels(loss: &ContrastiveLoss) -> bool {
    matches!(loss.objective(), Objective::SupConOutside | Objective::SupConInside)
}

pub(crate) fn is_sigmoid(loss: &ContrastiveLoss) -> bool {
    matches!(loss.objective(), Objective::Sigmoid { .. })
}

/// What a batch borrows.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) d: usize,
    pub(crate) queries: Vec<f64>,
    /// None where labels are all there is.
    pub(crate) keys: Option<Vec<f64>>,
    pub(crate) negatives: Vec<f64>,
    pub(crate) per_query: bool,
    /// Negatives are given even where there are none of them.
    pub(crate) empty: bool,
    pub(crate) ids: Option<Vec<u64>>,
    pub(crate) labels: Option<Vec<u64>>,
    pub(crate) weights: Option<Vec<f64>>,
    /// Queries, keys and negatives, in two dimensions.
    pub(crate) guide: Option<[Vec<f64>; 3]>,
}

impl Sample {
    pub(crate) fn new(queries: &[f64], keys: &[f64], d: usize) -> Self {
        Self {
            d,
            queries: queries.to_vec(),
            keys: Some(keys.to_vec()),
            negatives: Vec::new(),
            per_query: false,
            empty: false,
            ids: None,
            labels: None,
            weights: None,
            guide: None,
        }
    }

    /// Keys somewhat near their queries; with labels, if `loss` needs some, two of which are shared.
    pub(crate) fn random(loss: &ContrastiveLoss, seed: u64, n: usize, d: usize) -> Self {
        let queries = normal(seed, n * d);
        let noise = normal(seed + 1, n * d);
        let keys: Vec<f64> = queries.iter().zip(&noise).map(|(q, x)| 0.5 * q + x).collect();
        let labels = (0..n as u64).map(|i| i % 3 * 10).collect();
        let labels = has_labels(loss).then_some(labels);
        Self { labels, ..Self::new(&queries, &keys, d) }
    }

    /// Pairs alone: with labels, if `loss` needs some, that only the two of a pair share.
    pub(crate) fn pairs(loss: &ContrastiveLoss, queries: &[f64], keys: &[f64], d: usize) -> Self {
        let labels = (0..(queries.len() / d) as u64).collect();
        Self { labels: has_labels(loss).then_some(labels), ..Self::new(queries, keys, d) }
    }

    pub(crate) fn n(&self) -> usize {
        self.queries.len() / self.d
    }

    pub(crate) fn batch(&self) -> Batch<'_, f64> {
        let of = |x| Embeddings::new(x, self.d).unwrap();
        let mut batch = match (&self.keys, &self.labels) {
            (Some(keys), None) => Batch::new(of(&self.queries), of(keys)),
            (Some(keys), Some(labels)) => {
                Batch::new(of(&self.queries), of(keys)).with_labels(labels)
            }
            (None, labels) => Batch::labelled(of(&self.queries), labels.as_ref().unwrap()),
        };
        match (self.negatives.is_empty() && !self.empty, self.per_query) {
            (true, _) => {}
            (false, true) => batch = batch.with_negatives_per_query(of(&self.negatives)),
            (false, false) => batch = batch.with_negatives(of(&self.negatives)),
        }
        if let Some(ids) = &self.ids {
            batch = batch.with_ids(ids);
        }
        if let Some(weights) = &self.weights {
            batch = batch.with_row_weights(weights);
        }
        if let Some(guide) = &self.guide {
            let [queries, keys, negatives] =
                guide.each_ref().map(|x| Embeddings::new(x, 2).unwrap());
            let judged = self.empty || negatives.rows() > 0;
            batch = batch.with_guide(queries, keys, Some(negatives).filter(|_| judged));
        }
        batch
    }

    pub(crate) fn dense(&self, loss: &ContrastiveLoss) -> Dense {
        dense(loss, &self.batch())
    }
}

/// A loss and its input, and those of its settings that nobody can ask it for.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) name: &'static str,
    pub(crate) loss: ContrastiveLoss,
    pub(crate) sample: Sample,
    pub(crate) offset: usize,
    pub(crate) margin: f64,
    pub(crate) factor: f64,
    pub(crate) norm_floor: f64,
}

impl Setup {
    pub(crate) fn loss(&self) -> ContrastiveLoss {
        let loss = self.loss.with_offset(self.offset).with_factor(self.factor).unwrap();
        let loss = loss.with_norm_floor(self.norm_floor).unwrap();
        if self.margin == 0.0 { loss } else { loss.with_margin(self.margin).unwrap() }
    }
}

/// Everything that can be set for `loss`, one thing or a few at a time.
pub(crate) fn variations(loss: ContrastiveLoss) -> Vec<Setup> {
    let sample = Sample::random(&loss, 1, 5, 3);
    let rows = sample.batch().rows(loss.form());
    let plain = Setup {
        name: "plain",
        loss,
        sample,
        offset: 0,
        margin: 0.0,
        factor: 1.0,
        norm_floor: 1e-12,
    };
    let mut out = vec![plain.clone()];
    let mut add = |name, change: &dyn Fn(&mut Setup)| {
        let mut setup = Setup { name, ..plain.clone() };
        change(&mut setup);
        out.push(setup);
    };
    let weights = || Some((0..rows).map(|row| (row % 4) as f64 * 0.7).collect());
    let ids = [3, 4, 3, 5, 4];
    let sum = |x: &mut Setup| {
        (x.loss, x.factor) = (x.loss.with_reduction(Reduction::Sum), 1.7);
    };
    add("sum", &sum);
    add("row weights", &|x| x.sample.weights = weights());
    add("row weights, sum", &|x| {
        sum(x);
        x.sample.weights = weights();
    });
    if loss.similarity() == Similarity::Cosine {
        // Some rows are shorter than that.
        add("norm floor", &|x| x.norm_floor = 1.5);
    }
    if !is_sigmoid(&loss) {
        add("margin", &|x| x.margin = 0.15);
    }
    if matches!(loss.objective(), Objective::Softmax | Objective::SupConOutside) {
        let smoothed = loss.with_label_smoothing(0.2).unwrap();
        add("smoothing", &|x| x.loss = smoothed);
        add("smoothing and margin", &|x| (x.loss, x.margin) = (smoothed, -0.3));
    }
    if has_labels(&loss) {
        // A label that occurs once: a row without a positive.
        add("rows alone", &|x| {
            x.sample.keys = None;
            x.sample.labels = Some([7, 8, 7, 9, 8].to_vec());
            x.sample.weights = Some([1.0, 0.5, 0.0, 2.0, 1.5].to_vec());
        });
    } else {
        add("ids", &|x| x.sample.ids = Some(ids.to_vec()));
    }
    if loss.form() == Form::OneWay {
        add("offset", &|x| {
            x.offset = 2;
            x.sample.keys.as_mut().unwrap().extend(normal(8, 4 * 3));
            x.sample.ids = Some([3, 4, 3, 5, 4, 3, 9, 4, 3].to_vec());
        });
        if !is_sigmoid(&loss) {
            with_negatives(loss, &mut add);
        }
        if loss.objective() == Objective::Softmax {
            with_guides(loss, &mut add);
        }
    }
    out
}

fn shared(x: &mut Setup) {
    x.sample.negatives = normal(7, 4 * 3);
}

/// Adds a variation: its name, and what it changes.
type Add<'a> = dyn FnMut(&'static str, &dyn Fn(&mut Setup)) + 'a;

fn with_negatives(loss: ContrastiveLoss, add: &mut Add<'_>) {
    let alone = loss.with_in_batch_negatives(false).unwrap();
    let per_query = |x: &mut Setup| {
        (x.sample.negatives, x.sample.per_query) = (normal(7, 10 * 3), true);
    };
    add("shared", &shared);
    add("shared, ids", &|x| {
        shared(x);
        x.sample.ids = Some([3, 4, 3, 5, 4, 3, 9, 9, 5].to_vec());
    });
    add("shared alone", &|x| {
        shared(x);
        x.loss = alone;
    });
    add("per query", &per_query);
    add("per query alone", &|x| {
        per_query(x);
        x.loss = alone;
    });
}

fn with_guides(loss: ContrastiveLoss, add: &mut Add<'_>) {
    let guide =
        |negatives: usize| Some([normal(10, 5 * 2), normal(11, 5 * 2), normal(12, negatives * 2)]);
    let within = loss.with_within_views(true).unwrap();
    add("guide", &|x| x.sample.guide = guide(0));
    add("guide, shared", &|x| {
        shared(x);
        x.sample.guide = guide(4);
    });
    add("within", &|x| x.loss = within);
    add("within, ids", &|x| {
        (x.loss, x.margin) = (within, 0.1);
        x.sample.ids = Some([3, 4, 3, 5, 4].to_vec());
    });
    add("within, guide", &|x| {
        (x.loss, x.margin) = (within, 0.1);
        x.sample.guide = guide(0);
    });
    add("within, guide, shared", &|x| {
        shared(x);
        x.loss = within;
        x.sample.guide = guide(4);
    });
}

/// What a seed draws.
struct Draw(ChaCha8Rng);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n as u64) as usize
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0.next_u64() as f64 / u64::MAX as f64
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn normal(&mut self, count: usize) -> Vec<f64> {
        normal(self.0.next_u64(), count)
    }

    /// All the same, all different, or anything between.
    fn marks(&mut self, count: usize) -> Vec<u64> {
        let kinds = [1, 2, 3, count.max(1), 4 * count.max(1)][self.below(5)];
        (0..count).map(|_| self.below(kinds) as u64).collect()
    }
}

/// Any settings together, with any rows: one alone, zeros, duplicates, no negatives. None where what
/// was drawn has no meaning.
pub(crate) fn together(seed: u64, most: usize) -> Option<Setup> {
    let draw = &mut Draw(ChaCha8Rng::seed_from_u64(seed));
    let t = 10f64.powf(draw.unit() * 4.0 - 3.0);
    let form = forms(t)[draw.below(3)];
    let form = if draw.one_in(3) { form.with_similarity(Similarity::Dot) } else { form };
    let objective = match OBJECTIVES[draw.below(OBJECTIVES.len())] {
        Objective::Sigmoid { .. } => Objective::Sigmoid { bias: draw.unit() * 100.0 - 50.0 },
        other => other,
    };
    let mut loss = form.with_objective(objective).ok()?;
    let one_way = loss.form() == Form::OneWay;
    let n = if draw.one_in(6) { 1 } else { 1 + draw.below(most) };
    let d = 1 + draw.below(20);
    let offset = if one_way && draw.one_in(3) { draw.below(9) } else { 0 };
    let keys = n + offset + if offset > 0 { draw.below(9) } else { 0 };
    let mut sample = Sample::new(&draw.normal(n * d), &draw.normal(keys * d), d);
    // Somewhat near their queries, or very.
    let near = draw.unit() * 1.5;
    let own = &mut sample.keys.as_mut()?[offset * d..];
    own.iter_mut().zip(&sample.queries).for_each(|(key, query)| *key = query + near * *key);
    if has_labels(&loss) {
        sample.labels = Some(draw.marks(n));
        sample.keys = sample.keys.filter(|_| !draw.one_in(3));
    } else {
        let mut shared = 0;
        if one_way && !is_sigmoid(&loss) && !draw.one_in(3) {
            (sample.per_query, sample.empty) = (draw.one_in(2), true);
            let m = if sample.per_query { n * draw.below(4) } else { draw.below(12) };
            sample.negatives = draw.normal(m * d);
            shared = if sample.per_query { 0 } else { m };
            loss = loss.with_in_batch_negatives(!draw.one_in(3)).ok()?;
        }
        if draw.one_in(2) {
            let of_negatives = if draw.one_in(2) { shared } else { 0 };
            sample.ids = Some(draw.marks(keys + of_negatives));
        }
        if one_way && draw.one_in(4) {
            sample.guide = Some([n, keys, shared].map(|rows| draw.normal(rows * 2)));
        }
        if draw.one_in(4) {
            loss = loss.with_within_views(true).unwrap_or(loss);
        }
    }
    for x in [&mut sample.queries, &mut sample.negatives].into_iter().chain(&mut sample.keys) {
        let rows = x.len() / d;
        let length = if draw.one_in(3) { 1e-3 } else { 1.0 };
        x.iter_mut().for_each(|x| *x *= length);
        if rows > 0 && draw.one_in(6) {
            let zero = draw.below(rows) * d;
            x[zero..zero + d].fill(0.0);
        }
        if rows > 1 && draw.one_in(6) {
            let twice = draw.below(rows - 1) * d;
            x.copy_within(twice..twice + d, twice + d);
        }
    }
    if draw.one_in(3) {
        let weight = |_| if draw.one_in(3) { 0.0 } else { draw.unit() * 2.0 };
        sample.weights = Some((0..sample.batch().rows(loss.form())).map(weight).collect());
    }
    if draw.one_in(3) {
        let smoothing = [0.1, 0.5, 1.0][draw.below(3)];
        loss = loss.with_label_smoothing(smoothing).unwrap_or(loss);
    }
    if draw.one_in(3) {
        loss = loss.with_reduction(Reduction::Sum);
    }
    loss = loss.with_memory_budget(if draw.one_in(2) { 0 } else { usize::MAX });
    let margin = if draw.one_in(3) { draw.unit() * 2.0 - 1.0 } else { 0.0 };
    let margin = if loss.with_margin(margin).is_ok() { margin } else { 0.0 };
    let norm_floor = if draw.one_in(5) { 1.0 } else { 1e-12 };
    let factor = if draw.one_in(3) { 2.3 } else { 1.0 };
    loss.with_offset(offset).with_factor(factor).ok()?;
    let name = "together";
    let setup = Setup { name, loss, sample, offset, margin, factor, norm_floor };
    setup.loss().value(setup.sample.batch()).is_ok().then_some(setup)
}

pub(crate) fn close(what: &str, a: f64, b: f64, most: f64) {
    assert!((a - b).abs() <= most * b.abs().max(1.0), "{what}: {a} is not {b}");
}

pub(crate) fn all_close(what: &str, a: &[f64], b: &[f64], most: f64) {
    assert_eq!(a.len(), b.len(), "{what}");
    a.iter().zip(b).for_each(|(a, b)| close(what, *a, *b, most));
}
