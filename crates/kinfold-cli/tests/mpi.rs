//! One run of several processes, started as somebody starts them: by `mpirun`. It is the run of one process;
//! and whatever goes wrong in one process ends all of them, soon, and in words.
#![cfg(feature = "mpi")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const KINFOLD: &str = env!("CARGO_BIN_EXE_kinfold");

/// Steps that are small and stable: rounding is all that processes differ by, and a high rate makes more of it
/// at each step, in any run.
const SETTINGS: &str = "
epochs = 10
batch = 287
hold_out = 0.2
[encoder]
widths = [4, 8]
embedding = 16
projection = 8
[optimizer]
name = 'sgd'
learning_rate = 0.0005
[checkpoint]
every_steps = 10
";

/// What ends "within seconds" has ended by then, on the slowest machine; what waits for a process that is gone
/// never does.
const SECONDS: Duration = Duration::from_secs(60);

/// What the command is given, under `mpirun` with so many processes, or alone.
fn command(processes: usize, arguments: &[&str]) -> Command {
    let mut command = match processes {
        1 => Command::new(KINFOLD),
        _ => Command::new("mpirun"),
    };
    if processes > 1 {
        command.args(["-n", &processes.to_string(), KINFOLD]);
    }
    started(command.args(arguments));
    command
}

/// More processes than processors, as root, in a container.
fn started(command: &mut Command) -> &mut Command {
    for name in ["OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] {
        command.env(name, "1");
    }
    command.env("OMPI_MCA_rmaps_base_oversubscribe", "1");
    command.stdout(Stdio::piped()).stderr(Stdio::piped())
}

/// Everything that was said, wherever.
fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    /// A run with [`SETTINGS`] and what comes on top of them.
    fn run(&self, name: &str, processes: usize, more: &str) -> PathBuf {
        self.run_with(name, processes, SETTINGS, more)
    }

    fn run_with(&self, name: &str, processes: usize, settings: &str, more: &str) -> PathBuf {
        let config = self.write(&format!("{name}.toml"), &format!("{settings}{more}"));
        let out = self.text(name);
        let output = command(processes, &["train", "--config", &config, "--out", &out]).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{name}: {}", said(&output));
        out.into()
    }
}

/// The loss of each step.
fn losses(run: &Path) -> Vec<f64> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.filter_map(|line: serde_json::Value| line.get("loss")?.as_f64()).collect()
}

#[track_caller]
fn assert_same_curve(what: &str, run: &Path, one: &Path, most: f64) {
    let (ours, theirs) = (losses(run), losses(one));
    assert_eq!(ours.len(), theirs.len(), "{what}");
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let apart = (ours - theirs).abs() / theirs.abs();
        assert!(apart <= most, "{what}, step {}: {ours} but {theirs}, {apart:e} apart", step + 1);
    }
}

#[test]
fn the_loss_curve_is_that_of_one_process() {
    let place = Place::new();
    for (name, loss) in [
        ("nt-xent", ""),
        ("both-ways", ""),
        ("one-way", "label_smoothing = 0.1"),
        ("open-clip", ""),
        ("siglip", ""),
        ("moco", "queue = 600"),
        ("hcl", ""),
        ("sup-con", ""),
        ("dclw", ""),
        ("cross-entropy", "temperature = 0.5\nmatryoshka = [4, 8]"),
        ("nt-xent", "mask_labels = true"),
    ] {
        let more = format!("[loss]\nname = '{name}'\n{loss}\n");
        let what = |processes| format!("{name}-{}-{processes}", loss.len());
        let one = place.run(&what(1), 1, &more);
        assert_eq!(losses(&one).len(), 50);
        for processes in [2, 3] {
            let run = place.run(&what(processes), processes, &more);
            assert_same_curve(&what(processes), &run, &one, 1e-5);
        }
    }
    for method in ["moco-v3", "byol", "simsiam"] {
        let [one, three] = [1, 3].map(|processes| {
            // Settings that belong to no table come before all that do. Predictors add to what rounding comes to.
            let slow = SETTINGS.replace("learning_rate = 0.0005", "learning_rate = 0.0001");
            let settings = format!("method = '{method}'\n{slow}");
            place.run_with(&format!("{method}-{processes}"), processes, &settings, "")
        });
        assert_same_curve(method, &three, &one, 1e-5);
    }
}

#[test]
fn as_many_processes_again_come_to_the_same_bits() {
    let place = Place::new();
    let runs = ["first", "second"].map(|name| place.run(name, 3, ""));
    for file in ["config.toml", "metrics.jsonl", "model.safetensors", "model.toml"] {
        let [first, second] = runs.each_ref().map(|run| fs::read(run.join(file)).unwrap());
        assert!(first == second, "{file} differs");
    }
    let summary = fs::read_to_string(runs[0].join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["processes"]["count"], 3);
    // Embeddings and their gradients: 8 numbers of each of 574 views, twice, two thirds of which another has;
    // and the weights' gradients and statistics.
    let bytes = summary["processes"]["bytes_per_step"].as_f64().unwrap();
    assert!(bytes > (2 * 574 * 8 * 4) as f64 * 2.0 / 3.0 && bytes < 100e3, "{bytes}");
}

/// The last of four processes has no pair; and the statistics of batch norm are all the same those of three.
#[test]
fn shares_may_be_uneven_or_empty() {
    let place = Place::new();
    let few = SETTINGS.replace("epochs = 10", "epochs = 1").replace("batch = 287", "batch = 3");
    let few = few.replace("hold_out = 0.2", "hold_out = 0.95");
    let loss = "[loss]\nname = 'open-clip'\ntemperature = 0.5\n";
    let one = place.run_with("one", 1, &few, loss);
    let four = place.run_with("four", 4, &few, loss);
    assert_same_curve("a batch of 3 over 4 processes", &four, &one, 1e-5);
}

/// Without batch norm chunks change nothing; and with it, a chunk that is no smaller than a share.
#[test]
fn chunks_are_those_of_a_process() {
    let place = Place::new();
    let vit =
        SETTINGS.replace("widths = [4, 8]\nembedding = 16", "name = 'vit'\nprojector = 'linear'");
    let vit = vit.replace("epochs = 10", "epochs = 2");
    let one = place.run_with("one", 1, &vit, "");
    let chunked = format!("chunk = 40\n{vit}");
    let three = place.run_with("three", 3, &chunked, "");
    assert_same_curve("a transformer in chunks", &three, &one, 1e-5);
    let whole = place.run("whole", 3, "");
    let chunked = format!("chunk = 96\n{SETTINGS}");
    let run = place.run_with("share", 3, &chunked, "");
    assert_same_curve("a chunk as large as a share", &run, &whole, 0.0);
    // Smaller ones are seen apart by batch norm, as those of one process are.
    let chunked = format!("chunk = 20\n{SETTINGS}");
    let run = place.run_with("smaller", 3, &chunked, "");
    assert_same_curve("chunks", &run, &whole, 0.1);
    assert!(losses(&run) != losses(&whole));
}

#[test]
fn batch_norm_may_take_each_process_s_own_statistics() {
    let place = Place::new();
    let one = place.run("one", 1, "");
    let own = place.run("own", 2, "[processes]\nbatch_norm = 'own'\n");
    assert_same_curve("own statistics", &own, &one, 0.1);
    assert!(losses(&own) != losses(&one));
}

#[test]
fn texts_with_negatives_of_their_own_are_shared_like_any() {
    let place = Place::new();
    let word = |i: usize| ["sea", "tree", "rain", "road", "moon", "lamp", "wolf"][i % 7];
    let row = |i: usize| {
        let (a, b, c) = (word(i), word(i / 7), word(i / 49));
        format!("{a} {b} {c} asked\n{c} {b} {a} answered\n{b} wrong {c}\n").replace('\n', ",")
    };
    let rows: Vec<String> = (0..343).map(|i| row(i).trim_end_matches(',').to_owned()).collect();
    let text = format!("anchor,positive,negative\n{}\n", rows.join("\n"));
    let data = place.write("pairs.csv", &text);
    let run = |processes: usize| {
        let out = place.text(&format!("run{processes}"));
        let batch = ["--batch", "50", "--epochs", "3", "--learning-rate", "0.002"];
        let arguments = [&["train", "--data", &data, "--out", &out][..], &batch].concat();
        let output = command(processes, &arguments).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        PathBuf::from(out)
    };
    let one = run(1);
    assert_same_curve("texts", &run(3), &one, 1e-5);
}

/// The first process judges each epoch for all: with the same scores, all stop at the same one.
#[test]
fn adapters_of_vectors_stop_early_together() {
    let place = Place::new();
    let number = |i: usize, j: usize| ((i * 31 + j * 17) * (j + 3) % 101) as f32 / 50.0 - 1.0;
    let vector = |i: usize, twist: f32| {
        let numbers = (0..8).map(|j| (number(i, j) + twist * number(i + 5, j)).to_string());
        numbers.collect::<Vec<_>>().join(",")
    };
    let header = (0..8).map(|j| format!("v{j}")).collect::<Vec<_>>().join(",");
    let table = |twist: f32| {
        let rows: Vec<String> = (0..400).map(|i| format!("{i},{}", vector(i, twist))).collect();
        format!("name,{header}\n{}\n", rows.join("\n"))
    };
    let (queries, documents) =
        (place.write("queries.csv", &table(0.0)), place.write("documents.csv", &table(0.7)));
    let run = |processes: usize| {
        let out = place.text(&format!("run{processes}"));
        let data = ["train", "--data", &queries, &documents, "--out", &out, "--batch", "100"];
        let output = command(processes, &data).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        PathBuf::from(out)
    };
    let one = run(1);
    assert_same_curve("vectors", &run(2), &one, 1e-5);
}

/// Starts a run that takes long, and waits for its first checkpoint.
fn long_run(place: &Place, name: &str, processes: usize) -> (Child, PathBuf) {
    let long = SETTINGS.replace("epochs = 10", "epochs = 2000");
    let config = place.write("long.toml", &long);
    let out = place.text(name);
    let mut child = command(processes, &["train", "--config", &config, "--out", &out]);
    let child = child.spawn().unwrap();
    let begun = Instant::now();
    while !place.path(name).join("checkpoints/step-00000010.safetensors").is_file() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint");
        std::thread::sleep(Duration::from_millis(20));
    }
    (child, out.into())
}

/// Those processes that `mpirun` started, by their rank.
fn ranks(mpirun: &Child) -> Vec<(usize, u32)> {
    let text = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let number = |entry: fs::DirEntry| entry.file_name().into_string().ok()?.parse::<u32>().ok();
    let parent = |id: u32| {
        let stat = text(format!("/proc/{id}/stat").into());
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let rank = |id: u32| {
        let all = text(format!("/proc/{id}/environ").into());
        let mut all = all.split('\0');
        all.find_map(|entry| entry.strip_prefix("OMPI_COMM_WORLD_RANK=")?.parse().ok())
    };
    let all = fs::read_dir("/proc").unwrap().flatten().filter_map(number);
    let children = all.filter(|&id| parent(id) == Some(mpirun.id()));
    let mut ranks: Vec<(usize, u32)> = children.filter_map(|id| Some((rank(id)?, id))).collect();
    ranks.sort_unstable();
    ranks
}

fn signal(name: &str, id: u32) {
    assert!(Command::new("kill").args([name, &id.to_string()]).status().unwrap().success());
}

fn partial_files(run: &Path) -> Vec<String> {
    let folders = [run.to_path_buf(), run.join("checkpoints")];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap().flatten());
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".partial")).collect()
}

#[test]
fn when_a_process_dies_all_end_within_seconds_and_another_number_goes_on() {
    let place = Place::new();
    let whole = {
        let (child, run) = long_run(&place, "whole", 1);
        let begun = Instant::now();
        while losses_so_far(&run) < 50 {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(20));
        }
        signal("-TERM", child.id());
        child.wait_with_output().unwrap();
        run
    };
    for (name, dies) in [("first", 0), ("second", 1), ("last", 2)] {
        let (child, run) = long_run(&place, name, 3);
        let ranks = ranks(&child);
        assert_eq!(ranks.len(), 3, "{ranks:?}");
        let killed = Instant::now();
        signal("-KILL", ranks[dies].1);
        let output = child.wait_with_output().unwrap();
        assert!(killed.elapsed() < SECONDS, "{:?}", killed.elapsed());
        assert!(!output.status.success());
        let said = said(&output);
        let last = fs::read_dir(run.join("checkpoints")).unwrap().flatten();
        let last = last.map(|entry| entry.file_name().into_string().unwrap());
        let last = last.filter(|name| name.ends_with(".safetensors")).max().unwrap();
        assert!(said.contains("after step") && said.contains(&last), "no {last} in {said}");
        assert!(said.contains("kinfold train --resume"), "{said}");
        // What the first was writing when it was killed is deleted by who goes on.
        assert!(dies == 0 || partial_files(&run).is_empty());
        // Another number of processes goes on, to the end of a shorter run's curve.
        let (other, steps) = (if dies == 1 { 1 } else { 2 }, losses(&whole).len());
        let child = command(other, &["train", "--resume", run.to_str().unwrap()]).spawn().unwrap();
        let begun = Instant::now();
        let progress =
            || fs::read_to_string(run.join("metrics.jsonl")).map_or(0, |x| x.lines().count());
        while progress() < steps {
            assert!(begun.elapsed() < Duration::from_secs(120), "{} steps", progress());
            std::thread::sleep(Duration::from_millis(20));
        }
        signal("-TERM", child.id());
        child.wait_with_output().unwrap();
        let (ours, theirs) = (losses(&run), losses(&whole));
        for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate().take(50) {
            assert!((ours - theirs).abs() <= 1e-5 * theirs, "{name}, step {step}: {ours} {theirs}");
        }
    }
}

#[test]
fn ctrl_c_leaves_a_run_that_goes_on() {
    let place = Place::new();
    let (child, run) = long_run(&place, "run", 2);
    let asked = Instant::now();
    signal("-INT", child.id());
    let output = child.wait_with_output().unwrap();
    assert!(asked.elapsed() < SECONDS, "{:?}", asked.elapsed());
    let said = said(&output);
    assert!(said.contains("resume with: kinfold train --resume"), "{said}");
    assert!(partial_files(&run).is_empty());
    let (resumed, steps) = (place.text("run"), losses(&run).len());
    let child = command(2, &["train", "--resume", &resumed]).spawn().unwrap();
    let begun = Instant::now();
    while losses_so_far(&run) <= steps {
        assert!(begun.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    signal("-TERM", child.id());
    child.wait_with_output().unwrap();
}

/// Whichever process is asked to end, all finish the step, and the first saves and measures.
#[test]
fn a_signal_to_one_process_ends_the_run_in_order() {
    let place = Place::new();
    let (child, run) = long_run(&place, "run", 3);
    signal("-TERM", ranks(&child)[1].1);
    let output = child.wait_with_output().unwrap();
    let said = said(&output);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("stopped after") && said.contains("resume with"), "{said}");
    let summary = fs::read_to_string(run.join("summary.json")).unwrap();
    let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["interrupted"], true);
    let steps = summary["steps"].as_u64().unwrap();
    assert!(run.join(format!("checkpoints/step-{steps:08}.safetensors")).is_file());
}

fn losses_so_far(run: &Path) -> usize {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().filter(|line| line.ends_with('}')).count()
}

/// Two programs, or two command lines, in one run.
fn differing(first: &[&str], second: &[&str]) -> String {
    let mut command = Command::new("mpirun");
    command.args(["-n", "2"]).args(first).arg(":").args(["-n", "1"]).args(second);
    let output = started(&mut command).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success() && !said.contains("panicked"), "{said}");
    assert_eq!(said.matches("error: process 3 of 3").count(), 1, "{said}");
    said
}

#[test]
fn what_differs_between_processes_is_refused_by_name() {
    let place = Place::new();
    let out = place.text("run");
    let train = [KINFOLD, "train", "--out", &out];
    let said = differing(&train, &[&train[..], &["--seed", "7"]].concat());
    assert!(said.contains("other settings than the first process: seed"), "{said}");

    // Another binary: the same program, a byte longer.
    let other = place.text("kinfold");
    let mut program = fs::read(KINFOLD).unwrap();
    program.push(0);
    fs::write(&other, program).unwrap();
    let mut permissions = fs::metadata(&other).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&other, permissions).unwrap();
    let said = differing(&train, &[&[other.as_str()][..], &train[1..]].concat());
    assert!(said.contains("another build of kinfold"), "{said}");

    // Other data under the same name, on a machine of its own.
    for (folder, last) in [("here", "c d"), ("there", "c e")] {
        fs::create_dir(place.path(folder)).unwrap();
        let text = format!("anchor,positive\na b,b a\n{last},d c\nf g,g f\n");
        place.write(&format!("{folder}/pairs.csv"), &text);
    }
    let (here, there) = (place.text("here"), place.text("there"));
    let of_data = [KINFOLD, "train", "--data", "pairs.csv", "--out", &out];
    let of = |folder| [&["-wdir", folder], &of_data[..]].concat();
    let said = differing(&of(&here), &of(&there));
    assert!(said.contains("other data than the first process"), "{said}");

    // Data that one of them cannot read.
    fs::remove_file(place.path("there/pairs.csv")).unwrap();
    let said = differing(&of(&here), &of(&there));
    assert!(said.contains("pairs.csv"), "{said}");
    assert!(!place.path("run").exists());
}

#[test]
fn what_cannot_be_shared_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let out = place.text("run");
    let refused = |processes: usize, arguments: &[&str], code: i32, reason: &str| {
        let output = command(processes, arguments).output().unwrap();
        let said = said(&output);
        assert!(output.status.code() == Some(code) && said.contains(reason), "{said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
        assert!(!place.path("run").exists());
    };
    refused(2, &["train", "--data", "no/such/folder", "--out", &out], 1, "no/such/folder");
    let output = command(2, &["evaluate", "run"]).output().unwrap();
    assert!(said(&output).contains("only train and bench share"), "{}", said(&output));
}

/// A rate that no loss survives: all processes end, and the last good weights are kept.
#[test]
fn a_loss_that_is_not_finite_ends_all_in_words() {
    let place = Place::new();
    let wild = SETTINGS.replace("learning_rate = 0.0005", "learning_rate = 1e30");
    let config = place.write("wild.toml", &wild);
    let out = place.text("run");
    let output = command(3, &["train", "--config", &config, "--out", &out]).output().unwrap();
    let said = said(&output);
    assert!(!output.status.success() && said.contains("not finite at step"), "{said}");
    assert_eq!(said.matches("error:").count(), 1, "{said}");
    assert!(place.path("run/checkpoints/last-good.safetensors").is_file(), "{said}");
}

/// What the first process cannot write any more, all end for; a file where the folder of checkpoints was stands in
/// for a disk that is full.
#[test]
fn what_cannot_be_written_ends_all_in_words() {
    let place = Place::new();
    let (child, run) = long_run(&place, "run", 2);
    let checkpoints = run.join("checkpoints");
    // A checkpoint may be written meanwhile.
    while fs::write(&checkpoints, "").is_err() {
        let _ = fs::rename(&checkpoints, place.path("before"));
    }
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < SECONDS, "{:?}", begun.elapsed());
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    assert_eq!(said.matches("error: process 1 of 2: cannot").count(), 1, "{said}");
    assert!(said.contains("checkpoints"), "{said}");
}
