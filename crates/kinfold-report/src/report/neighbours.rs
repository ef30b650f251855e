//! What lies near what: the map, and nearest neighbours.
//!
//! Input: a sample of things and their embeddings. Output: figures with thumbnails in them, and of texts
//! tables of texts.

use super::identity::signed;
use super::map::Map;
use super::sample::{NEIGHBOURS, Sample};
use crate::picture::thumbnail;
use crate::svg::{Px, label as text};
use kinfold_data::Data;
use kinfold_train::Error;
use maud::{Markup, html};

/// Colours tell labels apart where there are no more than so many; the style has as many.
const COLOURS: usize = 12;
/// The side of the map, and of a picture on it.
const SIDE: f64 = 680.0;
const PICTURE: f64 = 17.0;
/// The height of a label's letters where the page is narrow and they are largest.
const LETTER: f64 = 28.0;
/// Bytes of pictures on the map; beyond them images are points.
const BUDGET: usize = 700_000;
/// Pixels that pictures have at most, on the map and among neighbours.
const ON_MAP: usize = 32;
const IN_ROWS: usize = 48;

/// All points of the sample at their places, as pictures framed in their label's colour.
pub(super) fn map(sample: &Sample<'_>, map: &Map) -> Result<Markup, Error> {
    let (labels, classes) = sample.data.items().classes();
    let coloured = sample.labelled && labels.len() <= COLOURS;
    let place = |at: [f64; 2]| at.map(|x| PICTURE + x * (SIDE - 2.0 * PICTURE));
    let centre = |class: usize| {
        let all = sample.points.iter().zip(&map.places);
        middle(all.filter(|(row, _)| classes[**row] == class).map(|(_, at)| *at).collect())
    };
    let mut bytes = 0;
    let points = html! {
        @for (&row, at) in sample.points.iter().zip(&map.places) {
            @let class = if coloured { format!("c{}", classes[row]) } else { "c".to_owned() };
            g class=(class) {
                title { (named(sample, row)) }
                (point(sample, row, place(*at), &mut bytes)?)
            }
        }
    };
    let names = labels.iter().enumerate().filter(|_| coloured).filter_map(|(class, label)| {
        let (at, name) = (centre(class).map(place)?, last(label));
        Some(Name { at, wide: 0.6 * LETTER * name.chars().count() as f64, text: name })
    });
    let names: Vec<Name<'_>> = names.collect();
    let (n, noun) = (sample.points.len(), sample.data.kind().noun());
    let says = format!("Map of the embeddings of {n} {noun}.");
    Ok(html! {
        figure {
            svg class="map" viewBox={ "0 0 " (SIDE) " " (SIDE) } role="img" aria-label=(says) {
                (points)
                @for Name { at: [x, y], text: name, .. } in apart(names) {
                    (text(x, y + 6.0, "middle", "", name))
                }
            }
            @if coloured {
                p class="legend" {
                    @for (i, label) in labels.iter().enumerate() {
                        span class={ "chip c" (i) } {
                            (if label.is_empty() { "none" } else { label })
                        }
                    }
                }
            }
        }
    })
}

/// A label on the map.
struct Name<'a> {
    /// Its middle.
    at: [f64; 2],
    wide: f64,
    text: &'a str,
}

/// Moved up or down as little as it takes for no two to overlap, and within the map.
fn apart(names: Vec<Name<'_>>) -> Vec<Name<'_>> {
    let mut placed: Vec<Name<'_>> = Vec::with_capacity(names.len());
    for name in names {
        let half = (name.wide / 2.0).min(SIDE / 2.0);
        let x = name.at[0].clamp(half, SIDE - half);
        let free = |y: f64| {
            let over = |other: &Name<'_>| {
                let [dx, dy] = [other.at[0] - x, other.at[1] - y].map(f64::abs);
                dx < (name.wide + other.wide) / 2.0 + LETTER / 4.0 && dy < LETTER
            };
            (LETTER / 2.0..=SIDE - LETTER / 2.0).contains(&y) && !placed.iter().any(over)
        };
        // By a third of a letter's height up, down, farther up, and so on.
        let steps = (0..200).map(|i| f64::from((i + 1) / 2 * if i % 2 == 0 { 1 } else { -1 }));
        let y = steps.map(|step| name.at[1] + step * LETTER / 3.0).find(|&y| free(y));
        let at = [x, y.unwrap_or(name.at[1])];
        placed.push(Name { at, ..name });
    }
    placed
}

/// A point of the map: its picture, or a dot where it has none or `bytes` of pictures are too many already.
fn point(
    sample: &Sample<'_>,
    row: usize,
    [x, y]: [f64; 2],
    bytes: &mut usize,
) -> Result<Markup, Error> {
    let picture = if *bytes < BUDGET { thumbnail(sample.data, row, ON_MAP)? } else { None };
    let Some(picture) = picture else {
        return Ok(html! { circle cx=(Px(x)) cy=(Px(y)) r="5" {} });
    };
    *bytes += picture.len();
    let (left, top) = (Px(x - PICTURE / 2.0), Px(y - PICTURE / 2.0));
    Ok(html! {
        image class="pixels" x=(left) y=(top) width=(PICTURE) height=(PICTURE) href=(picture) {}
        rect x=(left) y=(top) width=(PICTURE) height=(PICTURE) rx="2" {}
    })
}

/// The place whose distances to all others sum to the least; none of none.
fn middle(places: Vec<[f64; 2]>) -> Option<[f64; 2]> {
    let far = |a: &[f64; 2]| places.iter().map(|b| (a[0] - b[0]).hypot(a[1] - b[1])).sum::<f64>();
    places.iter().min_by(|a, b| far(a).total_cmp(&far(b))).copied()
}

/// A row for each of some points: the thing, and its nearest neighbours.
pub(super) fn rows(sample: &Sample<'_>, points: &[usize]) -> Result<Markup, Error> {
    match sample.data {
        Data::Images(_) => pictures(sample, points),
        Data::Texts(_) | Data::Vectors(_) => Ok(texts(sample, points)),
    }
}

/// The neighbours that a row shows: texts take more room than pictures.
pub(super) fn shown(data: &Data) -> usize {
    match data {
        Data::Images(_) => NEIGHBOURS,
        Data::Texts(_) | Data::Vectors(_) => 3,
    }
}

/// A table of texts or names, each with some that are nearest to it.
fn texts(sample: &Sample<'_>, points: &[usize]) -> Markup {
    let (names, shown) = (&sample.data.items().names, shown(sample.data));
    html! {
        div class="scroll" {
            table class="texts" {
                thead { tr { th scope="col" { "text" } th scope="col" { "its nearest" } th scope="col" { "cosine" } } }
                tbody {
                    @for &point in points {
                        @let row = sample.points[point];
                        @for (i, near) in sample.neighbours[point].iter().take(shown).enumerate() {
                            @let hit = sample.labelled.then(|| sample.label(row) == sample.label(near.row));
                            tr {
                                @if i == 0 { th scope="row" rowspan=(shown.min(sample.neighbours[point].len())) { (begin(&names[row])) } }
                                td class="words" {
                                    @match hit { Some(true) => "✓ ", Some(false) => "✗ ", None => "" }
                                    (begin(&names[near.row]))
                                }
                                td { (signed(near.cosine)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// As much of a text as one reads at a glance.
fn begin(text: &str) -> String {
    const LETTERS: usize = 160;
    if text.chars().count() <= LETTERS {
        return text.to_owned();
    }
    text.chars().take(LETTERS - 1).chain(['…']).collect()
}

fn pictures(sample: &Sample<'_>, points: &[usize]) -> Result<Markup, Error> {
    let same_label = |a: usize, b: usize| sample.label(a) == sample.label(b);
    let picture = |row: usize, says: &str| -> Result<Markup, Error> {
        let picture = thumbnail(sample.data, row, IN_ROWS)?;
        Ok(html! { @if let Some(picture) = picture { img src=(picture) alt=(says) title=(says); } })
    };
    Ok(html! {
        div class="gallery" {
            @for &point in points {
                @let row = sample.points[point];
                div class="row" {
                    div class="cell query" tabindex="0" {
                        (picture(row, &named(sample, row))?)
                        span { (last(short(sample, row))) }
                        div class="full" aria-hidden="true" { (named(sample, row)) }
                    }
                    div class="found" {
                        @for neighbour in &sample.neighbours[point] {
                            @let near = neighbour.row;
                            @let cosine = signed(neighbour.cosine);
                            @let hit = sample.labelled.then(|| same_label(row, near));
                            @let (class, mark, word) = match hit {
                                Some(true) => ("hit", "✓ ", ", a hit"),
                                Some(false) => ("miss", "✗ ", ", a miss"),
                                None => ("", "", ""),
                            };
                            @let says = format!("{}, cosine {cosine}{word}", named(sample, near));
                            div class={ "cell " (class) } tabindex="0" {
                                (picture(near, &says)?)
                                span { (mark) (last(short(sample, near))) }
                                small { (cosine) }
                                div class="full" aria-hidden="true" { (says) }
                            }
                        }
                    }
                }
            }
        }
    })
}

/// An image's name, and its label where it has one.
fn named(sample: &Sample<'_>, row: usize) -> String {
    let (name, label) = (&sample.data.items().names[row], sample.label(row));
    if label.is_empty() { name.clone() } else { format!("{label} ({name})") }
}

/// The label, or where there are none the name.
fn short<'a>(sample: &Sample<'a>, row: usize) -> &'a str {
    if sample.labelled { sample.label(row) } else { &sample.data.items().names[row] }
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_the_map_do_not_overlap() {
        let texts =
            ["one", "a longer one", "three", "four", "at the edge", "six", "seven", "eight"];
        let names = texts.iter().enumerate().map(|(i, &text)| Name {
            at: [if i == 4 { SIDE } else { 300.0 + 3.0 * i as f64 }, 5.0 * i as f64],
            wide: 0.6 * LETTER * text.len() as f64,
            text,
        });
        let placed = apart(names.collect());
        for (i, a) in placed.iter().enumerate() {
            assert!(a.at[0] - a.wide / 2.0 >= 0.0 && a.at[0] + a.wide / 2.0 <= SIDE, "{}", a.text);
            assert!((0.0..=SIDE).contains(&a.at[1]), "{}", a.text);
            for b in &placed[..i] {
                let beside = (a.at[0] - b.at[0]).abs() >= (a.wide + b.wide) / 2.0;
                assert!(beside || (a.at[1] - b.at[1]).abs() >= LETTER, "{} {}", a.text, b.text);
            }
        }
    }
}
