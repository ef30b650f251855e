//! The invariants of ARCHITECTURE.md that a machine can check.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Who may know whom, among our own crates.
const MAY_KNOW: [(&str, &[&str]); 9] = [
    ("kinfold", &[]),
    ("kinfold-burn", &["kinfold"]),
    ("kinfold-nn", &[]),
    ("kinfold-data", &[]),
    ("kinfold-train", &["kinfold", "kinfold-burn", "kinfold-data", "kinfold-nn"]),
    ("kinfold-report", &["kinfold", "kinfold-data", "kinfold-nn", "kinfold-train"]),
    ("kinfold-cli", &["kinfold", "kinfold-data", "kinfold-report", "kinfold-train"]),
    ("kinfold-python", &["kinfold"]),
    ("xtask", &[]),
];

#[test]
fn crates_know_only_whom_they_may() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert_eq!(packages.len(), MAY_KNOW.len());
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let (_, allowed) = MAY_KNOW.iter().find(|(crate_name, _)| *crate_name == name).unwrap();
        let normal = package["dependencies"].as_array().unwrap().iter();
        let normal = normal.filter(|dependency| dependency["kind"].is_null());
        let known: BTreeSet<&str> = normal.map(|d| d["name"].as_str().unwrap()).collect();
        let ours: BTreeSet<&str> =
            known.iter().copied().filter(|d| d.starts_with("kinfold")).collect();
        assert_eq!(ours, allowed.iter().copied().collect(), "{name}");
        if name == "kinfold" {
            for framework in ["burn", "pyo3", "clap", "image", "toml"] {
                assert!(!known.contains(framework), "kinfold knows {framework}");
            }
        }
    }
}

/// The lints deny `unsafe`; only the engine allows it, the operations over raw images and `gemm`, and
/// the files that read Python's memory and call PyTorch's threads.
#[test]
fn unsafe_stays_in_its_rooms() {
    let mut allowing = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("xtask/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if text.contains("allow(unsafe_code") || text.contains("expect(unsafe_code") {
                    allowing.push(path);
                }
            }
        }
    }
    let engine = root().join("crates/kinfold/src/engine");
    let operations = root().join("crates/kinfold-nn/src/ops");
    let tests = root().join("crates/kinfold/tests");
    let python = root().join("crates/kinfold-python/src");
    let (memory, threads) = (python.join("memory.rs"), python.join("threads.rs"));
    for path in allowing {
        let allowed = [&engine, &operations, &tests, &memory, &threads];
        assert!(allowed.iter().any(|room| path.starts_with(room)), "{}", path.display());
    }
}
