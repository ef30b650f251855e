//! Whether row i of one side belongs to row i of the other.

use super::training::further;
use super::{CHANCE, Case, FEW, Finding, Kind, Severity, percent};
use crate::diagnosis::Diagnosis;
use crate::diagnosis::parts::Elsewhere;

/// Below this separation keys lie opposite to where they should.
const OPPOSITE: f64 = 0.2;
/// The least structure that shuffled pairs have.
const STRUCTURE: f64 = 0.25;
/// So many rows have another row of the other side nearer than any of their own only where their partners
/// are there; and more than so many standard deviations from a half.
const PARTNERS: f64 = 0.57;
/// The share of queries whose nearest key is at one distance, so many times that of the next distance and
/// of the own row.
const OFFSET: f64 = 0.08;
const TIMES: f64 = 3.0;
/// Where more find their own key, rows are pairs, though some may not be.
const OWN: f64 = 0.3;
const DEVIATIONS: f64 = 5.0;
/// Similarities that are correlated so far, row for row, are of the same things.
const CORRELATED: f64 = 0.15;
/// The share of rows that are no pairs.
pub(super) const MISMATCHED: f64 = 0.05;

pub(super) fn unrelated(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    if d.sample.rows < FEW {
        return None;
    }
    negated(d).or_else(|| shuffled(d)).or_else(|| apart(case))
}

fn negated(d: &Diagnosis) -> Option<Finding> {
    let separation = d.retrieval.queries_to_keys.separation;
    if separation > OPPOSITE {
        return None;
    }
    let what = format!(
        "Keys lie opposite to their queries: another key is more similar than the own one in {} of \
         cases, where chance is 50 %; the mean cosine of a pair is {:.2}.",
        percent(1.0 - separation),
        d.similarities.pairs.mean
    );
    Finding::new(
        Kind::NegatedKeys,
        Severity::Problem,
        what,
        "Look for a sign: a distance given for a similarity, a loss that is maximised, one side \
         multiplied by −1.",
    )
}

fn shuffled(d: &Diagnosis) -> Option<Finding> {
    let found = d.retrieval.queries_to_keys;
    let elsewhere = d.retrieval.elsewhere?;
    let own = found.recall_at_1;
    let trace = trace(&elsewhere, own);
    let chance = 0.5 + DEVIATIONS * 0.5 / (d.sample.rows as f64).sqrt();
    let partners = elsewhere.partners >= PARTNERS.max(chance) && own < OWN * elsewhere.partners;
    let at_chance = found.separation < CHANCE;
    let structure = d.retrieval.structure.is_some_and(|structure| structure >= STRUCTURE);
    if trace.is_none() && !partners && !(at_chance && structure) {
        return None;
    }
    let (where_to, change) = trace.unwrap_or_else(|| within_labels(&elsewhere, d, at_chance));
    let what = format!(
        "Rows are not pairs: a query finds its own key first in {} of cases, and yet other keys are close \
         to it (the most similar one at {:.2}){where_to}.",
        percent(own),
        d.similarities.nearest
    );
    Finding::new(Kind::ShuffledPairs, Severity::Problem, what, change)
}

/// A distance at which the nearest keys are, in words, and what to do.
fn trace(elsewhere: &Elsewhere, own: f64) -> Option<(String, String)> {
    let Elsewhere { offset, offset_share, next_share, reversed, .. } = *elsewhere;
    let stands_out =
        |share: f64, next: f64| share >= OFFSET && share >= TIMES * next && share >= TIMES * own;
    if stands_out(offset_share, next_share) {
        let (sign, by) = if offset < 0 { ('−', -offset) } else { ('+', offset) };
        return Some((
            format!(": in {} of cases at row i {sign} {by}", percent(offset_share)),
            format!(
                "The nearest key of row i is at row i {sign} {by}: one file has {by} row{} more at its \
                 beginning, or has lost as many, such as a heading. Shift it, and pairs are pairs.",
                if by == 1 { "" } else { "s" }
            ),
        ));
    }
    stands_out(reversed, offset_share.min(next_share)).then(|| {
        (
            format!(": in {} of cases at row n − 1 − i", percent(reversed)),
            "One file is in the reverse order of the other: turn one around.".to_owned(),
        )
    })
}

fn within_labels(elsewhere: &Elsewhere, d: &Diagnosis, at_chance: bool) -> (String, String) {
    let of_label = elsewhere.same_label.filter(|_| !at_chance);
    if let Some(share) = of_label {
        return (
            format!("; in {} of cases it has the query's label", percent(share)),
            "The order within each label differs between the two files, while the labels agree: look at \
             how each was sorted, by name, by time, or not at all."
                .to_owned(),
        );
    }
    if !at_chance {
        return (
            format!(
                ", closer than any other query in {} of cases, as only a partner is",
                percent(elsewhere.partners)
            ),
            "Row i of one file has to belong to row i of the other. Own keys are still nearer than most: so \
             the order is right by groups and wrong within them, as files sorted by class are."
                .to_owned(),
        );
    }
    let chance = format!(
        "; own keys are more similar than others in {} of cases, where chance is 50 %",
        percent(d.retrieval.queries_to_keys.separation)
    );
    let change = "Look at the order of the two files: row i of one has to belong to row i of the other. A \
                  data loader that shuffles, or a sort by name on one side, does this.";
    (chance, change.to_owned())
}

/// Pairs are at chance, and no key is near.
fn apart(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let separation = d.retrieval.queries_to_keys.separation;
    if separation >= CHANCE {
        return None;
    }
    let correlation = d.retrieval.elsewhere.map_or(0.0, |elsewhere| elsewhere.correlation);
    if correlation >= CORRELATED {
        let what = format!(
            "Queries and keys lie in spaces that have nothing to do with each other: a query is more \
             similar to its own key than to another in {} of cases, where chance is 50 %; yet what is \
             similar among queries is so among keys (a correlation of {correlation:.2}), so rows do \
             belong together.",
            percent(separation)
        );
        return Finding::new(
            Kind::UnrelatedSpaces,
            Severity::Problem,
            what,
            "Two encoders that were never trained against each other have no common space. Embed both \
             sides with one, train them together by a contrastive loss, or fit a linear map from one \
             space to the other on known pairs.",
        );
    }
    let what = format!(
        "Nothing is learned: a query is more similar to its own key than to another in {} of cases, \
         where chance is 50 %; keys lie about it as about any random direction.",
        percent(separation)
    );
    Finding::new(Kind::Untrained, Severity::Problem, what, further(case))
}

pub(super) fn mismatched(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let share = d.retrieval.mismatched;
    // Rows of zeros are near to none, and are told as such.
    let zeros = d.duplicates.zero_rows as f64 / d.pairs as f64;
    if share < MISMATCHED + 2.0 * zeros
        || d.retrieval.queries_to_keys.separation < CHANCE
        || d.sample.rows < FEW
    {
        return None;
    }
    let what = format!(
        "About {} of the rows seem to be no pairs: their keys lie as other queries' keys do, while \
         those of the rest are close.",
        percent(share)
    );
    Finding::new(
        Kind::MismatchedPairs,
        Severity::Warning,
        what,
        "Look at the pairs with the lowest cosines; wrong captions, failed crops and rows shifted by \
         one in part of the data are usual.",
    )
}
