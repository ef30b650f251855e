//! Whether the temperature suits the pairs.

use super::{Case, FEW, FOUND, Finding, Kind, Severity, percent};
use crate::diagnosis::Diagnosis;
use crate::loss::{ContrastiveLoss, Temperature};

/// The least part of ln n that the loss should be able to fall by, and what is worth a note.
const RANGE: f64 = 0.2;
const SOME_RANGE: f64 = 0.5;
/// Where it can fall by less, nothing can be learned.
const NO_RANGE: f64 = 0.05;
/// How far below the suggestion a temperature is too low, where it does harm.
const FAR_BELOW: f64 = 3.0;
/// The share of the push that the hardest hundredth of the negatives should not have.
const HARDEST: f64 = 0.5;
/// A pull that is none.
const SETTLED: f64 = 1e-3;

pub(super) fn temperature(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    if d.sample.rows < FEW {
        return None;
    }
    too_high(case).or_else(|| too_low(d))
}

/// A temperature at which nothing can be learned; what embeddings look like follows from it.
pub(super) fn hopeless(case: &Case<'_>) -> Option<Finding> {
    too_high(case).filter(|finding| finding.severity == Severity::Problem)
}

/// What to take, and why.
fn suggested(d: &Diagnosis) -> String {
    format!("{}, {}", d.suggestion.temperature, d.suggestion.reason())
}

fn too_high(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let t = d.temperature;
    // What a loss sees is a batch.
    let n = case.training.batch.unwrap_or(d.pairs).clamp(2, d.pairs);
    let loss = ContrastiveLoss::info_nce(Temperature::new(t).ok()?);
    let (floor, ceiling) = (loss.floor(n)?, (n as f64).ln());
    let range = (ceiling - floor) / ceiling;
    if range >= SOME_RANGE || t <= 2.0 * d.suggestion.temperature {
        return None;
    }
    let found = d.retrieval.queries_to_keys.recall_at_1;
    let (how, severity) = match range {
        _ if range < NO_RANGE && found < FOUND => ("too high", Severity::Problem),
        _ if range < RANGE => ("too high", Severity::Warning),
        _ => ("rather high", Severity::Note),
    };
    let what = format!(
        "The temperature {t} is {how} for {n} candidates: the best embeddings there could be have a \
         loss of {floor:.3}, and ones that learned nothing {ceiling:.3}; so the loss can fall by {} of \
         its value.",
        percent(range)
    );
    let change = format!("Try about {}; and judge by what embeddings are for.", suggested(d));
    Finding::new(Kind::TemperatureTooHigh, severity, what, change)
}

fn too_low(d: &Diagnosis) -> Option<Finding> {
    let (t, loss) = (d.temperature, d.loss.value);
    if t >= d.suggestion.temperature / FAR_BELOW {
        return None;
    }
    let cosine = d.geometry.queries.mean_cosine.max(d.geometry.keys.mean_cosine);
    let higher = d.sweep.iter().filter(|at| at.temperature > t).map(|at| at.loss);
    let lowest = higher.fold(f64::INFINITY, f64::min);
    let why = if d.choice.median_probability > 1.0 - SETTLED {
        format!(
            "{} of the positives have a probability above 0.99, so hardly anything pulls any more, \
             though pairs are at a cosine of {:.2} and not at 1",
            percent(d.choice.settled),
            d.similarities.pairs.mean
        )
    } else if lowest < loss - 0.1 {
        format!(
            "about {:.0} negatives do all the pushing, and the loss {loss:.3} would be {lowest:.3} at a \
             higher one",
            d.choice.effective_negatives
        )
    } else if d.suggestion.for_negatives.is_some_and(|least| t < least) {
        format!(
            "about {:.0} of {} negatives do all the pushing, so what is not nearest is left wherever it \
             lies",
            d.choice.effective_negatives,
            d.pairs - 1
        )
    } else if cosine >= super::shape::CONE {
        format!(
            "small differences are enough at it, so all embeddings may point about the same way, and they do \
             (mean cosine {cosine:.2})"
        )
    } else if d.choice.hardest_share >= HARDEST {
        format!(
            "{} of the push comes from the most similar hundredth of the negatives, so the rest is left \
             wherever it lies",
            percent(d.choice.hardest_share)
        )
    } else {
        return None;
    };
    let what = format!("The temperature {t} is too low: {why}.");
    let change = format!("Take about {}; or learn it with that as its start.", suggested(d));
    Finding::new(Kind::TemperatureTooLow, Severity::Warning, what, change)
}
