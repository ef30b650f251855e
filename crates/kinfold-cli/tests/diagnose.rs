//! `kinfold diagnose` as somebody uses it: every format, a run, labels, and what is refused.

use ndarray::Array2;
use ndarray_npy::write_npy;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn kinfold(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kinfold")).args(arguments).output().unwrap()
}

fn diagnosed(arguments: &[&str]) -> String {
    let output = kinfold(&[&["diagnose"], arguments].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn json(arguments: &[&str]) -> Value {
    serde_json::from_str(&diagnosed(&[arguments, &["--json"]].concat())).unwrap()
}

/// Fails with this code, and says what is wrong in one line.
fn refused(code: i32, arguments: &[&str]) -> String {
    let output = kinfold(&[&["diagnose"], arguments].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

const N: usize = 60;
const D: usize = 12;

/// Numbers that look random, the same everywhere.
fn numbers(seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..N * D).map(|_| next()).collect()
}

/// Queries, keys near them, and keys that belong to other rows.
fn embeddings() -> [Vec<f32>; 3] {
    let queries = numbers(1);
    let keys: Vec<f32> = queries.iter().zip(numbers(2)).map(|(x, e)| x + 0.2 * e).collect();
    let shuffled = [&keys[D..], &keys[..D]].concat();
    [queries, keys, shuffled]
}

fn matrix(x: &[f32]) -> Array2<f32> {
    Array2::from_shape_vec((N, D), x.to_vec()).unwrap()
}

fn csv(path: &Path, x: &[f32], labelled: bool) {
    let mut file = csv::Writer::from_path(path).unwrap();
    if labelled {
        let columns = (0..D).map(|i| format!("embedding_{i}"));
        file.write_record(["name".into(), "label".into()].into_iter().chain(columns)).unwrap();
    }
    for (i, row) in x.chunks(D).enumerate() {
        let text =
            if labelled { vec![format!("{i}.png"), format!("class {}", i % 3)] } else { vec![] };
        file.write_record(text.into_iter().chain(row.iter().map(f32::to_string))).unwrap();
    }
    file.flush().unwrap();
}

fn safetensors(path: &Path, x: &[f32], shapes: &[&[usize]]) {
    let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = |shape: &&[usize]| {
        let size = shape.iter().product::<usize>() * 4;
        safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            shape.to_vec(),
            &bytes[..size],
        )
        .unwrap()
    };
    let tensors = shapes.iter().enumerate().map(|(i, shape)| (format!("t{i}"), view(shape)));
    safetensors::serialize_to_file(tensors, None, path).unwrap();
}

#[test]
fn every_format_has_the_same_diagnosis() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [queries, keys, shuffled] = embeddings();
    write_npy(path("q.npy"), &matrix(&queries)).unwrap();
    write_npy(path("k.npy"), &matrix(&keys)).unwrap();
    write_npy(path("wrong.npy"), &matrix(&shuffled)).unwrap();
    write_npy(path("k64.npy"), &matrix(&keys).mapv(f64::from)).unwrap();
    csv(path("k.csv").as_ref(), &keys, false);
    csv(path("named.csv").as_ref(), &keys, true);
    safetensors(path("k.safetensors").as_ref(), &keys, &[&[N, D], &[3]]);

    let told = json(&[&path("q.npy"), &path("k.npy"), "--temperature", "0.1"]);
    assert_eq!((told["pairs"].as_u64(), told["dim"].as_u64()), (Some(N as u64), Some(D as u64)));
    assert_eq!(told["findings"].as_array().unwrap().len(), 0, "{}", told["findings"]);
    assert_eq!(told["false_negatives"], Value::Null);
    assert_eq!(told["sections"].as_array().unwrap().len(), 8);
    assert_eq!(told["presets"].as_array().unwrap().len(), 13);
    for other in ["k64.npy", "k.csv", "k.safetensors"] {
        let mut same = json(&[&path("q.npy"), &path(other)]);
        same["of"] = told["of"].clone();
        assert_eq!(same, told, "{other}");
    }
    // Labels in a file are used, and others win.
    let own = json(&[&path("q.npy"), &path("named.csv")]);
    assert_eq!(own["false_negatives"]["labels"], 3);
    assert_eq!(own["loss"], told["loss"]);
    let two: String = (0..N).map(|i| format!("{}\n", i % 2)).collect();
    std::fs::write(path("labels.txt"), two).unwrap();
    write_npy(path("labels.npy"), &ndarray::Array1::from_iter((0..N as i64).map(|i| i % 2)))
        .unwrap();
    for labels in ["labels.txt", "labels.npy"] {
        let given = json(&[&path("q.npy"), &path("named.csv"), "--labels", &path(labels)]);
        assert_eq!(given["false_negatives"]["labels"], 2, "{labels}");
    }
    let given = json(&[&path("q.npy"), &path("k.npy"), "--labels", &path("named.csv")]);
    assert_eq!(given["false_negatives"], own["false_negatives"]);

    // In words, within 80 columns, the verdict last.
    let said = diagnosed(&[&path("q.npy"), &path("wrong.npy"), "--temperature", "1"]);
    for line in said.lines().filter(|line| !line.contains(folder.path().to_str().unwrap())) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    let verdict = said.split("Verdict: ").nth(1).unwrap();
    assert!(verdict.contains("1. [problem] Rows are not pairs"), "{said}");
    assert!(
        said.contains("τ = 1 (as given)") && said.contains('◀') && said.contains('█'),
        "{said}"
    );
    let sampled = diagnosed(&[&path("q.npy"), &path("k.npy"), "--sample", "20"]);
    assert!(sampled.contains("A random sample of 20 pairs (seed 0)"), "{sampled}");
}

#[test]
fn what_is_no_pair_of_matrices_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [queries, ..] = embeddings();
    write_npy(path("q.npy"), &matrix(&queries)).unwrap();
    let short = Array2::from_shape_vec((N - 1, D), queries[D..].to_vec()).unwrap();
    write_npy(path("short.npy"), &short).unwrap();
    let said = refused(1, &[&path("q.npy"), &path("short.npy")]);
    assert!(
        said.contains("q.npy is [60, 12] but") && said.contains("short.npy is [59, 12]"),
        "{said}"
    );
    let mut hole = matrix(&queries);
    hole[[3, 4]] = f32::NAN;
    write_npy(path("hole.npy"), &hole).unwrap();
    let said = refused(1, &[&path("q.npy"), &path("hole.npy")]);
    assert!(said.contains("hole.npy: row 3, column 4 (counted from 0) is NaN"), "{said}");
    write_npy(path("flat.npy"), &ndarray::Array1::from_vec(queries.clone())).unwrap();
    let said = refused(1, &[&path("q.npy"), &path("flat.npy")]);
    assert!(said.contains("its shape is [720], but embeddings are a matrix [n, d]"), "{said}");
    let whole = std::fs::read(path("q.npy")).unwrap();
    std::fs::write(path("cut.npy"), &whole[..whole.len() - 100]).unwrap();
    assert!(refused(1, &[&path("q.npy"), &path("cut.npy")]).contains("cut off"));
    std::fs::write(path("words.csv"), "1,2\n3,four\n").unwrap();
    let said = refused(1, &[&path("words.csv"), &path("q.npy")]);
    assert!(said.contains("`four` in row 2, column 2 is no number"), "{said}");
    safetensors(path("two.safetensors").as_ref(), &queries, &[&[N, D], &[D, N]]);
    let said = refused(1, &[&path("two.safetensors"), &path("q.npy")]);
    assert!(said.contains("t0 [60, 12], t1 [12, 60], but one tensor"), "{said}");
    for name in ["junk.parquet", "junk.safetensors", "junk.npy"] {
        std::fs::write(path(name), "no such thing").unwrap();
        assert!(refused(1, &[&path(name), &path("q.npy")]).contains(name));
    }
    std::fs::write(path("few.txt"), "a\nb\n").unwrap();
    let said = refused(1, &[&path("q.npy"), &path("q.npy"), "--labels", &path("few.txt")]);
    assert!(said.contains("few.txt: it has 2 labels, but there are 60 pairs"), "{said}");
    assert!(refused(2, &[&path("q.npy")]).contains("pairs are two"));
    assert!(refused(2, &[&path("nothing")]).contains("does not exist"));
    assert!(refused(2, &[&path("q.npy"), &path("few.txt")]).contains("ends in none of"));
    assert!(refused(1, &[folder.path().to_str().unwrap()]).contains("is no run"));
    let bad = [&path("q.npy")[..], &path("q.npy"), "--temperature", "0"];
    assert!(refused(2, &bad).contains("temperature is 0"));
    assert!(refused(2, &[&path("q.npy"), &path("q.npy"), "--sample", "1"]).contains("at least 2"));
}

#[test]
fn a_run_is_diagnosed_and_what_it_embeds() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let run = run.to_str().unwrap();
    let trained = kinfold(&["train", "--epochs", "1", "--temperature", "0.3", "--out", run]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    // Where lines break depends on how long the folder's name is.
    let said = diagnosed(&[run]).split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        said.contains("360 pairs held out, each two views of an image")
            && said.contains("τ = 0.3 (the run's)"),
        "{said}"
    );
    let told = json(&[run]);
    assert_eq!((told["pairs"].as_u64(), told["dim"].as_u64()), (Some(360), Some(64)));
    assert_eq!(told["false_negatives"]["labels"], 10);
    assert_eq!(told, json(&[run]), "the same again");
    assert_eq!(json(&[run, "--temperature", "0.2"])["temperature"], 0.2);

    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["e.parquet", "e.csv", "e.npy"] {
        assert!(kinfold(&["embed", run, "--out", &path(name)]).status.success());
    }
    let told = json(&[&path("e.parquet"), &path("e.npy")]);
    assert_eq!(told["findings"][0]["kind"], "same-on-both-sides");
    assert_eq!(told["false_negatives"]["labels"], 10);
    let mut same = json(&[&path("e.csv"), &path("e.parquet")]);
    same["of"] = told["of"].clone();
    assert_eq!(same, told);
}
