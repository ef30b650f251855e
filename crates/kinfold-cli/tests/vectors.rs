//! The command on vectors that another model has made: adapters, and hard negatives.

#![allow(clippy::unwrap_used)]

mod common;

use common::{fails, succeeds};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

const PAIRS: usize = 600;
const DIM: usize = 16;

/// Numbers that look random and are always the same.
fn number(place: usize) -> f32 {
    let mixed = (place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// A table of vectors and the pairs of their names. Document i is what query i is with its numbers moved one
/// place on where they `belong`, which a matrix can learn, and else any vector.
fn files(folder: &Path, belong: bool) -> (String, String) {
    let mut table = String::from("name");
    (0..DIM).for_each(|column| write!(table, ",n{column}").unwrap());
    let mut pairs = String::from("anchor,positive\n");
    for i in 0..PAIRS {
        let query = |column: usize| number(i * DIM + column % DIM);
        let other = |column: usize| number((PAIRS + i) * DIM + column);
        write!(table, "\nq{i}").unwrap();
        (0..DIM).for_each(|column| write!(table, ",{}", query(column)).unwrap());
        write!(table, "\nd{i}").unwrap();
        for column in 0..DIM {
            let moved = query(column + 1) + 0.2 * other(column);
            write!(table, ",{}", if belong { moved } else { other(column) }).unwrap();
        }
        writeln!(pairs, "q{i},d{i}").unwrap();
    }
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    fs::write(at("table.csv"), table).unwrap();
    fs::write(at("pairs.csv"), pairs).unwrap();
    (at("table.csv"), at("pairs.csv"))
}

/// Trains on pairs of names in batches that are small enough for them.
fn train(pairs: &str, table: &str, run: &str, more: &[&str]) -> String {
    let all = ["train", "--data", pairs, "--vectors", table, "--batch", "64", "--out", run];
    succeeds(&[&all[..], more].concat())
}

#[test]
fn an_adapter_learns_what_a_matrix_can_and_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (table, pairs) = files(folder.path(), true);
    let (run, config) = (at("run"), at("linear.toml"));
    fs::write(&config, "[encoder]\nform = \"linear\"\n").unwrap();
    let longer = ["--config", &config, "--epochs", "20", "--learning-rate", "0.02"];
    let said = train(&pairs, &table, &run, &longer);
    assert!(said.contains("Training gained +"), "{said}");
    assert!(said.contains("of what is set aside") && said.contains("were the best"), "{said}");
    let told: Value = serde_json::from_str(&succeeds(&["evaluate", &run, "--json"])).unwrap();
    let ndcg = |of: &str| told[of]["ndcg_at_10"]["mean"].as_f64().unwrap();
    assert!(ndcg("untrained") < 0.2 && ndcg("trained") > 0.6, "{told}");
    assert!(told["bm25"].is_null(), "vectors have no words");
    // Other data is judged as well, and it says so where it cannot be.
    let again = succeeds(&["evaluate", &run, "--data", &pairs, "--vectors", &table]);
    assert!(again.contains("600 held-out queries among 600 documents"), "{again}");
    // Documents stay as they are; queries do not.
    let [asked, found] = [at("asked.csv"), at("found.csv")];
    succeeds(&["embed", &run, "--data", &table, "--out", &asked]);
    succeeds(&["embed", &run, "--data", &table, "--documents", "--out", &found]);
    let first = |file: &str| -> Vec<f32> {
        let text = fs::read_to_string(file).unwrap();
        let row = text.lines().nth(1).unwrap().split(',').skip(2);
        row.map(|cell| cell.parse().unwrap()).collect()
    };
    let (asked, found) = (first(&asked), first(&found));
    let length = (0..DIM).map(|column| number(column).powi(2)).sum::<f32>().sqrt();
    for column in 0..DIM {
        assert!((found[column] - number(column) / length).abs() < 1e-6);
    }
    assert_ne!(asked, found);
    let out = at("numpy");
    succeeds(&["export", &run, &out]);
    let files = ["adapter.py", "adapter.safetensors", "queries_matrix.npy"];
    assert!(files.iter().all(|file| Path::new(&out).join(file).is_file()));
    assert!(fails(2, &["export", &run, &at("x"), "--to", "model2vec"]).contains("for texts"));
    assert!(fails(2, &["search", &run, "q1"]).contains("of vectors"));
    assert!(Path::new(&run).join("report.html").is_file());
}

#[test]
fn where_nothing_can_be_learned_it_says_to_keep_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (table, pairs) = files(folder.path(), false);
    let run = folder.path().join("run").to_str().unwrap().to_owned();
    let said = succeeds(&["train", "--data", &pairs, "--vectors", &table, "--out", &run]);
    assert!(said.contains("keep what you had"), "{said}");
}

#[test]
fn every_form_and_tower_trains_and_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let (table, pairs) = files(folder.path(), true);
    for (form, towers) in [("residual", "queries"), ("mlp", "each"), ("linear", "each")] {
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let config = at("config.toml");
        // What is not said has the default of vectors, not of images.
        let encoder = format!(
            "[encoder]\nname = \"adapter\"\nform = \"{form}\"\ntowers = \"{towers}\"\n\
             [checkpoint]\nevery_steps = 9\n"
        );
        fs::write(&config, encoder).unwrap();
        let run = at(&format!("{form}-{towers}"));
        train(&pairs, &table, &run, &["--config", &config]);
        let settings = fs::read_to_string(Path::new(&run).join("config.toml")).unwrap();
        assert!(settings.contains("name = \"one-way\"") && settings.contains("epochs = 5"));
        // As if it had been stopped after its last checkpoint, which knows the best epoch so far.
        let weights = || fs::read(Path::new(&run).join("model.safetensors")).unwrap();
        let whole = weights();
        for file in ["summary.json", "model.toml", "model.safetensors"] {
            fs::remove_file(Path::new(&run).join(file)).unwrap();
        }
        succeeds(&["train", "--resume", &run]);
        assert_eq!(weights(), whole, "{form}");
        let out = at(&format!("numpy-{form}"));
        succeeds(&["export", &run, &out]);
        let script = fs::read_to_string(Path::new(&out).join("adapter.py")).unwrap();
        assert_eq!(script.contains("documents = "), towers == "each", "{script}");
        fs::remove_dir_all(&run).unwrap();
    }
}

#[test]
fn vectors_that_nothing_ties_together_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (table, _) = files(folder.path(), true);
    let said = fails(2, &["train", "--data", &table, "--encoder", "adapter"]);
    assert!(said.contains("nothing says which vectors"), "{said}");
    let said = fails(1, &["train", "--data", "not-there.npy", &table]);
    assert!(said.contains("not-there.npy"), "{said}");
    let two = ["train", "--data", &table, &table, "--vectors", &table];
    assert!(fails(2, &two).contains("row by row"));
}

#[test]
fn mined_negatives_are_near_and_belong_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (table, pairs) = files(folder.path(), true);
    let out = at("mined.jsonl");
    let mine = ["mine", "--data", &pairs, "--vectors", &table, "--out", &out];
    let said = succeeds(&[&mine[..], &["--negatives", "3", "--margin", "1"]].concat());
    assert!(said.contains("pairs with their negatives"), "{said}");
    let text = fs::read_to_string(&out).unwrap();
    let vector = |name: &str| -> Vec<f32> {
        let table = fs::read_to_string(&table).unwrap();
        let row = table.lines().find(|line| line.split(',').next() == Some(name)).unwrap();
        row.split(',').skip(1).map(|cell| cell.parse().unwrap()).collect()
    };
    let cosine = |a: &str, b: &str| -> f32 {
        let (a, b) = (vector(a), vector(b));
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
    };
    let row: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let cell = |name: &str| row[name].as_str().unwrap();
    let positive = cosine(cell("anchor"), cell("positive"));
    // The oracle: all documents in order, without the pair's own.
    let mut all: Vec<(f32, String)> =
        (0..PAIRS).map(|i| (cosine(cell("anchor"), &format!("d{i}")), format!("d{i}"))).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let others = all.iter().filter(|(_, name)| name != cell("positive")).take(100);
    let below: Vec<&str> =
        others.filter(|(x, _)| *x < positive).map(|(_, name)| name.as_str()).take(3).collect();
    assert_eq!(below, ["negative_1", "negative_2", "negative_3"].map(cell));
    // What was mined can be trained on.
    let run = at("run");
    train(&out, &table, &run, &[]);
    assert!(fails(2, &[&mine[..6], &["x.txt"]].concat()).contains("neither .jsonl nor .csv"));
    assert!(fails(2, &[&mine[..], &["--ranks", "5-2"]].concat()).contains("ranks are 5 to 2"));
}
