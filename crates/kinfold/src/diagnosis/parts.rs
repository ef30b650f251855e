//! What a diagnosis holds: numbers by the question that they answer.

use crate::measures::{Clusters, Gap, Hubness};

/// What was looked at, where looking at everything would take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Sample {
    /// Pairs whose queries and keys were compared with all n others: all of them, or a random sample
    /// of that many. Loss, similarities, retrieval and near duplicates are means over these.
    pub rows: usize,
    /// Rows, of these, that the effective rank is of.
    pub rank_rows: usize,
    /// Pairs, of these, that the presets are of.
    pub preset_pairs: usize,
    /// What the sample follows from.
    pub seed: u64,
}

/// The loss on its ruler. Nats.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Standing {
    /// InfoNCE one way: each query chooses among all keys.
    pub value: f64,
    /// Each key chooses among all queries.
    pub keys_to_queries: f64,
    /// The mean of both ways.
    pub both_ways: f64,
    /// The least that so many pairs can reach at this temperature, in any dimension.
    pub floor: f64,
    /// What pairs that coincide reach when their directions are spread evenly in as many dimensions
    /// as there are.
    pub even: f64,
    /// ln n: what nothing learned gives.
    pub ceiling: f64,
    /// How far the loss is from ceiling to floor: 0 at ln n, 1 at the floor, negative above ln n.
    pub reached: f64,
    /// The mean length of the gradient of a query's own loss with respect to its direction. It is at
    /// most 2/τ.
    pub gradient: f64,
}

/// The loss at one of several temperatures.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct AtTemperature {
    /// τ.
    pub temperature: f64,
    /// The loss, one way.
    pub loss: f64,
    /// Its floor.
    pub floor: f64,
    /// How far it is from ln n to the floor.
    pub reached: f64,
    /// The mean probability of the positive.
    pub probability: f64,
    /// The mean of (1 − p)/τ: what pulls at a positive's cosine, and as much pushes at all negatives'.
    pub pull: f64,
    /// The effective number of negatives, median over rows.
    pub effective_negatives: f64,
}

/// A temperature to take, and the two bounds of which it is the larger.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Suggestion {
    /// The larger of the two, to two digits.
    pub temperature: f64,
    /// The highest at which a perfect encoder's loss is at most 0.1 nats.
    pub for_floor: f64,
    /// The lowest at which the effective number of negatives is at least a hundredth of them; none
    /// where that holds at every temperature of the sweep.
    pub for_negatives: Option<f64>,
}

impl Suggestion {
    /// Why this temperature, in a few words.
    pub fn reason(&self) -> &'static str {
        match self.for_negatives {
            Some(least) if least > self.for_floor => {
                "the lowest at which 1 % of the negatives still count"
            }
            _ => "the highest at which the loss of a perfect encoder is below 0.1",
        }
    }
}

/// Cosines between −1 and 1.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Distribution {
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation.
    pub spread: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// How many lie in each of 80 equal parts from −1 to 1.
    pub histogram: Vec<u64>,
}

/// How similar pairs are, and what is no pair.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Similarities {
    /// A query and its own key; best at 1.
    pub pairs: Distribution,
    /// A query and another key.
    pub non_pairs: Distribution,
    /// A query and the most similar other key, mean.
    pub nearest: f64,
    /// −1/(n−1), the cosine of non-pairs at the floor.
    pub simplex: f64,
    /// 1/√d, the spread of the cosines of random directions.
    pub random_spread: f64,
}

/// How a query chooses among the keys.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Choice {
    /// The probability of the positive, mean.
    pub probability: f64,
    /// The same, median.
    pub median_probability: f64,
    /// The share of queries whose positive has more than 0.99: they learn nothing more.
    pub settled: f64,
    /// `(Σ w)² / Σ w²` over a query's negatives with `w = exp(cos/τ)`, median: how many push.
    pub effective_negatives: f64,
    /// The share of the push that comes from the hardest hundredth of the negatives, mean.
    pub hardest_share: f64,
}

/// Whether pairs find each other.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Found {
    /// The share whose own partner is the most similar of all.
    pub recall_at_1: f64,
    /// Among the 5 most similar.
    pub recall_at_5: f64,
    /// Among the 10 most similar.
    pub recall_at_10: f64,
    /// The mean of 1 / place.
    pub mean_reciprocal_rank: f64,
    /// How often the own partner is more similar than another: 0.5 is chance.
    pub separation: f64,
}

/// Where the nearest keys are, where few queries find their own.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Elsewhere {
    /// The share of queries whose most similar other key is more similar than their most similar other
    /// query, or the same of keys, whichever is less: about a half where the others of both sides are
    /// alike, and above it where partners are among them.
    pub partners: f64,
    /// The most frequent distance, but 0, from a query's row to that of its most similar key.
    pub offset: i64,
    /// The share of queries whose most similar key is at that distance.
    pub offset_share: f64,
    /// The same of the next frequent distance, but 0.
    pub next_share: f64,
    /// The share of queries whose most similar key is as far from the last row as they are from the
    /// first.
    pub reversed: f64,
    /// The share of queries whose most similar key has their label, where labels are given.
    pub same_label: Option<f64>,
    /// How alike the similarities among queries and those among keys are, row for row: their correlation
    /// over pairs of rows. High where both sides tell the same things apart, in whatever space.
    pub correlation: f64,
}

/// Retrieval both ways.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct BothWays {
    /// Queries among keys.
    pub queries_to_keys: Found,
    /// Keys among queries.
    pub keys_to_queries: Found,
    /// The share of pairs that look as if they did not belong together, by how many queries have
    /// their own key in the farther half.
    pub mismatched: f64,
    /// Where separation is near chance: how much of the way to a cosine of 1 the nearest key is nearer
    /// than it is to random vectors of the queries' mean and covariance. About 0 where queries and keys
    /// have nothing to do with each other; well above it, each query has a partner, if not its own.
    pub structure: Option<f64>,
    /// Where the nearest keys are, where less than half of the queries find their own.
    pub elsewhere: Option<Elsewhere>,
    /// Queries among the keys of the sample alone, as they are and each side less its mean; where one
    /// side's mean cosine is 0.3 or more.
    pub centring: Option<Centring>,
    /// Whether some keys are everybody's neighbours, of the sample.
    pub hubness: Hubness,
}

/// What a change would make of retrieval.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Centring {
    /// As it is.
    pub before: Found,
    /// Each side less its mean.
    pub after: Found,
}

/// Rows that cannot be told apart.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Duplicates {
    /// Share of the queries of which there is another, exactly.
    pub queries: f64,
    /// Share of the keys of which there is another, exactly.
    pub keys: f64,
    /// The floor that these imply one way, at any temperature: the mean of ln(copies).
    pub floor: f64,
    /// Share of the keys with another one, not the same, that is nearer than so many rows in so few
    /// dimensions come to lie by chance, and at a cosine of 0.999 or more.
    pub near: f64,
    /// About the floor that exact and near ones imply.
    pub near_floor: f64,
    /// Share of the queries that are themselves among the keys, in another row than their own.
    pub queries_among_keys: f64,
    /// How the sampled keys, less their mean, lie in points.
    pub points: Points,
    /// Rows of zeros, in both matrices: they have no direction.
    pub zero_rows: usize,
}

/// How rows lie in points: those within a cosine of 0.98 of each other, their mean subtracted.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Points {
    /// Rows that were looked at.
    pub rows: usize,
    /// How many points they come to.
    pub count: f64,
    /// How many rows are at one, the median.
    pub at_one: usize,
    /// Of the rows within a cosine of 0.9 of another, the share that is at its point: 1 where there is
    /// nothing between the points.
    pub separate: f64,
    /// The share of rows at one point that have the same label, where labels are given.
    pub labelled: Option<f64>,
}

/// Negatives that have the row's own label.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct FalseNegatives {
    /// Distinct labels.
    pub labels: usize,
    /// Of a row, mean.
    pub per_row: f64,
    /// The share of all negatives.
    pub share: f64,
    /// The share of the push that comes from them.
    pub push: f64,
    /// The floor if rows of one label were one point: the mean of ln(rows of that label).
    pub floor: f64,
}

/// How one side's embeddings lie on the sphere.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Side {
    /// ln mean exp(−2‖x − y‖²); about −4 where directions are spread evenly in many dimensions.
    pub uniformity: f64,
    /// The effective rank.
    pub effective_rank: f64,
    /// The mean cosine of two different rows: 0 spread evenly, 1 collapsed into a point.
    pub mean_cosine: f64,
    /// What two clusters explain.
    pub two_clusters: Clusters,
    /// The standard deviation of a dimension times √d: the least, the median and the greatest.
    pub dimension_spread: [f64; 3],
    /// Dimensions that vary less than a hundredth of what they would in even directions.
    pub dead_dimensions: usize,
    /// The dimension with the largest share of the squared length, counted from 0, and that share.
    pub largest_dimension: LargestDimension,
}

/// The dimension that is largest in all rows together.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct LargestDimension {
    /// Counted from 0.
    pub number: usize,
    /// Its share of the unit rows' squared length, from 1/d to 1.
    pub share: f64,
}

/// How embeddings lie on the sphere.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Geometry {
    /// The mean of ‖x − y‖² over pairs.
    pub alignment: f64,
    /// The queries.
    pub queries: Side,
    /// The keys.
    pub keys: Side,
    /// How far queries and keys lie apart as wholes.
    pub gap: Gap,
}

/// How a training went, in short. Losses are in nats; each is a mean over the steps that it names.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct History {
    /// Steps that were taken.
    pub steps: usize,
    /// The loss where nothing is learned.
    pub ceiling: f64,
    /// Over the first twentieth of the steps.
    pub first: f64,
    /// The least over any twentieth.
    pub best: f64,
    /// Over the last twentieth.
    pub last: f64,
    /// Over the twentieth before that.
    pub before_last: f64,
    /// The highest loss of a step.
    pub highest: f64,
    /// The norm of all gradients together; none where it is not known.
    pub gradient_norm: Option<GradientNorm>,
    /// Whether every loss and norm is finite.
    pub finite: bool,
}

/// The norm of all gradients together, as training goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct GradientNorm {
    /// Of the first step.
    pub first: f64,
    /// The median of the first twentieth.
    pub early: f64,
    /// The most.
    pub most: f64,
    /// The median of the last twentieth.
    pub last: f64,
}

/// What bounds an estimate of mutual information.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Cap {
    /// ln n: more pairs would tell more.
    Pairs,
    /// The temperature, by ln n − floor, which is about 1/τ: a lower one would tell more.
    Temperature,
}

/// The estimate of the mutual information of queries and keys. Nats.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct Information {
    /// ln n − L, a lower bound on average (van den Oord et al. 2018).
    pub estimate: f64,
    /// The most that it could have been: ln n − L*.
    pub most: f64,
    /// What bounds that.
    pub capped_by: Cap,
    /// Whether the estimate has come within a tenth of it, and so says little of what there is.
    pub saturated: bool,
}

/// The same embeddings under a named loss, at its own temperature.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct UnderPreset {
    /// Its name.
    pub name: &'static str,
    /// Its temperature.
    pub temperature: f64,
    /// Its value.
    pub loss: f64,
    /// The least it could be, where that is known.
    pub floor: Option<f64>,
    /// What nothing learned gives.
    pub ceiling: f64,
}
