//! The page: what is told, in which order, in which words.
//!
//! Input: what a run folder says, and a sample of images. Output: HTML. Templates escape whatever comes
//! from outside, names of files above all.

use super::beside::Beside;
use super::facts::Facts;
use super::identity::Identity;
use super::map::map;
use super::sample::Sample;
use super::{curves, neighbours, retrieval};
use crate::diagnose::DiagnosisReport;
use kinfold::diagnosis::{Finding, Severity};
use kinfold_train::{ByDimension, Error, Measured, shell_word};
use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("page.css");

/// Everything that a page is made of.
pub(super) struct Page<'a> {
    pub(super) facts: &'a Facts,
    pub(super) sample: Option<&'a Sample<'a>>,
    /// Why there is no sample.
    pub(super) missing: Option<String>,
    pub(super) diagnosis: Option<DiagnosisReport>,
    pub(super) beside: Option<Beside>,
}

impl Page<'_> {
    pub(super) fn html(&self) -> Result<String, Error> {
        let identity = self.facts.seen.as_ref().and_then(Identity::new);
        let page = html! {
            (DOCTYPE) "\n"
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    link rel="icon" href="data:,";
                    title { (self.facts.name) " – kinfold" }
                    style { (PreEscaped(STYLE)) }
                }
                "\n"
                body {
                    main {
                        (self.head())
                        (self.curves())
                        @if let Some(identity) = &identity { (self.identity(identity)?) }
                        (self.map()?)
                        (self.neighbours()?)
                        (self.evaluation())
                        @if let Some(report) = &self.diagnosis { (diagnosis(report)) }
                    }
                    footer {
                        "kinfold " (self.facts.settings.version)
                        ". This page is one file and asks nothing of the network; "
                        code { "kinfold report" } " makes it anew."
                    }
                }
            }
            "\n"
        };
        // No character of control may stand in a page.
        let stray = |c: char| c.is_control() && c != '\n' && c != '\t';
        Ok(page.into_string().replace(stray, "\u{fffd}"))
    }

    /// What was trained, what came of it, and how to repeat it.
    fn head(&self) -> Markup {
        let Facts { name, path, settings, config, .. } = self.facts;
        let file = shell_word(&format!("{path}/config.toml"));
        html! {
            header {
                p class="kind" { "kinfold · training report" }
                h1 { (name) }
                (self.lede())
                (self.tiles())
                h2 class="minor" { "How to repeat it" }
                pre { code { "kinfold train --config " (file) } }
                p {
                    "The same data, settings and seed (" (settings.seed) ") give the same weights, bit \
                     for bit."
                }
                details {
                    summary { "Every setting, as config.toml has it" }
                    pre { code { (config.trim_end()) } }
                }
            }
        }
    }

    /// What was trained, in a sentence or two.
    fn lede(&self) -> Markup {
        let Facts { settings, summary, .. } = self.facts;
        let summary = summary.as_ref();
        let learned = settings.loss.learned_temperature == Some(true);
        html! {
            p class="lede" {
                "An encoder trained on " b { (settings.data) } " by pulling pairs together and pushing \
                 the rest apart: "
                @if let Some(summary) = summary { (summary.pairs) " pairs an epoch, " }
                (settings.batch.unwrap_or(0)) " to a batch, "
                (summary.map_or("some".to_owned(), |summary| summary.epochs.to_string()))
                " of " (settings.epochs) " epochs, "
                @if settings.method.predicts() {
                    "the method " b { (settings.method.as_str()) }
                    @if settings.loss.name.is_some() { ", " }
                }
                @if let Some(name) = &settings.loss.name { "the loss " b { (name) } }
                @if let Some(temperature) = self.facts.temperature() {
                    " at temperature " (format!("{temperature:.3}"))
                    @if learned { ", learned" }
                }
                "."
                @match summary.map(|summary| summary.interrupted) {
                    Some(false) => {}
                    Some(true) => { " It was stopped before its end." }
                    None => { " It has no summary: it is still going on, or was ended by force." }
                }
            }
        }
    }

    /// The numbers that a run is known by.
    fn tiles(&self) -> Markup {
        let taken = self.facts.steps.last().map_or(0, |step| step.step);
        html! {
            dl class="tiles" {
                (tile(if taken == 1 { "step" } else { "steps" }, &taken.to_string()))
                @if let Some(loss) = self.facts.loss() {
                    @let unit = if self.facts.has_no_negatives() { "loss, of 2" } else { "loss, in nats" };
                    (tile(unit, &format!("{loss:.3}")))
                }
                @if let Some(way) = self.facts.way() {
                    (tile("of the way to its floor", &percent(way, 0)))
                }
                @if let Some(summary) = &self.facts.summary {
                    (tile("of training", &duration(summary.seconds)))
                    (tile("pairs a second", &format!("{:.0}", summary.pairs_per_second)))
                    @if let Some(bytes) = summary.peak_memory_bytes {
                        @let mib = bytes as f64 / 1048576.0;
                        (tile("of memory at most", &format!("{mib:.0} MiB")))
                    }
                }
            }
        }
    }

    fn curves(&self) -> Markup {
        let facts = self.facts;
        if facts.steps.is_empty() {
            return section("Loss", html! { p { "No step was taken." } }, "");
        }
        let floor = match facts.floor() {
            Some(_) => {
                " The shaded band is the loss's ruler: from what it is when nothing is \
                 learned down to the least that any encoder can reach at this temperature."
            }
            None => " For this loss no floor is known in closed form.",
        };
        let what = match facts.has_no_negatives() {
            true => {
                "The loss of each batch: 2 − 2 cos, the mean over all views, of what is predicted and what the \
                 other view is. One point for all images would have 0, too: whether images can be told apart is \
                 seen below."
            }
            false => "The loss of each batch, in nats.",
        };
        let smalls = [
            curves::small(facts, "learning rate", |step| Some(step.learning_rate)),
            curves::small(facts, "gradient norm", |step| step.gradient_norm),
            curves::small(facts, "temperature", |step| step.temperature),
            curves::small(facts, "pairs a second", |step| step.pairs_per_second),
        ];
        let drawn = facts.steps.iter().any(|step| step.temperature.is_some());
        let body = html! {
            p { (what) @if !facts.has_no_negatives() { (floor) } }
            figure { (curves::loss(facts, 720.0)) (curves::loss(facts, 350.0)) }
            div class="three" { @for small in smalls.into_iter().flatten() { (small) } }
            @if let Some(temperature) = facts.temperature().filter(|_| !drawn) {
                p class="aside" { "The temperature was " (temperature) " throughout." }
            }
        };
        section(
            "Loss",
            body,
            "the loss leaves its ceiling within the first steps, falls fast, then ever more slowly, \
             and levels off with the learning rate. A loss that stays at its ceiling learns nothing; \
             one on its floor has nothing left to learn from.",
        )
    }

    fn identity(&self, identity: &Identity<'_>) -> Result<Markup, Error> {
        let Some(seen) = &self.facts.seen else { return Ok(Markup::default()) };
        let which = if seen.held_out { "held out from training" } else { "that are trained on" };
        let by = if identity.by_label() { "label" } else { "similarity" };
        let blocks = match identity.by_label() {
            true => {
                " Blocks along it are classes that were found although no label was used, unless \
                 the loss is one of labels."
            }
            false => "",
        };
        let matrices = html! {
            p {
                "The cosine of each of " (seen.pairs.len()) " queries (rows) with every key (columns), \
                 as the loss sees them: always the same pairs, " (which) ", in views that are never \
                 trained on, ordered by " (by) ". Pairs lie on the diagonal."
            }
            (identity.matrices()?)
        };
        let histograms = html! {
            p { "The same cosines, counted: pairs beside all others." }
            (identity.histograms())
        };
        let good = format!(
            "all alike before training; at the end a light diagonal on dark ground, close to the \
             identity matrix.{blocks} A light square throughout has collapsed."
        );
        Ok(html! {
            (section("The identity appears", matrices, &good))
            (section(
                "Pairs and the rest",
                histograms,
                "two hills that hardly overlap: pairs near 1, the others about 0 or below it. The part \
                 that overlaps is what the encoder still confuses.",
            ))
        })
    }

    fn map(&self) -> Result<Markup, Error> {
        let Some(sample) = self.sample else {
            let why = self.missing.as_deref().unwrap_or("nothing is known of the data");
            let body = html! { p { "There is no map and no neighbours here: " (why) "." } };
            return Ok(section("Map", body, ""));
        };
        let Some(map) = map(&sample.embeddings, sample.dim) else {
            return Ok(Markup::default());
        };
        let noun = sample.data.kind().noun();
        let which = if sample.held_out { format!("held-out {noun}") } else { noun.to_owned() };
        let body = html! {
            p {
                "The embeddings of " (sample.points.len()) " " (which) " on a plane, by t-SNE: what is \
                 near here is near there, but sizes of clusters and distances between them say little. \
                 (The first two principal components, where it begins, hold "
                (percent(map.variance, 0)) " of the variance.)"
            }
            (neighbours::map(sample, &map)?)
        };
        Ok(section(
            "Map",
            body,
            "things of one kind lie together, with gaps between kinds. One cloud in which everything \
             is mixed has learned nothing that these labels, or your eyes, would call alike.",
        ))
    }

    fn neighbours(&self) -> Result<Markup, Error> {
        let Some(sample) = self.sample else { return Ok(Markup::default()) };
        let (even, missed) = sample.shown(10, 4);
        if even.is_empty() || sample.among < 2 {
            return Ok(Markup::default());
        }
        let noun = sample.data.kind().noun();
        let (which, among) = match sample.held_out {
            true => (
                format!("held-out {noun}"),
                format!("{} {noun} that were trained on", sample.among),
            ),
            false => (noun.to_owned(), format!("{} others", sample.among - 1)),
        };
        let marks = match sample.labelled {
            true => {
                " A neighbour of the same label is a hit, ✓ with a line below; another is a miss, \
                 ✗ and dashed."
            }
            false => " There are no labels to say which of them are hits.",
        };
        let body = html! {
            p {
                "Some " (which) ", spread evenly and not chosen, and beside each its " (neighbours::shown(sample.data))
                " nearest by cosine among " (among) "." (marks)
            }
            (neighbours::rows(sample, &even)?)
            @if sample.labelled {
                p {
                    "Of all " (sample.points.len()) " on the map, " (percent(sample.hits(), 1))
                    " have a nearest neighbour of their label."
                }
            }
            @if !missed.is_empty() {
                h3 { "Where the nearest is wrong" }
                (neighbours::rows(sample, &missed)?)
            }
        };
        Ok(section(
            "Nearest neighbours",
            body,
            "rows of one kind, cosines that fall slowly, and misses that a person might make, too.",
        ))
    }

    fn evaluation(&self) -> Markup {
        let summary = self.facts.summary.as_ref();
        let found = summary.and_then(|summary| summary.retrieval.as_ref());
        let found = found.map(retrieval::table).unwrap_or_default();
        let measured = summary.map(|summary| summary.evaluation.as_ref());
        let Some(Some(measured)) = measured else {
            if !found.0.is_empty() {
                let good = "the trained row above the model before training, and of texts above BM25, which \
                            knows only words; the two together are often above both.";
                return section("What it is worth", found, good);
            }
            let why = match measured {
                Some(_) => "No labelled images were held out to measure by.",
                None => "The run did not come to its evaluation.",
            };
            return section("What it is worth", html! { p { (why) } }, "");
        };
        let what = if measured.one_shot.raw.is_some() { ", of the pixels themselves" } else { "" };
        let body = html! {
            (found)
            p {
                "Each measure on what was held out" (what) ", of the encoder before training and after it."
            }
            div class="scroll" {
                table {
                    thead {
                        tr {
                            @for name in ["measure", "raw pixels", "random encoder", "trained encoder"] {
                                th scope="col" { (name) }
                            }
                        }
                    }
                    tbody {
                        (measure("all examples labelled (1-NN)", measured.nearest_neighbour))
                        @if let Some(measured) = measured.weighted_neighbours {
                            (measure("all, and the 200 nearest vote (weighted kNN)", measured))
                        }
                        @if let Some(measured) = measured.linear_probe {
                            (measure("all, by logistic regression (linear probe)", measured))
                        }
                        @if let Some(measured) = measured.five_shot {
                            (measure("five labelled examples of each class", measured))
                        }
                        (measure("one labelled example of each class", measured.one_shot))
                    }
                }
            }
            @if !measured.by_dimension.is_empty() { (by_dimension(&measured.by_dimension, self.beside.as_ref())) }
        };
        section(
            "What it is worth",
            body,
            "the last column well above the other two. An encoder that does no better than the pixels \
             has learned nothing that these labels ask for.",
        )
    }
}

/// The measures of embeddings that are cut.
fn by_dimension(cuts: &[ByDimension], beside: Option<&Beside>) -> Markup {
    let nearest: fn(&ByDimension) -> f64 = |cut| cut.nearest_neighbour;
    let weighted: fn(&ByDimension) -> f64 = |cut| cut.weighted_neighbours;
    let probe: fn(&ByDimension) -> f64 = |cut| cut.linear_probe;
    let one_shot: fn(&ByDimension) -> f64 = |cut| cut.one_shot;
    html! {
        p {
            "The same of the trained encoder's embeddings, cut to their first numbers."
            @if let Some(beside) = beside { " In brackets and dashed, those of " (beside.name) "." }
        }
        div class="three" {
            (curves::by_dimension("1-NN", cuts, beside, nearest))
            (curves::by_dimension("one example of each class", cuts, beside, one_shot))
        }
        div class="scroll" {
            table {
                thead {
                    tr {
                        @for name in ["numbers", "1-NN", "200 vote", "linear probe", "one example"] {
                            th scope="col" { (name) }
                        }
                    }
                }
                tbody {
                    @for (i, cut) in cuts.iter().enumerate() {
                        @let other = beside.and_then(|beside| beside.cuts.get(i));
                        tr {
                            th scope="row" { (cut.dim) }
                            @for of in [nearest, weighted, probe, one_shot] {
                                td {
                                    (percent(of(cut), 1))
                                    @if let Some(other) = other { " (" (percent(of(other), 1)) ")" }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A row of the evaluation.
fn measure(name: &str, Measured { raw, random_encoder, trained }: Measured) -> Markup {
    html! {
        tr {
            th scope="row" { (name) }
            td { (raw.map_or("–".to_owned(), |raw| percent(raw, 1))) }
            td { (percent(random_encoder, 1)) }
            td class="best" { (percent(trained, 1)) }
        }
    }
}

/// What is wrong with the embeddings, what matters most first; and every number behind it.
fn diagnosis(DiagnosisReport { of, diagnosis, .. }: &DiagnosisReport) -> Markup {
    let body = html! {
        p { (of) ", at τ = " (diagnosis.temperature) "." }
        @if diagnosis.findings.is_empty() {
            p class="verdict" { "Nothing is wrong." }
        } @else {
            ul class="findings" { @for finding in &diagnosis.findings { (item(finding)) } }
        }
        details {
            summary { "Every number" }
            @for section in diagnosis.sections() {
                h3 { (section.title) }
                div class="scroll" {
                    table {
                        @for line in &section.lines {
                            tr {
                                th scope="row" { (line.name) }
                                td { (line.value) }
                                td class="words" { (line.meaning) }
                            }
                        }
                    }
                }
            }
        }
    };
    section("Diagnosis", body, "nothing that is marked a problem or a warning.")
}

fn item(Finding { severity, what, change, .. }: &Finding) -> Markup {
    let word = match severity {
        Severity::Problem => "problem",
        Severity::Warning => "warning",
        _ => "note",
    };
    html! { li class=(word) { b { (what) } " " em { (word) } br; (change) } }
}

/// A part of the page, and what a good one looks like.
fn section(title: &str, body: Markup, good: &str) -> Markup {
    html! {
        section {
            h2 { (title) }
            (body)
            @if !good.is_empty() { p class="good" { b { "A good one:" } " " (good) } }
        }
    }
}

fn tile(what: &str, number: &str) -> Markup {
    html! { div { dt { (what) } dd { (number) } } }
}

/// A share of 1 in hundredths.
fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$} %", 100.0 * share)
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}
