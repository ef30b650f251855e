//! The command on texts: from pairs to a model, and everything that can be asked of it.

#![allow(clippy::unwrap_used)]

mod common;

use common::{fails, succeeds};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Sentences of one thing each in two sets of words that never meet but in pairs: what belongs together
/// can be learned and not be read.
fn pairs(folder: &Path) -> PathBuf {
    const WORDS: [(&str, &str); 8] = [
        ("cat", "feline"),
        ("dog", "canine"),
        ("car", "automobile"),
        ("ship", "vessel"),
        ("rain", "drizzle"),
        ("bread", "loaf"),
        ("king", "monarch"),
        ("road", "street"),
    ];
    let mut rows = String::new();
    for i in 0..400 {
        let [a, b, c] = [i % 8, i / 8 % 8, i / 64].map(|word| WORDS[word]);
        rows += &format!(
            "{{\"anchor\": \"a {} near the {} and {}\", \"positive\": \"some {} by one {} or {}\"}}\n",
            a.0, b.0, c.0, a.1, b.1, c.1
        );
    }
    let path = folder.join("pairs.jsonl");
    fs::write(&path, rows).unwrap();
    path
}

/// A trained run in a folder of its own.
fn run() -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (pairs(folder.path()), folder.path().join("run"));
    let said = succeeds(&[
        "train",
        "--data",
        data.to_str().unwrap(),
        "--epochs",
        "12",
        "--batch",
        "95",
        "--learning-rate",
        "0.05",
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(said.contains("20 pairs held out") && said.contains("BM25"), "{said}");
    (folder, data, out)
}

#[test]
fn pairs_of_texts_become_a_model_that_can_be_asked() {
    let (folder, data, out) = run();
    let (data, run) = (data.to_str().unwrap(), out.to_str().unwrap());
    let told: Value = serde_json::from_str(&succeeds(&["evaluate", run, "--json"])).unwrap();
    let ndcg = |of: &str| told[of]["ndcg_at_10"]["mean"].as_f64().unwrap();
    assert!(ndcg("trained") > ndcg("untrained") + 0.1, "{told}");
    assert!(told["gain"]["low"].as_f64().unwrap() > 0.0, "{told}");
    let summary: Value =
        serde_json::from_slice(&fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert_eq!(summary["retrieval"], told, "measured again, it is the same");

    // Neighbours of a text that the run has not seen.
    let found = succeeds(&["search", run, "a cat near the ship", "-k", "3", "--json"]);
    let found: Value = serde_json::from_str(&found).unwrap();
    let first = found[0]["neighbours"][0]["name"].as_str().unwrap();
    assert!(first.contains("cat") || first.contains("feline"), "{found}");
    // By words and meaning together.
    let both = ["search", run, "a cat near the ship", "-k", "3", "--with-bm25"];
    let told = succeeds(&[&both[..], &["--json"]].concat());
    let told: Value = serde_json::from_str(&told).unwrap();
    let scores: Vec<f64> =
        (0..3).map(|i| told[0]["neighbours"][i]["score"].as_f64().unwrap()).collect();
    assert!(scores[0] >= scores[1] && scores[1] >= scores[2] && scores[2] > 0.0, "{told}");
    assert!(succeeds(&both).contains("score"));
    let said = fails(2, &["search", run, "a cat", "--out", "found.png"]);
    assert!(said.contains("a picture is of images"), "{said}");

    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(
        page.contains("class=\"texts\"") && page.contains("nDCG@10"),
        "the texts are on the page"
    );
    let told = succeeds(&["diagnose", run]);
    assert!(told.contains("each a row of the list"), "{told}");

    // A row of embeddings for each row of the file, of unit length when it is cut.
    let texts = folder.path().join("texts.jsonl");
    fs::write(&texts, "{\"text\": \"a cat\"}\n{\"text\": \"の\"}\n{\"text\": \"a cat\"}\n")
        .unwrap();
    let file = folder.path().join("e.csv");
    let (texts, file) = (texts.to_str().unwrap(), file.to_str().unwrap());
    succeeds(&["embed", run, "--data", texts, "--dimensions", "16", "--out", file]);
    let embedded = fs::read_to_string(file).unwrap();
    let rows: Vec<&str> = embedded.lines().collect();
    assert_eq!((rows.len(), rows[1] == rows[3], rows[2].ends_with(",0,0")), (4, true, true));

    // Pairs that somebody has scored.
    let scored = folder.path().join("scored.jsonl");
    let pair = |a: &str, b: &str, score: f64| {
        format!("{{\"sentence1\": \"{a}\", \"sentence2\": \"{b}\", \"score\": {score}}}\n")
    };
    let all = [
        ("a cat", "some feline", 5.0),
        ("a ship", "one vessel", 4.0),
        ("a cat", "one street", 0.5),
    ];
    fs::write(&scored, all.map(|(a, b, score)| pair(a, b, score)).concat()).unwrap();
    let told = succeeds(&["evaluate", run, "--data", scored.to_str().unwrap()]);
    assert!(told.contains("3 scored pairs, Spearman's ρ"), "{told}");

    // Negatives that the model finds, which training takes as they are.
    let mined = folder.path().join("mined.jsonl");
    let mined = mined.to_str().unwrap();
    succeeds(&["mine", run, "--data", data, "--negatives", "2", "--out", mined]);
    let row: Value =
        serde_json::from_str(fs::read_to_string(mined).unwrap().lines().next().unwrap()).unwrap();
    assert!(row["negative_2"].is_string() && row["negative_2"] != row["positive"], "{row}");
    let again = folder.path().join("again");
    let again = again.to_str().unwrap();
    succeeds(&["train", "--data", mined, "--batch", "32", "--epochs", "1", "--out", again]);

    let tokens = succeeds(&["views", "--data", data, "--images", "2"]);
    assert!(tokens.contains("a cat near the cat and cat\n    a · cat · near"), "{tokens}");
}

#[test]
fn the_same_texts_give_the_same_bits_in_one_sitting_or_two() {
    let folder = tempfile::tempdir().unwrap();
    let data = pairs(folder.path());
    let data = data.to_str().unwrap();
    let out = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let settings = folder.path().join("often.toml");
    fs::write(&settings, format!("data = {data:?}\nepochs = 2\nbatch = 100\n[encoder]\nname = \"static\"\n[loss]\nname = \"one-way\"\n[checkpoint]\nevery_steps = 2\n")).unwrap();
    let settings = settings.to_str().unwrap();
    for name in ["one", "two"] {
        succeeds(&["train", "--config", settings, "--out", &out(name)]);
    }
    let weights = |name: &str| fs::read(Path::new(&out(name)).join("model.safetensors")).unwrap();
    assert_eq!(weights("one"), weights("two"));
    // As if it had been stopped after its last checkpoint; the tokenizer is the run's own.
    for file in ["summary.json", "model.toml", "model.safetensors"] {
        fs::remove_file(Path::new(&out("two")).join(file)).unwrap();
    }
    succeeds(&["train", "--resume", &out("two")]);
    assert_eq!(weights("one"), weights("two"));
}

#[test]
fn a_model_of_texts_is_exported_and_begun_with() {
    let (folder, data, run) = run();
    let (data, run) = (data.to_str().unwrap(), run.to_str().unwrap());
    let folders = ["sentence-transformers", "model2vec"].map(|to| {
        let out = folder.path().join(to);
        let said = succeeds(&["export", run, out.to_str().unwrap(), "--to", to]);
        assert!(said.contains("the model is in"), "{said}");
        out
    });
    assert!(folders[0].join("0_StaticEmbedding/model.safetensors").is_file());
    let again = fails(2, &["export", run, folders[1].to_str().unwrap()]);
    assert!(again.contains("exists, but a new folder is needed"), "{again}");
    // A run that begins with either has the same table and tokenizer, and its dimension.
    for from in folders {
        let out = from.with_extension("run");
        let begin = [
            "train",
            "--data",
            data,
            "--init",
            from.to_str().unwrap(),
            "--epochs",
            "1",
            "--learning-rate",
            "0.000001",
            "--out",
            out.to_str().unwrap(),
        ];
        succeeds(&begin);
        let tokenizers =
            [Path::new(run), &out].map(|run| fs::read(run.join("tokenizer.json")).unwrap());
        assert_eq!(tokenizers[0], tokenizers[1]);
    }
    // Another tokenizer than the table's.
    let other = folder.path().join("other");
    let from = folder.path().join("model2vec");
    let said = fails(
        1,
        &[
            "train",
            "--data",
            data,
            "--init",
            from.to_str().unwrap(),
            "--tokenizer",
            "bpe",
            "--out",
            other.to_str().unwrap(),
        ],
    );
    assert!(said.contains("is it another table's tokenizer?") && !other.exists(), "{said}");
}

#[test]
fn labelled_texts_are_pairs_by_their_labels() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..120)
        .map(|i| format!("{{\"text\": \"word{} and word{i}\", \"label\": \"{}\"}}\n", i % 6, i % 6))
        .collect();
    let (data, out) = (folder.path().join("labelled.jsonl"), folder.path().join("run"));
    fs::write(&data, rows).unwrap();
    let (data, out) = (data.to_str().unwrap(), out.to_str().unwrap());
    let said =
        succeeds(&["train", "--data", data, "--epochs", "2", "--hold-out", "0.2", "--out", out]);
    assert!(said.contains("6 classes") && said.contains("1-NN"), "{said}");
    let said = fails(2, &["train", "--data", data, "--pairs", "views", "--out", "never"]);
    assert!(said.contains("texts have no views"), "{said}");
}

#[test]
fn what_does_not_fit_together_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = pairs(folder.path());
    let (data, out) = (data.to_str().unwrap(), folder.path().join("run"));
    let out_name = out.to_str().unwrap();
    let said = fails(2, &["train", "--data", data, "--encoder", "convnet", "--out", out_name]);
    assert!(
        said.contains("the encoder convnet takes images, but") && said.contains("holds texts"),
        "{said}"
    );
    let said = fails(2, &["train", "--data", "digits", "--encoder", "static", "--out", out_name]);
    assert!(said.contains("the encoder static takes texts, but digits holds images"), "{said}");
    let said = fails(1, &["train", "--data", data, "--init", "nowhere", "--out", out_name]);
    assert!(said.contains("nowhere"), "{said}");
    let said =
        fails(1, &["train", "--data", data, "--columns", "anchor,answer", "--out", out_name]);
    assert!(said.contains("no column `answer`, but anchor, positive"), "{said}");
    assert!(!out.exists());
}
