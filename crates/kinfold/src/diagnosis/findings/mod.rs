//! What is wrong, in plain words, what matters most first.
//!
//! Input: the numbers of a diagnosis. Output: findings, in the order in which they should be dealt
//! with: while embeddings have collapsed, or rows are not pairs, nothing else that is measured means
//! anything.

use super::Diagnosis;
use super::parts::Side;
use super::words::percent;

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
    /// Nothing is learned while it lasts.
    Problem,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Kind {
    /// All embeddings point the same way.
    CollapsedToPoint,
    /// All embeddings lie in two clusters.
    CollapsedToTwoClusters,
    /// Queries have partners among the keys, but not in their own rows.
    ShuffledPairs,
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

/// A mean cosine of different rows from here on is one point, and from there on a cone.
const POINT: f64 = 0.98;
const CONE: f64 = 0.5;
/// The variance that two clusters explain.
const TWO_CLUSTERS: f64 = 0.9;
/// The least structure that shuffled pairs have.
const STRUCTURE: f64 = 0.25;
/// The mean squared distance of pairs below which they are the same but for rounding.
const SAME: f64 = 1e-10;
/// The share of the variance that tells queries from keys, and of rows that are no pairs, copies, near
/// copies.
const GAP: f64 = 0.05;
const MISMATCHED: f64 = 0.05;
const COPIES: f64 = 0.01;
const NEAR_COPIES: f64 = 0.05;
/// The least part of ln n that the loss should be able to fall by, and what is worth a note.
const RANGE: f64 = 0.3;
const SOME_RANGE: f64 = 0.5;
/// How far below the suggestion a temperature is too low, where it does harm.
const FAR_BELOW: f64 = 3.0;
/// A pull that is none.
const SETTLED: f64 = 1e-3;
/// Pairs below this separation are badly learned.
const WEAK: f64 = 0.9;
/// The least share of the dimensions that should be used.
const DIMENSIONS: f64 = 0.1;
/// Fewer rows than this lie in two clusters, or apart, by chance.
const FEW: usize = 8;

type Rule = fn(&Diagnosis) -> Option<Finding>;

/// In the order in which they should be dealt with.
const RULES: [Rule; 13] = [
    nothing_but_zeros,
    collapsed,
    two_clusters,
    unrelated,
    mismatched,
    zero_rows,
    same,
    gap_or_cone,
    duplicated,
    temperature,
    weak,
    few_dimensions_or_hubs,
    false_negatives,
];

pub(super) fn findings(diagnosis: &Diagnosis) -> Vec<Finding> {
    RULES.iter().filter_map(|rule| rule(diagnosis)).collect()
}

fn found(kind: Kind, severity: Severity, what: String, change: &str) -> Option<Finding> {
    Some(Finding { kind, severity, what, change: change.to_owned() })
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

fn collapsed(d: &Diagnosis) -> Option<Finding> {
    let (who, side) = sides(d, |side| side.mean_cosine >= POINT)?;
    let what = format!(
        "Collapsed: {who} point the same way (mean cosine of different rows {:.4}), so the loss is \
         {:.3} beside ln n = {:.3}, which is what nothing learned gives.",
        side.mean_cosine, d.loss.value, d.loss.ceiling
    );
    found(
        Kind::CollapsedToPoint,
        Severity::Problem,
        what,
        "Check that negatives are in the loss and gradients reach the encoder; then a lower learning \
         rate, a warm-up, or batch norm in the projector. Constant inputs and a bias that drowns them \
         look the same.",
    )
}

fn two_clusters(d: &Diagnosis) -> Option<Finding> {
    let two = |side: &Side| {
        let clusters = side.two_clusters;
        clusters.share >= TWO_CLUSTERS && clusters.variance > 1.0 - POINT && clusters.smaller > 0.01
    };
    let (who, side) = if d.sample.rows < FEW { None } else { sides(d, two) }?;
    let what = format!(
        "Collapsed into two clusters: they explain {} of how {who} vary, the smaller one with {} of \
         the rows.",
        percent(side.two_clusters.share),
        percent(side.two_clusters.smaller)
    );
    found(
        Kind::CollapsedToTwoClusters,
        Severity::Problem,
        what,
        "The encoder tells only one thing about its input. Lower the learning rate, make views that \
         do not share that one thing (brightness, padding, a watermark), and check that batches mix \
         both kinds.",
    )
}

/// Pairs are at chance: whether because rows are shuffled or because nothing is learned.
fn unrelated(d: &Diagnosis) -> Option<Finding> {
    let separation = d.retrieval.queries_to_keys.separation;
    // Of few pairs chance goes far.
    if separation >= CHANCE || d.sample.rows < FEW {
        return None;
    }
    if d.retrieval.structure.is_some_and(|structure| structure >= STRUCTURE) {
        let what = format!(
            "Rows are not pairs: a query is more similar to its own key than to another in {} of \
             cases, where chance is 50 %, and yet other keys are close to it (the most similar one at \
             {:.2}).",
            percent(separation),
            d.similarities.nearest
        );
        return found(
            Kind::ShuffledPairs,
            Severity::Problem,
            what,
            "Look at the order of the two files: row i of one has to belong to row i of the other. A \
             data loader that shuffles, a sort by name on one side, or one dropped row does this.",
        );
    }
    let what = format!(
        "Nothing is learned: a query is more similar to its own key than to another in {} of cases, \
         where chance is 50 %; keys lie about it as about any random direction.",
        percent(separation)
    );
    found(
        Kind::Untrained,
        Severity::Problem,
        what,
        "Before training this is as it should be. After it, check that gradients reach the encoder, \
         the learning rate, and that row i of both files belongs together.",
    )
}

fn mismatched(d: &Diagnosis) -> Option<Finding> {
    let share = d.retrieval.mismatched;
    if share < MISMATCHED || d.retrieval.queries_to_keys.separation < CHANCE {
        return None;
    }
    let what = format!(
        "About {} of the rows seem to be no pairs: their keys lie as other queries' keys do, while \
         those of the rest are close.",
        percent(share)
    );
    found(
        Kind::MismatchedPairs,
        Severity::Warning,
        what,
        "Look at the pairs with the lowest cosines; wrong captions, failed crops and rows shifted by \
         one in part of the data are usual.",
    )
}

fn zero_rows(d: &Diagnosis) -> Option<Finding> {
    let zeros = d.duplicates.zero_rows;
    zeros_are(d, zeros > 0 && zeros < d.pairs, Severity::Warning)
}

fn nothing_but_zeros(d: &Diagnosis) -> Option<Finding> {
    zeros_are(d, d.duplicates.zero_rows >= d.pairs, Severity::Problem)
}

fn zeros_are(d: &Diagnosis, so: bool, severity: Severity) -> Option<Finding> {
    if !so {
        return None;
    }
    let zeros = d.duplicates.zero_rows;
    let what =
        format!("{zeros} of {} embeddings are all zeros and have no direction.", 2 * d.pairs);
    found(
        Kind::ZeroRows,
        severity,
        what,
        "Their cosine with everything is 0 and they have no useful gradient. Dead ReLUs at the output \
         and empty inputs do this.",
    )
}

fn same(d: &Diagnosis) -> Option<Finding> {
    if d.geometry.alignment >= SAME || d.geometry.queries.mean_cosine >= POINT {
        return None;
    }
    let what =
        "Queries and keys are the same embeddings: every pair is at a cosine of 1.".to_owned();
    found(
        Kind::SameOnBothSides,
        Severity::Warning,
        what,
        "There is nothing to pull together, and recall says nothing. Give embeddings of two different \
         views, or of the two things that make a pair.",
    )
}

fn gap_or_cone(d: &Diagnosis) -> Option<Finding> {
    let gap = d.geometry.gap;
    let at_chance = d.retrieval.queries_to_keys.separation < CHANCE;
    if d.sample.rows >= FEW && gap.share >= GAP + 2.0 / d.pairs as f64 && !at_chance {
        let what = format!(
            "Queries and keys lie apart: their means are {:.2} from each other, which is {} of all \
             the variance there is. Pairs reach a cosine of {:.2} on average.",
            gap.distance,
            percent(gap.share),
            d.similarities.pairs.mean
        );
        return found(
            Kind::ModalityGap,
            Severity::Warning,
            what,
            "Retrieval across is not hurt by a common offset, but whatever mixes both kinds is: \
             subtract each side's mean before using them together. In training, share the last layer, \
             and do not let a learned temperature fall too early.",
        );
    }
    let (who, side) = sides(d, |side| (CONE..POINT).contains(&side.mean_cosine))?;
    let what = format!(
        "Everything points about the same way: two different rows of {who} have a mean cosine of \
         {:.2}, where evenly spread ones have 0.",
        side.mean_cosine
    );
    found(
        Kind::Cone,
        Severity::Warning,
        what,
        "An encoder before training looks like this, and so do outputs behind a ReLU. If training does \
         not open it up, lower the temperature, or centre the embeddings (batch norm without a bias \
         at the end).",
    )
}

fn duplicated(d: &Diagnosis) -> Option<Finding> {
    let copies = &d.duplicates;
    let exact = copies.queries.max(copies.keys);
    let change = "Remove them, keep them out of one batch, or tell the loss (ids leave columns of the \
                  same identity out). As negatives they push a row from its own positive.";
    if exact >= COPIES {
        let what = format!(
            "{} of the rows are there more than once, exactly. In one batch of {} they keep the loss \
             above {:.3}, at any temperature.",
            percent(exact),
            d.pairs,
            copies.floor
        );
        return found(Kind::Duplicates, Severity::Warning, what, change);
    }
    if copies.near >= NEAR_COPIES {
        let what = format!(
            "{} of the keys have another one at a cosine of 0.999 or more; they keep the loss above \
             about {:.3}.",
            percent(copies.near),
            copies.near_floor
        );
        return found(Kind::NearDuplicates, Severity::Warning, what, change);
    }
    None
}

fn temperature(d: &Diagnosis) -> Option<Finding> {
    let (loss, t, suggested) = (&d.loss, d.temperature, d.suggestion.temperature);
    let range = (loss.ceiling - loss.floor) / loss.ceiling;
    if range < SOME_RANGE && t > 2.0 * suggested {
        let (how, severity) = match range < RANGE {
            true => ("too high", Severity::Warning),
            false => ("rather high", Severity::Note),
        };
        let what = format!(
            "The temperature {t} is {how} for {} candidates: the best embeddings there could be \
             have a loss of {:.3}, and ones that learned nothing {:.3}; so the loss can fall by {} \
             of its value.",
            d.pairs,
            loss.floor,
            loss.ceiling,
            percent(range)
        );
        let change = format!(
            "Try about {suggested}, and judge by what embeddings are for. (No temperature at all is 1, \
             which leaves cross-entropy over cosines one nat to fall.)"
        );
        return found(Kind::TemperatureTooHigh, severity, what, &change);
    }
    if t >= suggested / FAR_BELOW {
        return None;
    }
    let lower = d.sweep.iter().filter(|at| at.temperature > t).map(|at| at.loss);
    let lowest = lower.fold(f64::INFINITY, f64::min);
    let change = format!("Take about {suggested}, or learn it with that as its start.");
    if d.choice.median_probability > 1.0 - SETTLED {
        let what = format!(
            "The temperature {t} is too low: {} of the positives have a probability above 0.99, so \
             hardly anything pulls any more, though pairs are at a cosine of {:.2} and not at 1.",
            percent(d.choice.settled),
            d.similarities.pairs.mean
        );
        return found(Kind::TemperatureTooLow, Severity::Warning, what, &change);
    }
    if lowest < loss.value - 0.1 {
        let what = format!(
            "The temperature {t} is too low: about {:.0} negatives do all the pushing, and the loss \
             {:.3} would be {lowest:.3} at a higher one.",
            d.choice.effective_negatives, loss.value
        );
        return found(Kind::TemperatureTooLow, Severity::Warning, what, &change);
    }
    None
}

fn weak(d: &Diagnosis) -> Option<Finding> {
    let found_by = d.retrieval.queries_to_keys;
    if !(CHANCE..WEAK).contains(&found_by.separation)
        || d.retrieval.mismatched >= MISMATCHED
        || d.sample.rows < FEW
    {
        return None;
    }
    let what = format!(
        "Little is learned: a query is more similar to its own key than to another in {} of cases, \
         and finds it first in {}.",
        percent(found_by.separation),
        percent(found_by.recall_at_1)
    );
    found(
        Kind::WeaklyTrained,
        Severity::Warning,
        what,
        "Train longer or with a higher learning rate; make sure that two views share what they are to \
         be known by.",
    )
}

fn few_dimensions_or_hubs(d: &Diagnosis) -> Option<Finding> {
    let most = d.dim.min(d.sample.rank_rows);
    let few = |side: &Side| side.effective_rank < DIMENSIONS * most as f64;
    // What has collapsed has been said.
    let collapsed =
        |side: &Side| side.mean_cosine >= CONE || side.two_clusters.share >= TWO_CLUSTERS;
    if let Some((who, side)) = sides(d, |side| most >= 16 && few(side) && !collapsed(side)) {
        let what = format!(
            "Few dimensions are used: the effective rank of {who} is {:.1} of {most}.",
            side.effective_rank
        );
        return found(
            Kind::FewDimensions,
            Severity::Warning,
            what,
            "Dimensions are cheap, so this costs little by itself; but if it falls during training, \
             weaken the views, or lower the temperature so that negatives count more.",
        );
    }
    let hubness = d.retrieval.hubness;
    if hubness.largest >= 10.0 && hubness.skewness >= 3.0 && d.sample.rows >= 100 {
        let what = format!(
            "Hubs: one key is among the {} nearest of {:.0} times as many queries as the average one.",
            hubness.neighbours, hubness.largest
        );
        return found(
            Kind::Hubs,
            Severity::Warning,
            what,
            "Centre the embeddings, train both ways (CLIP's loss) and not one way alone, and look at \
             what these keys are: blank and generic items attract everything.",
        );
    }
    None
}

fn false_negatives(d: &Diagnosis) -> Option<Finding> {
    let same = d.false_negatives?;
    if same.push < 0.2 || same.push < 1.5 * same.share {
        return None;
    }
    let what = format!(
        "{} of the negatives have the row's own label, and {} of the push comes from them.",
        percent(same.share),
        percent(same.push)
    );
    found(
        Kind::FalseNegatives,
        Severity::Note,
        what,
        "If labels may be used in training, leave these out (mask_labels) or make them positives \
         (SupCon). If not, this is the price of not using them, and smaller batches or a debiased loss \
         lower it.",
    )
}
