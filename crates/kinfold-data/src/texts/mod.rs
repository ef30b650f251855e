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
mod tokenizer;
mod words;

pub use bm25::Bm25;
pub use tokenizer::{Bags, Tokenizer};

use crate::Error;
use crate::items::{Items, Skipped};
use crate::rows;
use crate::settings::TextReading;
use crate::sources::table::Table;
use std::path::Path;

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
        let (mut items, scores) = rows::read(Table::read(path)?, reading.columns.as_ref())?;
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
