//! What the rows of a table are: pairs, or things alone, or scored pairs.
//!
//! Input: a table whose columns are those of sentence-transformers. Output: items, each distinct text or name
//! a row, in the order in which they are first met, with the pairs among them.

use crate::Error;
use crate::groups::Groups;
use crate::items::{Items, Listed};
use crate::sources::table::{Row, Table, is_negative};
use std::collections::HashMap;

/// The most bytes of a text. A longer one is a file that was put into a cell by mistake.
const LONGEST: usize = 1 << 20;

/// Whether a file of these columns holds texts.
pub(crate) fn are_columns(columns: &[String]) -> bool {
    let has = |name: &str| columns.iter().any(|column| column == name);
    has("anchor") || has("positive") || has("text") || has("sentence1") || has("sentence2")
}

/// The rows of a table by what its columns are, and their scores.
pub(crate) fn read(
    table: Table,
    columns: Option<&[String; 2]>,
) -> Result<(Items, Vec<f64>), Error> {
    let has = |name: &str| table.column(name).is_some();
    if let Some([a, b]) = columns {
        return pairs(table, [a, b], Labels::Describe).map(|items| (items, Vec::new()));
    }
    if has("sentence1") || has("sentence2") {
        return scored(table);
    }
    if has("text") && !has("anchor") {
        return singles(table).map(|items| (items, Vec::new()));
    }
    pairs(table, ["anchor", "positive"], Labels::Describe).map(|items| (items, Vec::new()))
}

/// The place of a column that there must be.
fn needed(table: &Table, name: &str) -> Result<usize, Error> {
    table.column(name).ok_or_else(|| {
        let reason = format!(
            "it has no column `{name}`, but {}; pairs of texts are `anchor` and `positive`, or two columns \
             that --columns names, and texts alone are `text`",
            table.columns.join(", ")
        );
        Error::data_file(&table.path, reason)
    })
}

/// A row's text in a column; that it is there, and no file.
fn text(table: &Table, row: &mut Row, column: usize) -> Result<String, Error> {
    let name = &table.columns[column];
    let text = row.take(column).unwrap_or_default();
    if text.trim().is_empty() {
        return Err(table.wrong(row.number, &format!("its `{name}` is empty")));
    }
    if text.len() > LONGEST {
        let reason = format!(
            "its `{name}` has {} bytes, but a text may have {LONGEST}: split it",
            text.len()
        );
        return Err(table.wrong(row.number, &reason));
    }
    Ok(text)
}

/// Texts, a row each.
fn singles(mut table: Table) -> Result<Items, Error> {
    let (column, label) = (needed(&table, "text")?, table.column("label"));
    let mut items = Items::default();
    for mut row in std::mem::take(&mut table.rows) {
        items.names.push(text(&table, &mut row, column)?);
        items.labels.push(label.and_then(|label| row.take(label)).unwrap_or_default());
    }
    Ok(items)
}

/// Distinct texts, and what is found of each.
#[derive(Default)]
struct Distinct {
    rows: HashMap<String, usize>,
    items: Items,
}

impl Distinct {
    fn row(&mut self, text: String, label: Option<&String>) -> usize {
        let next = self.items.names.len();
        let row = *self.rows.entry(text).or_insert_with_key(|text| {
            self.items.names.push(text.clone());
            self.items.labels.push(String::new());
            next
        });
        if let (Some(label), true) = (label, self.items.labels[row].is_empty()) {
            self.items.labels[row].clone_from(label);
        }
        row
    }
}

/// What the column `label` of pairs says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Labels {
    /// What a pair is about, as a class.
    Describe,
    /// Which pairs belong together, as their ids do.
    Join,
}

/// Pairs, a row each; `names` are the columns of their members.
pub(crate) fn pairs(mut table: Table, names: [&str; 2], labels: Labels) -> Result<Items, Error> {
    let [a, b] = [needed(&table, names[0])?, needed(&table, names[1])?];
    let (id, label) = (table.column("id"), table.column("label"));
    let of_negatives: Vec<usize> =
        (0..table.columns.len()).filter(|&column| is_negative(&table.columns[column])).collect();
    let mut distinct = Distinct::default();
    let mut negatives = Vec::new();
    let mut groups = Groups::default();
    let mut listed = Vec::with_capacity(table.rows.len());
    for mut row in std::mem::take(&mut table.rows) {
        let label = label.and_then(|label| row.take(label)).filter(|label| !label.is_empty());
        let id = id.and_then(|id| row.take(id)).filter(|id| !id.is_empty());
        let [a, b] = [text(&table, &mut row, a)?, text(&table, &mut row, b)?];
        let [a, b] = [distinct.row(a, label.as_ref()), distinct.row(b, label.as_ref())];
        for &column in &of_negatives {
            negatives.push(distinct.row(text(&table, &mut row, column)?, None));
        }
        let joined = label.filter(|_| labels == Labels::Join);
        groups.pair(a, b, id, joined);
        listed.push(Listed { a, b, group: 0, line: row.number });
    }
    groups.write(&mut listed);
    Ok(Items { listed, negatives, ..distinct.items })
}

fn scored(mut table: Table) -> Result<(Items, Vec<f64>), Error> {
    let [a, b] = [needed(&table, "sentence1")?, needed(&table, "sentence2")?];
    let score = needed(&table, "score")?;
    let mut distinct = Distinct::default();
    let (mut listed, mut scores) = (Vec::new(), Vec::new());
    for mut row in std::mem::take(&mut table.rows) {
        let given = row.take(score).unwrap_or_default();
        let number = given.trim().parse::<f64>().ok().filter(|score| score.is_finite());
        scores.push(number.ok_or_else(|| {
            table.wrong(row.number, &format!("its `score` is {given:?}, but a number is needed"))
        })?);
        let [a, b] = [text(&table, &mut row, a)?, text(&table, &mut row, b)?];
        let [a, b] = [distinct.row(a, None), distinct.row(b, None)];
        listed.push(Listed { a, b, group: listed.len(), line: row.number });
    }
    Ok((Items { listed, ..distinct.items }, scores))
}
