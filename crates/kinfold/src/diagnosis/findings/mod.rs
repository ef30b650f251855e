//! What is wrong, in plain words, what matters most first.
//!
//! Input: the numbers of a diagnosis, and what is known of the training. Output: findings: problems before
//! warnings before notes, and among equals in the order in which they should be dealt with. While there is
//! a problem, the temperature and the shape of the embeddings say nothing, and nothing is said of them. No
//! finding advises what another one speaks against: of several temperatures only the suggestion is named,
//! and what follows from another finding is left to it.

mod pairing;
mod rows;
mod shape;
mod temperature;
mod training;

use super::parts::Side;
use super::words::percent;
use super::{Diagnosis, Training};

/// Below this separation pairs are hardly more similar than non-pairs.
pub(super) const CHANCE: f64 = 0.6;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Severity {
    /// Worth knowing; nothing need change.
    Note,
    /// It costs quality.
    Warning,
    /// Nothing is learned, or nothing that is measured means anything, while it lasts.
    Problem,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Kind {
    /// The training went wrong: its losses and gradients say so.
    Diverged,
    /// One dimension is so much larger than the others that it alone decides.
    OneDimension,
    /// All embeddings point the same way.
    CollapsedToPoint,
    /// All embeddings lie in two clusters.
    CollapsedToTwoClusters,
    /// All embeddings lie in a few points.
    CollapsedToClusters,
    /// Each query's nearest key is the query itself, in another row.
    QueriesAmongKeys,
    /// A query's own key is farther from it than the others.
    NegatedKeys,
    /// Queries have partners among the keys, but not in their own rows.
    ShuffledPairs,
    /// Queries and keys tell the same things apart, each in a space of its own.
    UnrelatedSpaces,
    /// Pairs are as similar as non-pairs.
    Untrained,
    /// Some rows hold no pair.
    MismatchedPairs,
    /// Rows of zeros.
    ZeroRows,
    /// Queries and keys are the same embeddings.
    SameOnBothSides,
    /// Queries and keys lie apart as wholes.
    ModalityGap,
    /// Embeddings point nearly the same way.
    Cone,
    /// The same rows again.
    Duplicates,
    /// Nearly the same rows again.
    NearDuplicates,
    /// The floor is near the ceiling.
    TemperatureTooHigh,
    /// Nothing pulls any more, or single negatives push alone.
    TemperatureTooLow,
    /// Pairs are more similar than non-pairs, but not by much.
    WeaklyTrained,
    /// Few dimensions are used.
    FewDimensions,
    /// A few keys are everybody's neighbours.
    Hubs,
    /// Many negatives have the row's own label.
    FalseNegatives,
    /// There are too few pairs for a verdict.
    FewPairs,
}

/// Something that is wrong, and what to change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Finding {
    /// What it is.
    pub kind: Kind,
    /// How much it matters.
    pub severity: Severity,
    /// What was found, by which number.
    pub what: String,
    /// What to change.
    pub change: String,
}

impl Finding {
    fn new(
        kind: Kind,
        severity: Severity,
        what: String,
        change: impl Into<String>,
    ) -> Option<Self> {
        Some(Self { kind, severity, what, change: change.into() })
    }
}

/// Pairs below this separation are badly learned.
const WEAK: f64 = 0.9;

/// Where fewer find their own key, little came of the training.
const FOUND: f64 = 0.5;

/// Fewer rows than this lie in clusters, or apart, by chance.
const FEW: usize = 8;

/// The numbers, and what is known beside them.
struct Case<'a> {
    numbers: &'a Diagnosis,
    training: &'a Training<'a>,
}

type Rule = fn(&Case<'_>) -> Option<Finding>;

/// What is so bad that nothing else counts.
const PROBLEMS: [Rule; 10] = [
    rows::nothing_but_zeros,
    training::diverged,
    temperature::hopeless,
    training::hardly_moved,
    shape::one_dimension,
    shape::point,
    shape::two_clusters,
    shape::clusters,
    rows::queries_among_keys,
    pairing::unrelated,
];
/// What is true of the data whatever the embeddings are worth, as are rows of zeros.
const DATA: [Rule; 2] = [rows::duplicated, rows::few];
const QUALITY: [Rule; 8] = [
    pairing::mismatched,
    rows::same,
    temperature::temperature,
    shape::gap,
    shape::few_dimensions,
    shape::cone,
    training::weak,
    shape::hubs,
];

pub(super) fn findings(numbers: &Diagnosis, training: &Training<'_>) -> Vec<Finding> {
    let case = Case { numbers, training };
    let of = |rules: &[Rule]| rules.iter().filter_map(|rule| rule(&case)).collect::<Vec<_>>();
    let mut findings = of(&PROBLEMS);
    // What is wrong with the training itself makes embeddings what they are.
    let cause = [Kind::Diverged, Kind::TemperatureTooHigh, Kind::Untrained];
    if findings.first().is_some_and(|finding| cause.contains(&finding.kind)) {
        findings.truncate(1);
    }
    findings.extend(rows::zeros(&case));
    if findings.iter().all(|finding| finding.severity != Severity::Problem) {
        findings.extend(of(&QUALITY));
        // A cone is what a temperature that is too low leaves standing.
        if findings.iter().any(|finding| finding.kind == Kind::TemperatureTooLow) {
            findings.retain(|finding| !matches!(finding.kind, Kind::Cone | Kind::FewDimensions));
        }
    }
    // Rows that have collapsed lie near each other, too, and the collapse has been said.
    let near = |finding: &Finding| finding.kind == Kind::NearDuplicates;
    let problem = findings.iter().any(|finding| finding.severity == Severity::Problem);
    findings.extend(of(&DATA).into_iter().filter(|finding| !(problem && near(finding))));
    findings.extend(rows::false_negatives(&case).filter(|_| !problem));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The sides that `is` holds of, as one reads it.
fn sides(d: &Diagnosis, is: impl Fn(&Side) -> bool) -> Option<(&'static str, &Side)> {
    let (queries, keys) = (&d.geometry.queries, &d.geometry.keys);
    match (is(queries), is(keys)) {
        (true, true) => Some(("all embeddings", queries)),
        (true, false) => Some(("the queries", queries)),
        (false, true) => Some(("the keys", keys)),
        (false, false) => None,
    }
}
