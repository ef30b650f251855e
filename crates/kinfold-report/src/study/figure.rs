//! A study as one picture.
//!
//! Input: a study. Output: an SVG file that stands for itself: for each variant its loss on its
//! ruler and, a dot a seed, what the encoder is worth; and below the similarity matrices of the first
//! seed's fixed pairs, all on one scale.

use super::{Question, Study, StudyRun, statistics};
use crate::picture::{COLOURS, matrix};
use crate::svg::{Plot, Px, label, short, ticks};
use kinfold_train::Error;
use maud::{Markup, PreEscaped, html};

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

const SAYS: &str = "Losses on their rulers, one-shot accuracy, effective rank and similarity matrices \
of each variant; the numbers are in the table of the study.";

/// The figure of a study.
pub(super) fn figure(study: &Study) -> Result<String, Error> {
    let variants = study.variants();
    let below = TOP + ROW * variants.len() as f64;
    let rows = study.seen.len().div_ceil(ACROSS) as f64;
    let height = below + 60.0 + 26.0 + rows * (SIDE + GAP + 14.0) + 30.0;
    let view = format!("0 0 {WIDTH} {height}");
    let percent = |x: f64| 100.0 * x;
    let of_task = |run: &StudyRun| run.task_error.map(percent);
    let accuracy = |run: &StudyRun| run.one_shot.map(percent);
    let votes = |run: &StudyRun| run.weighted_neighbours.map(percent);
    let task = study.runs.iter().any(|run| run.task_error.is_some());
    let (what, before, of): (_, _, Number<'_>) = match task {
        true => ("one-shot task, error %", study.task_before, &of_task),
        false => ("one-shot accuracy, %", study.before, &accuracy),
    };
    let before = before.map(|before| before.map(percent));
    let svg = html! {
        svg xmlns="http://www.w3.org/2000/svg" viewBox=(view) width=(WIDTH) height=(height)
            role="img" aria-label=(SAYS) {
            style { (PreEscaped(STYLE)) }
            rect width=(WIDTH) height=(height) fill="#fdfcf9" {}
            @for (i, runs) in variants.iter().enumerate() {
                (label(NAMES - 14.0, middle(i) + 4.0, "end", "name", &named(study, runs[0])))
            }
            @match study.question {
                Question::Temperature => { (losses(&variants, below)) }
                Question::Methods => { (dots(&variants, below, 215.0, "200 nearest vote, %", None, &votes)) }
            }
            (dots(&variants, below, 480.0, what, before, of))
            (dots(&variants, below, 745.0, "effective rank", None, &|r| Some(r.effective_rank)))
            (matrices(study, &variants, below + 66.0)?)
        }
    };
    Ok(svg.into_string() + "\n")
}

/// A number of a run, where it has it.
type Number<'a> = &'a dyn Fn(&StudyRun) -> Option<f64>;

/// The middle of the row of a variant.
fn middle(variant: usize) -> f64 {
    TOP + ROW * (variant as f64 + 0.5)
}

/// What was varied in a run.
fn named(study: &Study, run: &StudyRun) -> String {
    match study.question {
        Question::Temperature => format!("{}, τ = {}", run.loss_name, run.temperature),
        Question::Methods => run.method.as_str().to_owned(),
    }
}

/// Each loss between its floor and its ceiling, on one scale.
fn losses(variants: &[Vec<&StudyRun>], below: f64) -> Markup {
    let high = variants.iter().flatten().map(|r| r.loss_ceiling.max(r.loss));
    let high = high.fold(0.0, f64::max);
    let plot = field(NAMES, 290.0, below, (0.0, 1.03 * high));
    html! {
        (title(&plot, "loss on its ruler, nats"))
        (plot.below(&ticks(plot.x, 5), &|x| short(x, high), ""))
        @for (i, runs) in variants.iter().enumerate() {
            @let y = middle(i);
            @let (above, under) = (y - 7.0, y + 7.0);
            @if runs[0].loss_floor.is_finite() {
                @let (a, b) = (plot.at_x(runs[0].loss_floor), plot.at_x(runs[0].loss_ceiling));
                path class="ruler" d=(format!("M{a:.1} {y}H{b:.1}")) {}
                path class="end" d=(format!("M{a:.1} {above}V{under}M{b:.1} {above}V{under}")) {}
            }
            @let losses: Vec<f64> = runs.iter().map(|r| r.loss).collect();
            circle class="mark" cx=(Px(plot.at_x(statistics(&losses).0))) cy=(y) r="4.5" {}
        }
    }
}

/// A number of each run as a dot, and the mean of each variant as a stroke.
fn dots(
    variants: &[Vec<&StudyRun>],
    below: f64,
    left: f64,
    name: &str,
    before: Option<[f64; 2]>,
    of: Number<'_>,
) -> Markup {
    let all = variants.iter().flatten().copied().filter_map(of).chain(before.into_iter().flatten());
    let all: Vec<f64> = all.collect();
    if all.is_empty() {
        return Markup::default();
    }
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let air = 0.06 * (high - low).max(1e-6);
    let plot = field(left, 225.0, below, (low - air, high + air));
    let span = high - low;
    html! {
        (title(&plot, name))
        (plot.below(&ticks(plot.x, 4), &|x| short(x, span), ""))
        @for (x, what) in before.into_iter().flatten().zip(["pixels", "random"]) {
            @let x = plot.at_x(x);
            path class="before" d=(format!("M{x:.1} {TOP}V{below}")) {}
            (label(x, below + 32.0, "middle", "", what))
        }
        @for (i, runs) in variants.iter().enumerate() {
            @let y = middle(i);
            @let numbers: Vec<f64> = runs.iter().copied().filter_map(of).collect();
            @for &number in &numbers {
                circle class="seed" cx=(Px(plot.at_x(number))) cy=(y) r="4" {}
            }
            @let x = plot.at_x(statistics(&numbers).0);
            path class="mean" d=(format!("M{x:.1} {}V{}", y - 9.0, y + 9.0)) {}
        }
    }
}

/// A panel over all rows.
fn field(left: f64, width: f64, below: f64, x: (f64, f64)) -> Plot {
    let around = [left, WIDTH - left - width, TOP, 0.0];
    Plot { width: WIDTH, height: below, around, x, y: (0.0, 1.0) }
}

fn title(plot: &Plot, text: &str) -> Markup {
    label(plot.left(), TOP - 18.0, "start", "title", text)
}

/// The similarities of the fixed pairs, before and after.
fn matrices(study: &Study, variants: &[Vec<&StudyRun>], top: f64) -> Result<Markup, Error> {
    let Some(first) = study.seen.first() else { return Ok(Markup::default()) };
    let n = first.pairs();
    let all = study.seen.iter().flat_map(|m| (0..n * n).map(move |ij| m.cosine(ij / n, ij % n)));
    let least = all.fold(1.0f64, f64::min).min(0.9);
    let what = format!("cosines of {n} fixed pairs, never trained on: pairs on the diagonal");
    let row = |row: usize| top + 16.0 + row as f64 * (SIDE + GAP + 14.0);
    let scale = row(study.seen.len().div_ceil(ACROSS));
    let wide = 20.0;
    let end = GAP + 92.0 + wide * COLOURS.len() as f64;
    Ok(html! {
        (label(GAP, top, "start", "title", &what))
        @for (i, moment) in study.seen.iter().enumerate() {
            @let name = match i {
                0 => "before training".to_owned(),
                _ => variants.get(i - 1).map_or(String::new(), |runs| named(study, runs[0])),
            };
            @let (x, y) = (GAP + (i % ACROSS) as f64 * (SIDE + GAP), row(i / ACROSS));
            @let picture = matrix(n, &|a, b| (moment.cosine(a, b) - least) / (1.0 - least))?;
            image class="pixels" x=(x) y=(y) width=(SIDE) height=(SIDE) href=(picture) {}
            (label(x, y + SIDE + 17.0, "start", "name", &name))
        }
        (label(GAP, scale + 11.0, "start", "", &format!("cosine {}", short(least, 1.0))))
        @for (i, [r, g, b]) in COLOURS.iter().enumerate() {
            @let x = GAP + 86.0 + wide * i as f64;
            rect x=(x) y=(scale) width=(wide) height="13" fill=(format!("rgb({r},{g},{b})")) {}
        }
        (label(end, scale + 11.0, "start", "", "1"))
    })
}
