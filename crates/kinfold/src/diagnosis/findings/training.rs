//! What the training itself says: that it went wrong, or that it did not go far.

use super::{CHANCE, Case, FEW, FOUND, Finding, Kind, Severity, WEAK, percent};
use crate::diagnosis::parts::{GradientNorm, History};

/// Gradients so many times as long as at first are no learning.
const EXPLODED: f64 = 30.0;
/// Gradients below this part of what they were carry nothing; and those that sink so far within the first
/// twentieth of the steps belong to weights that the first ones threw far.
const VANISHED: f64 = 1e-3;
const THROWN_WEIGHTS: f64 = 0.02;
/// So many times what is usual is too high a learning rate, where little came of it.
const TIMES_USUAL: f64 = 20.0;
/// A loss that fell by less than this part of the ceiling has hardly moved.
const HARDLY: f64 = 0.03;
/// A loss so much above what is known without learning was thrown there.
const THROWN: f64 = 1.1;
/// A loss this near the ceiling, as a part of it, is at it.
const AT_CEILING: f64 = 0.02;
/// A loss that fell by more than this part of the ceiling within the last twentieth was still falling.
const FALLING: f64 = 0.004;

/// As a sentence tells it: `the learning rate (10, by adamw)`.
fn learning_rate(case: &Case<'_>) -> String {
    match (case.training.learning_rate, case.training.optimizer) {
        (Some(rate), Some(by)) => format!("the learning rate ({rate} with {by})"),
        (Some(rate), None) => format!("the learning rate ({rate})"),
        (None, _) => "the learning rate".to_owned(),
    }
}

/// Where a collapse may come from, beside the learning rate.
pub(super) fn weight_decay(case: &Case<'_>) -> String {
    match case.training.weight_decay {
        Some(decay) if decay >= 0.1 => {
            format!(" A weight decay of {decay} does the same: lower it.")
        }
        _ => String::new(),
    }
}

pub(super) fn lower_learning_rate(case: &Case<'_>) -> String {
    format!("Lower {}", learning_rate(case))
}

pub(super) fn diverged(case: &Case<'_>) -> Option<Finding> {
    let history = case.numbers.history?;
    let found = case.numbers.retrieval.queries_to_keys.recall_at_1;
    let usual = unusual(case).filter(|_| found < FOUND);
    let what = how(&history, found).or(usual)?;
    let change = format!(
        "Lower {}, tenfold until the loss falls from its first steps on; then a longer warm-up or \
         clipped gradients allow more of it. Nothing else can be judged before.{}",
        learning_rate(case),
        weight_decay(case)
    );
    Finding::new(Kind::Diverged, Severity::Problem, what, change)
}

/// A learning rate far beyond the usual one, in words.
fn unusual(case: &Case<'_>) -> Option<String> {
    let (rate, usual) = (case.training.learning_rate?, case.training.usual_learning_rate?);
    (rate >= TIMES_USUAL * usual).then(|| {
        format!(
            "The training did not converge: the learning rate {rate} is {:.0} times the usual {usual}, and \
             {} of the queries find their own key.",
            rate / usual,
            percent(case.numbers.retrieval.queries_to_keys.recall_at_1)
        )
    })
}

/// A training that did nothing: embeddings are those of the encoder before it.
pub(super) fn hardly_moved(case: &Case<'_>) -> Option<Finding> {
    let (d, history) = (case.numbers, case.numbers.history?);
    let History { ceiling, first, last, .. } = history;
    let found = d.retrieval.queries_to_keys;
    let moved = first - last >= HARDLY * ceiling || last < 0.9 * ceiling;
    if moved || found.separation >= WEAK || d.sample.rows < FEW {
        return None;
    }
    let what = format!(
        "Nothing is learned: the loss was {first:.3} at first and is {last:.3} at last, where nothing \
         learned gives {ceiling:.3}."
    );
    Finding::new(Kind::Untrained, Severity::Problem, what, further(case))
}

fn how(history: &History, found: f64) -> Option<String> {
    let History { ceiling, first, best, last, highest, steps, .. } = *history;
    if !history.finite {
        return Some(format!(
            "The training diverged: within its {steps} steps a loss or gradient is no finite number."
        ));
    }
    let at_ceiling = last >= (1.0 - AT_CEILING) * ceiling;
    let none = GradientNorm { first: 1.0, early: 1.0, most: 1.0, last: 1.0 };
    let norm = history.gradient_norm.unwrap_or(none);
    let exploded = norm.most > EXPLODED * norm.first;
    let vanished = norm.last < VANISHED * norm.first;
    let thrown_weights = norm.early < THROWN_WEIGHTS * norm.first && found < FOUND;
    let thrown = highest > THROWN * ceiling && highest > first;
    // Half of what had been learned is gone again.
    let lost =
        last - best > 0.5 * (ceiling - best).max(0.0) && ceiling - best > AT_CEILING * ceiling;
    let wrong = match (at_ceiling, lost) {
        (true, _) => exploded || vanished || thrown || lost,
        (false, true) => true,
        (false, false) => thrown_weights,
    };
    if !wrong {
        return None;
    }
    let mut signs = vec![format!(
        "its loss is {last:.3} at the end, where nothing learned gives {ceiling:.3} and the best was \
         {best:.3}"
    )];
    if thrown {
        signs.push(format!("one step had {highest:.4}"));
    }
    if exploded {
        signs.push(format!("gradients grew from {:.2e} to {:.2e}", norm.first, norm.most));
    }
    if thrown_weights {
        signs.push(format!(
            "gradients sank from {:.2e} to {:.2e} within the first steps, as where these throw the weights \
             far",
            norm.first, norm.early
        ));
    } else if vanished {
        signs.push(format!("gradients sank from {:.2e} to {:.2e}", norm.first, norm.last));
    }
    Some(format!("The training diverged: {}.", signs.join("; ")))
}

pub(super) fn weak(case: &Case<'_>) -> Option<Finding> {
    let d = case.numbers;
    let found_by = d.retrieval.queries_to_keys;
    if !(CHANCE..WEAK).contains(&found_by.separation)
        || d.retrieval.mismatched >= super::pairing::MISMATCHED
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
    Finding::new(Kind::WeaklyTrained, Severity::Warning, what, further(case))
}

/// What to do where little or nothing is learned.
pub(super) fn further(case: &Case<'_>) -> String {
    let encoder = case.training.encoder.unwrap_or("the encoder");
    let Some(history) = case.numbers.history else {
        return "Before training this is as it should be. After it: look whether the loss was still \
                falling, and make sure that row i of both files belongs together and that two views \
                share what they are to be known by."
            .to_owned();
    };
    let History { ceiling, first, last, before_last, .. } = history;
    if before_last - last > FALLING * ceiling {
        return format!(
            "The loss was still falling at the end, from {before_last:.3} to {last:.3} within a \
             twentieth of the steps: train longer."
        );
    }
    if first - last < 2.0 * HARDLY * ceiling {
        return format!(
            "The loss has hardly moved, from {first:.3} to {last:.3}: raise {}, tenfold while it goes \
             well.",
            learning_rate(case)
        );
    }
    format!(
        "The loss has levelled off at {last:.3}: what would help is not more steps but a larger {encoder}, \
         more pairs, or views that share more of what they are to be known by."
    )
}
