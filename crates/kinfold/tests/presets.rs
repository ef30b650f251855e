//! Every preset against what the library that it is named after answers; see golden/README.md.
#![allow(clippy::print_stdout, reason = "a test says which cases it has no loss for")]

use kinfold::loss::reference::{Dense, dense};
use kinfold::{Batch, ContrastiveLoss, Element, Embeddings, Objective, Preset, Real, Temperature};
use serde_json::Value;

mod common;
use common::tau;

/// Whether the engine is held against the golden numbers, too.
const ENGINE: bool = true;

type Implementation = fn(&ContrastiveLoss, &Batch<'_, f64>) -> Dense;

fn implementations() -> Vec<(&'static str, Implementation)> {
    let all: [(_, Implementation); 2] = [("oracle", dense), ("engine", engine)];
    all.into_iter().take(if ENGINE { 2 } else { 1 }).collect()
}

/// What the engine answers, as the oracle would say it.
fn engine<T: Element>(loss: &ContrastiveLoss, batch: &Batch<'_, T>) -> Dense {
    let out = loss.value_and_gradient(*batch).unwrap();
    let wide = |x: Vec<T::Real>| x.into_iter().map(Real::f64).collect();
    Dense {
        mean: out.mean,
        sum: out.sum,
        rows: out.rows,
        queries: wide(out.queries),
        keys: wide(out.keys),
        negatives: wide(out.negatives),
        log_scale: out.log_scale,
        bias: out.bias,
    }
}

/// The golden file of a preset.
fn golden(preset: Preset) -> Value {
    let path = format!("{}/tests/golden/{}.json", env!("CARGO_MANIFEST_DIR"), preset.name());
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// One case of a golden file; what it does not say is as in the defaults.
struct Case<'a> {
    preset: Preset,
    defaults: &'a Value,
    case: &'a Value,
}

impl Case<'_> {
    fn name(&self) -> String {
        format!("{} {}", self.preset.name(), self.case["name"].as_str().unwrap())
    }

    fn setting(&self, name: &str) -> Option<f64> {
        self.case.get(name).or_else(|| self.defaults.get(name)).map(number)
    }

    fn mode(&self) -> &str {
        self.case["mode"].as_str().unwrap_or("")
    }

    fn temperature(&self) -> Temperature {
        let learned = || (-self.setting("log_scale").unwrap()).exp();
        tau(self.setting("temperature").unwrap_or_else(learned))
    }

    /// The preset, with the settings of this case.
    fn loss(&self) -> ContrastiveLoss {
        let usual = self.preset.at(self.temperature());
        let replaced = matches!(self.mode(), "paired" | "unpaired");
        let loss = if replaced { usual.with_in_batch_negatives(false).unwrap() } else { usual };
        let setting = |name| self.setting(name).unwrap();
        let objective = match loss.objective() {
            Objective::Sigmoid { .. } => Objective::Sigmoid { bias: setting("bias") },
            Objective::Debiased { .. } => {
                Objective::Debiased { positive_share: setting("tau_plus") }
            }
            Objective::HardNegatives { .. } => Objective::HardNegatives {
                positive_share: setting("tau_plus"),
                concentration: setting("beta"),
            },
            Objective::Rince { .. } => Objective::Rince { q: setting("q"), lambda: setting("lam") },
            other => other,
        };
        loss.with_objective(objective).unwrap()
    }

    fn input<T: Element>(&self, from: fn(f64) -> T) -> Input<T> {
        let matrix = |name: &str| -> Vec<T> {
            let mut flat = Vec::new();
            flatten(self.case.get(name).unwrap_or(&Value::Null), &mut flat);
            flat.into_iter().map(from).collect()
        };
        let labels = self.case.get("labels").map(|labels| {
            labels.as_array().unwrap().iter().map(|label| label.as_u64().unwrap()).collect()
        });
        let rows = if labels.is_some() { "embeddings" } else { "queries" };
        let dim =
            |name: &str| self.case.get(name).map_or(1, |rows| rows[0].as_array().unwrap().len());
        let (negatives, queue) = (matrix("negatives"), matrix("queue"));
        Input {
            dim: dim(rows),
            queries: matrix(rows),
            keys: matrix("keys"),
            negatives: if queue.is_empty() { negatives } else { queue },
            per_query: self.mode() == "paired",
            labels,
            guide_dim: dim("guide_queries"),
            guide: ["guide_queries", "guide_keys", "guide_negatives"].map(matrix),
        }
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::String(text) => text.parse().unwrap(),
        number => number.as_f64().unwrap(),
    }
}

/// All numbers of a matrix or of something deeper, in their order.
fn flatten(value: &Value, out: &mut Vec<f64>) {
    match value {
        Value::Null => {}
        Value::Array(rows) => rows.iter().for_each(|row| flatten(row, out)),
        other => out.push(number(other)),
    }
}

/// What a batch borrows.
struct Input<T> {
    dim: usize,
    queries: Vec<T>,
    keys: Vec<T>,
    negatives: Vec<T>,
    per_query: bool,
    labels: Option<Vec<u64>>,
    guide_dim: usize,
    guide: [Vec<T>; 3],
}

impl<T: Element> Input<T> {
    fn batch(&self) -> Batch<'_, T> {
        let of = |x| Embeddings::new(x, self.dim).unwrap();
        let batch = match &self.labels {
            Some(labels) => Batch::labelled(of(&self.queries), labels),
            None => Batch::new(of(&self.queries), of(&self.keys)),
        };
        let batch = match (self.negatives.is_empty(), self.per_query) {
            (true, _) => batch,
            (false, true) => batch.with_negatives_per_query(of(&self.negatives)),
            (false, false) => batch.with_negatives(of(&self.negatives)),
        };
        let [queries, keys, negatives] =
            self.guide.each_ref().map(|x| Embeddings::new(x, self.guide_dim).unwrap());
        match queries.rows() {
            0 => batch,
            _ => batch.with_guide(queries, keys, Some(negatives).filter(|x| x.rows() > 0)),
        }
    }
}

/// In `pytorch-metric-learning`, each pair of positives has a denominator of its own, without the
/// other positives. That is NT-Xent for two views, and none of our losses for labels.
fn has_no_loss(case: &Case<'_>) -> bool {
    let none = case.preset == Preset::PmlNtXent && case.mode() == "labels";
    if none {
        println!("skipped: {}: each positive pair has a denominator of its own", case.name());
    }
    none
}

/// Calls `check` with every case of `list` in every file.
fn for_each(list: &str, mut check: impl FnMut(&Case<'_>)) {
    for preset in Preset::ALL {
        let golden = golden(preset);
        assert_eq!(golden["preset"].as_str(), Some(preset.name()));
        for case in golden[list].as_array().unwrap() {
            check(&Case { preset, defaults: &golden["defaults"], case });
        }
    }
}

#[test]
fn every_preset_has_a_file_and_every_file_a_preset() {
    let files = std::fs::read_dir(format!("{}/tests/golden", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    names.sort();
    let mut presets = Preset::ALL.map(Preset::name);
    presets.sort_unstable();
    assert_eq!(names, presets);
}

#[test]
fn a_preset_is_its_librarys_value_and_gradients() {
    let (mut compared, mut skipped) = (0, 0);
    for_each("cases", |case| {
        if has_no_loss(case) {
            skipped += 1;
            return;
        }
        let (loss, input) = (case.loss(), case.input(|x| x));
        for (who, implementation) in implementations() {
            let out = implementation(&loss, &input.batch());
            equals_golden(&format!("{} of the {who}", case.name()), case, &input, &out);
            compared += 1;
        }
    });
    assert_eq!((compared, skipped), (122 * implementations().len(), 3));
}

fn equals_golden(name: &str, case: &Case<'_>, input: &Input<f64>, out: &Dense) {
    // The library's own rounding in float64 is in its numbers.
    let close = |what: &str, ours: f64, theirs: &Value| {
        let theirs = number(theirs);
        let error = (ours - theirs).abs();
        assert!(error <= 1e-10 * theirs.abs() + 1e-13, "{what} of {name}: {ours}, not {theirs}");
    };
    close("value", out.mean, &case.case["value"]);
    // SupCon's factor τ/0.07 holds τ as well, and its derivative by log(1/τ) is minus itself.
    let of_factor = if case.preset == Preset::SupCon { -out.mean } else { 0.0 };
    close("log scale", out.log_scale + of_factor, &case.case["gradient_log_scale"]);
    if let Some(bias) = case.case.get("gradient_bias") {
        close("bias", out.bias, bias);
    }
    let mut gradients = 0;
    for (matrix, ours) in [
        ("queries", &out.queries),
        ("embeddings", &out.queries),
        ("keys", &out.keys),
        ("negatives", &out.negatives),
    ] {
        let Some(theirs) = case.case.get(format!("gradient_{matrix}")) else { continue };
        let mut right = Vec::new();
        flatten(theirs, &mut right);
        assert_eq!(ours.len(), right.len(), "{matrix} of {name}");
        let rows = ours.chunks(input.dim).zip(right.chunks(input.dim));
        for (row, (ours, theirs)) in rows.enumerate() {
            let error = size(&difference(ours, theirs));
            let most = 1e-10 * size(theirs) + 1e-13;
            assert!(error <= most, "{matrix} of {name}, row {row}: {ours:?}, not {theirs:?}");
        }
        gradients += 1;
    }
    assert!(gradients > 0, "{name} has no gradients");
}

fn size(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}

/// The norm of all gradients together. A queue's is none of them.
fn gradient_norm(case: &Case<'_>, out: &Dense) -> f64 {
    let negatives = if case.preset == Preset::MoCo { &[][..] } else { &out.negatives };
    size(&[&out.queries, &out.keys, negatives].concat())
}

#[test]
fn where_a_library_is_wrong_a_preset_is_exact() {
    let mut compared = 0;
    for_each("wrong", |case| {
        let [library, library_norm, exact, exact_norm] =
            ["library_value", "library_gradient_norm", "exact_value", "exact_gradient_norm"]
                .map(|name| number(&case.case[name]));
        let near = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
        let right = near(library, exact) && near(library_norm, exact_norm);
        assert!(!right, "{}: the library's {library} and {library_norm} are right", case.name());

        let (loss, input) = (case.loss(), case.input(|x| x));
        for (who, implementation) in implementations() {
            let who = format!("{} of the {who}", case.name());
            if exact.is_nan() {
                // One pair has no negatives: nothing to learn, and nothing that is not finite.
                let out = implementation(&loss, &input.batch());
                assert_eq!((out.mean, gradient_norm(case, &out)), (0.0, 0.0), "{who}");
                continue;
            }
            is_exact(&who, case, &implementation(&loss, &input.batch()), 1e-9, 0.0);
        }
        if ENGINE && case.case["precision"] == "f32" {
            let (who, input) = (format!("{} in f32", case.name()), case.input(|x| x as f32));
            // What is less than f32's least normal number may be 0 in f32. What is a difference of
            // logits, without a logarithm, has their rounding.
            let rounding = match loss.objective() {
                Objective::Decoupled | Objective::DecoupledWeighted { .. } => {
                    f64::from(f32::EPSILON) * loss.temperature().scale()
                }
                _ => f64::from(f32::MIN_POSITIVE),
            };
            is_exact(&who, case, &engine(&loss, &input.batch()), 1e-5, rounding);
        }
        compared += 1;
    });
    assert_eq!(compared, 23);
}

fn is_exact(who: &str, case: &Case<'_>, out: &Dense, most: f64, least: f64) {
    for (what, ours) in [("value", out.mean), ("gradient_norm", gradient_norm(case, out))] {
        let [library, exact] =
            ["library", "exact"].map(|whose| number(&case.case[format!("{whose}_{what}")]));
        assert!(
            (ours - exact).abs() <= most * exact.abs() + least,
            "{what}, {who}: the library says {library}, we {ours}, exact is {exact}"
        );
    }
}

#[test]
fn a_preset_goes_by_its_name() {
    for preset in Preset::ALL {
        assert_eq!(preset.name().parse::<Preset>().unwrap(), preset);
        let loss = preset.loss();
        assert_eq!(loss, preset.at(loss.temperature()), "{preset:?}");
        // Its settings have a meaning together: that is checked whenever one is set.
        assert_eq!(loss.with_margin(0.0).unwrap(), loss);
    }
    let text = "no-such".parse::<Preset>().unwrap_err().to_string();
    assert!(text.starts_with("there is no preset `no-such`; there are: cross-entropy, "), "{text}");
}

#[test]
fn supcon_at_another_temperature_is_multiplied_by_it() {
    let t = tau(0.2);
    let by_hand = Preset::SupCon.loss().with_temperature(t).with_factor(0.2 / 0.07).unwrap();
    assert_eq!(Preset::SupCon.at(t), by_hand);
    let own = Preset::SupCon.loss();
    assert_eq!(own, own.with_factor(1.0).unwrap());
    for preset in Preset::ALL.into_iter().filter(|&preset| preset != Preset::SupCon) {
        assert_eq!(preset.at(t), preset.loss().with_temperature(t), "{preset:?}");
    }
}

#[test]
fn a_learned_scale_starts_within_its_bounds() {
    let bounded = Preset::ALL.map(|preset| (preset, preset.log_scale_bounds()));
    let bounded: Vec<_> = bounded.iter().filter_map(|(p, b)| b.map(|b| (*p, b))).collect();
    assert_eq!(bounded.len(), 1);
    let (preset, (least, most)) = bounded[0];
    assert_eq!(preset, Preset::OpenClip);
    assert_eq!(least, 0.0);
    assert!((most.exp() - 100.0).abs() < 1e-12);
    let start = preset.loss().temperature().scale().ln();
    assert!((start - number(&golden(preset)["defaults"]["log_scale"])).abs() < 1e-15);
    assert!(least < start && start < most);
    let start = Preset::SigLip.loss().temperature().scale().ln();
    assert!((start - number(&golden(Preset::SigLip)["defaults"]["log_scale"])).abs() < 1e-15);
}
