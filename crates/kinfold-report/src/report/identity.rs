//! The similarity matrix before, during and after training, and its histograms.
//!
//! Input: snapshots. Output: figures. All share one scale, so that they can be compared.

use super::order::{Order, order};
use crate::picture::{COLOURS, matrix};
use crate::snapshots::{Moment, Seen};
use crate::svg::{Plot, label, short, steps, ticks};
use kinfold_train::Error;
use maud::{Markup, html};
use std::fmt::Write;

/// Labels are written beside a matrix where there are no more than so many.
const NAMED: usize = 12;
/// The side of a drawn matrix, and the space beside it for labels.
const SIDE: f64 = 300.0;
const BESIDE: f64 = 34.0;

/// What there is to see in the snapshots.
pub(super) struct Identity<'a> {
    seen: &'a Seen,
    order: Order,
    /// The least cosine that the scale shows; the greatest is 1.
    least: f64,
}

impl<'a> Identity<'a> {
    /// None where nothing was seen.
    pub(super) fn new(seen: &'a Seen) -> Option<Self> {
        let last = seen.moments.last()?;
        let labels: Vec<&str> = seen.pairs.iter().map(|pair| pair.label.as_str()).collect();
        let order = order(&labels, &|i, j| last.cosine(i, j));
        let n = seen.pairs.len();
        let all =
            seen.moments.iter().flat_map(|m| (0..n * n).map(move |ij| m.cosine(ij / n, ij % n)));
        let least = all.fold(1.0f64, f64::min);
        let least = ((least * 10.0).floor() / 10.0).clamp(-1.0, 0.9);
        Some(Self { seen, order, least })
    }

    /// Whether rows lie by label, and not by similarity.
    pub(super) fn by_label(&self) -> bool {
        !self.order.groups.is_empty()
    }

    /// The name of a moment.
    fn when(&self, at: usize) -> String {
        let moments = &self.seen.moments;
        let step = moments[at].step;
        match at {
            0 if step == 0 => "before training".to_owned(),
            _ if at + 1 == moments.len() => format!("at the end, after {}", steps(step)),
            _ => format!("after {}", steps(step)),
        }
    }

    /// A matrix a moment, and the scale that they share.
    pub(super) fn matrices(&self) -> Result<Markup, Error> {
        Ok(html! {
            div class="three" {
                @for (at, moment) in self.seen.moments.iter().enumerate() {
                    (self.matrix(moment, &self.when(at))?)
                }
            }
            (self.scale())
        })
    }

    fn matrix(&self, moment: &Moment, when: &str) -> Result<Markup, Error> {
        let n = self.seen.pairs.len();
        let cosine = |i: usize, j: usize| {
            let cosine = moment.cosine(self.order.rows[i], self.order.rows[j]);
            (cosine - self.least) / (1.0 - self.least)
        };
        let (pairs, others) = self.split(moment);
        let (pairs, others) = (mean(&pairs), mean(&others));
        let says = format!(
            "Similarity matrix of {n} pairs {when}: pairs have cosine {pairs:.2} in the mean, \
             others {others:.2}."
        );
        let view = format!("0 0 {0} {0}", SIDE + BESIDE);
        Ok(html! {
            figure {
                figcaption class="over" { (when) }
                svg viewBox=(view) role="img" aria-label=(says) {
                    image x=(BESIDE) y=(BESIDE) width=(SIDE) height=(SIDE) class="pixels"
                        preserveAspectRatio="none" href=(matrix(n, &cosine)?) {}
                    (self.labels())
                }
                p class="numbers" {
                    "pairs " b { (signed(pairs)) } " · others " b { (signed(others)) }
                }
            }
        })
    }

    /// The labels beside a matrix, each in the middle of its rows.
    fn labels(&self) -> Markup {
        let groups = &self.order.groups;
        if groups.len() > NAMED {
            return Markup::default();
        }
        let one = SIDE / self.seen.pairs.len() as f64;
        let mut end = BESIDE;
        let bands = groups.iter().map(|(name, count)| {
            let start = end;
            end += *count as f64 * one;
            (name.rsplit('/').next().unwrap_or(name), start, end)
        });
        let (near, far) = (BESIDE - 6.0, BESIDE - 1.0);
        let mark = |at: f64| format!("M{near} {at:.1}H{far}M{at:.1} {near}V{far}");
        html! {
            @for (i, (name, start, end)) in bands.enumerate() {
                @let middle = (start + end) / 2.0;
                // Above there is room for a character or two.
                @let [short, first] = [4, 2].map(|most| name.chars().take(most).collect::<String>());
                (label(BESIDE - 9.0, middle + 4.5, "end", "tick", &short))
                (label(middle, BESIDE - 9.0, "middle", "tick", &first))
                @if i > 0 { path class="axis" d=(mark(start)) {} }
            }
        }
    }

    /// The colours and what they stand for.
    fn scale(&self) -> Markup {
        let colours = COLOURS.map(|[r, g, b]| format!("rgb({r},{g},{b})")).join(",");
        html! {
            p class="scale" {
                span { "cosine " (signed(self.least)) }
                i style={ "background:linear-gradient(to right," (colours) ")" } {}
                span { "1" }
            }
        }
    }

    /// The cosines of pairs, and of all others.
    fn split(&self, moment: &Moment) -> (Vec<f64>, Vec<f64>) {
        let n = self.seen.pairs.len();
        let pairs = (0..n).map(|i| moment.cosine(i, i)).collect();
        let others = (0..n * n).filter(|ij| ij / n != ij % n);
        (pairs, others.map(|ij| moment.cosine(ij / n, ij % n)).collect())
    }

    /// A histogram a moment.
    pub(super) fn histograms(&self) -> Markup {
        html! {
            div class="three" {
                @for (at, moment) in self.seen.moments.iter().enumerate() {
                    figure {
                        figcaption class="over" { (self.when(at)) }
                        (self.histogram(moment, &self.when(at)))
                    }
                }
            }
            p class="legend" {
                span class="key pairs" { "pairs" }
                span class="key others" { "all others" }
            }
        }
    }

    fn histogram(&self, moment: &Moment, when: &str) -> Markup {
        const BINS: usize = 30;
        let (pairs, others) = self.split(moment);
        let bin =
            |x: f64| (((x - self.least) / (1.0 - self.least) * BINS as f64) as usize).min(BINS - 1);
        let shares = |all: &[f64]| {
            let mut counts = [0.0; BINS];
            all.iter().for_each(|&x| counts[bin(x)] += 1.0 / all.len().max(1) as f64);
            counts
        };
        let (of_pairs, of_others) = (shares(&pairs), shares(&others));
        let high = of_pairs.iter().chain(&of_others).fold(0.01f64, |high, x| high.max(*x));
        let plot = Plot {
            width: 340.0,
            height: 200.0,
            around: [44.0, 12.0, 10.0, 44.0],
            x: (self.least, 1.0),
            y: (0.0, 1.05 * high),
        };
        let percent = |y: f64| format!("{} %", short(100.0 * y, 100.0 * high));
        let span = 1.0 - self.least;
        let drawn = html! {
            (plot.across(&ticks(plot.y, 3), &percent))
            path class="area others" d=(stairs(&plot, &of_others)) {}
            path class="area pairs" d=(stairs(&plot, &of_pairs)) {}
            (plot.below(&ticks(plot.x, 5), &|x| short(x, span), "cosine"))
        };
        let least = pairs.iter().copied().fold(1.0, f64::min);
        let says = format!(
            "Histogram of cosines {when}: pairs {:.2} in the mean and {least:.2} at least, others \
             {:.2} in the mean.",
            mean(&pairs),
            mean(&others)
        );
        plot.close("small", &says, drawn)
    }
}

/// The outline of bars of one width over the whole of a plot.
fn stairs(plot: &Plot, heights: &[f64]) -> String {
    let (from, to) = plot.x;
    let edge = |i: usize| plot.at_x(from + (to - from) * i as f64 / heights.len() as f64);
    let mut path = format!("M{:.1} {:.1}", plot.left(), plot.bottom());
    for (i, height) in heights.iter().enumerate() {
        let y = plot.at_y(*height);
        let _ = write!(path, "L{:.1} {y:.1}L{:.1} {y:.1}", edge(i), edge(i + 1));
    }
    let _ = write!(path, "L{:.1} {:.1}Z", plot.right(), plot.bottom());
    path
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

/// A cosine with a true minus.
pub(super) fn signed(x: f64) -> String {
    format!("{x:.2}").replace('-', "−")
}
