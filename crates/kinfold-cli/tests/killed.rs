//! A run that is killed again and again, at any moment, and resumed each time ends as the run that
//! never was. And `--resume` as somebody uses it.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

const SETTINGS: &str = "
epochs = 5
batch = 200
[encoder]
widths = [4, 8]
embedding = 16
projection = 8
[loss]
name = 'moco'
queue = 300
learned_temperature = true
[checkpoint]
every_steps = 1
";

fn kinfold(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kinfold"));
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Waits so long, then kills it as `kill -9` does; whether it had ended before.
fn killed_after(mut child: Child, wait: Duration) -> Option<Output> {
    std::thread::sleep(wait);
    if child.try_wait().unwrap().is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
        return None;
    }
    Some(child.wait_with_output().unwrap())
}

#[test]
fn a_run_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    const KILLS: usize = 25;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("settings.toml");
    std::fs::write(&config, SETTINGS).unwrap();
    let (never, run) = (folder.path().join("never"), folder.path().join("run"));
    let begin = |out: &Path| {
        let paths = [config.to_str().unwrap(), out.to_str().unwrap()];
        kinfold(&["train", "--config", paths[0], "--out", paths[1]]).spawn().unwrap()
    };
    let output = begin(&never).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));

    // Any moment will do; the clock's last digits say which.
    let mut random = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let mut kills = 0;
    let last = loop {
        // Killed before its settings were written, a run is as if it had never been begun.
        let begun = run.join("config.toml").is_file();
        if !begun && run.exists() {
            std::fs::remove_dir_all(&run).unwrap();
        }
        let child = match begun {
            true => kinfold(&["train", "--resume", run.to_str().unwrap()]).spawn().unwrap(),
            false => begin(&run),
        };
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let wait = match kills {
            KILLS => break child.wait_with_output().unwrap(),
            _ => Duration::from_micros(u64::from(random >> 8) % 150_000),
        };
        if let Some(output) = killed_after(child, wait) {
            break output;
        }
        kills += 1;
    };
    assert!(last.status.success(), "after {kills} kills: {}", said(&last));
    assert!(kills > 3, "{kills} kills");
    for file in ["config.toml", "metrics.jsonl", "model.safetensors", "model.toml"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(&never) == read(&run), "{file} differs after {kills} kills");
    }
    let mut left = names(&run);
    left.extend(names(&run.join("checkpoints")));
    assert!(!left.iter().any(|name| name.starts_with('.')), "{left:?}");
    let output = kinfold(&["train", "--resume", run.to_str().unwrap()]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("is finished"), "{}", said(&output));
}

#[test]
fn flags_that_would_change_the_run_are_refused_by_name() {
    for flags in [&["--epochs", "9"][..], &["--out", "x", "--seed", "2"], &["--invert"]] {
        let output = kinfold(&[&["train", "--resume", "run"], flags].concat()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = said(&output);
        assert!(said.contains("--resume <RUN>' cannot be used with"), "{said}");
        for flag in flags.iter().filter(|flag| flag.starts_with("--")) {
            assert!(said.contains(flag), "{said}");
        }
    }
    let output = kinfold(&["train", "--resume", "no/such/run"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no/such/run is no run"), "{}", said(&output));
}

/// A limit on the size of files stands in for a full disk: there is room for the metrics, but not for
/// a checkpoint beside the first.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_does_not_fit_leaves_those_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let (config, run) = (folder.path().join("settings.toml"), folder.path().join("run"));
    // Its queue grows, and the checkpoint with it.
    std::fs::write(&config, SETTINGS.replace("queue = 300", "queue = 65536")).unwrap();
    let paths = [config.to_str().unwrap(), run.to_str().unwrap()];
    let limited = |blocks: u32| {
        Command::new("sh")
            .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
            .arg(env!("CARGO_BIN_EXE_kinfold"))
            .args(["train", "--config", paths[0], "--out", paths[1]])
            .output()
            .unwrap()
    };
    let output = limited(140);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("cannot write") && said(&output).contains("checkpoints/step-"));
    let left = names(&run.join("checkpoints"));
    assert!(!left.is_empty() && !left.iter().any(|name| name.ends_with("partial")), "{left:?}");
    let output = kinfold(&["train", "--resume", paths[1]]).output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
