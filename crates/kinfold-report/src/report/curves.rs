//! Numbers over the steps of a run: the loss on its ruler, and what it was trained with.
//!
//! Comes in: what the metrics say. Goes out: SVG.

use super::facts::{Facts, Step};
use crate::svg::{self, Plot, escape, label, short, ticks};

/// The most points of a curve; where there are more steps, means of steps are drawn.
const POINTS: usize = 400;

/// The loss between its floor and its ceiling, `width` wide.
pub(super) fn loss(facts: &Facts, width: f64) -> String {
    let steps = &facts.steps;
    let Some(last) = steps.last() else { return String::new() };
    let points = means(steps, |step| Some(step.loss));
    let mut floors = means(steps, |step| step.floor);
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
    let mut drawn = String::new();
    if let (Some(first), Some(end)) = (floors.first(), floors.last()) {
        let (x0, x1) = (plot.at_x(0.0), plot.at_x(end.0));
        let top = plot.at_y(facts.ceiling);
        let edge: String = floors
            .iter()
            .map(|&(x, y)| format!("L{:.1} {:.1}", plot.at_x(x), plot.at_y(y)))
            .collect();
        let begin = plot.at_y(first.1);
        drawn += &format!(
            "<path class=\"range\" d=\"M{x0:.1} {top:.1}L{x0:.1} {begin:.1}{edge}L{x1:.1} {top:.1}Z\"/>"
        );
    }
    drawn += &plot.across(&ticks(plot.y, 5), &|y| short(y, span));
    drawn += &plot.below(
        &ticks(plot.x, if narrow { 4 } else { 8 }),
        &|x| short(x, last.step as f64),
        "step",
    );
    drawn += &plot.level("end-line", facts.ceiling);
    drawn += &plot.curve("end-line", &floors);
    drawn += &plot.curve("loss", &points);
    let right = plot.right() - 4.0;
    let named = |y: f64, text: String| label(right, y, "end", "end-name", &text);
    let ceiling = plot.at_y(facts.ceiling);
    drawn += &named(ceiling + 15.0, format!("nothing learned: {:.3}", facts.ceiling));
    if let Some((_, floor)) = floors.last() {
        let y = plot.at_y(*floor);
        drawn += &named(y - 6.0, format!("floor: {floor:.3}"));
    }
    let floor = facts.floor().map_or(String::new(), |floor| format!(", its floor {floor:.3}"));
    let says = format!(
        "The loss over {}, from {:.3} at the first to {:.3} at the last; its ceiling is {:.3}{floor}.",
        svg::steps(last.step),
        steps[0].loss,
        last.loss,
        facts.ceiling
    );
    plot.close(if narrow { "narrow" } else { "wide" }, &says, &drawn)
}

/// One number over the steps, in a small figure; nothing where no step has it.
pub(super) fn small(facts: &Facts, name: &str, of: fn(&Step) -> Option<f64>) -> Option<String> {
    let points = means(&facts.steps, of);
    let (last, steps) = (points.last()?, facts.steps.last()?.step);
    let end = steps as f64;
    let high = points.iter().map(|p| p.1).fold(f64::MIN_POSITIVE, f64::max);
    let plot = Plot {
        width: 340.0,
        height: 170.0,
        around: [52.0, 14.0, 12.0, 44.0],
        x: (0.0, end),
        y: (0.0, 1.08 * high),
    };
    let mut drawn = plot.across(&ticks(plot.y, 3), &|y| short(y, high));
    drawn += &plot.below(&ticks(plot.x, 4), &|x| short(x, end), "step");
    drawn += &plot.curve("loss", &points);
    let over = svg::steps(steps);
    let says = format!("{name} over {over}: at most {high:.4}, {:.4} at the end.", last.1);
    let svg = plot.close("small", &says, &drawn);
    Some(format!("<figure><figcaption class=\"over\">{}</figcaption>{svg}</figure>", escape(name)))
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
