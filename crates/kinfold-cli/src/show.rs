//! Everything that is printed: results to standard output, the rest to standard error.

use crate::bench::{Record, Seconds};
use crate::bench_shared::SharedRecord;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kinfold_data::{Data, Images, Items, Pairs, Recipe, Split};
use kinfold_report::{Found, Mined, StudyEvent, StudyRun, TokenizedText};
use kinfold_train::{
    Embedded, Error, Estimate, Evaluation, EvaluationProgress, Event, Format, Measured, OneShot,
    Progress, Retrieval, Retrieved, ScoredPairs, Settings, Shared, Summary, memory, shell_word,
};
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Why a line could not be written, the first one.
static UNWRITTEN: OnceLock<String> = OnceLock::new();

/// One line of a result. Whoever closed the pipe does not want to read on; whatever else keeps it from
/// being written is told at the end, since a run goes on without it.
pub(crate) fn line(text: &str) {
    match writeln!(std::io::stdout(), "{}", printable(text)) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            UNWRITTEN.get_or_init(|| e.to_string());
        }
        _ => {}
    }
}

/// Whether every line was; if not, that is said.
pub(crate) fn all_was_written() -> bool {
    if let Some(reason) = UNWRITTEN.get() {
        note(&format!("error: the output could not be written: {reason}"));
    }
    UNWRITTEN.get().is_none()
}

/// Names of files may hold what a terminal obeys; it is shown instead.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(c),
            _ if c.is_control() => shown.extend(c.escape_default()),
            _ => shown.push(c),
        }
    }
    shown
}

/// A path in a command that is proposed.
pub(crate) fn path(path: &Path) -> String {
    shell_word(&path.display().to_string())
}

pub(crate) fn note(text: &str) {
    // Where this cannot be written, nothing can be said of it.
    let _ = writeln!(std::io::stderr(), "{}", printable(text));
}

pub(crate) fn error(error: &Error) {
    note(&format!("error: {error}"));
}

pub(crate) fn stopping() {
    note("\nfinishing this step, then saving; Ctrl-C again ends at once");
}

pub(crate) fn json(result: &impl serde::Serialize) {
    match serde_json::to_string_pretty(result) {
        Ok(text) => line(&text),
        Err(e) => note(&format!("error: {e}")),
    }
}

/// How many files were passed over, and the first few by name.
pub(crate) fn skipped(items: &Items) {
    const NAMED: usize = 5;
    let skipped = &items.skipped;
    if skipped.is_empty() {
        return;
    }
    note(&format!("skipped {} that could not be read:", files(skipped.len())));
    for file in skipped.iter().take(NAMED) {
        note(&format!("  {}: {}", file.path.display(), file.reason));
    }
    if skipped.len() > NAMED {
        note(&format!("  and {} more", skipped.len() - NAMED));
    }
}

/// What else would suit such images.
fn suited(images: &Images, settings: &Settings) {
    if matches!(settings.view, Recipe::Affine(_)) && images.in_colour() {
        note(
            "these images are in colour: --views simclr suits photographs (a random part, mirrored, \
             recoloured); the affine views are for drawings",
        );
    }
    if let Some(side) = images.original_side().filter(|side| *side >= 8 * images.size) {
        note(&format!(
            "images of about {side} pixels become {0}×{0}: --image-size keeps more of them, and takes longer",
            images.size
        ));
    }
}

/// Names that a spreadsheet would compute, in a file that spreadsheets open.
pub(crate) fn formulas(embedded: &Embedded, format: Format) {
    let formulas = embedded.formulas();
    if format == Format::Csv && formulas > 0 {
        note(&format!(
            "{formulas} names or labels begin with =, +, - or @, which a spreadsheet takes for formulas; they \
             are written as they are, so that programs find them again"
        ));
    }
}

/// Labels whose images are in no pair, and the first few by name.
fn left_out(pairs: &Pairs) {
    const NAMED: usize = 5;
    let left_out = &pairs.left_out;
    if left_out.is_empty() {
        return;
    }
    let images: usize = left_out.iter().map(|label| label.images).sum();
    note(&format!(
        "left out {} in sub-folders with too few for a pair, or in none:",
        if images == 1 { "1 image".to_owned() } else { format!("{images} images") }
    ));
    for label in left_out.iter().take(NAMED) {
        let name = if label.label.is_empty() { "in no sub-folder" } else { &label.label };
        note(&format!("  {name}: {}", label.images));
    }
    if left_out.len() > NAMED {
        note(&format!("  and {} more", left_out.len() - NAMED));
    }
}

fn files(n: usize) -> String {
    if n == 1 { "1 file".to_owned() } else { format!("{n} files") }
}

fn bar_on(target: ProgressDrawTarget) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:10} {pos}/{len} {wide_msg}");
    ProgressBar::with_draw_target(None, target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// An evaluation while it goes on: a bar where standard error is a terminal, which leaves no trace.
pub(crate) struct Measuring {
    bar: Option<ProgressBar>,
}

impl Measuring {
    pub(crate) fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { bar: terminal.then(|| bar_on(ProgressDrawTarget::stderr())) }
    }

    pub(crate) fn show(&self, progress: &EvaluationProgress) {
        let Some(bar) = &self.bar else { return };
        let EvaluationProgress { of, doing, done, all } = progress;
        bar.set_length(*all as u64);
        bar.set_position(*done as u64);
        bar.set_message(format!("{of}: {doing}"));
    }

    pub(crate) fn show_queries(&self, done: usize, all: usize) {
        let Some(bar) = &self.bar else { return };
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message("queries");
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Where there is no bar, a line at least as often as this.
const SILENCE: Duration = Duration::from_secs(10);

/// A run while it goes on: a bar on a terminal, else a line per epoch, or more where one takes long.
pub(crate) struct Training {
    bar: Option<ProgressBar>,
    measuring: Option<Measuring>,
    told: Option<Instant>,
}

impl Training {
    pub(crate) fn new() -> Self {
        let bar = std::io::stdout().is_terminal().then(|| bar_on(ProgressDrawTarget::stdout()));
        Self { bar, ..Self::in_lines() }
    }

    /// Without a bar: what `mpirun` collects looks like a terminal to those that write it, and is none.
    pub(crate) fn in_lines() -> Self {
        Self { bar: None, measuring: None, told: None }
    }

    pub(crate) fn show(&mut self, event: &Event<'_>) {
        match event {
            Event::Started { settings, data, split, pairs, steps, processes, .. } => {
                skipped(data.items());
                left_out(pairs);
                if let Data::Images(images) = data {
                    suited(images, settings);
                }
                let held_out = match split.test_pairs.len() {
                    0 => split.test.len().to_string(),
                    pairs => format!("{pairs} pairs"),
                };
                let made = match pairs.classes() {
                    Some(classes) => format!(", {} pairs of {classes} classes", pairs.len()),
                    None if pairs.len() != split.train.len() => format!(", {} pairs", pairs.len()),
                    None => String::new(),
                };
                line(&format!(
                    "{}: {} {} to train on{made}, {held_out} held out; {} epochs of {} pairs a batch, \
                     {steps} steps; about {} of memory",
                    settings.data,
                    split.train.len(),
                    data.kind().noun(),
                    settings.epochs,
                    settings.batch.unwrap_or(0),
                    memory::in_words(settings.memory_bytes(settings.shape(data), *processes)),
                ));
                if *processes > 1 {
                    let pairs = settings.batch.unwrap_or(0).div_ceil(*processes);
                    line(&format!("{processes} processes, up to {pairs} pairs of a batch each"));
                }
                if let Some(bar) = &self.bar {
                    bar.set_length(*steps as u64);
                }
            }
            Event::Resumed { step, from: Some(checkpoint) } => {
                line(&format!("goes on after step {step}, from {}", checkpoint.display()));
            }
            Event::Resumed { .. } => line("no checkpoint was written yet, so it begins again"),
            Event::Stepped(progress) => match &self.bar {
                Some(bar) => {
                    bar.set_position(progress.step as u64);
                    bar.set_message(status(progress));
                }
                None => {
                    let told = *self.told.get_or_insert_with(Instant::now);
                    if progress.epoch_ended || told.elapsed() >= SILENCE {
                        let Progress { epoch, step, steps, .. } = progress;
                        line(&format!("epoch {epoch}, step {step}/{steps}: {}", status(progress)));
                        self.told = Some(Instant::now());
                    }
                }
            },
            Event::Evaluating(progress) => {
                self.end();
                if self.measuring.is_none() {
                    line("measuring what was learned …");
                }
                self.measuring.get_or_insert_with(Measuring::new).show(progress);
            }
            Event::Measured { .. } => {
                if let Some(measuring) = self.measuring.take() {
                    measuring.end();
                }
            }
            _ => {}
        }
    }

    /// Leaves the last state of the bar standing.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
    }
}

fn status(progress: &Progress) -> String {
    let Progress { loss, floor, ceiling, pairs_per_second, seconds_left, validation, .. } =
        progress;
    let judged =
        validation.map_or(String::new(), |x| format!("nDCG@10 {x:.3} of what is set aside, "));
    let floor = floor.map_or(String::new(), |floor| format!("floor {floor:.3}, "));
    format!(
        "loss {loss:.3} ({floor}ceiling {ceiling:.3}) {judged}{pairs_per_second:.0} pairs/s, \
         {seconds_left:.0} s left"
    )
}

pub(crate) fn summary(summary: &Summary, out: &Path) {
    let Summary { steps, seconds, loss, loss_floor, loss_ceiling, .. } = summary;
    let stopped = if summary.interrupted { "stopped after" } else { "trained" };
    let stands = match loss_floor {
        Some(floor) => {
            let way = 100.0 * (loss_ceiling - loss) / (loss_ceiling - floor);
            format!(
                "{way:.0} % of the way from its ceiling {loss_ceiling:.3} (nothing learned) to its \
                 floor {floor:.3}"
            )
        }
        None => format!("its ceiling is {loss_ceiling:.3} (nothing learned)"),
    };
    line(&format!("{stopped} {steps} steps in {seconds:.0} s; loss {loss:.3}, {stands}"));
    if let Some(shared) = &summary.processes {
        self::shared(shared);
    }
    match summary.best_epoch {
        Some(0) => line("no epoch was better than what was there before, which is kept"),
        Some(epoch) => {
            line(&format!("the weights after epoch {epoch} were the best, and are kept"))
        }
        None => {}
    }
    line("");
    if let Some(retrieval) = &summary.retrieval {
        self::retrieval(retrieval);
    }
    match &summary.evaluation {
        Some(evaluation) => table(evaluation),
        None if summary.retrieval.is_some() => {}
        None => line(
            "nothing was held out that could be judged: images need labels, each class in a sub-folder of its \
             own, and texts and vectors pairs or labels",
        ),
    }
    line("");
    line(&format!("saved in {0}; {0}/report.html shows it", out.display()));
    let run = path(out);
    if summary.evaluation.is_some() || summary.retrieval.is_some() {
        line(&format!("  kinfold evaluate {run}"));
    }
    line(&format!("  kinfold embed {run}"));
    if summary.interrupted {
        line(&format!("resume with: kinfold train --resume {run}"));
    }
}

/// What a step of several processes took.
fn shared(shared: &Shared) {
    let Shared { count, bytes_per_step, seconds_per_step } = shared;
    let all: f64 = seconds_per_step.iter().map(|(_, seconds)| seconds).sum();
    let parts = seconds_per_step.iter().map(|(part, seconds)| {
        format!("{part} {:.0} %", 100.0 * seconds / all.max(f64::MIN_POSITIVE))
    });
    line(&format!(
        "{count} processes, {:.1} ms a step: {}; {} sent by each",
        1e3 * all,
        parts.collect::<Vec<_>>().join(", "),
        memory::in_words(*bytes_per_step as u64),
    ));
}

/// What an evaluation was made on.
pub(crate) fn judged_by(data: &Data, split: &Split) {
    let (classes, noun) = (data.items().classes().0.len(), data.kind().noun());
    let (train, test) = (split.train.len(), split.test.len());
    line(&format!("{test} {noun} held out, {train} to choose from, {classes} classes\n"));
}

/// How texts find theirs, a method a line.
pub(crate) fn retrieval(found: &Retrieval) {
    let Retrieval { queries, documents, bm25, with_bm25, untrained, trained, .. } = found;
    line(&format!("{queries} held-out queries among {documents} documents, 95 % intervals"));
    line(&format!(
        "{:<17}{:>10}{:>11}{:>9}{:>9}",
        "", "recall@1", "recall@10", "MRR@10", "nDCG@10"
    ));
    let row = |name: &str, of: &Retrieved| {
        let Retrieved { recall_at_1, recall_at_10, mrr_at_10, ndcg_at_10 } = of;
        let Estimate { mean, low, high } = ndcg_at_10;
        line(&format!(
            "{name:<17}{:>10.3}{:>11.3}{:>9.3}{mean:>9.3}  [{low:.3}, {high:.3}]",
            recall_at_1.mean, recall_at_10.mean, mrr_at_10.mean
        ));
    };
    if let Some(bm25) = bm25 {
        row("BM25 (words)", bm25);
    }
    if let Some(untrained) = untrained {
        row("before training", untrained);
    }
    row("trained", trained);
    if let Some(both) = with_bm25 {
        row("trained + BM25", both);
    }
    if let Some(verdict) = found.verdict() {
        line(&verdict);
    }
}

/// Whether pairs are as similar as their scores say.
pub(crate) fn scored(found: &ScoredPairs) {
    let ScoredPairs { pairs, untrained, trained } = found;
    line(&format!("{pairs} scored pairs, Spearman's ρ of cosines and scores, 95 % intervals"));
    for (name, of) in [("before training", untrained.as_ref()), ("trained", Some(trained))] {
        if let Some(Estimate { mean, low, high }) = of {
            line(&format!("{name:<17}{mean:>9.3}  [{low:.3}, {high:.3}]"));
        }
    }
}

/// A text and its tokens.
pub(crate) fn tokens(text: &TokenizedText) {
    line(&text.text);
    line(&format!("    {}", text.tokens.join(" · ")));
}

/// The measures as percentages, one a line.
pub(crate) fn table(evaluation: &Evaluation) {
    columns("share of held-out images recognised");
    row("one labelled example per class", &evaluation.one_shot);
    if let Some(measured) = &evaluation.five_shot {
        row("five labelled examples per class", measured);
    }
    row("all examples labelled (1-NN)", &evaluation.nearest_neighbour);
    if let Some(measured) = &evaluation.weighted_neighbours {
        row("  200 nearest vote (weighted kNN)", measured);
    }
    if let Some(measured) = &evaluation.linear_probe {
        row("  logistic regression (linear probe)", measured);
    }
    if !evaluation.by_dimension.is_empty() {
        line("");
        line(&format!(
            "{:<28}{:>13}{:>10}{:>12}{:>16}",
            "trained, cut to numbers", "one example", "1-NN", "200 vote", "linear probe"
        ));
    }
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    for cut in &evaluation.by_dimension {
        line(&format!(
            "{:<28}{:>13}{:>10}{:>12}{:>16}",
            cut.dim,
            percent(cut.one_shot),
            percent(cut.nearest_neighbour),
            percent(cut.weighted_neighbours),
            percent(cut.linear_probe),
        ));
    }
}

/// How often one-shot classification was wrong.
pub(crate) fn one_shot(measured: &OneShot) {
    let OneShot { groups, runs, ways, decisions, error, standard_error } = measured;
    let within = match groups.len() {
        n if n > 5 => format!("{} and {} more", groups[..5].join(", "), n - 5),
        _ => groups.join(", "),
    };
    line(&format!(
        "{runs} runs of up to {ways} classes, {decisions} images to classify; {within}\n"
    ));
    columns("share classified wrongly");
    row("one labelled example per class", error);
    row("  standard error over runs", standard_error);
}

fn columns(what: &str) {
    line(&format!("{what:<39}raw pixels   random encoder   trained encoder"));
}

fn row(name: &str, Measured { raw, random_encoder, trained }: &Measured) {
    let percent = |x: &f64| format!("{:.1} %", 100.0 * x);
    let raw = raw.as_ref().map_or("–".to_owned(), percent);
    let [random, trained] = [random_encoder, trained].map(percent);
    line(&format!("{name:<40}{raw:>10}{random:>17}{trained:>18}"));
}

/// The nearest of each query, one a line.
pub(crate) fn matches(found: &Found) {
    for (i, matches) in found.matches.iter().enumerate() {
        if i > 0 {
            line("");
        }
        line(&format!(
            "nearest to {}, of {} {}",
            matches.query,
            found.data.items().len(),
            found.data.kind().noun()
        ));
        let wide = matches.neighbours.iter().map(|near| near.label.chars().count()).max();
        let wide = wide.unwrap_or(0).max("label".len());
        let fused = matches.neighbours.iter().any(|near| near.score.is_some());
        let heading = if fused { " score" } else { "" };
        line(&format!("{:>5}  cosine {heading} {:<wide$}  name", "rank", "label"));
        for (rank, near) in matches.neighbours.iter().enumerate() {
            let (rank, cosine, label) = (rank + 1, near.cosine, &near.label);
            let score = near.score.map_or(String::new(), |score| format!("{score:>6.2}"));
            let name = shortened(&near.name);
            line(&format!("{rank:>5}  {cosine:>6.3} {score} {label:<wide$}  {name}"));
        }
    }
}

/// As much of a text as fits on a line or two.
fn shortened(text: &str) -> String {
    const LETTERS: usize = 160;
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LETTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

pub(crate) fn mined(mined: &Mined, out: &Path) {
    let Mined { pairs, left_out, of_pairs, of_negatives } = mined;
    line(&format!(
        "{pairs} pairs with their negatives in {}; mean cosine {of_pairs:.3} of pairs, {of_negatives:.3} of \
         negatives",
        out.display()
    ));
    if *left_out > 0 {
        note(&format!("left out {left_out} pairs for which there were too few"));
    }
}

/// A study while it goes on: a line a run.
pub(crate) struct Study {
    begun: Instant,
}

impl Study {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now() }
    }

    pub(crate) fn show(&mut self, event: &StudyEvent<'_>) {
        let StudyEvent::Ran { run, done, all } = event else { return };
        let StudyRun { method, loss_name, temperature, seed, loss, loss_floor, .. } = run;
        let left = self.begun.elapsed().as_secs_f64() / *done as f64 * (all - done) as f64;
        let right = match (run.task_error, run.one_shot) {
            (Some(error), _) => format!(", one-shot task {:.1} % wrong", 100.0 * error),
            (None, Some(right)) => format!(", one-shot {:.1} %", 100.0 * right),
            (None, None) => String::new(),
        };
        let variant = match method.predicts() {
            true => method.as_str().to_owned(),
            false => format!("{loss_name} at τ = {temperature}"),
        };
        let floor = match loss_floor.is_nan() {
            true => String::new(),
            false => format!(" (floor {loss_floor:.3})"),
        };
        line(&format!(
            "run {done}/{all}: {variant}, seed {seed}: loss {loss:.3}{floor}{right}, rank {:.1}; {left:.0} s left",
            run.effective_rank
        ));
    }
}

/// What came of a study.
pub(crate) fn study(study: &kinfold_report::Study, out: &Path) {
    if study.runs.is_empty() {
        line("stopped before a run was done: nothing is saved");
        return;
    }
    line("");
    line(study.table().trim_end());
    line("");
    line(&format!("± is the standard deviation over seeds; saved in {}", out.display()));
}

/// What a bench of several processes found.
pub(crate) fn shared_record(record: &SharedRecord) {
    let SharedRecord { loss, rows, dim, processes, threads, seconds, alone, .. } = record;
    line(&format!(
        "{loss}, {rows} pairs of dimension {dim}, {processes} processes of {threads} threads: value {:.6} and \
         all gradients, f32",
        record.value
    ));
    line("");
    line("                        median s      min s      max s");
    let row = |name: &str, Seconds { median, min, max }: &Seconds| {
        line(&format!("{name:<22}{median:>10.5}{min:>11.5}{max:>11.5}"));
    };
    row("all together", seconds);
    for (part, seconds) in &record.parts {
        row(&format!("  {part}"), seconds);
    }
    row("one process alone", alone);
    line("");
    line(&format!(
        "{:.2} times as fast as one process; {} sent by each",
        alone.median / seconds.median,
        memory::in_words(record.bytes_sent)
    ));
}

/// What a bench found.
pub(crate) fn record(record: &Record) {
    let Record { loss, rows, dim, temperature, threads, .. } = record;
    line(&format!(
        "{loss}, {rows} pairs of dimension {dim}, τ = {temperature}, {threads} threads: value and all \
         gradients, f32"
    ));
    line("");
    line("                        median s      min s      max s   peak memory   loss");
    let row = |name: &str, seconds: &Seconds, peak: Option<u64>, value: f64| {
        let Seconds { median, min, max } = seconds;
        let peak = peak.map_or("?".to_owned(), |bytes| format!("{} MiB", bytes >> 20));
        line(&format!("{name:<20}{median:>12.5}{min:>11.5}{max:>11.5}{peak:>14}   {value:.6}"));
    };
    row("kinfold", &record.seconds, record.peak_memory_bytes, record.value);
    match &record.dense {
        Some(dense) => {
            row("with the matrix", &dense.seconds, dense.peak_memory_bytes, dense.value);
            line("");
            let times = dense.seconds.median / record.seconds.median;
            line(&format!(
                "{times:.2} times as fast as the tensor operations that build the matrix"
            ));
        }
        None => line("with the matrix: it does not fit into half of the memory that is free\n"),
    }
    line(&format!(
        "{:.1} GFLOP/s in products, {:.0} % of this machine's best large product",
        record.gflops,
        100.0 * record.gemm_share
    ));
}
