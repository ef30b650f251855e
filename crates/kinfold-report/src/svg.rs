//! Drawing with lines: axes, ticks and curves as SVG, coloured by the page's style.
//!
//! Input: numbers. Output: SVG elements.

use maud::{Markup, Render, html};
use std::fmt::Write;

/// A place or a length in a drawing, to a tenth of a pixel.
#[derive(Clone, Copy)]
pub(crate) struct Px(pub(crate) f64);

impl Render for Px {
    fn render_to(&self, out: &mut String) {
        let _ = write!(out, "{:.1}", self.0);
    }
}

/// So many steps, in words.
pub(crate) fn steps(n: usize) -> String {
    if n == 1 { "1 step".to_owned() } else { format!("{n} steps") }
}

/// A field to draw in, with its axes.
pub(crate) struct Plot {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// Space beside the field: left, right, above, below.
    pub(crate) around: [f64; 4],
    /// The numbers at its left and right edges.
    pub(crate) x: (f64, f64),
    /// The numbers at its lower and upper edges.
    pub(crate) y: (f64, f64),
}

impl Plot {
    pub(crate) fn left(&self) -> f64 {
        self.around[0]
    }

    pub(crate) fn right(&self) -> f64 {
        self.width - self.around[1]
    }

    pub(crate) fn top(&self) -> f64 {
        self.around[2]
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.height - self.around[3]
    }

    pub(crate) fn at_x(&self, x: f64) -> f64 {
        let (from, to) = self.x;
        self.left() + (x - from) / (to - from) * (self.right() - self.left())
    }

    pub(crate) fn at_y(&self, y: f64) -> f64 {
        let (from, to) = self.y;
        self.bottom() - (y - from) / (to - from) * (self.bottom() - self.top())
    }

    /// The whole, with what was drawn in it; `says` is for those who cannot see it.
    pub(crate) fn close(&self, class: &str, says: &str, drawn: Markup) -> Markup {
        let view = format!("0 0 {} {}", self.width, self.height);
        html! { svg class=(class) viewBox=(view) role="img" aria-label=(says) { (drawn) } }
    }

    /// Lines across at `ticks`, with their numbers at the left.
    pub(crate) fn across(&self, ticks: &[f64], text: &dyn Fn(f64) -> String) -> Markup {
        html! {
            @for &tick in ticks {
                (self.level("grid", tick))
                (label(self.left() - 7.0, self.at_y(tick) + 4.0, "end", "tick", &text(tick)))
            }
        }
    }

    /// Numbers below the field at `ticks`, and what they count.
    pub(crate) fn below(&self, ticks: &[f64], text: &dyn Fn(f64) -> String, what: &str) -> Markup {
        let (left, right, bottom) = (self.left(), self.right(), self.bottom());
        html! {
            (line("axis", [left, right], [bottom, bottom]))
            @for &tick in ticks {
                @let x = self.at_x(tick);
                (line("axis", [x, x], [bottom, bottom + 4.0]))
                (label(x, bottom + 18.0, "middle", "tick", &text(tick)))
            }
            (label((left + right) / 2.0, bottom + 35.0, "middle", "axis-name", what))
        }
    }

    /// A curve through points; a single one is drawn as a dot.
    pub(crate) fn curve(&self, class: &str, points: &[(f64, f64)]) -> Markup {
        if let [(x, y)] = points {
            let (x, y) = (Px(self.at_x(*x)), Px(self.at_y(*y)));
            return html! { circle class={ (class) "-point" } cx=(x) cy=(y) r="3" {} };
        }
        let mut path = String::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            let letter = if i == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.at_x(x), self.at_y(y));
        }
        html! { path class=(class) d=(path) {} }
    }

    /// A line across at `y`.
    pub(crate) fn level(&self, class: &str, y: f64) -> Markup {
        let y = self.at_y(y);
        line(class, [self.left(), self.right()], [y, y])
    }
}

fn line(class: &str, [x1, x2]: [f64; 2], [y1, y2]: [f64; 2]) -> Markup {
    html! { line class=(class) x1=(Px(x1)) x2=(Px(x2)) y1=(Px(y1)) y2=(Px(y2)) {} }
}

/// A piece of text.
pub(crate) fn label(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> Markup {
    html! { text class=(class) x=(Px(x)) y=(Px(y)) text-anchor=(anchor) { (text) } }
}

/// Round numbers within a range, about so many.
pub(crate) fn ticks((from, to): (f64, f64), about: usize) -> Vec<f64> {
    let span = to - from;
    if !(span > 0.0 && span.is_finite()) {
        return vec![from];
    }
    let rough = span / about.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(10.0 * power);
    let first = (from / step - 1e-9).ceil() as i64;
    let last = (to / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A number in as few digits as tell the ticks of such a span apart.
pub(crate) fn short(x: f64, span: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    if span < 1e-3 {
        return format!("{x:.0e}").replace('-', "−");
    }
    let digits = (1.0 - span.log10().floor()).clamp(0.0, 5.0) as usize;
    let text = format!("{x:.digits$}");
    let text =
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks((0.0, 90.0), 5), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(ticks((4.9, 6.9), 4), [5.0, 5.5, 6.0, 6.5]);
        assert_eq!(ticks((3.0, 3.0), 4), [3.0]);
        assert_eq!(ticks((f64::NAN, 1.0), 4).len(), 1);
        assert_eq!(short(5.5, 2.0), "5.5");
        assert_eq!(short(-0.26, 1.0), "−0.3");
        assert_eq!(short(2e-4, 5e-4), "2e−4");
    }
}
