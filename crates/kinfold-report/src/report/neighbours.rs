//! What lies near what: the map, and nearest neighbours.
//!
//! Comes in: a sample of images and their embeddings. Goes out: figures with thumbnails in them.

use super::identity::signed;
use super::map::Map;
use super::sample::Sample;
use crate::picture::thumbnail;
use crate::svg::{escape, label as text};
use kinfold_train::Error;
use std::fmt::Write;

/// Colours tell labels apart where there are no more than so many; the style has as many.
const COLOURS: usize = 12;
/// The side of the map, and of a picture on it.
const SIDE: f64 = 680.0;
const PICTURE: f64 = 17.0;
/// Bytes of pictures on the map; beyond them images are points.
const BUDGET: usize = 700_000;
/// Pixels that pictures have at most, on the map and among neighbours.
const ON_MAP: usize = 32;
const IN_ROWS: usize = 48;

/// All points of the sample at their places, as pictures framed in their label's colour.
pub(super) fn map(sample: &Sample<'_>, map: &Map) -> Result<String, Error> {
    let (labels, places) = sample.images.classes();
    let coloured = sample.labelled() && labels.len() <= COLOURS;
    let room = SIDE - 2.0 * PICTURE;
    let mut drawn = String::new();
    let mut bytes = 0;
    for (&row, place) in sample.points.iter().zip(&map.places) {
        let (x, y) = (PICTURE + place[0] * room, PICTURE + place[1] * room);
        let class = if coloured { format!("c{}", places[row]) } else { "c".to_owned() };
        let name = escape(&named(sample, row));
        let _ = write!(drawn, "<g class=\"{class}\"><title>{name}</title>");
        if bytes < BUDGET {
            let picture = thumbnail(sample.images, row, ON_MAP)?;
            bytes += picture.len();
            let (left, top) = (x - PICTURE / 2.0, y - PICTURE / 2.0);
            let _ = write!(
                drawn,
                "<image class=\"pixels\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{PICTURE}\" \
                 height=\"{PICTURE}\" href=\"{picture}\"/><rect x=\"{left:.1}\" y=\"{top:.1}\" \
                 width=\"{PICTURE}\" height=\"{PICTURE}\" rx=\"2\"/>"
            );
        } else {
            let _ = write!(drawn, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>");
        }
        drawn += "</g>";
    }
    if coloured {
        for (place, label) in labels.iter().enumerate() {
            let of_label = |(row, _): &(&usize, &[f64; 2])| places[**row] == place;
            let lie = sample.points.iter().zip(&map.places).filter(of_label).map(|(_, p)| *p);
            if let Some([x, y]) = middle(lie.collect()) {
                let (x, y) = (PICTURE + x * room, PICTURE + y * room + 6.0);
                drawn += &text(x, y, "middle", "", last(label));
            }
        }
    }
    let says = format!("Map of the embeddings of {} images.", sample.points.len());
    let mut out = format!(
        "<figure><svg class=\"map\" viewBox=\"0 0 {SIDE} {SIDE}\" role=\"img\" \
         aria-label=\"{says}\">{drawn}</svg>"
    );
    if coloured {
        out += "<p class=\"legend\">";
        for (i, label) in labels.iter().enumerate() {
            let label = if label.is_empty() { "none" } else { label };
            let _ = write!(out, "<span class=\"chip c{i}\">{}</span>", escape(label));
        }
        out += "</p>";
    }
    Ok(out + "</figure>")
}

/// The place whose distances to all others sum to the least; none of none.
fn middle(places: Vec<[f64; 2]>) -> Option<[f64; 2]> {
    let far = |a: &[f64; 2]| places.iter().map(|b| (a[0] - b[0]).hypot(a[1] - b[1])).sum::<f64>();
    places.iter().min_by(|a, b| far(a).total_cmp(&far(b))).copied()
}

/// A row for each of some points: the image, and its nearest neighbours.
pub(super) fn rows(sample: &Sample<'_>, points: &[usize]) -> Result<String, Error> {
    let mut out = "<div class=\"gallery\">".to_owned();
    for &point in points {
        let row = sample.points[point];
        let picture = thumbnail(sample.images, row, IN_ROWS)?;
        let name = escape(&named(sample, row));
        let _ = write!(
            out,
            "<div class=\"row\"><div class=\"cell query\"><img src=\"{picture}\" alt=\"{name}\" \
             title=\"{name}\"><span>{}</span></div><div class=\"found\">",
            escape(last(short(sample, row)))
        );
        for neighbour in &sample.neighbours[point] {
            let picture = thumbnail(sample.images, neighbour.row, IN_ROWS)?;
            let cosine = signed(f64::from(neighbour.cosine));
            let (class, mark, word) = match sample.labelled() {
                false => ("", "", ""),
                true if sample.label(neighbour.row) == sample.label(row) => {
                    ("hit", "✓ ", ", a hit")
                }
                true => ("miss", "✗ ", ", a miss"),
            };
            let says = escape(&format!("{}, cosine {cosine}{word}", named(sample, neighbour.row)));
            let _ = write!(
                out,
                "<div class=\"cell {class}\"><img src=\"{picture}\" alt=\"{says}\" title=\"{says}\">\
                 <span>{mark}{}</span><small>{cosine}</small></div>",
                escape(last(short(sample, neighbour.row)))
            );
        }
        out += "</div></div>";
    }
    Ok(out + "</div>")
}

/// An image's name, and its label where it has one.
fn named(sample: &Sample<'_>, row: usize) -> String {
    let (name, label) = (&sample.images.names[row], sample.label(row));
    if label.is_empty() { name.clone() } else { format!("{label} ({name})") }
}

/// The label, or where there are none the name.
fn short<'a>(sample: &Sample<'a>, row: usize) -> &'a str {
    if sample.labelled() { sample.label(row) } else { &sample.images.names[row] }
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
