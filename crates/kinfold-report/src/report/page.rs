//! The page: what is told, in which order, in which words.
//!
//! Comes in: what a run folder says, and a sample of images. Goes out: HTML. Whatever comes from
//! outside, names of files above all, is escaped.

use super::facts::Facts;
use super::identity::Identity;
use super::map::map;
use super::sample::{NEIGHBOURS, Sample};
use super::{curves, neighbours};
use crate::diagnose::DiagnosisReport;
use crate::svg::escape;
use kinfold::diagnosis::{Finding, Line, Section, Severity};
use kinfold_train::{Error, Measured};

const STYLE: &str = include_str!("page.css");

/// Everything that a page is made of.
pub(super) struct Page<'a> {
    pub(super) facts: &'a Facts,
    pub(super) sample: Option<&'a Sample<'a>>,
    /// Why there is no sample.
    pub(super) missing: Option<String>,
    pub(super) diagnosis: Option<DiagnosisReport>,
}

impl Page<'_> {
    pub(super) fn html(&self) -> Result<String, Error> {
        let name = escape(&self.facts.name);
        let identity = self.facts.seen.as_ref().and_then(Identity::new);
        let body = [
            self.head(),
            self.curves(),
            identity.as_ref().map_or(Ok(String::new()), |identity| self.identity(identity))?,
            self.map()?,
            self.neighbours()?,
            self.evaluation(),
            self.diagnosis.as_ref().map_or(String::new(), diagnosis),
        ]
        .concat();
        let version = escape(&self.facts.settings.version);
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <link rel=\"icon\" href=\"data:,\"><title>{name} – kinfold</title>\
             <style>{STYLE}</style></head>\n<body><main>{body}</main>\
             <footer>kinfold {version}. This page is one file and asks nothing of the network; \
             <code>kinfold report</code> makes it anew.</footer></body></html>\n"
        ))
    }

    /// What was trained, what came of it, and how to repeat it.
    fn head(&self) -> String {
        let Facts { name, path, settings, config, steps, summary, .. } = self.facts;
        let taken = steps.last().map_or(0, |step| step.step);
        let ended = match summary.as_ref().map(|summary| summary.interrupted) {
            Some(false) => "",
            Some(true) => " It was stopped before its end.",
            None => " It has no summary: it is still going on, or was ended by force.",
        };
        let pairs = summary.as_ref().map(|summary| format!("{} pairs an epoch, ", summary.pairs));
        let learned = match settings.loss.learned_temperature {
            Some(true) => ", learned",
            _ => "",
        };
        let told = format!(
            "An encoder trained on <b>{}</b> by pulling pairs together and pushing the rest apart: \
             {}{} to a batch, {} of {} epochs, the loss <b>{}</b>{}.{ended}",
            escape(&settings.data),
            pairs.unwrap_or_default(),
            settings.batch.unwrap_or(0),
            summary.as_ref().map_or("some".to_owned(), |summary| summary.epochs.to_string()),
            settings.epochs,
            escape(&settings.loss.name),
            self.facts
                .temperature()
                .map_or(String::new(), |t| format!(" at temperature {t:.3}{learned}")),
        );
        let mut tiles = vec![tile(if taken == 1 { "step" } else { "steps" }, &taken.to_string())];
        if let Some(loss) = self.facts.loss() {
            tiles.push(tile("loss, in nats", &format!("{loss:.3}")));
        }
        if let Some(way) = self.facts.way() {
            tiles.push(tile("of the way to its floor", &format!("{:.0} %", 100.0 * way)));
        }
        if let Some(summary) = summary {
            tiles.push(tile("of training", &duration(summary.seconds)));
            tiles.push(tile("pairs a second", &format!("{:.0}", summary.pairs_per_second)));
            if let Some(bytes) = summary.peak_memory_bytes {
                let mib = bytes as f64 / 1048576.0;
                tiles.push(tile("of memory at most", &format!("{mib:.0} MiB")));
            }
        }
        let file = shell(&format!("{path}/config.toml"));
        format!(
            "<header><p class=\"kind\">kinfold · training report</p><h1>{}</h1>\
             <p class=\"lede\">{told}</p><dl class=\"tiles\">{}</dl>\
             <h2 class=\"minor\">How to repeat it</h2>\
             <pre><code>kinfold train --config {}</code></pre>\
             <p>The same data, settings and seed ({}) give the same weights, bit for bit.</p>\
             <details><summary>Every setting, as config.toml has it</summary>\
             <pre><code>{}</code></pre></details></header>",
            escape(name),
            tiles.concat(),
            escape(&file),
            settings.seed,
            escape(config.trim_end()),
        )
    }

    fn curves(&self) -> String {
        let facts = self.facts;
        if facts.steps.is_empty() {
            return section("Loss", "<p>No step was taken.</p>", "");
        }
        let floor = match facts.floor() {
            Some(_) => {
                " The shaded band is the loss's ruler: from what it is when nothing is \
                 learned down to the least that any encoder can reach at this temperature."
            }
            None => " For this loss no floor is known in closed form.",
        };
        let smalls = [
            curves::small(facts, "learning rate", |step| Some(step.learning_rate)),
            curves::small(facts, "temperature", |step| step.temperature),
            curves::small(facts, "pairs a second", |step| step.pairs_per_second),
        ];
        let smalls: String = smalls.into_iter().flatten().collect();
        let fixed = match facts.steps.iter().any(|step| step.temperature.is_some()) {
            true => String::new(),
            false => facts.temperature().map_or(String::new(), |t| {
                format!("<p class=\"aside\">The temperature was {t} throughout.</p>")
            }),
        };
        section(
            "Loss",
            &format!(
                "<p>The loss of each batch, in nats.{floor}</p><figure>{}{}</figure>\
                 <div class=\"three\">{smalls}</div>{fixed}",
                curves::loss(facts, 720.0),
                curves::loss(facts, 350.0)
            ),
            "the loss leaves its ceiling within the first steps, falls fast, then ever more slowly, \
             and levels off with the learning rate. A loss that stays at its ceiling learns nothing; \
             one on its floor has nothing left to learn from.",
        )
    }

    fn identity(&self, identity: &Identity<'_>) -> Result<String, Error> {
        let Some(seen) = &self.facts.seen else { return Ok(String::new()) };
        let which = if seen.held_out { "held out from training" } else { "that are trained on" };
        let by = if identity.by_label() { "label" } else { "similarity" };
        let blocks = match identity.by_label() {
            true => {
                " Blocks along it are classes that were found although no label was used, unless \
                 the loss is one of labels."
            }
            false => "",
        };
        let matrices = section(
            "The identity appears",
            &format!(
                "<p>The cosine of each of {} queries (rows) with every key (columns), as the loss \
                 sees them: always the same pairs, {which}, in views that are never trained on, \
                 ordered by {by}. Pairs lie on the diagonal.</p>{}",
                seen.pairs.len(),
                identity.matrices()?
            ),
            &format!(
                "all alike before training; at the end a light diagonal on dark ground, close to the \
                 identity matrix.{blocks} A light square throughout has collapsed."
            ),
        );
        let histograms = section(
            "Pairs and the rest",
            &format!(
                "<p>The same cosines, counted: pairs beside all others.</p>{}",
                identity.histograms()
            ),
            "two hills that hardly overlap: pairs near 1, the others about 0 or below it. The part \
             that overlaps is what the encoder still confuses.",
        );
        Ok(matrices + &histograms)
    }

    fn map(&self) -> Result<String, Error> {
        let Some(sample) = self.sample else {
            let why = self.missing.as_deref().unwrap_or("nothing is known of the images");
            let text = format!("<p>There is no map and no neighbours here: {}.</p>", escape(why));
            return Ok(section("Map", &text, ""));
        };
        let Some(map) = map(&sample.embeddings, sample.dim) else { return Ok(String::new()) };
        let which = if sample.held_out { "held-out images" } else { "images" };
        let text = format!(
            "<p>The embeddings of {} {which} on a plane, by t-SNE: what is near here is near there, \
             but sizes of clusters and distances between them say little. (The first two principal \
             components, where it begins, hold {:.0} % of the variance.)</p>{}",
            sample.points.len(),
            100.0 * map.variance,
            neighbours::map(sample, &map)?
        );
        Ok(section(
            "Map",
            &text,
            "images of one kind lie together, with gaps between kinds. One cloud in which everything \
             is mixed has learned nothing that these labels, or your eyes, would call alike.",
        ))
    }

    fn neighbours(&self) -> Result<String, Error> {
        let Some(sample) = self.sample else { return Ok(String::new()) };
        let (even, missed) = sample.shown(10, 4);
        if even.is_empty() || sample.among < 2 {
            return Ok(String::new());
        }
        let (which, among) = match sample.held_out {
            true => ("held-out images", format!("{} images that were trained on", sample.among)),
            false => ("images", format!("{} others", sample.among - 1)),
        };
        let marks = match sample.labelled() {
            true => {
                " A neighbour of the same label is a hit, ✓ with a line below; another is a miss, \
                 ✗ and dashed."
            }
            false => " There are no labels to say which of them are hits.",
        };
        let mut text = format!(
            "<p>Some {which}, spread evenly and not chosen, and beside each its {NEIGHBOURS} nearest \
             by cosine among {among}.{marks}</p>{}",
            neighbours::rows(sample, &even)?
        );
        if sample.labelled() {
            text += &format!(
                "<p>Of all {} on the map, {:.1} % have a nearest neighbour of their label.</p>",
                sample.points.len(),
                100.0 * sample.hits()
            );
        }
        if !missed.is_empty() {
            text += &format!(
                "<h3>Where the nearest is wrong</h3>{}",
                neighbours::rows(sample, &missed)?
            );
        }
        Ok(section(
            "Nearest neighbours",
            &text,
            "rows of one kind, cosines that fall slowly, and misses that a person might make, too.",
        ))
    }

    fn evaluation(&self) -> String {
        let measured = self.facts.summary.as_ref().map(|summary| summary.evaluation);
        let Some(Some(measured)) = measured else {
            let why = match measured {
                Some(_) => "No labelled images were held out to measure by.",
                None => "The run did not come to its evaluation.",
            };
            return section("What it is worth", &format!("<p>{why}</p>"), "");
        };
        let rows = measure("all examples labelled (1-NN)", measured.nearest_neighbour)
            + &measure("one labelled example of each class", measured.one_shot);
        section(
            "What it is worth",
            &format!(
                "<p>Each measure on images that were held out, of the pixels themselves, of the \
                 encoder before training and after it.</p><div class=\"scroll\"><table><thead><tr>\
                 <th scope=\"col\">measure</th><th scope=\"col\">raw pixels</th>\
                 <th scope=\"col\">random encoder</th><th scope=\"col\">trained encoder</th></tr>\
                 </thead><tbody>{rows}</tbody></table></div>"
            ),
            "the last column well above the other two. An encoder that does no better than the pixels \
             has learned nothing that these labels ask for.",
        )
    }
}

/// A row of the evaluation.
fn measure(name: &str, Measured { raw, random_encoder, trained }: Measured) -> String {
    let percent = |x: f64| format!("{:.1} %", 100.0 * x);
    format!(
        "<tr><th scope=\"row\">{name}</th><td>{}</td><td>{}</td><td class=\"best\">{}</td></tr>",
        percent(raw),
        percent(random_encoder),
        percent(trained)
    )
}

/// What is wrong with the embeddings, what matters most first; and every number behind it.
fn diagnosis(DiagnosisReport { of, diagnosis, .. }: &DiagnosisReport) -> String {
    let finding = |Finding { severity, what, change, .. }: &Finding| {
        let word = match severity {
            Severity::Problem => "problem",
            Severity::Warning => "warning",
            _ => "note",
        };
        format!(
            "<li class=\"{word}\"><b>{}</b> <em>{word}</em><br>{}</li>",
            escape(what),
            escape(change)
        )
    };
    let findings: String = diagnosis.findings.iter().map(finding).collect();
    let findings = match findings.as_str() {
        "" => "<p class=\"verdict\">Nothing is wrong.</p>".to_owned(),
        findings => format!("<ul class=\"findings\">{findings}</ul>"),
    };
    let line = |line: &Line| {
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td class=\"words\">{}</td></tr>",
            escape(line.name),
            escape(&line.value),
            escape(&line.meaning)
        )
    };
    let part = |section: &Section| {
        let lines: String = section.lines.iter().map(line).collect();
        format!("<h3>{}</h3><div class=\"scroll\"><table>{lines}</table></div>", section.title)
    };
    let parts: String = diagnosis.sections().iter().map(part).collect();
    let text = format!(
        "<p>{}, at τ = {}.</p>{findings}<details><summary>Every number</summary>{parts}</details>",
        escape(of),
        diagnosis.temperature
    );
    section("Diagnosis", &text, "nothing that is marked a problem or a warning.")
}

/// A part of the page, and what a good one looks like.
fn section(title: &str, body: &str, good: &str) -> String {
    let good = match good {
        "" => String::new(),
        good => format!("<p class=\"good\"><b>A good one:</b> {good}</p>"),
    };
    format!("<section><h2>{title}</h2>{body}{good}</section>")
}

fn tile(what: &str, number: &str) -> String {
    format!("<div><dt>{what}</dt><dd>{number}</dd></div>")
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1} s"),
        s if s < 6000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// A path as a shell takes it.
fn shell(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=@:,".contains(c);
    match !path.is_empty() && path.chars().all(plain) {
        true => path.to_owned(),
        false => format!("'{}'", path.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_where_a_shell_needs_it() {
        assert_eq!(shell("runs/a-1/config.toml"), "runs/a-1/config.toml");
        assert_eq!(shell("my run"), "'my run'");
        assert_eq!(shell("a'b"), "'a'\\''b'");
    }
}
