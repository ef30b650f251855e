//! A run that is stopped and goes on is the run that was never stopped, bit for bit; and what cannot
//! go on is refused with the reason.

use kinfold_data::PairSource;
use kinfold_train::settings::Method;
use kinfold_train::{Error, Event, Observer, Settings, Summary, resume, train};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Seven steps an epoch, three epochs.
fn settings() -> Settings {
    let mut settings = Settings { epochs: 3, batch: Some(200), ..Settings::default() };
    let text = "widths = [4, 8]\nembedding = 16\nprojection = 8";
    settings.encoder = toml::from_str(text).unwrap();
    settings
}

/// A sitting that is stopped once so many steps are taken.
fn sitting(until: usize, mut go: impl FnMut(&AtomicBool, &mut Observer<'_>) -> Summary) {
    let stop = AtomicBool::new(false);
    let mut on_event = |event: Event<'_>| {
        if let Event::Stepped(progress) = event
            && progress.step >= until
        {
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    };
    let summary = go(&stop, &mut on_event);
    assert_eq!((summary.steps, summary.interrupted), (until, true));
}

/// A run that is stopped after each of these steps.
fn stopped(settings: &Settings, out: &Path, stops: &[usize]) {
    let (first, others) = stops.split_first().unwrap();
    sitting(*first, |stop, on_event| train(settings.clone(), out, stop, on_event).unwrap());
    for until in others {
        sitting(*until, |stop, on_event| resume(out, None, stop, on_event).unwrap());
    }
}

/// Goes on to the end.
fn rest(path: &Path) -> Result<Summary, Error> {
    resume(path, None, &AtomicBool::new(false), &mut |_| Ok(()))
}

fn whole(settings: &Settings, out: &Path) -> Summary {
    train(settings.clone(), out, &AtomicBool::new(false), &mut |_| Ok(())).unwrap()
}

/// Everything but how long it took and how much memory there was.
fn timeless(summary: &Summary) -> Summary {
    Summary { seconds: 0.0, pairs_per_second: 0.0, peak_memory_bytes: None, ..summary.clone() }
}

fn assert_same(one: (&Path, &Summary), other: (&Path, &Summary), what: &str) {
    for file in ["config.toml", "metrics.jsonl", "model.safetensors", "model.toml"] {
        let read = |run: &Path| std::fs::read(run.join(file)).unwrap();
        assert!(read(one.0) == read(other.0), "{what}: {file} differs");
    }
    assert_eq!(timeless(one.1), timeless(other.1), "{what}");
}

fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(run.join("checkpoints"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

fn steps(run: &Path) -> Vec<usize> {
    let step = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        name.strip_prefix("step-").unwrap().strip_suffix(".safetensors").unwrap().parse().unwrap()
    };
    checkpoints(run).into_iter().map(step).collect()
}

#[test]
fn a_run_goes_on_from_wherever_it_was_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let of = |name: &str, change: &dyn Fn(&mut Settings)| {
        let mut settings = settings();
        settings.loss.name = Some(name.to_owned());
        change(&mut settings);
        settings
    };
    let runs = [
        of("nt-xent", &|_| {}),
        // A learned temperature and bias.
        of("siglip", &|_| {}),
        // A queue that fills in the second step and forgets from the third on, with its classes.
        of("moco", &|settings| {
            settings.loss.queue = 350;
            settings.loss.momentum = Some(0.9);
            settings.loss.mask_labels = true;
            settings.loss.learned_temperature = Some(true);
        }),
        // A predictor, and a momentum encoder that slows down.
        Settings { method: Method::Byol, ..settings() },
        Settings { method: Method::MocoV3, ..settings() },
        Settings { method: Method::Simsiam, ..settings() },
        // Few pairs a batch, so that epochs have many batches whose pairs wait for one another.
        of("one-way", &|settings| {
            settings.pairs.of = Some(PairSource::Folder);
            settings.batch = Some(9);
            settings.epochs = 1;
        }),
    ];
    for (i, settings) in runs.iter().enumerate() {
        let (never, out) =
            (folder.path().join(format!("never-{i}")), folder.path().join(format!("{i}")));
        let summary = whole(settings, &never);
        // After the first step; twice within an epoch; at its end; after the next one's first step;
        // before the last step.
        stopped(settings, &out, &[1, 4, 5, 7, 8, 14, summary.steps - 1]);
        let again = rest(&out).unwrap();
        assert_same((&never, &summary), (&out, &again), &format!("run {i}"));
    }
}

#[test]
fn all_sittings_count_and_nothing_is_written_twice() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Half a second of the first sitting is spent asleep.
    let stop = AtomicBool::new(false);
    let mut on_event = |event: Event<'_>| {
        if matches!(event, Event::Stepped(progress) if progress.step == 6) {
            std::thread::sleep(Duration::from_millis(500));
            stop.store(true, Ordering::Relaxed);
        }
        Ok(())
    };
    train(settings(), &out, &stop, &mut on_event).unwrap();
    sitting(13, |stop, on_event| resume(&out, None, stop, on_event).unwrap());
    let summary = rest(&out).unwrap();
    assert!(summary.seconds >= 0.5, "{} s", summary.seconds);
    let per_second = 21.0 * 200.0 / summary.seconds;
    assert!((summary.pairs_per_second / per_second - 1.0).abs() < 1e-9);
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<serde_json::Value> =
        metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<u64> = lines.iter().map(|line| line["step"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=21).chain([21]).collect::<Vec<_>>());
    let said = rest(&out).unwrap_err().to_string();
    assert!(said.contains("is finished: it took all its 21 steps"), "{said}");
}

#[test]
fn the_last_the_one_before_and_the_best_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = settings();
    settings.checkpoint.every_steps = 4;
    let kept = |name: &str, settings: &Settings| {
        let out = folder.path().join(name);
        whole(settings, &out);
        steps(&out)
    };
    // It goes on getting better: the best is the last.
    assert_eq!(kept("better", &settings), [16, 20]);
    // A queue that fills makes the loss harder: the first epoch, of seven steps, has the lowest mean,
    // and the checkpoint after step 12 is the last before the second ends.
    settings.loss.name = Some("moco".to_owned());
    assert_eq!(kept("harder", &settings), [12, 16, 20]);
}

/// A run stopped after steps 4 and 9, with a checkpoint of each.
fn stopped_twice() -> (TempDir, PathBuf, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    stopped(&settings(), &out, &[4, 9]);
    let checkpoints = checkpoints(&out);
    assert_eq!(steps(&out), [4, 9]);
    (folder, out, checkpoints)
}

#[test]
fn a_damaged_checkpoint_is_refused_and_the_one_before_it_offered() {
    let (folder, out, checkpoints) = stopped_twice();
    let good = std::fs::read(&checkpoints[1]).unwrap();
    let refused = |damaged: &[u8]| {
        std::fs::write(&checkpoints[1], damaged).unwrap();
        let said = rest(&out).unwrap_err().to_string();
        let offered =
            format!("of step 4, can be used: kinfold train --resume {}", checkpoints[0].display());
        assert!(said.contains("step-00000009.safetensors cannot be used"), "{said}");
        assert!(said.contains(&offered), "{said}");
        said
    };
    let flipped = |i: usize| {
        let mut bytes = good.clone();
        bytes[i] ^= 1;
        bytes
    };
    // Every byte of the header's length and beginning, and here and there in the rest.
    for i in (0..64).chain((64..good.len()).step_by(good.len() / 100)).chain([good.len() - 1]) {
        refused(&flipped(i));
    }
    assert!(refused(&flipped(good.len() - 9)).contains("its checksum is"));
    for length in [0, 7, 8, 100, good.len() / 2, good.len() - 1] {
        refused(&good[..length]);
    }
    refused(&[&good[..], &[0]].concat());
    refused(b"no checkpoint at all");

    // The one before it is the same run, and what came after it is forgotten.
    let never = folder.path().join("never");
    let summary = whole(&settings(), &never);
    let mut on_event = |event: Event<'_>| {
        if matches!(event, Event::Resumed { .. }) {
            assert_eq!(steps(&out), [4]);
        }
        Ok(())
    };
    let again = resume(&checkpoints[0], None, &AtomicBool::new(false), &mut on_event).unwrap();
    assert_same((&never, &summary), (&out, &again), "from the one before");
}

#[test]
fn where_none_can_be_used_it_says_how_to_begin_anew() {
    let (_folder, out, checkpoints) = stopped_twice();
    for path in &checkpoints {
        std::fs::write(path, "damaged").unwrap();
    }
    let said = rest(&out).unwrap_err().to_string();
    assert!(
        said.contains("none before it that can be used") && said.contains("--config"),
        "{said}"
    );
}

#[test]
fn a_foreign_checkpoint_is_refused() {
    let (folder, out, checkpoints) = stopped_twice();
    let other = folder.path().join("other");
    let mut different = settings();
    different.seed = 7;
    different.optimizer.learning_rate = Some(0.001);
    stopped(&different, &other, &[12]);
    let foreign = out.join("checkpoints/step-00000012.safetensors");
    std::fs::copy(other.join("checkpoints/step-00000012.safetensors"), &foreign).unwrap();
    let said = rest(&out).unwrap_err().to_string();
    assert!(said.contains("seed was 7 and is 0"), "{said}");
    assert!(said.contains("optimizer.learning_rate was 0.001 and is 0.002"), "{said}");
    assert!(said.contains("of step 9, can be used"), "{said}");
    std::fs::remove_file(foreign).unwrap();

    // Of another format, which its checksum does not know of.
    let bytes = std::fs::read(&checkpoints[1]).unwrap();
    let find = |bytes: &[u8], what: &[u8]| {
        bytes.windows(what.len()).position(|window| window == what).unwrap()
    };
    let mut newer = bytes.clone();
    let format = find(&newer, br#"\"format\":1"#);
    newer[format + 11] = b'7';
    let digits = find(&newer, br#""crc32c":""#) + 10;
    newer[digits..digits + 8].copy_from_slice(b"00000000");
    let checksum = format!("{:08x}", crc32c::crc32c(&newer));
    newer[digits..digits + 8].copy_from_slice(checksum.as_bytes());
    std::fs::write(&checkpoints[1], newer).unwrap();
    let said = rest(&out).unwrap_err().to_string();
    assert!(said.contains("it has format 7") && said.contains("reads format 1"), "{said}");
    std::fs::write(&checkpoints[1], bytes).unwrap();

    // Settings that were changed by hand; how often it is saved may be.
    let config = std::fs::read_to_string(out.join("config.toml")).unwrap();
    let edit = |from: &str, to: &str| {
        assert!(config.contains(from), "{from}");
        std::fs::write(out.join("config.toml"), config.replace(from, to)).unwrap();
    };
    edit("epochs = 3", "epochs = 4");
    let said = rest(&out).unwrap_err().to_string();
    assert!(said.contains("epochs was 3 and is 4"), "{said}");
    edit("version = \"", "version = \"0");
    let said = rest(&out).unwrap_err().to_string();
    assert!(said.contains("may come to other numbers"), "{said}");
    edit("every_steps = 0", "every_steps = 5");
    rest(&out).unwrap();
}

#[test]
fn other_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("photos");
    std::fs::create_dir(&data).unwrap();
    let save = |i: u8| {
        let image = image::GrayImage::from_fn(9, 9, |x, y| image::Luma([(x * y) as u8 * i]));
        image.save(data.join(format!("{i:02}.png"))).unwrap();
    };
    (0..12).for_each(save);
    let mut settings = settings();
    settings.data = data.to_str().unwrap().to_owned();
    (settings.image.size, settings.batch) = (Some(8), Some(4));
    settings.hold_out = 0.0;
    let out = folder.path().join("run");
    stopped(&settings, &out, &[4]);
    let refused = || rest(&out).unwrap_err().to_string();
    save(12);
    let said = refused();
    assert!(said.contains("13 images and 13 pairs now, but it had 12 and 12"), "{said}");
    std::fs::rename(data.join("12.png"), data.join("03.png")).unwrap();
    assert!(refused().contains("other contents"));
    save(3);
    std::fs::rename(data.join("00.png"), data.join("aa.png")).unwrap();
    assert!(refused().contains("other names"));
    std::fs::rename(data.join("aa.png"), data.join("00.png")).unwrap();
    // What was refused is as it was, and the data may be elsewhere.
    let moved = folder.path().join("moved");
    std::fs::rename(&data, &moved).unwrap();
    assert!(refused().contains("photos"));
    let stop = AtomicBool::new(false);
    assert_eq!(resume(&out, moved.to_str(), &stop, &mut |_| Ok(())).unwrap().steps, 9);
}

#[test]
fn a_run_in_use_and_what_is_no_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut refused = 0;
    let mut on_event = |event: Event<'_>| {
        if let Event::Stepped(progress) = event
            && progress.step == 2
        {
            let said = rest(&out).unwrap_err().to_string();
            assert!(said.contains("is in use"), "{said}");
            refused += 1;
        }
        Ok(())
    };
    train(settings(), &out, &AtomicBool::new(false), &mut on_event).unwrap();
    assert_eq!(refused, 1);
    let said = rest(folder.path()).unwrap_err().to_string();
    assert!(said.contains("is no run: there is no config.toml"), "{said}");
    assert!(rest(&folder.path().join("nothing")).is_err());
}

/// As a process that is killed leaves it.
#[test]
fn a_run_stopped_before_its_first_checkpoint_begins_again() {
    let folder = tempfile::tempdir().unwrap();
    let (never, out) = (folder.path().join("never"), folder.path().join("run"));
    let summary = whole(&settings(), &never);
    stopped(&settings(), &out, &[5]);
    std::fs::remove_dir_all(out.join("checkpoints")).unwrap();
    std::fs::remove_file(out.join("summary.json")).unwrap();
    std::fs::write(out.join(".lock"), "").unwrap();
    std::fs::write(out.join(".config.toml.123.partial"), "half").unwrap();
    let mut resumed = None;
    let mut on_event = |event: Event<'_>| {
        if let Event::Resumed { step, from } = event {
            resumed = Some((step, from.map(Path::to_path_buf)));
        }
        Ok(())
    };
    let again = resume(&out, None, &AtomicBool::new(false), &mut on_event).unwrap();
    assert_eq!(resumed, Some((0, None)));
    assert_same((&never, &summary), (&out, &again), "from the beginning");
    for entry in std::fs::read_dir(&out).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(!name.starts_with('.'), "{name} is left behind");
    }

    // Metrics that are not those of the checkpoint.
    let other = folder.path().join("other");
    stopped(&settings(), &other, &[5]);
    std::fs::write(other.join("metrics.jsonl"), "{}\n").unwrap();
    let said = rest(&other).unwrap_err().to_string();
    assert!(said.contains("metrics.jsonl has 3 bytes"), "{said}");
}
