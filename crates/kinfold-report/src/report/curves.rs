//! Numbers over the steps of a run: the loss on its ruler, and what it was trained with.
//!
//! Input: what the metrics say. Output: figures.

use super::beside::Beside;
use super::facts::Facts;
use crate::metrics::Step;
use crate::svg::{Plot, label, short, steps, ticks};
use kinfold_train::ByDimension;
use maud::{Markup, html};

/// The most points of a curve; where there are more steps, means of steps are drawn.
const POINTS: usize = 400;

/// The loss between its floor and its ceiling, `width` wide.
pub(super) fn loss(facts: &Facts, width: f64) -> Markup {
    let (Some(first), Some(last)) = (facts.steps.first(), facts.steps.last()) else {
        return Markup::default();
    };
    let points = means(&facts.steps, |step| Some(step.loss));
    let mut floors = means(&facts.steps, |step| step.floor);
    if let Some(&(_, first)) = floors.first() {
        floors.insert(0, (0.0, first));
    }
    let all = points.iter().chain(&floors).map(|p| p.1).chain([facts.ceiling]);
    let low = all.clone().fold(f64::INFINITY, f64::min);
    let high = all.fold(f64::NEG_INFINITY, f64::max);
    let air = 0.08 * (high - low).max(1e-6);
    let narrow = width < 500.0;
    let plot = Plot {
        width,
        height: if narrow { 280.0 } else { 340.0 },
        around: [46.0, 14.0, 14.0, 44.0],
        x: (0.0, last.step as f64),
        y: (low - air, high + air),
    };
    let span = plot.y.1 - plot.y.0;
    let end = last.step as f64;
    let named = |y: f64, text: String| label(plot.right() - 4.0, y, "end", "end-name", &text);
    let drawn = html! {
        (range(&plot, &floors, facts.ceiling))
        (plot.across(&ticks(plot.y, 5), &|y| short(y, span)))
        (plot.below(&ticks(plot.x, if narrow { 4 } else { 8 }), &|x| short(x, end), "step"))
        (plot.level("end-line", facts.ceiling))
        (plot.curve("end-line", &floors))
        (plot.curve("loss", &points))
        (named(plot.at_y(facts.ceiling) + 15.0, format!("nothing learned: {:.3}", facts.ceiling)))
        @if let Some((_, floor)) = floors.last() {
            (named(plot.at_y(*floor) - 6.0, format!("floor: {floor:.3}")))
        }
    };
    let floor = facts.floor().map_or(String::new(), |floor| format!(", its floor {floor:.3}"));
    let says = format!(
        "The loss over {}, from {:.3} at the first to {:.3} at the last; its ceiling is {:.3}{floor}.",
        steps(last.step),
        first.loss,
        last.loss,
        facts.ceiling
    );
    plot.close(if narrow { "narrow" } else { "wide" }, &says, drawn)
}

/// The band between the floor and the ceiling; nothing where no floor is known.
fn range(plot: &Plot, floors: &[(f64, f64)], ceiling: f64) -> Markup {
    let [(_, first), .., (end, _)] = *floors else { return Markup::default() };
    let (left, right, top) = (plot.at_x(0.0), plot.at_x(end), plot.at_y(ceiling));
    let edge: String =
        floors.iter().map(|&(x, y)| format!("L{:.1} {:.1}", plot.at_x(x), plot.at_y(y))).collect();
    let begin = plot.at_y(first);
    let path = format!("M{left:.1} {top:.1}L{left:.1} {begin:.1}{edge}L{right:.1} {top:.1}Z");
    html! { path class="range" d=(path) {} }
}

/// One number over the steps, in a small figure; nothing where no step has it.
pub(super) fn small(facts: &Facts, name: &str, of: fn(&Step) -> Option<f64>) -> Option<Markup> {
    let points = means(&facts.steps, of);
    let (last, end) = (points.last()?, facts.steps.last()?.step);
    let high = points.iter().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
    let plot = Plot {
        width: 340.0,
        height: 170.0,
        around: [52.0, 14.0, 12.0, 44.0],
        x: (0.0, end as f64),
        y: (0.0, 1.08 * high),
    };
    let drawn = html! {
        (plot.across(&ticks(plot.y, 3), &|y| short(y, high)))
        (plot.below(&ticks(plot.x, 4), &|x| short(x, end as f64), "step"))
        (plot.curve("loss", &points))
    };
    let over = steps(end);
    let says = format!("{name} over {over}: at most {high:.4}, {:.4} at the end.", last.1);
    Some(html! {
        figure {
            figcaption class="over" { (name) }
            (plot.close("small", &says, drawn))
        }
    })
}

/// A measure against the numbers that embeddings are cut to, on a scale of doublings, with that of another
/// run in dashes.
pub(super) fn by_dimension(
    name: &str,
    cuts: &[ByDimension],
    beside: Option<&Beside>,
    of: fn(&ByDimension) -> f64,
) -> Markup {
    let points = |cuts: &[ByDimension]| {
        let mut points: Vec<_> =
            cuts.iter().map(|cut| ((cut.dim as f64).log2(), of(cut))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points
    };
    let (own, other) =
        (points(cuts), beside.map(|beside| points(&beside.cuts)).unwrap_or_default());
    let (Some(first), Some(last)) = (own.first(), own.last()) else { return Markup::default() };
    let all = own.iter().chain(&other).map(|point| point.1);
    let low = all.clone().fold(1.0, f64::min);
    let high = all.fold(0.0, f64::max);
    let air = (0.08 * (high - low)).max(0.005);
    let plot = Plot {
        width: 340.0,
        height: 210.0,
        around: [52.0, 14.0, 12.0, 44.0],
        x: (first.0 - 0.3, last.0 + 0.3),
        y: (low - air, high + air),
    };
    let at: Vec<f64> = own.iter().map(|point| point.0).collect();
    let span = 100.0 * (plot.y.1 - plot.y.0);
    let drawn = html! {
        (plot.across(&ticks(plot.y, 4), &|y| format!("{} %", short(100.0 * y, span))))
        (plot.below(&at, &|x| format!("{:.0}", x.exp2()), "numbers of an embedding"))
        (plot.curve("end-line", &other))
        (plot.curve("loss", &own))
    };
    let shares = |points: &[(f64, f64)]| {
        let each = |(x, y): &(f64, f64)| format!("{:.1} % at {:.0}", 100.0 * y, x.exp2());
        points.iter().map(each).collect::<Vec<_>>().join(", ")
    };
    let mut says = format!("{name} by dimension: {}.", shares(&own));
    if let Some(beside) = beside {
        says += &format!(" Of {}: {}.", beside.name, shares(&other));
    }
    html! {
        figure {
            figcaption class="over" { (name) }
            (plot.close("small", &says, drawn))
        }
    }
}

/// The steps' numbers, or means of neighbouring ones where there are many.
fn means(steps: &[Step], of: impl Fn(&Step) -> Option<f64>) -> Vec<(f64, f64)> {
    let all: Vec<(f64, f64)> = steps
        .iter()
        .filter_map(|step| of(step).map(|y| (step.step as f64, y)))
        .filter(|(_, y)| y.is_finite())
        .collect();
    let mean = |part: &[(f64, f64)]| {
        let n = part.len() as f64;
        let (x, y) = part.iter().fold((0.0, 0.0), |sum, p| (sum.0 + p.0, sum.1 + p.1));
        (x / n, y / n)
    };
    all.chunks(all.len().div_ceil(POINTS).max(1)).map(mean).collect()
}
