//! A diagnosis on a terminal: 80 columns, the questions in the order in which one asks, the verdict
//! last, where the eye is when the command ends. The words are the library's.

use crate::show::line;
use kinfold::diagnosis::{Diagnosis, Distribution, Finding, Section, Severity};
use kinfold_report::DiagnosisReport;
use serde::Serialize;

/// Columns that lines are kept within.
const WIDTH: usize = 80;
/// Where values begin, and where their meaning does.
const VALUE: usize = 26;
const MEANING: usize = 6;
/// Columns of the ruler and of the histograms; these join parts of the library's 80.
const RULER: usize = 54;
const JOINED: usize = 2;

/// Everything, as one JSON object.
#[derive(Serialize)]
struct Whole<'a> {
    of: &'a str,
    #[serde(flatten)]
    diagnosis: &'a Diagnosis,
    verdict: String,
    sections: Vec<Section>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    by_dimension: &'a [Diagnosis],
}

pub(crate) fn json(report: &DiagnosisReport) {
    let DiagnosisReport { of, diagnosis, by_dimension, .. } = report;
    let (verdict, sections) = (diagnosis.verdict(), diagnosis.sections());
    crate::show::json(&Whole { of, diagnosis, verdict, sections, by_dimension });
}

pub(crate) fn text(report: &DiagnosisReport) {
    let diagnosis = &report.diagnosis;
    heading(report);
    for (i, section) in diagnosis.sections().iter().enumerate() {
        line("");
        line(section.title);
        match i {
            0 => ruler(diagnosis),
            1 => sweep(diagnosis),
            2 => histograms(diagnosis),
            _ => {}
        }
        for entry in &section.lines {
            line(&format!("  {:<1$}{2}", entry.name, VALUE - 2, entry.value));
            wrapped(&entry.meaning, MEANING, MEANING);
        }
    }
    presets(diagnosis);
    by_dimension(&report.by_dimension);
    verdict(diagnosis);
}

fn heading(report: &DiagnosisReport) {
    let Diagnosis { pairs, dim, temperature, sample, .. } = &report.diagnosis;
    wrapped(&report.of, 0, 2);
    line(&format!(
        "{pairs} pairs of dimension {dim}, τ = {temperature} ({})",
        report.temperature_is
    ));
    if sample.rows < *pairs {
        let text = format!(
            "A random sample of {} pairs (seed {}) is compared with all {pairs}; means are over the \
             sample. --sample sets it.",
            sample.rows, sample.seed
        );
        wrapped(&text, 0, 0);
    }
}

/// Text in lines of at most [`WIDTH`], the first begun at `first` and the others at `rest`.
fn wrapped(text: &str, first: usize, rest: usize) {
    let mut current = " ".repeat(first);
    let mut empty = true;
    for word in text.split_whitespace() {
        if !empty && current.chars().count() + 1 + word.chars().count() > WIDTH {
            line(&current);
            (current, empty) = (" ".repeat(rest), true);
        }
        if !empty {
            current.push(' ');
        }
        current.push_str(word);
        empty = false;
    }
    line(&current);
}

/// From ln n at the left to the floor at the right, and where the loss stands.
fn ruler(diagnosis: &Diagnosis) {
    let loss = &diagnosis.loss;
    let at = (loss.reached.clamp(0.0, 1.0) * (RULER - 1) as f64).round() as usize;
    let mark = if loss.reached < 0.0 { '◀' } else { '●' };
    let track: String = (0..RULER).map(|i| if i == at { mark } else { '─' }).collect();
    let ends = [loss.ceiling, loss.floor].map(|x| format!("{x:.3}"));
    line(&format!("  {:>7} ├{track}┤ {}", ends[0], ends[1]));
    let label = format!("loss {:.3}", loss.value);
    let indent = (11 + at).saturating_sub(label.len() / 2).clamp(11, 11 + RULER - label.len());
    line(&format!("{}{label}", " ".repeat(indent)));
    line(&format!("  {:>7}  {:<RULER$} {}", "ln n", "", "floor L*"));
}

fn sweep(diagnosis: &Diagnosis) {
    line("        τ     loss    floor   reached   p(positive)      pull   eff. negatives");
    for at in &diagnosis.sweep {
        let here = if at.temperature == diagnosis.temperature { '▸' } else { ' ' };
        let reached = format!("{:.1} %", 100.0 * at.reached);
        line(&format!(
            "  {here}{:>6}{:>9.3}{:>9.3}{reached:>10}{:>14.3}{:>10.3}{:>17.1}",
            at.temperature, at.loss, at.floor, at.probability, at.pull, at.effective_negatives
        ));
    }
    wrapped(
        "pull: the mean of (1 − p)/τ, what draws a pair together at that temperature.",
        MEANING,
        MEANING,
    );
}

fn histograms(diagnosis: &Diagnosis) {
    let similar = &diagnosis.similarities;
    let width = similar.pairs.histogram.len() / JOINED;
    for (name, distribution) in [("pairs", &similar.pairs), ("non-pairs", &similar.non_pairs)] {
        line(&format!("  {name:<9} {}", bars(distribution)));
    }
    let half = width / 2;
    line(&format!("  cosine   {:<half$}{:<half$}{}", "-1", "0", "1"));
}

/// A bar for each part, one line high; whatever there is shows.
fn bars(distribution: &Distribution) -> String {
    const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let joined: Vec<u64> = distribution.histogram.chunks(JOINED).map(|x| x.iter().sum()).collect();
    let most = joined.iter().copied().max().unwrap_or(0).max(1) as f64;
    joined.iter().map(|&count| BARS[(count as f64 / most * 8.0).ceil() as usize]).collect()
}

fn presets(diagnosis: &Diagnosis) {
    line("");
    line("What do others' losses say of the same embeddings?");
    line("  preset                              τ       loss      floor   nothing learned");
    for preset in &diagnosis.presets {
        let floor = preset.floor.map_or("?".to_owned(), |floor| format!("{floor:.4}"));
        line(&format!(
            "  {:<28}{:>9}{:>11.4}{floor:>11}{:>18.4}",
            preset.name, preset.temperature, preset.loss, preset.ceiling
        ));
    }
    let of = diagnosis.sample.preset_pairs;
    let text = format!(
        "Over {of} pairs as one batch, each at its own temperature; floor where it is known."
    );
    wrapped(&text, MEANING, MEANING);
}

/// What matters most of embeddings that are cut.
fn by_dimension(cuts: &[Diagnosis]) {
    if cuts.is_empty() {
        return;
    }
    line("");
    line("What if embeddings are cut to their first numbers?");
    line("  numbers     loss   reached   its pair is nearest   effective rank   problems");
    for cut in cuts {
        let problems = cut.findings.iter().filter(|x| x.severity == Severity::Problem).count();
        let percent = |share: f64| format!("{:.1} %", 100.0 * share);
        line(&format!(
            "  {:>7}{:>9.3}{:>10}{:>22}{:>17.1}{problems:>11}",
            cut.dim,
            cut.loss.value,
            percent(cut.loss.reached),
            percent(cut.retrieval.queries_to_keys.recall_at_1),
            cut.geometry.queries.effective_rank,
        ));
    }
}

fn verdict(diagnosis: &Diagnosis) {
    line("");
    line(&format!("Verdict: {}", diagnosis.verdict()));
    for (i, finding) in diagnosis.findings.iter().enumerate() {
        let Finding { severity, what, change, .. } = finding;
        let severity = match severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            Severity::Note => "note",
        };
        line("");
        wrapped(&format!("{}. [{severity}] {what}", i + 1), 2, 5);
        wrapped(&format!("→ {change}"), 5, 7);
    }
}
