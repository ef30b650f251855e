//! What each number of a diagnosis means, in a sentence.
//!
//! Input: a diagnosis. Output: sections of lines, in the order in which one asks. The command and
//! reports print these words and have none of their own.

use super::parts::{Cap, Distribution, Found, GradientNorm, History, Side};
use super::{Diagnosis, Severity};

/// Lines that answer one question.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Section {
    /// The question.
    pub title: &'static str,
    /// Its answers.
    pub lines: Vec<Line>,
}

/// One number, as one reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Line {
    /// What it is.
    pub name: &'static str,
    /// The number, or numbers.
    pub value: String,
    /// What it means.
    pub meaning: String,
}

fn line(name: &'static str, value: String, meaning: impl Into<String>) -> Line {
    Line { name, value, meaning: meaning.into() }
}

/// A share as one reads it: `3.2 %`, and never 0 or 100 for what is not.
pub(super) fn percent(share: f64) -> String {
    let x = 100.0 * share;
    match x {
        _ if x == 0.0 || x == 100.0 => format!("{x:.0} %"),
        _ if x > 0.0 && x < 0.05 => "< 0.1 %".to_owned(),
        _ if x < 100.0 && x > 99.95 => "> 99.9 %".to_owned(),
        _ => format!("{x:.1} %"),
    }
}

/// Nats, with enough digits where there are few.
fn nats(x: f64) -> String {
    if x == 0.0 || x.abs() >= 0.01 { format!("{x:.3}") } else { format!("{x:.1e}") }
}

/// To so many digits, and never −0.
fn rounded(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$}");
    let is_zero = text.starts_with('-') && !text.contains(|c: char| ('1'..='9').contains(&c));
    if is_zero { text[1..].to_owned() } else { text }
}

fn around(x: &Distribution) -> String {
    format!("{} ± {:.3}", rounded(x.mean, 3), x.spread)
}

impl Diagnosis {
    /// The verdict in a line; the findings say the rest.
    pub fn verdict(&self) -> String {
        let count = |severity| self.findings.iter().filter(|f| f.severity == severity).count();
        let named = |count: usize, name: &str| match count {
            0 => None,
            1 => Some(format!("1 {name}")),
            n => Some(format!("{n} {name}s")),
        };
        let parts: Vec<String> = [
            (Severity::Problem, "problem"),
            (Severity::Warning, "warning"),
            (Severity::Note, "note"),
        ]
        .into_iter()
        .filter_map(|(severity, name)| named(count(severity), name))
        .collect();
        if parts.is_empty() {
            "Nothing is wrong that could be seen from the embeddings.".to_owned()
        } else if self.findings.len() == 1 {
            format!("{}:", parts.join(", "))
        } else {
            format!("{}, first things first:", parts.join(", "))
        }
    }

    /// Every number with a sentence of meaning, by the question it answers.
    pub fn sections(&self) -> Vec<Section> {
        let section = |title, lines| Section { title, lines };
        let mut sections = vec![
            section("Where does the loss stand?", self.loss_lines()),
            section("Which temperature?", self.temperature_lines()),
            section("How similar are pairs, and what is no pair?", self.similarity_lines()),
            section("Who pulls and who pushes?", self.choice_lines()),
            section("Do pairs find each other?", self.retrieval_lines()),
            section("Are there duplicates?", self.duplicate_lines()),
            section("How do embeddings lie on the sphere?", self.geometry_lines()),
            section("How much do queries tell of keys?", self.information_lines()),
        ];
        if let Some(history) = &self.history {
            sections.push(section("How did the training go?", history_lines(history)));
        }
        sections
    }

    fn loss_lines(&self) -> Vec<Line> {
        let loss = &self.loss;
        let stands = if loss.reached < 0.0 {
            format!("above ln n: worse than nothing learned, {} wrong", percent(-loss.reached))
        } else {
            format!("{} of the way from ln n down to the floor", percent(loss.reached))
        };
        vec![
            line("loss", nats(loss.value), format!("InfoNCE, queries among keys: {stands}.")),
            line("ceiling", nats(loss.ceiling), "ln n, what nothing learned gives."),
            line(
                "floor",
                nats(loss.floor),
                format!(
                    "The least that {} pairs can have at τ = {}; {} with directions spread evenly in \
                     {} dimensions.",
                    self.pairs,
                    self.temperature,
                    nats(loss.even),
                    self.dim
                ),
            ),
            line(
                "keys among queries",
                nats(loss.keys_to_queries),
                format!("The loss the other way; {} both ways.", nats(loss.both_ways)),
            ),
            line(
                "gradient",
                nats(loss.gradient),
                format!(
                    "Its mean length for a query's direction; the most there can be is 2/τ = {:.3}.",
                    2.0 / self.temperature
                ),
            ),
        ]
    }

    fn temperature_lines(&self) -> Vec<Line> {
        let suggestion = &self.suggestion;
        let other = match suggestion.for_negatives {
            Some(least) if least > suggestion.for_floor => {
                format!(
                    "a perfect encoder's loss asks for no more than {:.3}",
                    suggestion.for_floor
                )
            }
            Some(least) => format!("1 % of the negatives count from {least:.3} on"),
            None => "1 % of the negatives count at any".to_owned(),
        };
        let reason = suggestion.reason();
        vec![line(
            "suggested",
            suggestion.temperature.to_string(),
            format!("{}{}; {other}.", reason[..1].to_uppercase(), &reason[1..]),
        )]
    }

    fn similarity_lines(&self) -> Vec<Line> {
        let similar = &self.similarities;
        vec![
            line("pairs", around(&similar.pairs), "Mean and spread of their cosines; best at 1."),
            line(
                "non-pairs",
                around(&similar.non_pairs),
                format!(
                    "Best at {:.4}; random directions in {} dimensions spread by {:.3}.",
                    similar.simplex, self.dim, similar.random_spread
                ),
            ),
            line(
                "nearest non-pair",
                format!("{:.3}", similar.nearest),
                "The most similar other key of a query, on average; it has to be below pairs.",
            ),
        ]
    }

    fn choice_lines(&self) -> Vec<Line> {
        let choice = &self.choice;
        vec![
            line(
                "positive's probability",
                format!("{:.3}", choice.probability),
                format!(
                    "Mean; median {:.3}. {} of the queries are above 0.99 and learn no more.",
                    choice.median_probability,
                    percent(choice.settled)
                ),
            ),
            line(
                "effective negatives",
                format!("{:.1}", choice.effective_negatives),
                format!("So many of {} push a query, in the median.", self.pairs - 1),
            ),
            line(
                "hardest 1 %",
                percent(choice.hardest_share),
                "Share of the push that comes from the most similar hundredth of the negatives.",
            ),
        ]
    }

    fn retrieval_lines(&self) -> Vec<Line> {
        let retrieval = &self.retrieval;
        let recalls = |found: &Found| {
            [found.recall_at_1, found.recall_at_5, found.recall_at_10].map(percent).join(", ")
        };
        let (there, back) =
            (recalls(&retrieval.queries_to_keys), recalls(&retrieval.keys_to_queries));
        let hubness = &retrieval.hubness;
        let mut lines = vec![
            line("recall@1, @5, @10", there, "Queries that find their own key among all."),
            line("the other way", back, "Keys that find their own query."),
            line(
                "separation",
                percent(retrieval.queries_to_keys.separation),
                "How often the own key is more similar than another; chance is 50 %.",
            ),
            line(
                "mismatched pairs",
                percent(retrieval.mismatched),
                "Rows that look as if they were no pairs, estimated.",
            ),
            line(
                "hubness",
                format!("{:.2}", hubness.skewness),
                format!(
                    "Skewness of how often a key is among the {} nearest, 0 if all are alike; the \
                     largest hub {:.1} times the mean, {} of the keys never.",
                    hubness.neighbours,
                    hubness.largest,
                    percent(hubness.never)
                ),
            ),
        ];
        if let Some(elsewhere) = &retrieval.elsewhere {
            lines.push(line(
                "partners elsewhere",
                percent(elsewhere.partners),
                "Queries with another key nearer than any other query, or keys the same way: about half \
                 where there is nothing to it, more where pairs are in other rows.",
            ));
            lines.push(line(
                "nearest key at",
                format!("i {:+}", elsewhere.offset),
                format!(
                    "The most frequent row, but the own, in {} of cases; the next one in {}, and row \
                     n − 1 − i in {}.",
                    percent(elsewhere.offset_share),
                    percent(elsewhere.next_share),
                    percent(elsewhere.reversed)
                ),
            ));
            lines.push(line(
                "like within both",
                rounded(elsewhere.correlation, 2),
                "The correlation of similarities among queries with those among keys: high where rows \
                 belong together, in whatever space.",
            ));
        }
        if let Some(centring) = &retrieval.centring {
            let [before, after] = [centring.before, centring.after].map(|found| found.recall_at_1);
            lines.push(line(
                "recall@1 when centred",
                percent(after),
                format!(
                    "Among the sample's own pairs, with each side's mean subtracted; {} without.",
                    percent(before)
                ),
            ));
        }
        if let Some(structure) = retrieval.structure {
            lines.push(line(
                "structure",
                rounded(structure, 2),
                "How much nearer the nearest key is than to random vectors of the same kind: above \
                 0.25 queries have partners, if not in their own rows.",
            ));
        }
        lines
    }

    fn duplicate_lines(&self) -> Vec<Line> {
        let copies = &self.duplicates;
        let mut lines = vec![
            line(
                "exact",
                format!("{} and {}", percent(copies.queries), percent(copies.keys)),
                format!(
                    "Queries and keys that are there more than once. They imply a floor of {}.",
                    nats(copies.floor)
                ),
            ),
            line(
                "near",
                percent(copies.near),
                format!(
                    "Keys with another at a cosine of 0.999 or more that is no chance. With them the floor is \
                     about {}.",
                    nats(copies.near_floor)
                ),
            ),
        ];
        lines.push(line(
            "points",
            format!("{:.0}", copies.points.count),
            format!(
                "What {} keys come to, less their mean, those within a cosine of 0.98 counted as one; {} of \
                 all that are within 0.9.",
                copies.points.rows,
                percent(copies.points.separate)
            ),
        ));
        if copies.queries_among_keys > 0.0 {
            lines.push(line(
                "queries among keys",
                percent(copies.queries_among_keys),
                "Queries that are themselves a key, in another row.",
            ));
        }
        if copies.zero_rows > 0 {
            lines.push(line(
                "rows of zeros",
                copies.zero_rows.to_string(),
                "They have no direction, and cosine 0 with everything.",
            ));
        }
        if let Some(same) = &self.false_negatives {
            lines.push(line(
                "false negatives",
                percent(same.share),
                format!(
                    "Negatives of the row's own label ({:.1} a row, {} labels). {} of the push comes \
                     from them; were a label one point, the floor would be {}.",
                    same.per_row,
                    same.labels,
                    percent(same.push),
                    nats(same.floor)
                ),
            ));
        }
        lines
    }

    fn geometry_lines(&self) -> Vec<Line> {
        let geometry = &self.geometry;
        let (q, k) = (&geometry.queries, &geometry.keys);
        let both = |of: fn(&Side) -> String| format!("{} and {}", of(q), of(k));
        let most = self.dim.min(self.sample.rank_rows);
        vec![
            line(
                "alignment",
                format!("{:.3}", geometry.alignment),
                "Mean squared distance of pairs: 0 is best, 2 is random.",
            ),
            line(
                "uniformity",
                both(|side| rounded(side.uniformity, 2)),
                "Of queries and keys: 0 is one point, about −4 evenly spread.",
            ),
            line(
                "effective rank",
                both(|side| format!("{:.1}", side.effective_rank)),
                format!("Dimensions really used, of {most}."),
            ),
            line(
                "spread of dimensions",
                both(|side| {
                    let [least, middle, greatest] = side.dimension_spread;
                    format!("{least:.2}/{middle:.2}/{greatest:.2}")
                }),
                format!(
                    "Least, median and greatest; 1 if all vary alike. {} and {} hardly vary at all.",
                    q.dead_dimensions, k.dead_dimensions
                ),
            ),
            line(
                "largest dimension",
                both(|side| percent(side.largest_dimension.share)),
                format!(
                    "Its share of the squared length, where {} would be even.",
                    percent(1.0 / self.dim as f64)
                ),
            ),
            line(
                "mean cosine",
                both(|side| rounded(side.mean_cosine, 3)),
                "Of two different queries, and keys: 0 spread evenly, 1 collapsed into a point.",
            ),
            line(
                "two clusters",
                both(|side| percent(side.two_clusters.share)),
                "What splitting the rows in two explains; above 90 % they have collapsed into two.",
            ),
            line(
                "modality gap",
                format!("{:.3}", geometry.gap.distance),
                format!(
                    "Distance between the means of queries and keys, {} of the variance.",
                    percent(geometry.gap.share)
                ),
            ),
        ]
    }

    fn information_lines(&self) -> Vec<Line> {
        let information = &self.information;
        let cap = match information.capped_by {
            Cap::Pairs => "ln n: more pairs at once would show more",
            Cap::Temperature => "1/τ: a lower temperature would show more",
        };
        let saturated = if information.saturated {
            "It has come there, so there may be far more."
        } else {
            "It has not come there."
        };
        vec![line(
            "mutual information",
            format!("≥ {}", nats(information.estimate)),
            format!(
                "ln n − loss, in nats. It can be no more than {}, capped by {cap}. {saturated}",
                nats(information.most)
            ),
        )]
    }
}

fn history_lines(history: &History) -> Vec<Line> {
    let History { steps, ceiling, first, best, before_last, last, highest, .. } = *history;
    let mut lines = vec![
        line(
            "loss at first, at last",
            format!("{} and {}", nats(first), nats(last)),
            format!(
                "Means over a twentieth of {steps} steps; {} is what nothing learned gives.",
                nats(ceiling)
            ),
        ),
        line(
            "best, and highest",
            format!("{} and {}", nats(best), nats(highest)),
            "The best twentieth, and the highest of a single step.",
        ),
        line(
            "at the end",
            format!("{:+.3}", last - before_last),
            "What the last twentieth changed.",
        ),
    ];
    if let Some(GradientNorm { first, early, most, last }) = history.gradient_norm {
        lines.push(line(
            "gradient norm",
            format!("{first:.2e}/{early:.2e}/{most:.2e}/{last:.2e}"),
            "Of all weights: of the first step, in the first twentieth, at most, in the last.",
        ));
    }
    lines
}
