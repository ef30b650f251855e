//! A list of pairs: `a,b` or `a,b,id` a row, as .csv or .jsonl.
//!
//! Input: the file; a and b are paths relative to its folder, a first row `a,b` or `a,b,id` in a
//! .csv is a heading, and a .jsonl has an object `{"a": …, "b": …, "id": …}` a line. Output: each
//! image once, in the order in which it is first named, and the pairs. Rows with the same id show
//! the same thing, and are no negatives of each other. Images have no labels: a list says what
//! belongs together and nothing else. A pair with an image that cannot be read is left out.

use super::source::{Listing, Source, is_image, slashed};
use crate::Error;
use crate::items::{Listed, Skipped};
use serde::Deserialize;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// How a list is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Written {
    Csv,
    JsonLines,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    a: String,
    b: String,
    id: Option<Id>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Id {
    Number(serde_json::Number),
    Text(String),
}

pub(super) fn load(path: &Path, written: Written) -> Result<Listing, Error> {
    let rows = match written {
        Written::Csv => csv(path)?,
        Written::JsonLines => json_lines(path)?,
    };
    if rows.is_empty() {
        return Err(Error::data_file(path, "it has no row, but at least one pair is needed"));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    let mut listing = Listing::default();
    let (mut images, mut groups) = (HashMap::new(), HashMap::new());
    for (number, (line, row)) in rows.into_iter().enumerate() {
        let mut image = |name: String| -> usize {
            // `./x.png` is `x.png`.
            let relative: PathBuf = Path::new(&name).components().collect();
            let relative = relative.strip_prefix(".").unwrap_or(&relative).to_path_buf();
            let next = images.len();
            *images.entry(relative.clone()).or_insert_with(|| {
                let name = if relative.is_absolute() { name } else { slashed(&relative) };
                listing.push(name, String::new(), Source::File(folder.join(&relative)));
                next
            })
        };
        let (a, b) = (image(row.a), image(row.b));
        let group = match row.id {
            None => number,
            Some(Id::Number(id)) => *groups.entry(id.to_string()).or_insert(number),
            Some(Id::Text(id)) => *groups.entry(id).or_insert(number),
        };
        listing.listed.push(Listed { a, b, group, line });
    }
    Ok(listing)
}

fn csv(path: &Path) -> Result<Vec<(u64, Row)>, Error> {
    let wrong = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::read(path)(e),
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.map_or(0, |pos| pos.line());
            Error::data_file(path, format!("line {line} is not UTF-8"))
        }
        kind => Error::data_file(path, format!("it cannot be read as CSV: {kind:?}")),
    };
    let text = std::fs::read(path).map_err(Error::read(path))?;
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(&text[..]);
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    let mut number = 0;
    while reader.read_record(&mut record).map_err(wrong)? {
        let (begin, line) = record.position().map_or((0, 0), |at| (at.byte(), at.line()));
        let written = &text[begin as usize..(reader.position().byte() as usize).min(text.len())];
        // No path goes over a line, and what ends within quotes is not whole.
        let open = written.iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
        if open || record.iter().any(|cell| cell.contains('\n')) {
            let reason = format!("a quote begins in line {line} that does not end there");
            return Err(Error::data_file(path, reason));
        }
        let cells: Vec<&str> =
            record.iter().map(|cell| cell.trim_start_matches('\u{feff}')).collect();
        number += 1;
        if number == 1 {
            if cells == ["a", "b"] || cells == ["a", "b", "id"] {
                continue;
            }
            check_first(path, &cells)?;
        }
        let (a, b, id) = match cells[..] {
            [a, b] => (a, b, ""),
            [a, b, id] => (a, b, id),
            _ => {
                let reason = format!(
                    "line {line} has {} cells, but `a,b` or `a,b,id` is needed",
                    cells.len()
                );
                return Err(Error::data_file(path, reason));
            }
        };
        let id = Some(id).filter(|id| !id.is_empty()).map(|id| Id::Text(id.to_owned()));
        rows.push((line, named(path, line, Row { a: a.to_owned(), b: b.to_owned(), id })?));
    }
    Ok(rows)
}

/// A first row that names no image is a heading of other columns.
fn check_first(path: &Path, cells: &[&str]) -> Result<(), Error> {
    let image = |cell: &&str| is_image(Path::new(cell)) || cell.contains(['/', '.']);
    if cells.is_empty() || cells.iter().take(2).any(image) {
        return Ok(());
    }
    let reason = format!(
        "its first row is `{}`, which names no image; the columns are `a,b` or `a,b,id`, in this order, \
         and a and b the paths of images",
        cells.join(",")
    );
    Err(Error::data_file(path, reason))
}

fn json_lines(path: &Path) -> Result<Vec<(u64, Row)>, Error> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let mut rows = Vec::new();
    for (line, text) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let row = serde_json::from_slice(text).map_err(|e| {
            let needed = r#"{"a": "…", "b": "…"} or {"a": "…", "b": "…", "id": …}"#;
            Error::data_file(path, format!("line {line} is not {needed}: {e}"))
        })?;
        rows.push((line, named(path, line, row)?));
    }
    Ok(rows)
}

/// A row whose paths are no empty ones.
fn named(path: &Path, line: u64, row: Row) -> Result<Row, Error> {
    if row.a.is_empty() || row.b.is_empty() {
        let member = if row.a.is_empty() { "a" } else { "b" };
        let reason = format!("line {line} has no {member}, but a pair has two members");
        return Err(Error::data_file(path, reason));
    }
    Ok(row)
}

/// The pairs whose members are both `whole`, numbered as those that are; and those left out.
pub(crate) fn without(
    listed: Vec<Listed>,
    whole: &[bool],
    path: &Path,
) -> Result<(Vec<Listed>, Vec<Skipped>), Error> {
    let mut rows = Vec::with_capacity(whole.len());
    let mut next = 0;
    for &whole in whole {
        rows.push(whole.then_some(next));
        next += usize::from(whole);
    }
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for pair in listed {
        match (rows[pair.a], rows[pair.b]) {
            (Some(a), Some(b)) => kept.push(Listed { a, b, ..pair }),
            _ => dropped.push(Skipped {
                path: path.to_path_buf(),
                reason: format!("line {}: an image of this pair cannot be read", pair.line),
            }),
        }
    }
    if kept.is_empty() && !dropped.is_empty() {
        let reason = format!("none of its {} pairs has two images that can be read", dropped.len());
        return Err(Error::data_file(path, reason));
    }
    Ok((kept, dropped))
}
