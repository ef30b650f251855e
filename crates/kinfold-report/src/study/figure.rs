//! A study as one picture.
//!
//! Comes in: a study. Goes out: an SVG file that stands for itself: for each variant its loss on its
//! ruler and, a dot a seed, what the encoder is worth; and below the similarity matrices of the first
//! seed's fixed pairs, all on one scale.

use super::{Study, StudyRun, statistics};
use crate::picture::{COLOURS, matrix};
use crate::svg::{Plot, label, short, ticks};
use kinfold_train::Error;
use std::fmt::Write;

const WIDTH: f64 = 1000.0;
const ROW: f64 = 30.0;
/// Where the panels begin, and how wide each is.
const NAMES: f64 = 150.0;
const TOP: f64 = 44.0;
/// Matrices in a row, their side, and the space between them.
const ACROSS: usize = 5;
const SIDE: f64 = 172.0;
const GAP: f64 = 24.0;

const STYLE: &str = "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,Arial,sans-serif;\
fill:#57534e}.title{font-weight:600;fill:#1c1917;font-size:13px}.name{fill:#1c1917}\
.grid,.axis{stroke:#e0dbd1;stroke-width:1}.axis{stroke:#78716c}.ruler{stroke:#d6a183;\
stroke-width:7}.end{stroke:#9a3412;stroke-width:2}.mark{fill:#1c1917}.seed{fill:#40627f;\
fill-opacity:.55}.mean{stroke:#1c1917;stroke-width:2.5}.before{stroke:#9a3412;stroke-width:1.2;\
stroke-dasharray:4 3}.pixels{image-rendering:pixelated}";

/// The figure of a study.
pub(super) fn figure(study: &Study) -> Result<String, Error> {
    let variants = study.variants();
    let below = TOP + ROW * variants.len() as f64;
    let rows = study.seen.len().div_ceil(ACROSS) as f64;
    let height = below + 60.0 + 26.0 + rows * (SIDE + GAP + 14.0) + 30.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-label=\"{}\">\
         <style>{STYLE}</style><rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fdfcf9\"/>",
        "Losses on their rulers, one-shot accuracy, effective rank and similarity matrices of each \
         variant; the numbers are in the table of the study."
    );
    for (i, runs) in variants.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5) + 4.0;
        out += &label(NAMES - 14.0, y, "end", "name", &named(runs[0]));
    }
    out += &losses(&variants, below);
    let task = study.runs.iter().any(|run| run.task_error.is_some());
    let percent = |x: f64| 100.0 * x;
    out += &match task {
        true => dots(
            &variants,
            below,
            480.0,
            "one-shot task, error %",
            study.task_before.map(|b| b.map(percent)),
            &|r| r.task_error.map(percent),
        ),
        false => dots(
            &variants,
            below,
            480.0,
            "one-shot accuracy, %",
            study.before.map(|b| b.map(percent)),
            &|r| r.one_shot.map(percent),
        ),
    };
    out += &dots(&variants, below, 745.0, "effective rank", None, &|r| Some(r.effective_rank));
    out += &matrices(study, &variants, below + 66.0)?;
    Ok(out + "</svg>\n")
}

fn named(run: &StudyRun) -> String {
    format!("{}, τ = {}", run.loss_name, run.temperature)
}

/// Each loss between its floor and its ceiling, on one scale.
fn losses(variants: &[Vec<&StudyRun>], below: f64) -> String {
    let high = variants.iter().flatten().map(|r| r.loss_ceiling.max(r.loss));
    let high = high.fold(0.0, f64::max);
    let plot = field(NAMES, 290.0, below, (0.0, 1.03 * high));
    let mut out = title(&plot, "loss on its ruler, nats");
    out += &plot.below(&ticks(plot.x, 5), &|x| short(x, high), "");
    for (i, runs) in variants.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let (floor, ceiling) = (runs[0].loss_floor, runs[0].loss_ceiling);
        if floor.is_finite() {
            let (a, b) = (plot.at_x(floor), plot.at_x(ceiling));
            let _ = write!(
                out,
                "<path class=\"ruler\" d=\"M{a:.1} {y}H{b:.1}\"/><path class=\"end\" \
                 d=\"M{a:.1} {}V{}M{b:.1} {}V{}\"/>",
                y - 7.0,
                y + 7.0,
                y - 7.0,
                y + 7.0
            );
        }
        let losses: Vec<f64> = runs.iter().map(|r| r.loss).collect();
        let x = plot.at_x(statistics(&losses).0);
        let _ = write!(out, "<circle class=\"mark\" cx=\"{x:.1}\" cy=\"{y}\" r=\"4.5\"/>");
    }
    out
}

/// A number of each run as a dot, and the mean of each variant as a stroke.
fn dots(
    variants: &[Vec<&StudyRun>],
    below: f64,
    left: f64,
    name: &str,
    before: Option<[f64; 2]>,
    of: &dyn Fn(&StudyRun) -> Option<f64>,
) -> String {
    let all = variants.iter().flatten().copied().filter_map(of).chain(before.into_iter().flatten());
    let all: Vec<f64> = all.collect();
    if all.is_empty() {
        return String::new();
    }
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let air = 0.06 * (high - low).max(1e-6);
    let plot = field(left, 225.0, below, (low - air, high + air));
    let mut out = title(&plot, name);
    let span = high - low;
    out += &plot.below(&ticks(plot.x, 4), &|x| short(x, span), "");
    for (x, what) in before.into_iter().flatten().zip(["pixels", "random"]) {
        let x = plot.at_x(x);
        let _ = write!(out, "<path class=\"before\" d=\"M{x:.1} {TOP}V{below}\"/>");
        out += &label(x, below + 32.0, "middle", "", what);
    }
    for (i, runs) in variants.iter().enumerate() {
        let y = TOP + ROW * (i as f64 + 0.5);
        let numbers: Vec<f64> = runs.iter().copied().filter_map(of).collect();
        for &number in &numbers {
            let x = plot.at_x(number);
            let _ = write!(out, "<circle class=\"seed\" cx=\"{x:.1}\" cy=\"{y}\" r=\"4\"/>");
        }
        let x = plot.at_x(statistics(&numbers).0);
        let _ = write!(out, "<path class=\"mean\" d=\"M{x:.1} {}V{}\"/>", y - 9.0, y + 9.0);
    }
    out
}

/// A panel over all rows.
fn field(left: f64, width: f64, below: f64, x: (f64, f64)) -> Plot {
    let around = [left, WIDTH - left - width, TOP, 0.0];
    Plot { width: WIDTH, height: below, around, x, y: (0.0, 1.0) }
}

fn title(plot: &Plot, text: &str) -> String {
    label(plot.left(), TOP - 18.0, "start", "title", text)
}

/// The similarities of the fixed pairs, before and after.
fn matrices(study: &Study, variants: &[Vec<&StudyRun>], top: f64) -> Result<String, Error> {
    let Some(first) = study.seen.first() else { return Ok(String::new()) };
    let n = first.pairs();
    let all = study.seen.iter().flat_map(|m| (0..n * n).map(move |ij| m.cosine(ij / n, ij % n)));
    let least = all.fold(1.0f64, f64::min).min(0.9);
    let mut out = label(
        GAP,
        top,
        "start",
        "title",
        &format!("cosines of {n} fixed pairs, never trained on: pairs on the diagonal"),
    );
    for (i, moment) in study.seen.iter().enumerate() {
        let name = match i {
            0 => "before training".to_owned(),
            _ => variants.get(i - 1).map_or(String::new(), |runs| named(runs[0])),
        };
        let left = GAP + (i % ACROSS) as f64 * (SIDE + GAP);
        let y = top + 16.0 + (i / ACROSS) as f64 * (SIDE + GAP + 14.0);
        let picture = matrix(n, &|a, b| (moment.cosine(a, b) - least) / (1.0 - least))?;
        let _ = write!(
            out,
            "<image class=\"pixels\" x=\"{left}\" y=\"{y}\" width=\"{SIDE}\" height=\"{SIDE}\" \
             href=\"{picture}\"/>"
        );
        out += &label(left, y + SIDE + 17.0, "start", "name", &name);
    }
    let rows = study.seen.len().div_ceil(ACROSS) as f64;
    let y = top + 16.0 + rows * (SIDE + GAP + 14.0);
    out += &label(GAP, y + 11.0, "start", "", &format!("cosine {}", short(least, 1.0)));
    let wide = 20.0;
    for (i, [r, g, b]) in COLOURS.iter().enumerate() {
        let x = GAP + 86.0 + wide * i as f64;
        let _ = write!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"13\" fill=\"rgb({r},{g},{b})\"/>"
        );
    }
    let end = GAP + 92.0 + wide * COLOURS.len() as f64;
    Ok(out + &label(end, y + 11.0, "start", "", "1"))
}
