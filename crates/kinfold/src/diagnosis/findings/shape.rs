//! How embeddings lie: in a point, in clusters, in a cone, in few dimensions, apart.

use super::training::{lower_learning_rate, weight_decay};
use super::{CHANCE, Case, FEW, FOUND, Finding, Kind, Severity, WEAK, percent, sides};
use crate::diagnosis::Diagnosis;
use crate::diagnosis::parts::Side;

/// A mean cosine of different rows from here on is one point, and from there on a cone.
const POINT: f64 = 0.98;
/// The same where pairs find each other nevertheless.
const VERY_POINT: f64 = 0.998;
/// A loss that came so little from ln n towards its floor is at ln n.
const REACHED: f64 = 0.2;
pub(super) const CONE: f64 = 0.5;
/// The share of all length that one dimension must have to decide alone.
const ALONE: f64 = 0.9;
/// The variance that two clusters explain.
const TWO_CLUSTERS: f64 = 0.9;
/// Of rows that are near another the share that is at its very point, where they lie in clusters; how many
/// lie at a point at least; and the share of labelled rows for which it is their label's.
const SEPARATE: f64 = 0.8;
const AT_A_POINT: usize = 8;
const LABELLED: f64 = 0.9;
/// The share of the variance that tells queries from keys.
const GAP: f64 = 0.05;
/// What centring must gain of recall@1 for a mean direction to be a fault.
const GAINED: f64 = 0.03;
/// An effective rank below this is few for whatever is embedded; and the least share of the dimensions,
/// below which it is worth a note.
const FEW_DIMENSIONS: f64 = 3.0;
const DIMENSIONS: f64 = 0.1;

pub(super) fn one_dimension(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    if d.dim < 3 {
        return None;
    }
    let (who, side) = sides(d, |side| side.largest_dimension.share >= ALONE)?;
    let largest = side.largest_dimension;
    let what = format!(
        "One dimension decides alone: dimension {} (counted from 0) makes {} of the squared length of {who}, \
         of {} dimensions.",
        largest.number,
        percent(largest.share),
        d.dim
    );
    Finding::new(
        Kind::OneDimension,
        Severity::Problem,
        what,
        "A cosine sees hardly anything else. Bring all dimensions to one scale (subtract each one's mean, \
         divide by its standard deviation), or leave this one out.",
    )
}

pub(super) fn point(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let (who, side) = sides(d, |side| is_point(d, side))?;
    let what = format!(
        "Collapsed: {who} point the same way (mean cosine of different rows {:.4}), so the loss is \
         {:.3} beside ln n = {:.3}, which is what nothing learned gives.",
        side.mean_cosine, d.loss.value, d.loss.ceiling
    );
    let change = format!(
        "Check that negatives are in the loss and gradients reach the encoder. {}, warm up, or put \
         batch norm in the projector.{} Constant inputs and a bias that drowns them look the same.",
        lower_learning_rate(case),
        weight_decay(case)
    );
    Finding::new(Kind::CollapsedToPoint, Severity::Problem, what, change)
}

/// Whether rows point the same way so nearly that nothing else is left, or that what is left tells little,
/// to the loss and to retrieval.
fn is_point(d: &Diagnosis, side: &Side) -> bool {
    let told = d.retrieval.queries_to_keys.separation >= WEAK;
    let at_ceiling = d.loss.reached < REACHED;
    side.mean_cosine >= if told { VERY_POINT } else { POINT } && at_ceiling
}

fn in_two(side: &Side) -> bool {
    let clusters = side.two_clusters;
    clusters.share >= TWO_CLUSTERS && clusters.variance > 1.0 - POINT && clusters.smaller > 0.01
}

pub(super) fn two_clusters(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let (who, side) = if d.sample.rows < FEW { None } else { sides(d, in_two) }?;
    // Points on a line lie on both sides of it, and are no clusters.
    if d.dim < 2 {
        return None;
    }
    let what = format!(
        "Collapsed into two clusters: they explain {} of how {who} vary, the smaller one with {} of \
         the rows.",
        percent(side.two_clusters.share),
        percent(side.two_clusters.smaller)
    );
    let change = format!(
        "The encoder tells only one thing about its input. {}, make views that do not share that one \
         thing (brightness, padding, a watermark), and check that batches mix both kinds.",
        lower_learning_rate(case)
    );
    Finding::new(Kind::CollapsedToTwoClusters, Severity::Problem, what, change)
}

pub(super) fn clusters(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let copies = &d.duplicates;
    let points = &copies.points;
    let at_points = points.at_one >= AT_A_POINT && points.separate >= SEPARATE;
    // Exact copies are the data's doing, a point for each label that of a loss that was told of them; and
    // two points or one have been told.
    let exact = copies.keys >= 0.5;
    let labelled = points.labelled.is_some_and(|share| share >= LABELLED);
    let told = sides(d, |side| is_point(d, side) || in_two(side)).is_some();
    if !at_points || exact || labelled || told || d.sample.rows < 4 * FEW {
        return None;
    }
    let what = format!(
        "Collapsed into clusters: {} keys lie in about {:.0} points, {} at one in the median, that cannot be \
         told from each other (less their mean, a cosine of 0.98 or more), with nothing between them.",
        points.rows, points.count, points.at_one
    );
    let change = format!(
        "The encoder tells a few kinds of input apart and nothing within them. {}, make views that do not \
         share what tells the kinds apart, and check that batches mix them.",
        lower_learning_rate(case)
    );
    Finding::new(Kind::CollapsedToClusters, Severity::Problem, what, change)
}

pub(super) fn gap(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let gap = d.geometry.gap;
    let at_chance = d.retrieval.queries_to_keys.separation < CHANCE;
    if d.sample.rows < FEW || gap.share < GAP + 2.0 / d.pairs as f64 || at_chance {
        return None;
    }
    let what = format!(
        "Queries and keys lie apart: their means are {:.2} from each other, which is {} of all the \
         variance there is. Pairs reach a cosine of {:.2} on average.",
        gap.distance,
        percent(gap.share),
        d.similarities.pairs.mean
    );
    Finding::new(
        Kind::ModalityGap,
        Severity::Warning,
        what,
        "Retrieval across is not hurt by a common offset, but whatever mixes both kinds is: subtract \
         each side's mean before using them together. In training, share the last layer.",
    )
}

/// Whether centring gains so much of recall@1 that it is no chance.
fn centring_pays(d: &Diagnosis) -> bool {
    d.retrieval.centring.is_some_and(|centring| {
        let (before, after) = (centring.before.recall_at_1, centring.after.recall_at_1);
        let chance = (after * (1.0 - after) / d.sample.rows as f64).sqrt();
        after - before > GAINED.max(2.0 * chance)
    })
}

pub(super) fn cone(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let centring = d.retrieval.centring?;
    let pays = centring_pays(d);
    let cone = |side: &Side| side.mean_cosine >= CONE && !is_point(d, side);
    let (who, side) = sides(d, cone).filter(|_| d.sample.rows >= FEW)?;
    let mut what = format!(
        "Everything points about the same way: two different rows of {who} have a mean cosine of \
         {:.2}, where evenly spread ones have 0. ",
        side.mean_cosine
    );
    let [before, after] = [centring.before, centring.after].map(|found| percent(found.recall_at_1));
    if !pays {
        what.push_str(&format!(
            "It costs nothing that can be measured here: recall@1 is {before}, and {after} when the mean \
             is subtracted."
        ));
        let change = "Outputs behind a ReLU, and those of an encoder before its projector, look like \
                      this. Nothing need change; cosines are just to be read beside their mean.";
        return Finding::new(Kind::Cone, Severity::Note, what, change);
    }
    what.push_str(&format!(
        "It costs: recall@1 is {before}, and {after} when each side's mean is subtracted."
    ));
    let change = "Subtract the mean of all embeddings before comparing them, or let the encoder end in \
                  batch norm without a bias.";
    Finding::new(Kind::Cone, Severity::Warning, what, change)
}

pub(super) fn few_dimensions(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let most = d.dim.min(d.sample.rank_rows);
    let told = |side: &Side| side.mean_cosine >= CONE || in_two(side);
    let few = |side: &Side| side.effective_rank < DIMENSIONS * most as f64 && most >= 16;
    let very_few = |side: &Side| side.effective_rank < FEW_DIMENSIONS;
    let (who, side) = sides(d, |side| (few(side) || very_few(side)) && !told(side))?;
    if d.sample.rows < FEW {
        return None;
    }
    let found = d.retrieval.queries_to_keys.recall_at_1;
    let costs = very_few(side) || found < FOUND && side.effective_rank < 2.0 * FEW_DIMENSIONS;
    let what = format!(
        "Few dimensions are used: the effective rank of {who} is {:.1} of {most}, and {} of the queries \
         find their own key.",
        side.effective_rank,
        percent(found)
    );
    let (severity, change) = match costs {
        true => (
            Severity::Warning,
            "So few directions cannot keep many things apart: rows come to lie close together without \
             being alike. Let the encoder end in more of them; if it has them, make views that differ in \
             what they should not be known by.",
        ),
        false => (
            Severity::Note,
            "Dimensions are cheap, and what is embedded may need no more. If it falls during training, \
             make views that differ more.",
        ),
    };
    Finding::new(Kind::FewDimensions, severity, what, change)
}

pub(super) fn hubs(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let hubness = d.retrieval.hubness;
    if hubness.largest < 10.0 || hubness.skewness < 3.0 || d.sample.rows < 100 {
        return None;
    }
    let what = format!(
        "Hubs: one key is among the {} nearest of {:.0} times as many queries as the average one.",
        hubness.neighbours, hubness.largest
    );
    Finding::new(
        Kind::Hubs,
        Severity::Warning,
        what,
        "Centre the embeddings, train both ways (CLIP's loss) and not one way alone, and look at \
         what these keys are: blank and generic items attract everything.",
    )
}
