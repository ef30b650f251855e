//! What the temperature does, or the method: the same encoder trained again and again on the same data, with
//! nothing changed but that and the seed.
//!
//! Input: a question, settings, and how many seeds. Output: a folder with `study.json` (every run), `study.md`
//! (a table of means and spreads) and `study.svg` (the figure). A run's own folder is removed once it
//! is measured: its settings are in `study.json`, and the same settings give the same bits.

mod figure;

use crate::recorder::Recorder;
use crate::snapshots::{Moment, Seen};
use burn::tensor::Device;
use kinfold::Embeddings;
use kinfold::measures::effective_rank;
use kinfold_train::run::{SavedModel, write_whole};
use kinfold_train::settings::{LossSettings, Method};
use kinfold_train::tensors::embed_rows;
use kinfold_train::{Error, Measured, OneShotTask, Settings, one_shot};
use kinfold_train::{Event, train};
use serde::Serialize;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a study is to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What the temperature does.
    Temperature,
    /// Which method suits the data.
    Methods,
}

/// What is changed from run to run.
#[derive(Debug, Clone, Copy)]
enum Variant {
    Loss(&'static str, f64),
    Method(Method),
}

impl Question {
    fn variants(self) -> Vec<Variant> {
        match self {
            Self::Temperature => {
                LOSSES.iter().map(|&(name, temperature)| Variant::Loss(name, temperature)).collect()
            }
            Self::Methods => Method::ALL.map(Variant::Method).into(),
        }
    }
}

impl Variant {
    fn of(self, training: &Settings) -> Settings {
        let mut training = training.clone();
        match self {
            Self::Loss(name, temperature) => {
                training.loss.name = Some(name.to_owned());
                training.loss.temperature = Some(temperature);
            }
            Self::Method(method) => {
                training.method = method;
                if method.predicts() {
                    // The loss that the settings name is SimCLR's.
                    let momentum = training.loss.momentum;
                    training.loss = LossSettings { momentum, ..LossSettings::default() };
                }
            }
        }
        training
    }
}

/// The losses and temperatures that are compared. The first is the question's own: cross-entropy of
/// the cosines, one way, with no temperature.
const LOSSES: [(&str, f64); 9] = [
    ("one-way", 1.0),
    ("one-way", 0.5),
    ("one-way", 0.2),
    ("one-way", 0.1),
    ("one-way", 0.05),
    ("both-ways", 1.0),
    ("both-ways", 0.2),
    ("nt-xent", 1.0),
    ("nt-xent", 0.2),
];

/// What is studied.
#[derive(Debug, Clone)]
pub struct StudySettings {
    /// What it is to answer.
    pub question: Question,
    /// Of every run, but for what is varied and its seed; its own seed is the first.
    pub training: Settings,
    /// Runs of each variant.
    pub seeds: usize,
    /// A one-shot task on classes never seen, where one is asked for.
    pub one_shot: Option<OneShotTask>,
}

/// What one run came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StudyRun {
    /// The method.
    pub method: Method,
    /// The loss, by name; empty where the method has none.
    pub loss_name: String,
    /// τ.
    pub temperature: f64,
    /// The run's seed.
    pub seed: u64,
    /// The mean loss of the last epoch, in nats.
    pub loss: f64,
    /// The least it could be; NaN where that is not known.
    pub loss_floor: f64,
    /// What it is where nothing is learned.
    pub loss_ceiling: f64,
    /// The share of fixed pairs, never trained on where data is held out, whose key is the nearest of
    /// all keys to its query, and how many pairs these are.
    pub pairs_found: f64,
    /// Pairs that are looked at.
    pub pairs_looked_at: usize,
    /// The effective rank of the embeddings of held-out images (of all where none are held out).
    pub effective_rank: f64,
    /// One-shot accuracy on held-out images, where they have labels.
    pub one_shot: Option<f64>,
    /// The share of these that the vote of the nearest 200 is right about.
    pub weighted_neighbours: Option<f64>,
    /// The share of the one-shot task's images that were taken for another class, where it was asked
    /// for.
    pub task_error: Option<f64>,
    /// Seconds of training.
    pub seconds: f64,
}

/// What all came to.
#[derive(Debug, Clone, Serialize)]
pub struct Study {
    /// The version of kinfold that made it.
    pub version: String,
    /// What it answers.
    pub question: Question,
    /// Of every run but for what is varied and the seed.
    pub settings: Settings,
    /// Whether it was stopped before its end; then only whole runs are here.
    pub interrupted: bool,
    /// One-shot accuracy of the pixels themselves, and of the encoder before training at the first
    /// seed.
    pub before: Option<[f64; 2]>,
    /// The one-shot task's errors of both.
    pub task_before: Option<[f64; 2]>,
    /// Every run.
    pub runs: Vec<StudyRun>,
    /// What the first seed's fixed pairs looked like: before training, then at the end of each
    /// variant.
    #[serde(skip)]
    seen: Vec<Moment>,
}

/// What a study tells while it goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum StudyEvent<'a> {
    /// A run ended.
    Ran {
        /// What it came to.
        run: &'a StudyRun,
        /// Runs that have ended.
        done: usize,
        /// Runs in all.
        all: usize,
    },
}

/// Trains every variant with every seed, and writes what came of it into the new folder `out`.
///
/// When `stop` becomes true, what was measured so far is written.
///
/// # Errors
/// As for [`train`].
pub fn study(
    settings: &StudySettings,
    out: &Path,
    stop: &AtomicBool,
    on_event: &mut dyn FnMut(StudyEvent<'_>),
) -> Result<Study, Error> {
    let variants = settings.question.variants();
    for variant in &variants {
        variant.of(&settings.training).check()?;
    }
    if settings.seeds == 0 {
        return Err(Error::Setting("seeds is 0, but at least 1 is needed".into()));
    }
    if out.exists() {
        return Err(Error::RunExists(out.to_path_buf()));
    }
    fs::create_dir_all(out).map_err(Error::file("create", out))?;
    let mut study = Study {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        question: settings.question,
        settings: settings.training.clone(),
        interrupted: false,
        before: None,
        task_before: None,
        runs: Vec::new(),
        seen: Vec::new(),
    };
    let all = variants.len() * settings.seeds;
    // Seed after seed, so that a study that is stopped has done the same for every variant.
    'all: for seed in 0..settings.seeds {
        for (place, variant) in variants.iter().enumerate() {
            let mut training = variant.of(&settings.training);
            training.seed = settings.training.seed.wrapping_add(seed as u64);
            let first = (place == 0, seed == 0);
            let Some(run) = study.run(training, settings, first, out, stop)? else {
                study.interrupted = true;
                break 'all;
            };
            study.runs.push(run);
            study.write(out)?;
            if let Some(run) = study.runs.last() {
                on_event(StudyEvent::Ran { run, done: study.runs.len(), all });
            }
        }
    }
    if study.runs.is_empty() {
        let _ = fs::remove_dir_all(out);
    } else {
        study.write(out)?;
    }
    Ok(study)
}

impl Study {
    /// Trains and measures once; none when it was stopped.
    fn run(
        &mut self,
        training: Settings,
        settings: &StudySettings,
        (first_variant, first_seed): (bool, bool),
        out: &Path,
        stop: &AtomicBool,
    ) -> Result<Option<StudyRun>, Error> {
        let folder = out.join("run");
        let (method, seed) = (training.method, training.seed);
        let (mut recorder, mut data) = (Recorder::without_report(), None);
        let mut loss_name = String::new();
        let summary = train(training, &folder, stop, &mut |event| {
            if let Event::Started { data: of_run, split, settings, .. } = &event {
                data = Some(((*of_run).clone(), (*split).clone()));
                loss_name = settings.loss.name.clone().unwrap_or_default();
            }
            recorder.on_event(&event)
        })?;
        let stopped = summary.interrupted || stop.load(Ordering::Relaxed);
        let Some((data, split)) = data.filter(|_| !stopped) else {
            let _ = fs::remove_dir_all(&folder);
            return Ok(None);
        };
        let device = Device::flex();
        let model = SavedModel::open(&folder)?.trained(&folder, &device)?;
        let rows = if split.test.is_empty() { &split.train } else { &split.test };
        let embeddings = embed_rows(&model, &data, rows, &device)?;
        let task = settings.one_shot.as_ref().map(|task| one_shot(&folder, task)).transpose()?;
        let seen = Seen::read(&folder).unwrap_or_default();
        let (n, last) = (seen.pairs.len(), seen.moments.last());
        let found = |i: &usize| {
            last.is_some_and(|m| (0..n).all(|j| j == *i || m.cosine(*i, j) < m.cosine(*i, *i)))
        };
        let pairs_found = (0..n).filter(found).count() as f64 / n.max(1) as f64;
        if first_seed {
            let begin = seen.moments.first().filter(|_| first_variant).cloned();
            self.seen.extend(begin);
            self.seen.extend(last.cloned());
        }
        if first_variant && first_seed {
            let before = |measured: Option<&Measured>| {
                measured.and_then(|x| Some([x.raw?, x.random_encoder]))
            };
            self.before = before(summary.evaluation.as_ref().map(|e| &e.one_shot));
            self.task_before = before(task.as_ref().map(|task| &task.error));
        }
        fs::remove_dir_all(&folder).map_err(Error::file("delete", &folder))?;
        Ok(Some(StudyRun {
            method,
            loss_name,
            temperature: summary.temperature,
            seed,
            loss: summary.loss,
            loss_floor: summary.loss_floor.unwrap_or(f64::NAN),
            loss_ceiling: summary.loss_ceiling,
            pairs_found,
            pairs_looked_at: n,
            effective_rank: effective_rank(Embeddings::new(
                &embeddings,
                embeddings.len() / rows.len(),
            )?)?,
            one_shot: summary.evaluation.as_ref().map(|e| e.one_shot.trained),
            weighted_neighbours: summary
                .evaluation
                .and_then(|e| Some(e.weighted_neighbours?.trained)),
            task_error: task.map(|task| task.error.trained),
            seconds: summary.seconds,
        }))
    }

    /// The runs of each variant, in the order of the study; of none that no run was done of.
    pub fn variants(&self) -> Vec<Vec<&StudyRun>> {
        let variants = self.question.variants().len();
        let of = |i: usize| self.runs.iter().skip(i).step_by(variants).collect();
        (0..variants.min(self.runs.len())).map(of).collect()
    }

    /// A line for each variant: means and, over seeds, standard deviations.
    pub fn table(&self) -> String {
        let variants = self.variants();
        let mut columns: Vec<(&str, Vec<String>)> = Vec::new();
        let of_first = |of: &dyn Fn(&StudyRun) -> String| -> Vec<String> {
            variants.iter().filter_map(|runs| runs.first().map(|run| of(run))).collect()
        };
        if self.question == Question::Methods {
            columns.push(("method", of_first(&|r| r.method.as_str().to_owned())));
        }
        if self.question == Question::Temperature {
            columns.push(("loss", of_first(&|r| r.loss_name.clone())));
            columns.push(("τ", of_first(&|r| r.temperature.to_string())));
            columns.push(("its floor", of_first(&|r| format!("{:.3}", r.loss_floor))));
            columns.push(("its ceiling", of_first(&|r| format!("{:.3}", r.loss_ceiling))));
        }
        // Only what some run has.
        let mut means = |name, digits, of: &dyn Fn(&StudyRun) -> Option<f64>| {
            if self.runs.iter().any(|run| of(run).is_some()) {
                let of_all = variants.iter().map(|runs| spread(runs, digits, of));
                columns.push((name, of_all.collect()));
            }
        };
        let percent = |share: Option<f64>| share.map(|share| 100.0 * share);
        let way = |r: &StudyRun| (r.loss_ceiling - r.loss) / (r.loss_ceiling - r.loss_floor);
        if self.question == Question::Temperature {
            means("loss reached", 3, &|r| Some(r.loss));
            means("of the way, %", 0, &|r| percent(Some(way(r))));
        }
        means("one-shot accuracy, %", 1, &|r| percent(r.one_shot));
        if self.question == Question::Methods {
            means("200 nearest vote, %", 1, &|r| percent(r.weighted_neighbours));
        }
        means("error of the one-shot task, %", 1, &|r| percent(r.task_error));
        means("pairs found, %", 1, &|r| percent(Some(r.pairs_found)));
        means("effective rank", 1, &|r| Some(r.effective_rank));
        if self.question == Question::Methods {
            means("seconds", 0, &|r| Some(r.seconds));
        }
        let line = |cells: Vec<&str>| format!("| {} |\n", cells.join(" | "));
        let mut out = line(columns.iter().map(|(name, _)| *name).collect());
        out += &format!("|{}\n", "---|".repeat(columns.len()));
        for row in 0..variants.len() {
            out += &line(columns.iter().map(|(_, cells)| cells[row].as_str()).collect());
        }
        out
    }

    fn write(&self, out: &Path) -> Result<(), Error> {
        let mut json =
            serde_json::to_string_pretty(self).map_err(|e| Error::Data(e.to_string()))?;
        json.push('\n');
        for (name, text) in
            [("study.json", json), ("study.md", self.table()), ("study.svg", figure::figure(self)?)]
        {
            let path = out.join(name);
            write_whole(&path, |file| {
                file.write_all(text.as_bytes()).map_err(Error::file("write", &path))
            })?;
        }
        Ok(())
    }
}

/// The mean and, of two runs or more, the standard deviation.
fn spread(runs: &[&StudyRun], digits: usize, of: impl Fn(&StudyRun) -> Option<f64>) -> String {
    let numbers: Vec<f64> = runs.iter().copied().filter_map(of).collect();
    match statistics(&numbers) {
        (mean, Some(deviation)) => format!("{mean:.digits$} ± {deviation:.digits$}"),
        (mean, None) => format!("{mean:.digits$}"),
    }
}

/// The mean, and the standard deviation of a sample of two or more.
fn statistics(numbers: &[f64]) -> (f64, Option<f64>) {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    let squares: f64 = numbers.iter().map(|x| (x - mean).powi(2)).sum();
    (mean, (numbers.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_mean_and_deviation() {
        assert_eq!(statistics(&[1.0, 3.0]), (2.0, Some(2f64.sqrt())));
        assert_eq!(statistics(&[4.0]), (4.0, None));
    }

    #[test]
    fn a_small_study_leaves_three_files() -> Result<(), Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("study");
        let mut training = Settings { epochs: 1, batch: Some(16), ..Settings::default() };
        training.encoder.widths = Some(vec![2]);
        training.encoder.embedding = Some(8);
        training.hold_out = 0.98;
        let question = Question::Temperature;
        let settings = StudySettings { question, training, seeds: 2, one_shot: None };
        let mut told = Vec::new();
        let stop = AtomicBool::new(false);
        let study = study(&settings, &out, &stop, &mut |event| {
            let StudyEvent::Ran { run, done, all } = event;
            told.push((run.seed, done, all));
        })?;
        assert_eq!(told.len(), 18);
        assert_eq!(told[9], (1, 10, 18));
        let variants = study.variants();
        assert_eq!(variants.len(), LOSSES.len());
        for (runs, (name, temperature)) in variants.iter().zip(LOSSES) {
            assert_eq!(runs.iter().map(|run| run.seed).collect::<Vec<_>>(), [0, 1]);
            assert!(runs.iter().all(|run| run.loss_name == name));
            assert!(runs.iter().all(|run| (run.temperature - temperature).abs() < 1e-6));
        }
        let mut files: Vec<String> = fs::read_dir(&out)
            .expect("there")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, ["study.json", "study.md", "study.svg"]);
        let table = study.table();
        assert_eq!(table.lines().count(), 2 + LOSSES.len(), "{table}");
        let bars = |line: &str| line.matches('|').count();
        assert!(table.lines().all(|line| bars(line) == bars(table.lines().next().unwrap_or(""))));
        assert_eq!(study.seen.len(), 1 + LOSSES.len());
        // The question's own loss at this batch: from ln n down to one nat less, about.
        let first = &study.runs[0];
        assert!((first.loss_ceiling - 16f64.ln()).abs() < 1e-9);
        assert!(first.loss_floor > first.loss_ceiling - 1.08);
        let refused = super::study(&settings, &out, &stop, &mut |_| {});
        assert!(matches!(refused, Err(Error::RunExists(_))));
        Ok(())
    }

    #[test]
    fn a_study_that_is_stopped_at_once_leaves_nothing() -> Result<(), Error> {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("study");
        let mut training = Settings { epochs: 1, batch: Some(16), ..Settings::default() };
        (training.encoder.widths, training.hold_out) = (Some(vec![2]), 0.98);
        let question = Question::Methods;
        let settings = StudySettings { question, training, seeds: 1, one_shot: None };
        let study = study(&settings, &out, &AtomicBool::new(true), &mut |_| {})?;
        assert!(study.interrupted && study.runs.is_empty() && !out.exists());
        Ok(())
    }

    #[test]
    fn a_study_of_what_cannot_be_trained_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let out = folder.path().join("study");
        let training = Settings::of_kind(kinfold_data::Kind::Texts);
        let question = Question::Methods;
        let settings = StudySettings { question, training, seeds: 1, one_shot: None };
        let said = study(&settings, &out, &AtomicBool::new(false), &mut |_| {});
        let said = said.map(drop).expect_err("texts have no views").to_string();
        assert!(said.contains("the method moco-v3 learns from views") && !out.exists(), "{said}");
    }
}
