//! One-shot classification within folders that nothing was trained on: Lake, Salakhutdinov and
//! Tenenbaum's task (Science 2015), on any images.
//!
//! Input: a run, and images whose classes lie in groups, as Omniglot's characters lie in their
//! alphabets. Output: how often the nearest of 20 examples is of another class. Nothing is trained
//! and no label but an example's is seen.
//!
//! A run of the task is 20 classes of one group, an example and a test image of each. Both have a
//! place of their own among the images of their class, the same in every class: where images are
//! named by who drew them, as Omniglot's are, all examples are one person's and all test images
//! another's. Where a folder holds Lake's own runs, each with its `class_labels.txt`, these are run.

use crate::Error;
use crate::run::Measured;
use crate::run::SavedModel;
use crate::tensors::embed;
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::{Labelled, knn_accuracy};
use kinfold_data::random::{Purpose, Random};
use kinfold_data::{Data, Images};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The file of one of Lake's runs, a line a test image: its path, and that of its example.
const LABELS: &str = "class_labels.txt";

/// What is to be classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneShotTask {
    /// A folder or .zip of groups of classes of images.
    pub data: String,
    /// The groups, by the names of their folders; empty for all.
    pub only: Vec<String>,
    /// Runs, spread evenly over the groups.
    pub runs: usize,
    /// Classes in a run, where a group has as many.
    pub ways: usize,
    /// Classes and images of each run follow from it.
    pub seed: u64,
    /// Views of each image whose embeddings are averaged; by default as many as the run says.
    pub average: Option<usize>,
}

impl OneShotTask {
    /// 200 runs of 20 classes, of every group.
    pub fn new(data: impl Into<String>) -> Self {
        Self { data: data.into(), only: Vec::new(), runs: 200, ways: 20, seed: 0, average: None }
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OneShot {
    /// The groups that classes were taken from; of Lake's runs, these.
    pub groups: Vec<String>,
    /// Runs.
    pub runs: usize,
    /// The most classes in a run.
    pub ways: usize,
    /// Test images, over all runs.
    pub decisions: usize,
    /// The share that was taken for another class, the mean over runs; between 0 and 1.
    pub error: Measured,
    /// The standard error of each mean.
    pub standard_error: Measured,
}

/// Rows of examples, and for each test image its row and which of the examples is of its class.
struct Episode {
    examples: Vec<usize>,
    tests: Vec<(usize, usize)>,
}

/// Judges the encoder of `run` by a one-shot task, beside raw pixels and the encoder before training.
///
/// # Errors
/// When the run or the data cannot be read, a group is not there, or no group has two classes of two
/// images.
pub fn one_shot(run: &Path, task: &OneShotTask) -> Result<OneShot, Error> {
    for (name, value, least) in [("runs", task.runs, 1), ("ways", task.ways, 2)] {
        if value < least {
            return Err(Error::Setting(format!(
                "{name} is {value}, but it must be {least} or more"
            )));
        }
    }
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let views = saved.averaged_views(task.average)?;
    let trained = saved.trained(run, &device)?;
    let data = saved.settings(Some(&task.data)).read()?;
    let Data::Images(images) = &data else {
        let text = "one-shot classification is of images, but this run is of texts";
        return Err(Error::Setting(text.to_owned()));
    };
    let (groups, episodes) = match written(images, &task.data)? {
        (_, episodes) if episodes.is_empty() => drawn(images, task)?,
        written => written,
    };
    let rows: Vec<usize> = (0..images.len()).collect();
    let raw = images.pixels(&rows)?;
    let random = embed(&saved.random(&device)?, &data, &views, &device)?;
    let trained = embed(&trained, &data, &views, &device)?;
    let errors = |embeddings: &[f32]| errors(&episodes, embeddings, images.len());
    let (raw, random, trained) = (errors(&raw)?, errors(&random)?, errors(&trained)?);
    let of = |which: fn(&[f64]) -> f64| Measured {
        raw: Some(which(&raw)),
        random_encoder: which(&random),
        trained: which(&trained),
    };
    Ok(OneShot {
        groups,
        runs: episodes.len(),
        ways: episodes.iter().map(|episode| episode.examples.len()).max().unwrap_or(0),
        decisions: episodes.iter().map(|episode| episode.tests.len()).sum(),
        error: of(mean),
        standard_error: of(standard_error),
    })
}

fn mean(numbers: &[f64]) -> f64 {
    numbers.iter().sum::<f64>() / numbers.len() as f64
}

/// 0 of a single number.
fn standard_error(numbers: &[f64]) -> f64 {
    let (mean, n) = (mean(numbers), numbers.len() as f64);
    let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
    (squares / (n - 1.0).max(1.0) / n).sqrt()
}

/// The share of each episode's tests whose nearest example is of another class.
fn errors(episodes: &[Episode], embeddings: &[f32], images: usize) -> Result<Vec<f64>, Error> {
    let dim = embeddings.len() / images;
    let of = |rows: &[usize]| -> Vec<f32> {
        rows.iter().flat_map(|&row| &embeddings[row * dim..(row + 1) * dim]).copied().collect()
    };
    let error = |episode: &Episode| {
        let tests = episode.tests.iter().map(|&(row, label)| (row, label as u64));
        let (tests, labels): (Vec<usize>, Vec<u64>) = tests.unzip();
        let places: Vec<u64> = (0..episode.examples.len() as u64).collect();
        let (examples, tests) = (of(&episode.examples), of(&tests));
        let examples = Labelled::new(Embeddings::new(&examples, dim)?, &places)?;
        let tests = Labelled::new(Embeddings::new(&tests, dim)?, &labels)?;
        Ok(1.0 - knn_accuracy(examples, tests, 1)?)
    };
    episodes.iter().map(error).collect()
}

/// Runs drawn from the groups that the task asks for, and these.
fn drawn(images: &Images, task: &OneShotTask) -> Result<(Vec<String>, Vec<Episode>), Error> {
    let mut groups: BTreeMap<&str, BTreeMap<&str, Vec<usize>>> = BTreeMap::new();
    for (row, label) in images.items.labels.iter().enumerate() {
        let group = label.rsplit_once('/').map_or("", |(group, _)| group);
        groups.entry(group).or_default().entry(label).or_default().push(row);
    }
    for only in &task.only {
        if !groups.keys().any(|group| is_named(group, only)) {
            let there: Vec<&str> = groups.keys().copied().collect();
            return Err(Error::Setting(format!(
                "{} has no folder {only} of classes; it has {}",
                task.data,
                there.join(", ")
            )));
        }
    }
    groups.retain(|group, classes| {
        classes.retain(|_, rows| rows.len() >= 2);
        let wanted = task.only.is_empty() || task.only.iter().any(|only| is_named(group, only));
        wanted && classes.len() >= 2
    });
    if groups.is_empty() {
        return Err(Error::Data(format!(
            "{} has no two classes with two images or more beside each other: it takes a folder of \
             groups (alphabets), of classes (characters), of images",
            task.data
        )));
    }
    let classes: Vec<Vec<&Vec<usize>>> =
        groups.values().map(|classes| classes.values().collect()).collect();
    let episode = |run: usize| {
        let mut random = Random::new(task.seed, Purpose::OneShot { run });
        let classes = &classes[run % classes.len()];
        let mut order = random.order(classes.len());
        order.truncate(task.ways);
        let images = order.iter().map(|&class| classes[class].len()).min().unwrap_or(0);
        let example = random.below(images);
        let test = (example + 1 + random.below(images - 1)) % images;
        Episode {
            examples: order.iter().map(|&class| classes[class][example]).collect(),
            tests: order.iter().enumerate().map(|(i, &c)| (classes[c][test], i)).collect(),
        }
    };
    let names = groups.keys().map(|&group| group.to_owned()).collect();
    Ok((names, (0..task.runs).map(episode).collect()))
}

/// Whether this is the group's path, or the last folder of it.
fn is_named(group: &str, name: &str) -> bool {
    group == name || group.rsplit('/').next() == Some(name)
}

/// The runs that lie in the data as Lake's do, by the names of their folders; none where it has none.
fn written(images: &Images, data: &str) -> Result<(Vec<String>, Vec<Episode>), Error> {
    let rows: HashMap<&str, usize> =
        images.items.names.iter().enumerate().map(|(row, name)| (name.as_str(), row)).collect();
    let (mut names, mut episodes) = (Vec::new(), Vec::new());
    for (path, text) in kinfold_data::files_of_name(Path::new(data), LABELS)? {
        let wrong = |reason: String| Error::data_file(&Path::new(data).join(&path), reason);
        let run = path.rsplit_once('/').map_or("", |(run, _)| run);
        // Paths are relative to the folder of all runs.
        let root = run.rsplit_once('/').map_or(String::new(), |(root, _)| format!("{root}/"));
        let (mut examples, mut tests) = (Vec::new(), Vec::new());
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let row = |name: &str| {
                let path = format!("{root}{name}");
                let row = rows.get(path.as_str()).copied();
                row.ok_or_else(|| wrong(format!("line {}: there is no image {path}", i + 1)))
            };
            let (test, example) = line.split_once(char::is_whitespace).ok_or_else(|| {
                wrong(format!("line {} is {line:?}, but two paths are needed", i + 1))
            })?;
            let (test, example) = (row(test)?, row(example.trim())?);
            let place = examples.iter().position(|&other| other == example);
            tests.push((test, place.unwrap_or(examples.len())));
            if place.is_none() {
                examples.push(example);
            }
        }
        if examples.len() < 2 {
            return Err(wrong(format!("it names {} examples, but 2 are needed", examples.len())));
        }
        names.push(run.to_owned());
        episodes.push(Episode { examples, tests });
    }
    Ok((names, episodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two images of 1 × 1 of a class, or as many as are named, in the order of rows.
    fn images(labels: &[&str]) -> Images {
        let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
        let names = (0..labels.len()).map(|i| format!("{i}.png")).collect();
        let pixels = (0..labels.len()).map(|i| i as u8).collect();
        Images::of_pixels(names, labels, pixels, 1, 1).expect("a pixel a name")
    }

    fn greek_and_latin() -> Images {
        let mut labels = vec!["alone"];
        for (class, n) in [("greek/α", 4), ("greek/β", 3), ("greek/γ", 1), ("latin/a", 3)] {
            labels.extend(vec![class; n]);
        }
        labels.extend(["latin/b"; 3]);
        images(&labels)
    }

    #[test]
    fn a_run_is_of_one_group_with_one_place_for_examples_and_another_for_tests() {
        let images = greek_and_latin();
        let task = OneShotTask { runs: 200, ..OneShotTask::new("data") };
        let (groups, episodes) = drawn(&images, &task).expect("drawn");
        assert_eq!(groups, ["greek", "latin"]);
        assert_eq!(episodes.len(), 200);
        let first = |row: usize| {
            images.items.labels.iter().position(|other| *other == images.items.labels[row])
        };
        let mut places = std::collections::BTreeSet::new();
        for (run, Episode { examples, tests }) in episodes.iter().enumerate() {
            let group = groups[run % 2].as_str();
            assert_eq!((examples.len(), tests.len()), (2, 2), "γ has one image and is in no run");
            let place = |row: usize| row - first(row).expect("it is there");
            for &(test, which) in tests {
                let example = examples[which];
                assert_eq!(images.items.labels[test], images.items.labels[example]);
                assert!(images.items.labels[test].starts_with(group));
                assert_ne!(test, example);
                assert_eq!(place(test), place(tests[0].0));
                assert_eq!(place(example), place(examples[0]));
                places.insert((group, place(example), place(test)));
            }
        }
        // Of three images, three can be the example and two others the test.
        assert_eq!(places.len(), 12);
        let (only, _) = drawn(&images, &OneShotTask { only: vec!["latin".into()], ..task.clone() })
            .expect("drawn");
        assert_eq!(only, ["latin"]);
        let said = drawn(&images, &OneShotTask { only: vec!["runes".into()], ..task.clone() });
        let said = said.err().expect("refused").to_string();
        assert!(said.contains("no folder runes") && said.contains("greek, latin"), "{said}");
        let flat = drawn(&self::images(&["a/x", "a/x", "a/y", "b/z", "b/z"]), &task);
        let said = flat.err().expect("refused").to_string();
        assert!(said.contains("no two classes with two images"), "{said}");
        // Another seed, other runs.
        let other = drawn(&images, &OneShotTask { seed: 1, ..task }).expect("drawn").1;
        assert!(episodes.iter().zip(&other).any(|(a, b)| a.examples != b.examples));
    }

    #[test]
    fn an_error_is_a_nearest_example_of_another_class() {
        let embeddings = [1.0, 0.0, 0.0, 1.0, 0.9, 0.1, 0.8, 0.2];
        let episode = |tests| Episode { examples: vec![0, 1], tests };
        // Row 2 and row 3 both lie by row 0.
        let episodes = [episode(vec![(2, 0), (3, 0)]), episode(vec![(2, 0), (3, 1)])];
        assert_eq!(errors(&episodes, &embeddings, 4).expect("measured"), [0.0, 0.5]);
        assert_eq!((mean(&[0.0, 0.5]), standard_error(&[0.0, 0.5])), (0.25, 0.25));
        assert_eq!(standard_error(&[0.5]), 0.0);
    }

    #[test]
    fn runs_that_lie_there_are_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path().join("all_runs/run01");
        std::fs::create_dir_all(&run).expect("made");
        let labels = "all/test/1.png all/train/2.png\nall/test/2.png all/train/1.png\n";
        let write = |text: &str| std::fs::write(run.join(LABELS), text).expect("written");
        write(&labels.replace("all/", "run01/"));
        let mut images = images(&["", "", "", ""]);
        images.items.names = ["test/1.png", "test/2.png", "train/1.png", "train/2.png"]
            .map(|name| format!("all_runs/run01/{name}"))
            .to_vec();
        let data = folder.path().to_str().expect("UTF-8");
        let (names, episodes) = written(&images, data).expect("read");
        assert_eq!(names, ["all_runs/run01"]);
        assert_eq!(episodes[0].examples, [3, 2]);
        assert_eq!(episodes[0].tests, [(0, 0), (1, 1)]);

        let fails = |text: &str| {
            write(text);
            written(&images, data).err().expect("refused").to_string()
        };
        let said = fails("run01/test/9.png run01/train/1.png");
        assert!(said.contains("line 1: there is no image all_runs/run01/test/9.png"), "{said}");
        assert!(fails("run01/test/1.png").contains("two paths are needed"));
        assert!(fails("").contains("0 examples"));
    }
}
