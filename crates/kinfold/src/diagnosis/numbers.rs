//! The numbers of a diagnosis.
//!
//! Input: pairs and options. Output: every number. The loss, at several temperatures, is the
//! engine's; probabilities and effective numbers follow from its rows. What else is quadratic is seen
//! in two walks over rows of cosines, queries among keys and keys among queries, and one of keys among
//! keys.

use super::copies::duplicated;
use super::elsewhere::elsewhere;
use super::findings::{CHANCE, findings};
use super::history::history;
use super::parts::{
    AtTemperature, BothWays, Cap, Centring, Choice, Found, Geometry, Information, LargestDimension,
    Sample, Side, Similarities, Standing, Suggestion, UnderPreset,
};
use super::sampling::{Pairs, Random, gather, order};
use super::walk::{Seen, Walk, log_negatives, mean, median};
use super::{Diagnosis, Options};
use crate::Error;
use crate::embeddings::{Element, Embeddings, norm};
use crate::engine::Cosines;
use crate::loss::bounds;
use crate::loss::{ContrastiveLoss, Preset, Similarity, Temperature};
use crate::measures::{
    Centred, Hubness, Rank, Retrieval, alignment, dimension_spread, mean_cosine, modality_gap,
    rank_of, singular_values, uniformity, unit_rows,
};

/// Temperatures that the loss is computed at, beside the one given.
const SWEEP: [f64; 7] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0];
/// The floor that a suggested temperature leaves, in nats.
const FLOOR: f64 = 0.1;
/// The effective number of negatives that it leaves, as a share of them.
const NEGATIVES: f64 = 0.01;
/// Pairs that presets are of: NT-Xent compares all 2n rows.
const PRESET_PAIRS: usize = 2048;
/// Dimensions up to which the effective rank is of all sampled rows, and rows beyond.
const RANK: usize = 1024;
/// A mean cosine from here on is worth a look at what centring changes.
const OFF_CENTRE: f64 = 0.3;
/// Where fewer queries find their own key, it is worth a look at where the nearest keys are.
const MISSED: f64 = 0.5;

pub(super) fn diagnosis<T: Element>(
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
    options: &Options<'_>,
) -> Result<Diagnosis, Error> {
    check(&queries, &keys, options)?;
    let (n, dim) = (queries.rows(), queries.dim());
    let rows = options.sample.min(n);
    let order = order(n, rows, options.seed);
    let copies = order.as_ref().map(|order| [gather(&queries, order), gather(&keys, order)]);
    let pairs = match &copies {
        Some([q, k]) => Pairs {
            queries: Embeddings::unchecked(q, dim),
            keys: Embeddings::unchecked(k, dim),
            rows,
        },
        None => Pairs { queries, keys, rows },
    };
    let labels = options.labels.map(|labels| match &order {
        Some(order) => order.iter().map(|&i| labels[i]).collect(),
        None => labels.to_vec(),
    });

    let temperature = options.temperature;
    let ladder = Ladder::new(&pairs, temperature.get())?;
    let walk = Walk {
        temperature: temperature.get(),
        losses: ladder.rows(temperature.get()),
        labels: labels.as_deref(),
        among: rows,
    };
    let seen = walk.go(&Cosines::with(pairs.keys), pairs.queries.first(rows));
    let ranks_back =
        Cosines::with(pairs.queries).each_row(pairs.keys.first(rows), |i, row| Rank::of(row, i));

    let loss = standing(&pairs, temperature, ladder.rows(temperature.get()))?;
    let rank_rows = if dim.min(rows) > RANK { RANK } else { rows };
    let preset_pairs = rows.min(PRESET_PAIRS);
    let geometry = geometry(&pairs, rank_rows)?;
    let mut retrieval = retrieval(&pairs, &seen, ranks_back, options.seed);
    if retrieval.queries_to_keys.recall_at_1 < MISSED {
        let row = |i: usize| order.as_ref().map_or(i, |order| order[i]);
        let found = elsewhere(&pairs, &seen, labels.as_deref(), row, options.seed);
        retrieval.elsewhere = Some(found);
    }
    if geometry.queries.mean_cosine.max(geometry.keys.mean_cosine) >= OFF_CENTRE {
        retrieval.centring = Some(centring(&pairs));
    }
    let mut diagnosis = Diagnosis {
        pairs: n,
        dim,
        temperature: temperature.get(),
        sample: Sample { rows, rank_rows, preset_pairs, seed: options.seed },
        findings: Vec::new(),
        information: information(&loss),
        loss,
        sweep: ladder.sweep(n),
        suggestion: ladder.suggestion(n),
        similarities: similarities(&seen, n, dim),
        choice: choice(&seen, ladder.at(temperature.get(), n), ladder.rows(temperature.get())),
        retrieval,
        duplicates: duplicated(&pairs, &seen, labels.as_deref())?,
        false_negatives: labels.as_ref().map(|labels| seen.false_negatives(labels)),
        geometry,
        history: options.training.as_ref().and_then(history),
        presets: presets(&pairs, preset_pairs)?,
    };
    diagnosis.findings = findings(&diagnosis, &options.training.unwrap_or_default());
    Ok(diagnosis)
}

fn check<T: Element>(
    queries: &Embeddings<'_, T>,
    keys: &Embeddings<'_, T>,
    options: &Options<'_>,
) -> Result<(), Error> {
    // What else can be wrong with pairs, a loss would say.
    for (matrix, x) in [("queries", queries), ("keys", keys)] {
        if x.rows() < 2 {
            return Err(Error::Few { matrix, given: x.rows(), needed: 2 });
        }
    }
    let n = queries.rows();
    if n != keys.rows() {
        let (left, right) = ("keys", "queries");
        return Err(Error::Rows { left, left_rows: keys.rows(), right, right_rows: n });
    }
    if queries.dim() != keys.dim() {
        return Err(Error::Dimension {
            left: "queries",
            left_dim: queries.dim(),
            right: "keys",
            right_dim: keys.dim(),
        });
    }
    queries.check_finite("queries")?;
    keys.check_finite("keys")?;
    let labels = options.labels.map_or(n, <[u64]>::len);
    if labels != n {
        let (left, right) = ("labels", "queries");
        return Err(Error::Rows { left, left_rows: labels, right, right_rows: n });
    }
    if options.sample < 2 {
        let (what, given) = ("the sample", options.sample);
        return Err(Error::Count { what, given, least: 2, most: usize::MAX });
    }
    Ok(())
}

/// The rows' losses at every temperature that is needed.
struct Ladder {
    steps: Vec<(f64, Vec<f64>)>,
    /// Those of the sweep, the lowest first.
    temperatures: Vec<f64>,
}

/// The loss of each sampled query among all keys.
fn losses<T: Element>(pairs: &Pairs<'_, T>, temperature: f64) -> Result<Vec<f64>, Error> {
    let loss = ContrastiveLoss::info_nce(Temperature::new(temperature)?);
    Ok(loss.value((pairs.queries.first(pairs.rows), pairs.keys))?.rows)
}

impl Ladder {
    fn new<T: Element>(pairs: &Pairs<'_, T>, given: f64) -> Result<Self, Error> {
        let mut temperatures = SWEEP.to_vec();
        temperatures.push(given);
        temperatures.sort_by(f64::total_cmp);
        temperatures.dedup();
        let mut steps = Vec::new();
        // Half a temperature squares the weights.
        for t in temperatures.iter().flat_map(|t| [*t, t / 2.0]) {
            if steps.iter().all(|(other, _)| *other != t) {
                steps.push((t, losses(pairs, t)?));
            }
        }
        Ok(Self { steps, temperatures })
    }

    fn rows(&self, temperature: f64) -> &[f64] {
        let step = self.steps.iter().find(|(t, _)| *t == temperature);
        step.map_or(&[], |(_, rows)| rows)
    }

    fn at(&self, temperature: f64, n: usize) -> AtTemperature {
        let (rows, halved) = (self.rows(temperature), self.rows(temperature / 2.0));
        let most = (n - 1) as f64;
        let effective = rows.iter().zip(halved).map(|(&loss, &halved)| {
            let (all, squares) = (log_negatives(loss), log_negatives(halved));
            // Where all have underflowed, one was the last.
            let one = all == f64::NEG_INFINITY || squares == f64::NEG_INFINITY;
            if one { 1.0 } else { (2.0 * all - squares).exp().clamp(1.0, most) }
        });
        let loss = mean(rows.iter().copied());
        let ceiling = (n as f64).ln();
        let floor = floor(n, temperature);
        AtTemperature {
            temperature,
            loss,
            floor,
            reached: (ceiling - loss) / (ceiling - floor),
            probability: mean(rows.iter().map(|loss| (-loss).exp())),
            pull: mean(rows.iter().map(|loss| -(-loss).exp_m1())) / temperature,
            effective_negatives: median(effective.collect()),
        }
    }

    fn sweep(&self, n: usize) -> Vec<AtTemperature> {
        self.temperatures.iter().map(|&t| self.at(t, n)).collect()
    }

    fn suggestion(&self, n: usize) -> Suggestion {
        let for_floor = bounds::temperature_for_floor(n, FLOOR);
        let needed = ((n - 1) as f64 * NEGATIVES).max(1.0);
        let sweep = self.sweep(n);
        let enough = |at: &AtTemperature| at.effective_negatives >= needed;
        let for_negatives = match sweep.iter().position(enough) {
            Some(0) => None,
            None => sweep.last().map(|at| at.temperature),
            // Between two temperatures the effective number is taken for a power of τ.
            Some(at) => {
                let (below, above) = (&sweep[at - 1], &sweep[at]);
                let part = (needed / below.effective_negatives).ln()
                    / (above.effective_negatives / below.effective_negatives).ln();
                Some(below.temperature * (above.temperature / below.temperature).powf(part))
            }
        };
        let temperature = two_digits(for_negatives.map_or(for_floor, |least| least.max(for_floor)));
        Suggestion { temperature, for_floor, for_negatives }
    }
}

fn two_digits(x: f64) -> f64 {
    format!("{x:.1e}").parse().unwrap_or(x)
}

fn floor(n: usize, temperature: f64) -> f64 {
    let loss = Temperature::new(temperature).ok().map(ContrastiveLoss::info_nce);
    loss.and_then(|loss| loss.floor(n)).unwrap_or(0.0)
}

fn standing<T: Element>(
    pairs: &Pairs<'_, T>,
    temperature: Temperature,
    rows: &[f64],
) -> Result<Standing, Error> {
    let n = pairs.n();
    let loss = ContrastiveLoss::info_nce(temperature);
    let queries = pairs.queries.first(pairs.rows);
    let back = loss.value((pairs.keys.first(pairs.rows), pairs.queries))?.mean;
    let gradient = loss.value_and_gradient((queries, pairs.keys))?.queries;
    let lengths = gradient.chunks(pairs.queries.dim()).enumerate();
    // Of a query's own loss, not of the mean; of its direction, not of its length.
    let lengths = lengths.map(|(i, gradient)| norm(gradient) * norm(queries.row(i)));
    let gradient = lengths.sum::<f64>();
    let value = mean(rows.iter().copied());
    let (floor, ceiling) = (floor(n, temperature.get()), (n as f64).ln());
    Ok(Standing {
        value,
        keys_to_queries: back,
        both_ways: (value + back) / 2.0,
        floor,
        even: bounds::even(n, pairs.keys.dim(), temperature.get()),
        ceiling,
        reached: (ceiling - value) / (ceiling - floor),
        gradient,
    })
}

fn information(loss: &Standing) -> Information {
    let Standing { value, floor, ceiling, .. } = *loss;
    let (estimate, most) = (ceiling - value, ceiling - floor);
    // At the floor either little is left of the loss, and n bounds, or much, and τ does.
    let capped_by = if floor < 0.1 * ceiling { Cap::Pairs } else { Cap::Temperature };
    Information { estimate, most, capped_by, saturated: estimate > 0.9 * most }
}

fn similarities(seen: &Seen, n: usize, dim: usize) -> Similarities {
    Similarities {
        pairs: seen.pairs(),
        non_pairs: seen.non_pairs(),
        nearest: mean(seen.rows.iter().map(|row| row.nearest)),
        simplex: -1.0 / (n - 1) as f64,
        random_spread: (dim as f64).sqrt().recip(),
    }
}

fn choice(seen: &Seen, at: AtTemperature, losses: &[f64]) -> Choice {
    let probabilities: Vec<f64> = losses.iter().map(|loss| (-loss).exp()).collect();
    Choice {
        probability: at.probability,
        settled: mean(probabilities.iter().map(|&p| f64::from(p > 0.99))),
        median_probability: median(probabilities),
        effective_negatives: at.effective_negatives,
        hardest_share: mean(seen.rows.iter().map(|row| row.hardest)),
    }
}

fn found(retrieval: &Retrieval) -> Found {
    Found {
        recall_at_1: retrieval.recall(1),
        recall_at_5: retrieval.recall(5),
        recall_at_10: retrieval.recall(10),
        mean_reciprocal_rank: retrieval.mean_reciprocal_rank(),
        separation: retrieval.separation(),
    }
}

fn retrieval<T: Element>(
    pairs: &Pairs<'_, T>,
    seen: &Seen,
    ranks_back: Vec<Rank>,
    seed: u64,
) -> BothWays {
    let keys = pairs.n();
    let ranks: Vec<Rank> = seen.rows.iter().map(|row| row.rank).collect();
    let mismatched = mismatched(&ranks, keys - 1);
    let queries_to_keys = found(&Retrieval { ranks, keys });
    let mut counts = vec![0; pairs.rows];
    seen.rows.iter().flat_map(|row| &row.top).for_each(|&j| counts[j as usize] += 1);
    let structure = (queries_to_keys.separation < CHANCE).then(|| structure(pairs, seen, seed));
    BothWays {
        queries_to_keys,
        keys_to_queries: found(&Retrieval { ranks: ranks_back, keys }),
        mismatched,
        structure,
        elsewhere: None,
        centring: None,
        hubness: Hubness::of(super::walk::NEIGHBOURS.min(pairs.rows), &counts),
    }
}

/// See [`BothWays::centring`].
fn centring<T: Element>(pairs: &Pairs<'_, T>) -> Centring {
    let (rows, dim) = (pairs.rows, pairs.queries.dim());
    let among = |queries: &[f64], keys: &[f64]| {
        let [queries, keys] = [queries, keys].map(|x| Embeddings::unchecked(x, dim));
        let ranks = Cosines::with(keys).each_row(queries, |i, row| Rank::of(row, i));
        found(&Retrieval { ranks, keys: rows })
    };
    let [queries, keys] = [pairs.queries, pairs.keys].map(|x| unit_rows(x.first(rows)));
    let before = among(&queries, &keys);
    let [queries, keys] = [queries, keys].map(|x| Centred::new(&x, dim).rows);
    Centring { before, after: among(&queries, &keys) }
}

/// Of pairs that do not belong together half lie in the farther half of the keys, and four tenths
/// between the median and the nearest tenth. Where more lie there, pairs are badly learned rather
/// than mismatched, and their share is 0.
fn mismatched(ranks: &[Rank], others: usize) -> f64 {
    let share_in = |from: f64, to: f64| {
        let within = |rank: &&Rank| (from..to).contains(&rank.share(others));
        ranks.iter().filter(within).count() as f64 / ranks.len() as f64
    };
    let share = 2.0 * share_in(0.0, 0.5);
    let expected = 0.4 * share;
    let chance = 3.0 * (expected / ranks.len() as f64).sqrt();
    if share_in(0.5, 0.9) <= 1.25 * expected + chance { share.min(1.0) } else { 0.0 }
}

/// See [`BothWays::structure`].
fn structure<T: Element>(pairs: &Pairs<'_, T>, seen: &Seen, seed: u64) -> f64 {
    const CONTROLS: usize = 128;
    let queries = pairs.queries.first(pairs.rows);
    let (dim, n) = (queries.dim(), queries.rows());
    let centred = Centred::new(&unit_rows(queries), dim);
    let mut random = Random::new(seed, 2);
    let mut controls = Vec::with_capacity(CONTROLS * dim);
    for _ in 0..CONTROLS {
        // Normal coefficients give the rows' own covariance.
        let coefficients: Vec<f64> = (0..n).map(|_| random.normal() / (n as f64).sqrt()).collect();
        let control = centred.combined(&coefficients);
        controls.extend(control.iter().zip(&centred.mean).map(|(x, mean)| x + mean));
    }
    let keys = unit_rows(pairs.keys.first(pairs.rows));
    let nearest = |x: &[f64]| {
        let row = Cosines::with(Embeddings::unchecked(&keys, dim))
            .each_row(Embeddings::unchecked(x, dim), |_, row| {
                row.iter().fold(f64::NEG_INFINITY, |most, &x| most.max(x))
            });
        mean(row.into_iter())
    };
    let control = nearest(&controls);
    let mine = mean(seen.rows.iter().map(|row| row.best));
    (mine - control) / (1.0 - control).max(1e-9)
}

fn geometry<T: Element>(pairs: &Pairs<'_, T>, rank_rows: usize) -> Result<Geometry, Error> {
    let side = |x: Embeddings<'_, T>| -> Result<Side, Error> {
        let (sample, dim) = (x.first(pairs.rows), x.dim());
        let unit = unit_rows(sample);
        let of_rank = Embeddings::unchecked(&unit[..rank_rows * dim], dim);
        let mut spread = dimension_spread(x)?;
        spread.sort_by(f64::total_cmp);
        Ok(Side {
            uniformity: uniformity(sample)?,
            effective_rank: rank_of(&singular_values(of_rank)?),
            mean_cosine: mean_cosine(x)?,
            two_clusters: Centred::new(&unit, dim).two_clusters(),
            dimension_spread: [spread[0], spread[dim / 2], spread[dim - 1]],
            largest_dimension: largest_dimension(&unit, dim),
            dead_dimensions: spread.iter().filter(|spread| **spread < 0.01).count(),
        })
    };
    Ok(Geometry {
        alignment: alignment(pairs.queries, pairs.keys)?,
        queries: side(pairs.queries)?,
        keys: side(pairs.keys)?,
        gap: modality_gap(pairs.queries, pairs.keys)?,
    })
}

/// Of unit rows.
fn largest_dimension(unit: &[f64], dim: usize) -> LargestDimension {
    let mut squares = vec![0.0; dim];
    for row in unit.chunks(dim) {
        squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += x * x);
    }
    let all: f64 = squares.iter().sum();
    let largest =
        |best: (usize, f64), (l, &x): (usize, &f64)| if x > best.1 { (l, x) } else { best };
    let (number, most) = squares.iter().enumerate().fold((0, 0.0), largest);
    LargestDimension { number, share: if all > 0.0 { most / all } else { 0.0 } }
}

fn presets<T: Element>(pairs: &Pairs<'_, T>, count: usize) -> Result<Vec<UnderPreset>, Error> {
    let (queries, keys) = (pairs.queries.first(count), pairs.keys.first(count));
    let mut under = Vec::new();
    for preset in Preset::ALL {
        // These want labels, a guide, a queue.
        if matches!(preset, Preset::SupCon | Preset::SentenceTransformersGist | Preset::MoCo) {
            continue;
        }
        // What a preset leaves to its model, unit length, is the cosine's business here.
        let loss = preset.loss().with_similarity(Similarity::Cosine);
        under.push(UnderPreset {
            name: preset.name(),
            temperature: loss.temperature().get(),
            loss: loss.value((queries, keys))?.mean,
            floor: loss.floor(count),
            ceiling: loss.ceiling(count),
        });
    }
    Ok(under)
}
