//! Texts, and how they are read.
//!
//! Input: a file of rows (.jsonl, .csv, .parquet) whose columns are those of sentence-transformers: pairs,
//! `anchor` and `positive`, and `negative` or `negative_1`, `negative_2`, …; texts, `text`; or scored pairs,
//! `sentence1`, `sentence2` and `score`; and with any of them `label`, with pairs `id`. Output: [`Texts`], tokenized once.
//!
//! Of pairs, each distinct text is one row, in the order in which texts are first named. Pairs that share an
//! anchor, a positive or an id belong together, as do those that share one with these: no member of one is a
//! negative of the others.

mod bm25;
mod groups;
mod tokenizer;

pub use bm25::Bm25;
pub use tokenizer::{Bags, Tokenizer};

use crate::Error;
use crate::items::{Items, Listed, Skipped};
use crate::settings::TextReading;
use crate::sources::table::{Row, Table};
use groups::Groups;
use std::collections::HashMap;
use std::path::Path;

/// The most bytes of a text. A longer one is a file that was put into a cell by mistake.
const LONGEST: usize = 1 << 20;

/// Texts as tokens.
#[derive(Debug, Clone)]
pub struct Texts {
    /// Each text is its name.
    pub items: Items,
    /// A score for each pair that the data lists; empty where it has none.
    pub scores: Vec<f64>,
    /// The tokens of each.
    pub tokens: Bags,
    /// What made them.
    pub tokenizer: Tokenizer,
}

impl Texts {
    /// The texts of a file, tokenized.
    ///
    /// # Errors
    /// When the file cannot be read, a row is not what its columns say, or there is no tokenizer.
    pub fn read(path: &Path, reading: &TextReading) -> Result<Self, Error> {
        let (mut items, scores) = rows(Table::read(path)?, reading.columns.as_ref())?;
        let tokenizer = Tokenizer::new(&reading.tokenizer, &items.names)?;
        let tokens = tokenizer.encode(&items.names)?;
        if items.is_list() && scores.is_empty() {
            leave_out_empty(&mut items, &tokens, path)?;
        }
        Ok(Self { items, scores, tokens, tokenizer })
    }

    /// Texts that need no file, each a row, with the tokenizer of a run.
    ///
    /// # Errors
    /// When the tokenizer fails at one.
    pub fn of_strings(texts: Vec<String>, tokenizer: Tokenizer) -> Result<Self, Error> {
        let tokens = tokenizer.encode(&texts)?;
        let labels = vec![String::new(); texts.len()];
        let items = Items { names: texts, labels, ..Items::default() };
        Ok(Self { items, scores: Vec::new(), tokens, tokenizer })
    }

    /// The tokens of some rows.
    pub(crate) fn bags(&self, rows: impl Iterator<Item = usize>) -> Bags {
        let mut bags = Bags::default();
        for row in rows {
            bags.push(self.tokens.of(row));
        }
        bags
    }

    /// See [`Data::token_weights`](crate::Data::token_weights).
    pub(crate) fn token_weights(&self, power: f32) -> Vec<f32> {
        let mut last = vec![usize::MAX; self.tokenizer.rows()];
        let mut texts = vec![0u32; last.len()];
        for row in 0..self.items.len() {
            for &id in self.tokens.of(row) {
                if std::mem::replace(&mut last[id as usize], row) != row {
                    texts[id as usize] += 1;
                }
            }
        }
        let all = self.items.len() as f32 + 1.0;
        let weight = |&have: &u32| (all / (have as f32 + 0.999)).ln().powf(power);
        let occur: Vec<f32> = texts.iter().filter(|&&have| have > 0).map(weight).collect();
        let mean = occur.iter().sum::<f32>() / occur.len().max(1) as f32;
        texts.iter().map(|have| weight(have) / mean.max(f32::MIN_POSITIVE)).collect()
    }

    /// A checksum of the tokens.
    pub(crate) fn checksum(&self) -> u32 {
        self.tokens.ids.iter().fold(0, |crc, id| crc32c::crc32c_append(crc, &id.to_le_bytes()))
    }
}

/// Whether a file of these columns holds texts.
pub(crate) fn are_columns(columns: &[String]) -> bool {
    let has = |name: &str| columns.iter().any(|column| column == name);
    has("anchor") || has("positive") || has("text") || has("sentence1") || has("sentence2")
}

/// The rows of a table by what its columns are, and their scores.
fn rows(table: Table, columns: Option<&[String; 2]>) -> Result<(Items, Vec<f64>), Error> {
    let has = |name: &str| table.column(name).is_some();
    if let Some([a, b]) = columns {
        return pairs(table, [a, b]).map(|items| (items, Vec::new()));
    }
    if has("sentence1") || has("sentence2") {
        return scored(table);
    }
    if has("text") && !has("anchor") {
        return singles(table).map(|items| (items, Vec::new()));
    }
    pairs(table, ["anchor", "positive"]).map(|items| (items, Vec::new()))
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

fn pairs(mut table: Table, names: [&str; 2]) -> Result<Items, Error> {
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
        groups.pair(a, b, id);
        listed.push(Listed { a, b, group: 0, line: row.number });
    }
    for (pair, group) in listed.iter_mut().zip(groups.of_pairs()) {
        pair.group = group;
    }
    Ok(Items { listed, negatives, ..distinct.items })
}

/// Whether a column is `negative`, or `negative_` and a number.
fn is_negative(column: &str) -> bool {
    let number = column.strip_prefix("negative").map(|end| end.strip_prefix('_').unwrap_or(end));
    column == "negative" || number.is_some_and(|number| number.parse::<u32>().is_ok())
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

/// Leaves out pairs with a text of which the tokenizer knows nothing.
fn leave_out_empty(items: &mut Items, tokens: &Bags, path: &Path) -> Result<(), Error> {
    let known = |row: usize| !tokens.of(row).is_empty();
    let (mut kept, mut dropped, mut negatives) = (Vec::new(), Vec::new(), Vec::new());
    for (place, pair) in items.listed.iter().enumerate() {
        if known(pair.a) && known(pair.b) {
            kept.push(*pair);
            negatives.extend_from_slice(items.negatives(place));
        } else {
            dropped.push(*pair);
        }
    }
    if kept.is_empty() {
        let reason =
            "no pair has two texts of which the tokenizer knows a token: it is another language's";
        return Err(Error::data_file(path, reason));
    }
    (items.listed, items.negatives) = (kept, negatives);
    items.skipped.extend(dropped.iter().map(|pair| Skipped {
        path: path.to_path_buf(),
        reason: format!("line {}: the tokenizer knows no token of a text of this pair", pair.line),
    }));
    Ok(())
}
