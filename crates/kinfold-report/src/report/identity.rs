//! The similarity matrix before, during and after training, and its histograms.
//!
//! Comes in: snapshots. Goes out: figures. All share one scale, so that they can be compared.

use super::order::{Order, order};
use crate::picture::{COLOURS, matrix};
use crate::snapshots::{Moment, Seen};
use crate::svg::{Plot, escape, label, short, steps, ticks};
use kinfold_train::Error;
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
    pub(super) fn matrices(&self) -> Result<String, Error> {
        let n = self.seen.pairs.len();
        let mut out = "<div class=\"three\">".to_owned();
        for (at, moment) in self.seen.moments.iter().enumerate() {
            let cosine = |i: usize, j: usize| {
                let cosine = moment.cosine(self.order.rows[i], self.order.rows[j]);
                (cosine - self.least) / (1.0 - self.least)
            };
            let picture = matrix(n, &cosine)?;
            let (pairs, others) = self.means(moment);
            let when = self.when(at);
            let says = escape(&format!(
                "Similarity matrix of {n} pairs {when}: pairs have cosine {pairs:.2} in the mean, \
                 others {others:.2}."
            ));
            let whole = SIDE + BESIDE;
            let _ = write!(
                out,
                "<figure><figcaption class=\"over\">{}</figcaption>\
                 <svg viewBox=\"0 0 {whole} {whole}\" role=\"img\" aria-label=\"{says}\">\
                 <image x=\"{BESIDE}\" y=\"{BESIDE}\" width=\"{SIDE}\" height=\"{SIDE}\" \
                 class=\"pixels\" preserveAspectRatio=\"none\" href=\"{picture}\"/>{}</svg>\
                 <p class=\"numbers\">pairs <b>{}</b> · others <b>{}</b></p></figure>",
                escape(&when),
                self.labels(),
                signed(pairs),
                signed(others)
            );
        }
        out += "</div>";
        out += &self.scale();
        Ok(out)
    }

    /// The labels beside a matrix, each in the middle of its rows.
    fn labels(&self) -> String {
        let groups = &self.order.groups;
        if groups.len() > NAMED {
            return String::new();
        }
        let one = SIDE / self.seen.pairs.len() as f64;
        let (mut out, mut at) = (String::new(), BESIDE);
        for (i, (name, count)) in groups.iter().enumerate() {
            let end = at + *count as f64 * one;
            let middle = (at + end) / 2.0;
            let short: String = name.rsplit('/').next().unwrap_or(name).chars().take(4).collect();
            out += &label(BESIDE - 9.0, middle + 4.5, "end", "tick", &short);
            // Above there is room for a character or two.
            let first: String = short.chars().take(2).collect();
            out += &label(middle, BESIDE - 9.0, "middle", "tick", &first);
            if i > 0 {
                let (near, far) = (BESIDE - 6.0, BESIDE - 1.0);
                let _ = write!(
                    out,
                    "<path class=\"axis\" d=\"M{near} {at:.1}H{far}M{at:.1} {near}V{far}\"/>"
                );
            }
            at = end;
        }
        out
    }

    /// The colours and what they stand for.
    fn scale(&self) -> String {
        let colours: Vec<String> =
            COLOURS.iter().map(|[r, g, b]| format!("rgb({r},{g},{b})")).collect();
        format!(
            "<p class=\"scale\"><span>cosine {}</span><i style=\"background:linear-gradient(to right,\
             {})\"></i><span>1</span></p>",
            signed(self.least),
            colours.join(",")
        )
    }

    /// The mean cosine of pairs and of all others.
    fn means(&self, moment: &Moment) -> (f64, f64) {
        let (pairs, others) = self.split(moment);
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
        (mean(&pairs), mean(&others))
    }

    /// The cosines of pairs, and of all others.
    fn split(&self, moment: &Moment) -> (Vec<f64>, Vec<f64>) {
        let n = self.seen.pairs.len();
        let pairs = (0..n).map(|i| moment.cosine(i, i)).collect();
        let others = (0..n * n).filter(|ij| ij / n != ij % n);
        (pairs, others.map(|ij| moment.cosine(ij / n, ij % n)).collect())
    }

    /// A histogram a moment.
    pub(super) fn histograms(&self) -> String {
        let mut out = "<div class=\"three\">".to_owned();
        for (at, moment) in self.seen.moments.iter().enumerate() {
            let (pairs, others) = self.split(moment);
            let when = self.when(at);
            let _ = write!(
                out,
                "<figure><figcaption class=\"over\">{}</figcaption>{}</figure>",
                escape(&when),
                self.histogram(&pairs, &others, &when)
            );
        }
        out + "</div><p class=\"legend\"><span class=\"key pairs\">pairs</span>\
               <span class=\"key others\">all others</span></p>"
    }

    fn histogram(&self, pairs: &[f64], others: &[f64], when: &str) -> String {
        const BINS: usize = 30;
        let bin =
            |x: f64| (((x - self.least) / (1.0 - self.least) * BINS as f64) as usize).min(BINS - 1);
        let shares = |all: &[f64]| {
            let mut counts = [0.0; BINS];
            all.iter().for_each(|&x| counts[bin(x)] += 1.0 / all.len().max(1) as f64);
            counts
        };
        let (of_pairs, of_others) = (shares(pairs), shares(others));
        let high = of_pairs.iter().chain(&of_others).fold(0.01f64, |high, x| high.max(*x));
        let plot = Plot {
            width: 340.0,
            height: 200.0,
            around: [44.0, 12.0, 10.0, 44.0],
            x: (self.least, 1.0),
            y: (0.0, 1.05 * high),
        };
        let percent = |y: f64| format!("{} %", short(100.0 * y, 100.0 * high));
        let mut drawn = plot.across(&ticks(plot.y, 3), &percent);
        let bottom = plot.bottom();
        for (class, shares) in [("others", of_others), ("pairs", of_pairs)] {
            let mut path = format!("M{:.1} {bottom:.1}", plot.left());
            for (i, share) in shares.iter().enumerate() {
                let edge =
                    |i: usize| plot.at_x(self.least + (1.0 - self.least) * i as f64 / BINS as f64);
                let y = plot.at_y(*share);
                let _ = write!(path, "L{:.1} {y:.1}L{:.1} {y:.1}", edge(i), edge(i + 1));
            }
            let _ = write!(path, "L{:.1} {bottom:.1}Z", plot.right());
            let _ = write!(drawn, "<path class=\"area {class}\" d=\"{path}\"/>");
        }
        let span = 1.0 - self.least;
        drawn += &plot.below(&ticks(plot.x, 5), &|x| short(x, span), "cosine");
        let mean = |all: &[f64]| all.iter().sum::<f64>() / all.len().max(1) as f64;
        let least = |all: &[f64]| all.iter().copied().fold(1.0, f64::min);
        let says = format!(
            "Histogram of cosines {when}: pairs {:.2} in the mean and {:.2} at least, others {:.2} in \
             the mean.",
            mean(pairs),
            least(pairs),
            mean(others)
        );
        plot.close("small", &says, &drawn)
    }
}

/// A cosine with a true minus.
pub(super) fn signed(x: f64) -> String {
    format!("{x:.2}").replace('-', "−")
}
