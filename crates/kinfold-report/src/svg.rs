//! Drawing with lines: axes, ticks and curves as SVG, coloured by the page's style.
//!
//! Comes in: numbers. Goes out: SVG elements as text. Everything that is text is escaped here.

use std::fmt::Write;

/// Text as it may stand in HTML and in its attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // No character of control may stand in a page.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
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
    pub(crate) fn close(&self, class: &str, says: &str, drawn: &str) -> String {
        let (w, h, says) = (self.width, self.height, escape(says));
        format!(
            "<svg class=\"{class}\" viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{says}\">\
             {drawn}</svg>"
        )
    }

    /// Lines across at `ticks`, with their numbers at the left.
    pub(crate) fn across(&self, ticks: &[f64], text: &dyn Fn(f64) -> String) -> String {
        let mut out = String::new();
        let (left, right) = (self.left(), self.right());
        for &tick in ticks {
            let y = self.at_y(tick);
            let _ = write!(
                out,
                "<line class=\"grid\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" \
                 y2=\"{y:.1}\"/>"
            );
            out += &label(left - 7.0, y + 4.0, "end", "tick", &text(tick));
        }
        out
    }

    /// Numbers below the field at `ticks`, and what they count.
    pub(crate) fn below(&self, ticks: &[f64], text: &dyn Fn(f64) -> String, what: &str) -> String {
        let (left, right, bottom) = (self.left(), self.right(), self.bottom());
        let mut out = format!(
            "<line class=\"axis\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{bottom:.1}\" \
             y2=\"{bottom:.1}\"/>"
        );
        for &tick in ticks {
            let x = self.at_x(tick);
            let end = bottom + 4.0;
            let _ = write!(
                out,
                "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom:.1}\" \
                 y2=\"{end:.1}\"/>"
            );
            out += &label(x, bottom + 18.0, "middle", "tick", &text(tick));
        }
        let middle = (left + right) / 2.0;
        out + &label(middle, bottom + 35.0, "middle", "axis-name", what)
    }

    /// A curve through points.
    pub(crate) fn curve(&self, class: &str, points: &[(f64, f64)]) -> String {
        let mut path = String::new();
        for (i, &(x, y)) in points.iter().enumerate() {
            let letter = if i == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{letter}{:.1} {:.1}", self.at_x(x), self.at_y(y));
        }
        match points {
            // A single step is a point.
            [(x, y)] => {
                let (x, y) = (self.at_x(*x), self.at_y(*y));
                format!("<circle class=\"{class}-point\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>")
            }
            _ => format!("<path class=\"{class}\" d=\"{path}\"/>"),
        }
    }

    /// A line across at `y`.
    pub(crate) fn level(&self, class: &str, y: f64) -> String {
        let (left, right, y) = (self.left(), self.right(), self.at_y(y));
        format!(
            "<line class=\"{class}\" x1=\"{left:.1}\" x2=\"{right:.1}\" y1=\"{y:.1}\" \
             y2=\"{y:.1}\"/>"
        )
    }
}

/// A piece of text.
pub(crate) fn label(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    let text = escape(text);
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    )
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

    #[test]
    fn hostile_text_is_only_text() {
        let said = escape("<script>alert('x')</script>&\"\u{0}");
        assert_eq!(said, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;\u{fffd}");
    }
}
