//! The command as somebody uses it: what it leaves, what it prints, how it fails.

mod common;

use common::{fails, kinfold, succeeds};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn files(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Twelve images each of bars that stand and bars that lie, in two sub-folders, one of them deeper.
fn photos() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (label, lying) in [("lying", true), ("up/standing", false)] {
        std::fs::create_dir_all(folder.path().join(label)).unwrap();
        for i in 0..12 {
            let image = image::GrayImage::from_fn(12, 12, |x, y| {
                let across = if lying { y } else { x };
                image::Luma([if across.abs_diff(i) < 2 { 255 } else { (x * y + i) as u8 }])
            });
            image.save(folder.path().join(label).join(format!("{i:02}.png"))).unwrap();
        }
    }
    folder
}

/// The arguments of one epoch on `photos`.
fn short<'a>(photos: &'a TempDir, out: &'a Path) -> [&'a str; 11] {
    let [data, out] = [photos.path(), out].map(|path| path.to_str().unwrap());
    ["train", "--data", data, "--out", out, "--image-size", "8", "--batch", "8", "--epochs", "1"]
}

/// A short run on `photos`, with flags of its own; where it is.
fn small_run(photos: &TempDir, into: &TempDir, name: &str, flags: &[&str]) -> PathBuf {
    let out = into.path().join(name);
    let mut arguments = vec!["train", "--out", out.to_str().unwrap()];
    if !flags.contains(&"--data") {
        arguments.extend(["--data", photos.path().to_str().unwrap()]);
    }
    arguments.extend(["--image-size", "8", "--channels", "1", "--batch", "8", "--epochs", "2"]);
    arguments.extend(flags);
    succeeds(&arguments);
    out
}

#[test]
fn the_main_job_learns_digits() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("digits");
    let path = run.to_str().unwrap();
    let printed = succeeds(&["train", "--out", path]);
    // Plain lines, one an epoch, with all that a bar would show; and the table.
    assert_eq!(printed.matches("pairs/s").count(), 30, "{printed}");
    assert!(printed.contains("floor 4.866, ceiling 6.864") && printed.contains("s left"));
    assert!(printed.contains("one labelled example per class"), "{printed}");

    assert_eq!(
        files(&run),
        [
            "config.toml",
            "events.out.tfevents.kinfold",
            "metrics.jsonl",
            "model.safetensors",
            "model.toml",
            "report.html",
            "snapshots.json",
            "summary.json"
        ]
    );
    let summary = json(&run.join("summary.json"));
    assert_eq!(summary["data"], "digits");
    assert_eq!((&summary["pairs"], &summary["steps"]), (&1437.into(), &90.into()));
    for field in ["epochs", "seconds", "pairs_per_second", "temperature", "peak_memory_bytes"] {
        assert!(summary[field].as_f64().unwrap() > 0.0, "{field}");
    }
    let nats = |field: &str| summary[field].as_f64().unwrap();
    assert!(nats("loss_floor") < nats("loss") && nats("loss") < 5.5 && nats("loss_ceiling") > 6.86);
    let one_shot = |of: &str| summary["evaluation"]["one_shot"][of].as_f64().unwrap();
    assert!(one_shot("trained") >= 0.79, "{}", one_shot("trained"));
    assert!(one_shot("raw") < 0.7 && one_shot("random_encoder") < 0.7);

    // The saved model alone gives the same numbers.
    let again: Value = serde_json::from_str(&succeeds(&["evaluate", path, "--json"])).unwrap();
    assert_eq!(again, summary["evaluation"]);
    let percent = format!("{:.1} %", 100.0 * one_shot("trained"));
    assert!(succeeds(&["evaluate", path]).contains(&percent));

    // Embedded digits by default.
    let out = folder.path().join("digits.npy");
    succeeds(&["embed", path, "--out", out.to_str().unwrap()]);
    let vectors: ndarray::Array2<f32> = ndarray_npy::read_npy(&out).unwrap();
    assert_eq!(vectors.dim(), (1797, 128));
}

#[test]
fn a_run_repeats_to_the_same_bits() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let first = small_run(&photos, &folder, "first", &[]);
    let config = first.join("config.toml");
    let out = folder.path().join("second");
    succeeds(&["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    let other = small_run(&photos, &folder, "other", &["--seed", "1"]);
    let same =
        ["config.toml", "metrics.jsonl", "model.safetensors", "model.toml", "snapshots.json"];
    for file in same {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&first) == read(&out), "{file} differs");
        assert!(read(&first) != read(&other), "{file} does not depend on the seed");
    }
    let evaluation = |run: &Path| json(&run.join("summary.json"))["evaluation"].clone();
    assert_eq!(evaluation(&first), evaluation(&out));

    // On one thread, too.
    let out = folder.path().join("one-thread");
    let status = Command::new(env!("CARGO_BIN_EXE_kinfold"))
        .args(["train", "--config", config.to_str().unwrap(), "--out", out.to_str().unwrap()])
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::null())
        .status();
    assert!(status.unwrap().success());
    let weights = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&first) == weights(&out), "one thread gives other bits");
}

/// Every name of `--loss`, from the help itself.
fn loss_names() -> Vec<String> {
    let help = succeeds(&["train", "--help"]);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let names = help.split("one of ").nth(1).unwrap().split(" --").next().unwrap();
    names.split(", ").map(|name| name.trim().to_owned()).collect()
}

#[test]
fn every_loss_trains() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let names = loss_names();
    assert!(names.len() == 20 && names.contains(&"sup-con-inside".to_owned()), "{names:?}");
    for name in &names {
        let run = small_run(&photos, &folder, name, &["--loss", name]);
        let summary = json(&run.join("summary.json"));
        assert_eq!(summary["steps"], 4, "{name}");
        let nats = |field: &str| summary[field].as_f64();
        assert!(nats("loss").unwrap().is_finite() && nats("loss_ceiling").is_some(), "{name}");
        let known =
            ["nt-xent", "one-way", "open-clip", "dcl", "simclr-tf"].contains(&name.as_str());
        let unknown =
            ["moco", "siglip", "sup-con", "supcon", "hcl", "rince"].contains(&name.as_str());
        assert!(!known || nats("loss_floor").unwrap() < nats("loss").unwrap(), "{name}");
        assert!(!unknown || summary["loss_floor"] == Value::Null, "{name}: {summary}");
        // What is learned is told, step by step and at the end; what is fixed is in the settings.
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let steps: Vec<Value> =
            metrics.lines().take(4).map(|line| serde_json::from_str(line).unwrap()).collect();
        let learned = ["open-clip", "siglip"].contains(&name.as_str());
        assert_eq!(steps[0]["temperature"] != Value::Null, learned, "{name}");
        assert_eq!(steps[0]["temperature"] != steps[3]["temperature"], learned, "{name}");
        assert_eq!(steps[0]["bias"] != steps[3]["bias"], name == "siglip");
        assert_eq!(summary["bias"] != Value::Null, name == "siglip");
    }
}

#[test]
fn every_optimizer_trains_in_chunks_and_repeats_to_the_same_bits() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let rates = [("adamw", 2e-3), ("sgd", 0.06 * 8.0 / 256.0), ("lars", 0.3 * 8.0 / 256.0)];
    for (name, rate) in rates {
        let flags = ["--optimizer", name, "--chunk", "3", "--clip", "0.5", "--warmup", "2"];
        let run = small_run(&photos, &folder, name, &flags);
        let metrics = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let steps: Vec<Value> =
            metrics.lines().take(4).map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(steps.iter().all(|step| step["gradient_norm"].as_f64().unwrap() > 0.0), "{name}");
        let first = steps[0]["learning_rate"].as_f64().unwrap();
        assert!((first - rate / 2.0).abs() < 1e-9, "{name}: {first}");

        let written = run.join("config.toml");
        let again = folder.path().join(format!("{name}-again"));
        let from = ["--config", written.to_str().unwrap(), "--out", again.to_str().unwrap()];
        succeeds(&[&["train"], &from[..]].concat());
        for file in ["config.toml", "metrics.jsonl", "model.safetensors"] {
            let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
            assert!(read(&run) == read(&again), "{name}: {file} differs");
        }
    }
    // Another optimizer brings its own learning rate.
    let (run, written) = (folder.path().join("flag"), folder.path().join("lars/config.toml"));
    let from = ["train", "--config", written.to_str().unwrap(), "--out", run.to_str().unwrap()];
    succeeds(&[&from[..], &["--optimizer", "adamw"]].concat());
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("learning_rate = 0.002"), "{config}");
}

#[test]
fn a_loss_with_all_its_settings_repeats_to_the_same_bits() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let config = folder.path().join("settings.toml");
    let config = config.to_str().unwrap();
    for (i, loss) in [
        "name = 'siglip'\nmask_labels = true",
        "name = 'moco'\nqueue = 12\nmomentum = 0.9\nmask_labels = true\nlearned_temperature = true",
        "name = 'both-ways'\nmargin = 0.1\nlabel_smoothing = 0.1\ntemperature = 0.3",
        // As it was called before there were others.
        "form = 'one-way'\ntemperature = 0.5",
    ]
    .iter()
    .enumerate()
    {
        std::fs::write(config, format!("[loss]\n{loss}\n")).unwrap();
        let first = small_run(&photos, &folder, &format!("first-{i}"), &["--config", config]);
        let again = folder.path().join(format!("again-{i}"));
        let written = first.join("config.toml");
        let from = ["train", "--config", written.to_str().unwrap()];
        succeeds(&[&from[..], &["--out", again.to_str().unwrap()]].concat());
        for file in ["config.toml", "metrics.jsonl", "model.safetensors"] {
            let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
            assert!(read(&first) == read(&again), "{loss}: {file} differs");
        }
    }
    // A flag's loss brings its own temperature.
    let run = folder.path().join("flag");
    let written = folder.path().join("first-3/config.toml");
    let from = ["train", "--config", written.to_str().unwrap(), "--out", run.to_str().unwrap()];
    succeeds(&[&from[..], &["--loss", "dcl"]].concat());
    assert_eq!(json(&run.join("summary.json"))["temperature"], 0.1);
}

#[test]
fn a_loss_that_cannot_be_is_refused_with_code_2() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let (data, config) = (photos.path().to_str().unwrap(), folder.path().join("run.toml"));
    let out = folder.path().join("run");
    let train = |loss: &str, settings: &str| {
        std::fs::write(&config, format!("[loss]\n{settings}\n")).unwrap();
        let said = fails(
            2,
            &[
                "train",
                "--data",
                data,
                "--out",
                out.to_str().unwrap(),
                "--loss",
                loss,
                "--config",
                config.to_str().unwrap(),
                "--batch",
                "8",
            ],
        );
        assert!(!out.exists(), "{loss} leaves a folder behind");
        said
    };
    let said = train("infonce", "");
    assert!(said.contains("no loss `infonce`"), "{said}");
    assert!(loss_names().iter().all(|name| said.contains(name)), "{said}");
    assert!(train("sentence-transformers-gist", "").contains("another model as a guide"));
    assert!(train("sup-con", "mask_labels = true").contains("mask_labels has no meaning"));
    assert!(train("dcl", "label_smoothing = 0.1").contains("label smoothing spreads"));
    assert!(train("one-way", "label_smoothing = 2.0").contains("label smoothing is 2"));
    assert!(train("moco", "queue = 0").contains("queue is 0"));
    assert!(train("moco", "momentum = 1.0").contains("momentum is 1"));
    let said = train("one-way", "name = 'one-way'\nlearned_temperature = true\ntemperature = 3.0");
    assert!(said.contains("would start at 3"), "{said}");

    // One class only.
    std::fs::remove_dir_all(photos.path().join("up")).unwrap();
    for (loss, settings, what) in [
        ("sup-con", "", "sup-con needs"),
        ("sup-con-inside", "", "sup-con-inside needs"),
        ("supcon", "", "supcon needs"),
        ("nt-xent", "mask_labels = true", "mask_labels needs"),
    ] {
        let said = train(loss, settings);
        assert!(said.contains(what) && said.contains("at least two labels"), "{said}");
        assert!(said.contains("has 1"), "{said}");
    }
}

#[test]
fn embeddings_come_in_three_formats() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &folder, "run", &[]);
    let data = photos.path().to_str().unwrap();
    let file = |name: &str| folder.path().join(name);
    for name in ["a.npy", "a.csv", "a.parquet"] {
        let out = file(name);
        let run = run.to_str().unwrap();
        succeeds(&["embed", run, "--data", data, "--out", out.to_str().unwrap()]);
    }
    let vectors: ndarray::Array2<f32> = ndarray_npy::read_npy(file("a.npy")).unwrap();
    assert_eq!(vectors.dim(), (24, 128));

    let mut rows = csv::Reader::from_path(file("a.csv")).unwrap();
    let header = rows.headers().unwrap().clone();
    assert_eq!(
        (&header[0], &header[1], &header[2], header.len()),
        ("name", "label", "embedding_0", 130)
    );
    let rows: Vec<csv::StringRecord> = rows.records().map(Result::unwrap).collect();
    assert_eq!((&rows[0][0], &rows[0][1]), ("lying/00.png", "lying"));
    assert_eq!((&rows[12][0], &rows[12][1]), ("up/standing/00.png", "up/standing"));
    for (row, vector) in rows.iter().zip(vectors.rows()) {
        let numbers: Vec<f32> = row.iter().skip(2).map(|x| x.parse().unwrap()).collect();
        assert_eq!(numbers, vector.to_vec());
    }

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;
    let reader =
        SerializedFileReader::new(std::fs::File::open(file("a.parquet")).unwrap()).unwrap();
    let mut count = 0;
    for (i, row) in reader.get_row_iter(None).unwrap().enumerate() {
        let row = row.unwrap();
        assert_eq!(row.get_string(0).unwrap(), &rows[i][0]);
        assert_eq!(row.get_string(1).unwrap(), &rows[i][1]);
        let list = row.get_list(2).unwrap();
        use parquet::record::ListAccessor;
        let numbers: Vec<f32> = (0..list.len()).map(|j| list.get_float(j).unwrap()).collect();
        assert_eq!(numbers, vectors.row(i).to_vec());
        count += 1;
    }
    assert_eq!(count, 24);

    let out = file("a.txt");
    let said = fails(2, &["embed", run.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(said.contains(".npy, .csv and .parquet"), "{said}");
}

#[test]
fn usage_that_cannot_be_is_refused_with_code_2() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let data = photos.path().to_str().unwrap();
    let out = folder.path().join("run");
    let train = |flags: &[&str]| {
        let mut arguments = vec!["train", "--data", data, "--out", out.to_str().unwrap()];
        arguments.extend(flags);
        let said = fails(2, &arguments);
        assert!(!out.exists(), "{flags:?} leaves a folder behind");
        said
    };
    assert!(train(&["--no-such-flag"]).contains("--no-such-flag"));
    for (temperature, shown) in [("0", "0"), ("-0.1", "-0.1"), ("nan", "NaN"), ("inf", "inf")] {
        let said = train(&["--temperature", temperature]);
        assert!(said.contains(&format!("temperature is {shown},")), "{said}");
    }
    let said = train(&["--batch", "1"]);
    assert!(said.contains("batch is 1 pairs, but at least 2"), "{said}");
    let said = train(&["--batch", "20"]);
    assert!(said.contains("batch is 20 pairs, but") && said.contains("--batch 19"), "{said}");
    assert!(train(&["--epochs", "0"]).contains("epochs is 0"));
    assert!(train(&["--learning-rate", "-1"]).contains("learning_rate is -1"));
    assert!(train(&["--clip", "0"]).contains("clip is 0"));
    assert!(train(&["--weight-decay", "-1"]).contains("weight_decay is -1"));
    assert!(train(&["--chunk", "1"]).contains("chunk is 1 pairs, but at least 2"));
    assert!(train(&["--optimizer", "adam"]).contains("adamw, sgd, lars"));

    let config = folder.path().join("run.toml");
    for (wrong, named) in
        [("epoch = 3", "epoch"), ("[loss]\ntau = 1.0", "tau"), ("seed = ", "seed")]
    {
        std::fs::write(&config, wrong).unwrap();
        let said = train(&["--config", config.to_str().unwrap()]);
        assert!(said.contains("run.toml") && said.contains(named), "{said}");
    }
    let said = fails(1, &["train", "--config", "no/such.toml", "--out", out.to_str().unwrap()]);
    assert!(said.contains("cannot read no/such.toml"), "{said}");
    let said = fails(2, &["train", "--out", folder.path().to_str().unwrap()]);
    assert!(said.contains("exists already"), "{said}");
}

#[test]
fn a_folder_without_images_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let out = folder.path().join("run");
    let train =
        || fails(1, &["train", "--data", data.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert!(train().contains("does not exist"));
    std::fs::create_dir(&data).unwrap();
    assert!(train().contains("has no images") && train().contains("it is empty"));
    std::fs::write(data.join("notes.txt"), "no image").unwrap();
    assert!(train().contains("1 other files"));
    std::fs::write(data.join("foreign.png"), "no image").unwrap();
    let said = train();
    assert!(said.contains("none of the 1 images") && said.contains("foreign.png"), "{said}");
    assert!(!out.exists());
}

#[test]
fn unreadable_images_are_named_counted_and_skipped() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let whole = std::fs::read(photos.path().join("lying/00.png")).unwrap();
    std::fs::write(photos.path().join("lying/truncated.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(photos.path().join("lying/foreign.jpg"), "no image").unwrap();
    std::fs::write(photos.path().join("lying/notes.txt"), "no image either").unwrap();
    let out = folder.path().join("run");
    let output = kinfold(&short(&photos, &out));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("skipped 2 files"), "{said}");
    assert!(said.contains("truncated.png") && said.contains("foreign.jpg"), "{said}");
    assert!(!said.contains("notes.txt"));
}

#[test]
fn embeddings_for_several_dimensions() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &folder, "run", &["--matryoshka", "128,8,32"]);
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("matryoshka = [128, 8, 32]"), "{config}");
    // The user has what the loss is of.
    assert!(config.contains("projector = \"none\""), "{config}");
    let run = run.to_str().unwrap();
    let told = kinfold(&["evaluate", run, "--json"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let dims = |told: &Value| -> Vec<u64> {
        let cuts = told["by_dimension"].as_array().unwrap();
        cuts.iter().map(|cut| cut["dim"].as_u64().unwrap()).collect()
    };
    assert_eq!(dims(&told), [128, 8, 32]);
    // All of its numbers are the embedding itself.
    let whole = &told["by_dimension"][0];
    assert_eq!(whole["nearest_neighbour"], told["nearest_neighbour"]["trained"]);
    let other = kinfold(&["evaluate", run, "--dimensions", "4,2", "--json"]);
    assert_eq!(dims(&serde_json::from_slice(&other.stdout).unwrap()), [4, 2]);
    let said = fails(2, &["evaluate", run, "--dimensions", "129"]);
    assert!(said.contains("dimensions is 129, but embeddings have 128"), "{said}");
    let page = std::fs::read_to_string(Path::new(run).join("report.html")).unwrap();
    assert!(page.contains("cut to their first numbers"));
    // A diagnosis of each, that of all numbers being the whole one's.
    let told = kinfold(&["diagnose", run, "--json"]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(dims(&told), [128, 8, 32]);
    assert_eq!(told["by_dimension"][0]["loss"], told["loss"]);
    assert_ne!(told["by_dimension"][1]["loss"], told["loss"]);
    let told = text(&kinfold(&["diagnose", run, "--dimensions", "8"]).stdout);
    assert!(
        told.contains("cut to their first numbers?\n") && told.contains("\n        8 "),
        "{told}"
    );
    let said = fails(2, &["diagnose", run, "--dimensions", "0"]);
    assert!(said.contains("dimensions is 0, but embeddings have 128"), "{said}");
    // Cut, and of unit length.
    let file = folder.path().join("e.csv");
    let out = file.to_str().unwrap();
    assert!(kinfold(&["embed", run, "--dimensions", "8", "--out", out]).status.success());
    for line in std::fs::read_to_string(&file).unwrap().lines().skip(1) {
        let numbers: Vec<f64> = line.split(',').skip(2).map(|x| x.parse().unwrap()).collect();
        let length = numbers.iter().map(|x| x * x).sum::<f64>();
        assert!(numbers.len() == 8 && (length - 1.0).abs() < 1e-5, "{line}");
    }
    let said = fails(2, &["embed", run, "--dimensions", "129", "--out", out]);
    assert!(said.contains("dimensions is 129, but embeddings have 128"), "{said}");
    let out = folder.path().join("long");
    let long = [&short(&photos, &out)[..], &["--matryoshka", "8,256"]].concat();
    let said = fails(2, &long);
    assert!(said.contains("matryoshka has 256, but the loss is of 128 numbers"), "{said}");
    let twice = [&short(&photos, &out)[..], &["--matryoshka", "8,8"]].concat();
    assert!(fails(2, &twice).contains("two prefixes have the same dimension"));
}

#[test]
fn images_without_labels_train_without_accuracies() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    std::fs::remove_dir_all(photos.path().join("up")).unwrap();
    let run = small_run(&photos, &folder, "run", &[]);
    let summary = json(&run.join("summary.json"));
    assert_eq!((&summary["pairs"], &summary["evaluation"]), (&9.into(), &Value::Null));
    let said = fails(1, &["evaluate", run.to_str().unwrap()]);
    assert!(said.contains("fewer than two labels"), "{said}");
}

/// The weights that a run kept when it broke are numbers.
fn last_good_are_finite(run: &Path) {
    let weights = std::fs::read(run.join("checkpoints/last-good.safetensors")).unwrap();
    let weights = safetensors::SafeTensors::deserialize(&weights).unwrap();
    for (name, tensor) in weights.tensors() {
        let numbers = tensor.data().chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        assert!(numbers.into_iter().all(f32::is_finite), "{name}");
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_weights() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let out = folder.path().join("run");
    let said = fails(
        1,
        &[
            "train",
            "--data",
            photos.path().to_str().unwrap(),
            "--out",
            out.to_str().unwrap(),
            "--image-size",
            "8",
            "--batch",
            "8",
            "--epochs",
            "20",
            "--learning-rate",
            "1e38",
        ],
    );
    assert!(said.contains("not finite at step") && said.contains("learning rate"), "{said}");
    assert_eq!(
        files(&out),
        [
            "checkpoints",
            "config.toml",
            "events.out.tfevents.kinfold",
            "metrics.jsonl",
            "snapshots.json"
        ]
    );
    last_good_are_finite(&out);
    // Every line of the metrics is whole, and none is not finite.
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    for line in metrics.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["loss"].as_f64().unwrap().is_finite());
    }
}

#[test]
fn a_last_step_that_breaks_the_weights_keeps_those_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // One step, with a finite loss before it and none after.
    let flags = ["--batch", "1437", "--epochs", "1", "--warmup", "0", "--optimizer", "sgd"];
    let run = ["train", "--out", out.to_str().unwrap(), "--learning-rate", "1e39"];
    let said = fails(1, &[&run[..], &flags].concat());
    assert!(said.contains("the weights are not finite at step 1"), "{said}");
    assert!(!out.join("model.safetensors").exists());
    last_good_are_finite(&out);
}

/// A limit on the size of files stands in for a full disk: writing beyond it is an error.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let limited = |blocks: u32, arguments: &[&str]| {
        Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_kinfold"))
            .args(arguments)
            .output()
            .unwrap()
    };
    let run = small_run(&photos, &folder, "run", &[]);
    let data = photos.path().to_str().unwrap();
    for name in ["a.npy", "a.csv", "a.parquet"] {
        let out = folder.path().join(name);
        std::fs::write(&out, "older").unwrap();
        let (run, path) = (run.to_str().unwrap(), out.to_str().unwrap());
        let output = limited(4, &["embed", run, "--data", data, "--out", path]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("cannot write {path}")), "{said}");
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "older");
    }
    // No room for the weights: what was written before them is whole.
    let out = folder.path().join("full");
    let output = limited(16, &short(&photos, &out));
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("cannot write") && said.contains("model.safetensors"), "{said}");
    assert_eq!(
        files(&out),
        [
            "config.toml",
            "events.out.tfevents.kinfold",
            "metrics.jsonl",
            "model.toml",
            "snapshots.json"
        ]
    );
    // No room for anything: no folder.
    let out = folder.path().join("none");
    let output = limited(0, &["train", "--data", data, "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!out.exists());
    assert!(!files(folder.path()).iter().any(|name| name.contains("partial")));
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_saves() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // An epoch is over: training is under way.
    let (mut child, lines) = long_run(&out, &[]);
    signal(&child, "-INT");
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(rest.iter().any(|line| line.starts_with("stopped after")), "{rest:?}");
    let resume = format!("resume with: kinfold train --resume {}", out.display());
    assert!(rest.contains(&resume), "{rest:?}");
    assert_eq!(files(&out.join("checkpoints")).len(), 1);
    let summary = json(&out.join("summary.json"));
    assert_eq!(summary["interrupted"], true);
    assert!(summary["steps"].as_u64().unwrap() < 500 * 22);
    succeeds(&["evaluate", out.to_str().unwrap()]);
}

/// The folder as a .zip beside it.
fn zipped(photos: &TempDir, into: &TempDir) -> PathBuf {
    let path = into.path().join("photos.zip");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    let options = zip::write::SimpleFileOptions::default();
    for label in ["lying", "up/standing"] {
        for name in files(&photos.path().join(label)) {
            let entry = format!("{label}/{name}");
            zip.start_file(&entry, options).unwrap();
            let bytes = std::fs::read(photos.path().join(&entry)).unwrap();
            std::io::Write::write_all(&mut zip, &bytes).unwrap();
        }
    }
    zip.finish().unwrap();
    path
}

#[test]
fn a_zip_trains_as_its_folder_does() {
    let (photos, into) = (photos(), tempfile::tempdir().unwrap());
    let folder = small_run(&photos, &into, "folder", &[]);
    let zip = zipped(&photos, &into);
    let archive = small_run(&photos, &into, "zip", &["--data", zip.to_str().unwrap()]);
    let weights = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&folder) == weights(&archive));
}

#[test]
fn pairs_may_be_two_images_of_a_folder() {
    let (photos, into) = (photos(), tempfile::tempdir().unwrap());
    let data = photos.path().to_str().unwrap();
    // Two classes, and with their quarter turns eight.
    let flags = ["--pairs", "folder", "--expand", "rotations"];
    let run = small_run(&photos, &into, "rotations", &flags);
    let summary = json(&run.join("summary.json"));
    assert!(summary["pairs"].as_u64().unwrap() >= 64, "{summary}");
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("of = \"folder\"") && config.contains("expand = \"rotations\""));
    let again = into.path().join("again");
    let from = run.join("config.toml");
    succeeds(&["train", "--config", from.to_str().unwrap(), "--out", again.to_str().unwrap()]);
    let weights = |run: &Path| std::fs::read(run.join("model.safetensors")).unwrap();
    assert!(weights(&run) == weights(&again));
    // Its diagnosis is of such pairs, each of another class and turn.
    let told = succeeds(&["diagnose", run.to_str().unwrap(), "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(told["of"].as_str().unwrap().contains("8 pairs"), "{told}");
    assert!(told["of"].as_str().unwrap().contains("each two images of a class"), "{told}");
    assert_eq!(told["false_negatives"]["labels"], 8);
    let train = ["train", "--data", data, "--image-size", "8", "--channels", "1", "--out", "x"];
    let said = fails(2, &[&train[..], &["--pairs", "folder", "--batch", "8"]].concat());
    assert!(said.contains("2 classes") && said.contains("--batch 2"), "{said}");
    let said = fails(2, &[&train[..], &["--pairs", "list"]].concat());
    assert!(said.contains("from a list"), "{said}");
}

#[test]
fn views_can_be_looked_at_and_be_those_of_photographs() {
    let (photos, into) = (photos(), tempfile::tempdir().unwrap());
    let sheet = into.path().join("sheet.png");
    let (data, out) = (photos.path().to_str().unwrap(), sheet.to_str().unwrap());
    let views = ["views", "--data", data, "--views", "simclr", "--image-size", "16", "--out"];
    let printed = succeeds(&[&views[..], &[out, "--images", "5", "--columns", "6"]].concat());
    assert!(printed.starts_with("5 of 24 images and 6 views of each"), "{printed}");
    let picture = image::open(&sheet).unwrap();
    // Small images are shown enlarged.
    assert_eq!((picture.width(), picture.height()), (6 * (7 * 18 + 2), 6 * (5 * 18 + 2)));
    // Pairs as they are made: two images of one folder, and of each a view.
    let flags = [out, "--images", "1", "--columns", "2", "--pairs", "folder"];
    let printed = succeeds(&[&views[..], &flags].concat());
    assert!(printed.starts_with("2 pairs in"), "{printed}");
    let picture = image::open(&sheet).unwrap();
    assert_eq!((picture.width(), picture.height()), (6 * (2 * 44 + 10), 6 * 28));
    assert!(succeeds(&[&views[..], &[out, "--pairs"]].concat()).starts_with("19 pairs in"));
    fails(2, &[&views[..], &["sheet.jpg"]].concat());
    fails(2, &[&views[..], &[out, "--images", "0"]].concat());
    let run = small_run(&photos, &into, "simclr", &["--views", "simclr", "--invert"]);
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(
        config.contains("recipe = \"simclr\"") && config.contains("strength = 1.0"),
        "{config}"
    );
}

#[test]
fn what_is_no_run_is_refused() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let path = folder.path().to_str().unwrap();
    assert!(fails(1, &["evaluate", path]).contains("is no run"));
    let run = small_run(&photos, &folder, "run", &[]);
    let weights = run.join("model.safetensors");
    let whole = std::fs::read(&weights).unwrap();
    for damaged in [&whole[..whole.len() / 2], b"no weights", b""] {
        std::fs::write(&weights, damaged).unwrap();
        let said = fails(1, &["evaluate", run.to_str().unwrap()]);
        assert!(said.contains("model.safetensors is no run"), "{said}");
    }
    // Weights of another architecture.
    std::fs::write(&weights, &whole).unwrap();
    let toml = std::fs::read_to_string(run.join("model.toml")).unwrap();
    std::fs::write(run.join("model.toml"), toml.replace("[48, 96, 192]", "[48, 96, 96]")).unwrap();
    let said = fails(1, &["evaluate", run.to_str().unwrap()]);
    assert!(said.contains("is no run"), "{said}");
}

#[test]
fn a_report_is_made_anew() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &folder, "run", &[]);
    let page = run.join("report.html");
    let first = std::fs::read_to_string(&page).unwrap();
    assert!(first.starts_with("<!DOCTYPE html>") && first.contains("up/standing"), "{first}");
    std::fs::write(&page, "older").unwrap();
    let printed = succeeds(&["report", run.to_str().unwrap()]);
    assert!(printed.contains(page.to_str().unwrap()), "{printed}");
    assert_eq!(std::fs::read_to_string(&page).unwrap(), first);
    assert!(fails(1, &["report", photos.path().to_str().unwrap()]).contains("is no run"));
}

#[test]
fn search_finds_what_is_nearest() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &folder, "run", &[]);
    let run = run.to_str().unwrap();
    let file = |name: &str| photos.path().join(name).to_str().unwrap().to_owned();
    let (a, b) = (file("lying/03.png"), file("up/standing/07.png"));
    let picture = folder.path().join("found.png");
    let picture = picture.to_str().unwrap();

    // An image is nearest to itself.
    let printed = succeeds(&["search", run, &a, &b, "-k", "3", "--out", picture]);
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 5 + 1 + 5, "{printed}");
    assert!(lines[0].contains("03.png, of 24 images") && lines[6].contains("07.png"), "{printed}");
    assert!(lines[2].starts_with("    1   1.000  lying") && lines[2].ends_with("03.png"));
    assert!(lines[8].contains("up/standing") && lines[8].ends_with("07.png"), "{printed}");
    let drawn = image::open(picture).unwrap().into_rgb8();
    assert!(drawn.width() > 4 * 112 && drawn.height() > 2 * 112);
    assert!(drawn.pixels().any(|p| p.0 == [0; 3]), "names are written");

    let json = succeeds(&["search", run, &a, "--json"]);
    let found: Value = serde_json::from_str(&json).unwrap();
    let near = found[0]["neighbours"].as_array().unwrap();
    assert_eq!((near.len(), &near[0]["name"]), (10, &"lying/03.png".into()));
    let cosines: Vec<f64> = near.iter().map(|n| n["cosine"].as_f64().unwrap()).collect();
    assert!(cosines.windows(2).all(|pair| pair[0] >= pair[1]), "{cosines:?}");

    let other = file("up");
    let said = fails(1, &["search", run, &other]);
    assert!(said.contains("no image to search for"), "{said}");
    let said = fails(1, &["search", run, "nowhere.png"]);
    assert!(said.contains("nowhere.png"), "{said}");
    let said = fails(2, &["search", run, &a, "-k", "25"]);
    assert!(said.contains("the 25 nearest") && said.contains("24 images"), "{said}");
    assert!(fails(2, &["search", run, &a, "--out", "found.gif"]).contains("end in .png"));
    assert!(fails(2, &["search", run]).contains("QUERY"));
}

#[test]
fn bench_agrees_with_the_dense_computation() {
    for loss in ["one-way", "both", "nt-xent"] {
        let printed =
            succeeds(&["bench", "--loss", loss, "--rows", "100", "--dim", "24", "--json"]);
        let record: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((&record["loss"], &record["rows"]), (&loss.into(), &100.into()));
        let number = |of: &Value| of.as_f64().unwrap();
        let (ours, dense) = (number(&record["value"]), number(&record["dense"]["value"]));
        assert!((ours - dense).abs() < 1e-5 * dense, "{loss}: {ours} {dense}");
        let seconds = &record["seconds"];
        assert!(number(&seconds["min"]) <= number(&seconds["median"]));
        assert!(number(&seconds["median"]) <= number(&seconds["max"]));
        for field in ["gflops", "gemm_share", "peak_memory_bytes", "dim", "temperature", "threads"]
        {
            assert!(number(&record[field]) > 0.0, "{field}");
        }
    }
    assert!(succeeds(&["bench", "--rows", "64"]).contains("times as fast"));
    assert!(fails(2, &["bench", "--rows", "0"]).contains("rows is 0"));
    assert!(fails(2, &["bench", "--temperature", "0"]).contains("temperature is 0"));
}

#[test]
fn one_shot_classification_is_measured_within_folders() {
    let (photos, runs) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &runs, "run", &[]);
    let run = run.to_str().unwrap();
    // The same bars, now two classes beside each other.
    let data = tempfile::tempdir().unwrap();
    let bars = data.path().join("bars");
    std::fs::create_dir(&bars).unwrap();
    for (from, to) in [("lying", "lying"), ("up/standing", "standing")] {
        std::fs::rename(photos.path().join(from), bars.join(to)).unwrap();
    }
    let data = data.path().to_str().unwrap();
    let task = ["evaluate", run, "--one-shot", data, "--runs", "30"];
    let printed = succeeds(&task);
    assert!(printed.contains("30 runs of up to 2 classes, 60 images"), "{printed}");
    // With nothing held out, all of it is trained on.
    let config = runs.path().join("all.toml");
    std::fs::write(&config, "hold_out = 0").unwrap();
    let whole = ["--config", config.to_str().unwrap(), "--data", data];
    let whole = small_run(&photos, &runs, "whole", &whole);
    assert_eq!(json(&whole.join("summary.json"))["pairs"], 24);
    let said = fails(1, &["evaluate", whole.to_str().unwrap()]);
    assert!(said.contains("nothing held out"), "{said}");
    let again = ["evaluate", run, "--one-shot", "folder", "--data", data, "--runs", "30", "--json"];
    let measured: Value = serde_json::from_str(&succeeds(&again)).unwrap();
    assert_eq!(measured["groups"], serde_json::json!(["bars"]));
    for model in ["raw", "random_encoder", "trained"] {
        let error = measured["error"][model].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&error));
        assert!(printed.contains(&format!("{:.1} %", 100.0 * error)), "{printed}");
    }
    let said = fails(2, &["evaluate", run, "--one-shot", data, "--only", "beams"]);
    assert!(said.contains("no folder beams") && said.contains("bars"), "{said}");
    assert!(fails(2, &["evaluate", run, "--one-shot", data, "--ways", "1"]).contains("ways is 1"));
    assert!(fails(2, &["evaluate", run, "--runs", "1"]).contains("--one-shot"));
}

#[test]
fn every_encoder_trains_and_is_rebuilt() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    for (name, settings, dim) in [
        ("convnet", "widths = [4, 8]\nkernels = [5, 3]\nstrides = [2, 2]\nembedding = 7", 7),
        ("mlp", "widths = [8]\nprojector = \"mlp\"\nprojection = 5", 128),
        ("resnet18", "", 512),
        ("vit", "width = 8\ndepth = 1\nheads = 2", 8),
    ] {
        let config = folder.path().join("config.toml");
        std::fs::write(&config, format!("[encoder]\nname = \"{name}\"\n{settings}\n")).unwrap();
        let flags = ["--config", config.to_str().unwrap(), "--encoder", name];
        let run = small_run(&photos, &folder, name, &flags);
        let path = run.to_str().unwrap();
        let again: Value = serde_json::from_str(&succeeds(&["evaluate", path, "--json"])).unwrap();
        assert_eq!(again, json(&run.join("summary.json"))["evaluation"], "{name}");
        let out = folder.path().join("out.npy");
        succeeds(&["embed", path, "--out", out.to_str().unwrap()]);
        let vectors: ndarray::Array2<f32> = ndarray_npy::read_npy(&out).unwrap();
        assert_eq!(vectors.dim(), (24, dim), "{name}");

        // As a beginning, it needs no file once it is saved.
        let moved = folder.path().join("moved");
        std::fs::rename(&run, &moved).unwrap();
        let more = format!("{name}-more");
        let begun = ["--init", moved.to_str().unwrap()];
        let begun = small_run(&photos, &folder, &more, &[&flags[..], &begun].concat());
        let config = std::fs::read_to_string(begun.join("config.toml")).unwrap();
        let model = std::fs::read_to_string(begun.join("model.toml")).unwrap();
        assert!(config.contains("init = ") && !model.contains("init"), "{config}{model}");
        std::fs::remove_dir_all(&moved).unwrap();
        let again: Value =
            serde_json::from_str(&succeeds(&["evaluate", begun.to_str().unwrap(), "--json"]))
                .unwrap();
        assert_eq!(again, json(&begun.join("summary.json"))["evaluation"], "{name}");
    }
}

#[test]
fn an_encoder_that_cannot_be_is_refused() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let (data, out) = (photos.path().to_str().unwrap(), folder.path().join("run"));
    let train = ["train", "--data", data, "--out", out.to_str().unwrap()];
    let config = folder.path().join("config.toml");
    std::fs::write(&config, "[encoder]\nname = \"resnet18\"\nwidths = [4]\n").unwrap();
    let configured = ["--config", config.to_str().unwrap()];
    let said = fails(2, &[&train[..], &configured].concat());
    assert!(said.contains("widths is a setting of convnet, mlp"), "{said}");
    let said = fails(2, &[&train[..], &["--encoder", "resnet34"]].concat());
    assert!(said.contains("resnet18"), "{said}");
    let said = fails(1, &[&train[..], &["--init", "nothing.pth"]].concat());
    assert!(said.contains("nothing.pth"), "{said}");
    // Another encoder than the file's has its own defaults.
    let flags = [&configured[..], &["--encoder", "mlp"]].concat();
    small_run(&photos, &folder, "mlp", &flags);
    assert!(!out.exists());
}

/// Begins a long run, and waits until its first epoch is over; what it prints from then on.
#[cfg(unix)]
fn long_run(
    out: &Path,
    flags: &[&str],
) -> (std::process::Child, impl Iterator<Item = String> + use<>) {
    use std::io::{BufRead, BufReader};
    let mut arguments = vec!["train", "--out", out.to_str().unwrap()];
    arguments.extend(["--batch", "64", "--epochs", "500"]);
    arguments.extend(flags);
    let mut child = Command::new(env!("CARGO_BIN_EXE_kinfold"))
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("epoch 1,")));
    (child, lines)
}

#[cfg(unix)]
fn signal(child: &std::process::Child, name: &str) {
    let sent = Command::new("kill").args([name, &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
}

#[cfg(unix)]
#[test]
fn a_job_that_is_ended_and_a_terminal_that_is_closed_save_as_ctrl_c_does() {
    for name in ["-TERM", "-HUP"] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("run");
        let (mut child, lines) = long_run(&out, &[]);
        signal(&child, name);
        assert!(lines.into_iter().any(|line| line.starts_with("resume with: ")));
        assert_eq!(child.wait().unwrap().code(), Some(130), "{name}");
        assert_eq!(json(&out.join("summary.json"))["interrupted"], true);
    }
}

#[cfg(unix)]
#[test]
fn a_run_that_has_not_ended_is_known_by_its_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (config, out) = (folder.path().join("often.toml"), folder.path().join("run"));
    std::fs::write(&config, "[checkpoint]\nevery_steps = 5\n").unwrap();
    let (mut child, _lines) = long_run(&out, &["--config", config.to_str().unwrap()]);
    let run = out.to_str().unwrap();
    let embedded = folder.path().join("e.npy");
    let printed = succeeds(&["embed", run, "--out", embedded.to_str().unwrap()]);
    assert!(printed.contains("1797 embeddings"), "{printed}");
    let diagnosed = kinfold(&["diagnose", run]);
    assert!(diagnosed.status.success(), "{}", text(&diagnosed.stderr));
    assert!(text(&diagnosed.stderr).contains("has not ended"), "{}", text(&diagnosed.stderr));
    signal(&child, "-KILL");
    child.wait().unwrap();
    std::fs::remove_dir_all(out.join("checkpoints")).unwrap();
    let said = fails(1, &["embed", run]);
    assert!(said.contains("has not ended") && said.contains("checkpoint"), "{said}");
}

#[cfg(target_os = "linux")]
#[test]
fn output_that_cannot_be_written_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let out = out.to_str().unwrap();
    let full = |arguments: &[&str]| {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_kinfold"))
            .args(arguments)
            .stdout(full)
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        said
    };
    let said = full(&["train", "--epochs", "1", "--out", out]);
    assert!(said.contains("output could not be written"), "{said}");
    // What it was made for is there.
    assert!(Path::new(out).join("summary.json").exists());
    for arguments in [&["evaluate", out][..], &["diagnose", out], &["report", out], &["--help"]] {
        full(arguments);
    }
}

#[test]
fn what_no_machine_has_is_refused_before_it_is_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let (config, out) = (folder.path().join("wide.toml"), folder.path().join("run"));
    std::fs::write(&config, "[encoder]\nwidths = [1000000, 1000000]\n").unwrap();
    let [config, out] = [&config, &out].map(|path| path.to_str().unwrap());
    let said = fails(2, &["train", "--config", config, "--out", out]);
    assert!(said.contains("TiB") && said.contains("are free"), "{said}");
    assert!(!Path::new(out).exists());
    let said = fails(2, &["bench", "--rows", "1000000000"]);
    assert!(said.contains("1000000000 pairs") && said.contains("are free"), "{said}");
    let printed = succeeds(&["train", "--epochs", "1", "--out", out]);
    assert!(printed.contains("MiB of memory"), "{printed}");
    let model = Path::new(out).join("model.toml");
    let edited = std::fs::read_to_string(&model).unwrap().replace("96", "96000000");
    std::fs::write(&model, edited).unwrap();
    assert!(fails(2, &["embed", out]).contains("are free"));
}

#[test]
fn weights_that_are_not_finite_embed_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let run = out.to_str().unwrap();
    succeeds(&["train", "--epochs", "1", "--out", run]);
    let file = out.join("model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&file, bytes).unwrap();
    let image = folder.path().join("x.png");
    image::GrayImage::new(8, 8).save(&image).unwrap();
    for arguments in [vec!["embed", run], vec!["search", run, image.to_str().unwrap()]] {
        let said = fails(1, &arguments);
        assert!(said.contains("not finite"), "{said}");
    }
}

#[test]
fn a_run_says_nothing_of_where_it_was() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let here = folder.path().to_str().unwrap();
    std::fs::rename(photos.path().join("up"), folder.path().join("up")).unwrap();
    std::fs::rename(photos.path().join("lying"), folder.path().join("lying")).unwrap();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kinfold"));
        let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
        (output.status.code(), text(&output.stdout) + &text(&output.stderr))
    };
    let (data, run) = (format!("{here}/up"), format!("{here}/run"));
    let begun = ["train", "--data", &data, "--out", &run, "--image-size", "8", "--batch", "4"];
    let (code, said) = command(&[&begun[..], &["--epochs", "2"]].concat());
    assert_eq!(code, Some(0), "{said}");
    for file in ["config.toml", "model.toml", "summary.json", "report.html"] {
        let text = std::fs::read_to_string(folder.path().join("run").join(file)).unwrap();
        assert!(!text.contains(here), "{file}");
    }
    assert!(said.contains("kinfold embed"), "{said}");
    // Without labels there is nothing to evaluate, and it is not proposed.
    assert!(!said.contains("kinfold evaluate"), "{said}");
    // Data that has moved.
    std::fs::rename(folder.path().join("up"), folder.path().join("moved")).unwrap();
    for arguments in [
        ["embed", "run", "--data", "moved", "--out", "e.npy"],
        ["diagnose", "run", "--data", "moved", "--sample", "4"],
    ] {
        let (code, said) = command(&arguments);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn views_are_embedded_in_pairs_that_can_be_diagnosed() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &folder, "a run", &[]);
    let run = run.to_str().unwrap();
    let (data, out) = (photos.path().to_str().unwrap(), folder.path().join("e.npy"));
    let embed = ["embed", run, "--data", data, "--views", "2", "--out", out.to_str().unwrap()];
    let printed = succeeds(&embed);
    let files = ["e-1.npy", "e-2.npy"].map(|name| folder.path().join(name));
    let [a, b]: [ndarray::Array2<f32>; 2] =
        files.each_ref().map(|file| ndarray_npy::read_npy(file).unwrap());
    assert_eq!((a.dim(), b.dim()), ((24, 128), (24, 128)));
    assert_ne!(a, b);
    let [a, b] = files.each_ref().map(|file| file.to_str().unwrap());
    assert!(printed.contains(&format!("kinfold diagnose {a} {b}")), "{printed}");
    succeeds(&["diagnose", a, b]);
}

#[test]
fn names_that_a_terminal_would_obey_are_shown() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    std::fs::write(photos.path().join("lying/\u{1b}[31mred.png"), "no image").unwrap();
    let out = folder.path().join("run");
    let output = kinfold(&short(&photos, &out));
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("red.png"), "{said}");
    assert!(!said.contains('\u{1b}') && said.contains("\\u{1b}[31m"), "{said}");
}

#[test]
fn runs_of_one_second_have_folders_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let begin = || {
        Command::new(env!("CARGO_BIN_EXE_kinfold"))
            .args(["train", "--epochs", "1"])
            .current_dir(folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..3).map(|_| begin()).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(files(&folder.path().join("runs")).len(), 3);
}

#[test]
fn parquet_is_written_and_read_in_every_compression() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &folder, "run", &[]);
    let [run, data] = [&run, photos.path()].map(|path| path.to_str().unwrap());
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    succeeds(&["embed", run, "--data", data, "--out", &file("plain.parquet")]);
    let diagnosed = |path: &str| {
        let text = succeeds(&["diagnose", path, &file("plain.parquet"), "--json"]);
        let mut all: Value = serde_json::from_str(&text).unwrap();
        all["of"] = Value::Null;
        all
    };
    let expected = diagnosed(&file("plain.parquet"));
    assert_eq!(expected["false_negatives"]["labels"], 2);
    for compression in ["none", "snappy", "zstd", "gzip", "lz4", "brotli"] {
        let out = file(&format!("{compression}.parquet"));
        succeeds(&["embed", run, "--data", data, "--out", &out, "--compression", compression]);
        assert_eq!(diagnosed(&out), expected, "{compression}");
    }
    let out = file("x.npy");
    let said = fails(2, &["embed", run, "--out", &out, "--compression", "zstd"]);
    assert!(said.contains("cannot be compressed: .parquet can"), "{said}");
}

#[test]
fn names_that_a_spreadsheet_would_compute_are_told_of() {
    let (photos, folder) = (photos(), tempfile::tempdir().unwrap());
    std::fs::rename(photos.path().join("lying"), photos.path().join("=1+1")).unwrap();
    let run = small_run(&photos, &folder, "run", &[]);
    for (name, told) in [("e.csv", true), ("e.parquet", false)] {
        let out = folder.path().join(name);
        let output = kinfold(&["embed", run.to_str().unwrap(), "--out", out.to_str().unwrap()]);
        assert!(output.status.success());
        assert_eq!(text(&output.stderr).contains("24 names or labels begin with ="), told);
    }
}

/// Started several times over, a command that cannot share its work would do it as often, into one folder.
#[cfg(not(feature = "mpi"))]
#[test]
fn several_processes_need_mpi() {
    for (command, reason) in [("train", "built without MPI"), ("evaluate", "run it without mpirun")]
    {
        let mut kinfold = Command::new(env!("CARGO_BIN_EXE_kinfold"));
        let run = if command == "evaluate" { Some("run") } else { None };
        let output =
            kinfold.arg(command).args(run).env("OMPI_COMM_WORLD_SIZE", "4").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(reason), "{said}");
        assert!(said.contains("one of 4 processes"), "{said}");
    }
}

/// Methods that predict leave a predictor beside the projector, and a study of all says which is best.
#[test]
fn methods_train_and_are_compared() {
    let (photos, into) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &into, "byol", &["--method", "byol"]);
    let config = std::fs::read_to_string(run.join("config.toml")).unwrap();
    assert!(config.contains("method = \"byol\"") && config.contains("predictor = 512"), "{config}");
    let weights = std::fs::read(run.join("model.safetensors")).unwrap();
    let names = safetensors::SafeTensors::deserialize(&weights).unwrap();
    assert!(names.names().contains(&"predictor.output.weight"), "{:?}", names.names());
    let page = std::fs::read_to_string(run.join("report.html")).unwrap();
    assert!(page.contains("the method <b>byol</b>.") && page.contains("2 − 2 cos"));
    succeeds(&["evaluate", run.to_str().unwrap()]);
    succeeds(&["diagnose", run.to_str().unwrap()]);

    for (flag, value, why) in [
        ("--temperature", "0.1", "a temperature of 0.1 has no meaning"),
        ("--loss", "nt-xent", "the loss nt-xent has no meaning"),
    ] {
        let said = fails(2, &["train", "--method", "byol", flag, value]);
        assert!(said.contains(why), "{said}");
    }

    let out = into.path().join("study");
    let data = photos.path().to_str().unwrap();
    let flags = ["--epochs", "1", "--batch", "8", "--seeds", "2", "--image-size", "8"];
    let arguments = ["study", "methods", "--data", data, "--out", out.to_str().unwrap()];
    let printed = succeeds(&[&arguments[..], &flags].concat());
    for method in ["simclr", "moco-v3", "byol", "simsiam"] {
        assert!(printed.contains(&format!("| {method} | ")), "{printed}");
    }
    assert!(printed.contains("200 nearest vote, %"), "{printed}");
    assert_eq!(files(&out), ["study.json", "study.md", "study.svg"]);
}

/// Embeddings of several views are at unit length, the same each time, and other ones than those of one.
#[test]
fn embeddings_of_several_views_are_averaged() {
    let (photos, into) = (photos(), tempfile::tempdir().unwrap());
    let run = small_run(&photos, &into, "run", &["--average", "3"]);
    let run = run.to_str().unwrap();
    let model = std::fs::read_to_string(Path::new(run).join("model.toml")).unwrap();
    assert!(model.contains("average = 3"), "{model}");
    let embedded = |flags: &[&str]| -> ndarray::Array2<f32> {
        let out = into.path().join("out.npy");
        succeeds(&[&["embed", run, "--out", out.to_str().unwrap()], flags].concat());
        ndarray_npy::read_npy(&out).unwrap()
    };
    let (own, three, one) =
        (embedded(&[]), embedded(&["--average", "3"]), embedded(&["--average", "1"]));
    assert_eq!(own, three);
    assert_ne!(own, one);
    for row in own.rows() {
        assert!((row.dot(&row) - 1.0).abs() < 1e-5, "{row}");
    }
    let said = fails(2, &["embed", run, "--average", "0"]);
    assert!(said.contains("average is 0 views"), "{said}");
    let photographs = small_run(&photos, &into, "simclr", &["--views", "simclr"]);
    let said = fails(2, &["embed", photographs.to_str().unwrap(), "--average", "3"]);
    assert!(said.contains("1 to 2: a photograph and its mirror image"), "{said}");
}
