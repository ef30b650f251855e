//! What is known of the things that a run is trained on, whatever kind of things they are.
//!
//! Input: what a source lists. Output: a name and a label for each thing, which of them are held out, and
//! which belong together where the data says so.

use std::ops::Range;
use std::path::PathBuf;

/// The things of some data, a row each: images, texts or vectors.
#[derive(Debug, Clone, Default)]
pub struct Items {
    /// Each image's path relative to its folder or archive, each text itself, or a name made of a number.
    pub names: Vec<String>,
    /// Each one's sub-folder, or digit, or class; empty where there is none.
    pub labels: Vec<String>,
    /// What could not be read, and is in no row.
    pub skipped: Vec<Skipped>,
    /// The rows that the data itself holds out; empty where it says nothing.
    pub held_out: Range<usize>,
    pub(crate) listed: Vec<Listed>,
    /// Rows that are no match of a pair's first member, as many for each pair that the data lists.
    pub(crate) negatives: Vec<usize>,
}

/// A pair that the data lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listed {
    /// The row of its first member.
    pub(crate) a: usize,
    /// The row of its second member.
    pub(crate) b: usize,
    /// The same for pairs that show the same thing, for the others one of their own.
    pub(crate) group: usize,
    /// Where it stands in the file, counted from 1.
    pub(crate) line: u64,
}

/// A file, or a row of one, that was passed over.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// The file, or the entry of an archive.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
}

impl Items {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The distinct labels in order, and each row's place among them.
    pub fn classes(&self) -> (Vec<&str>, Vec<usize>) {
        let mut distinct: Vec<&str> = self.labels.iter().map(String::as_str).collect();
        distinct.sort_unstable();
        distinct.dedup();
        let place = |label: &String| distinct.partition_point(|other| *other < label.as_str());
        let places = self.labels.iter().map(place).collect();
        (distinct, places)
    }

    /// The rows of both members of a pair that the data lists, by its place among these.
    pub fn pair(&self, place: usize) -> (usize, usize) {
        (self.listed[place].a, self.listed[place].b)
    }

    /// The number of a pair's group, by its place: that of all pairs that belong together.
    pub fn group(&self, place: usize) -> usize {
        self.listed[place].group
    }

    /// Where a pair stands in its file, counted from 1, by its place.
    pub fn line(&self, place: usize) -> u64 {
        self.listed[place].line
    }

    /// How many pairs the data lists.
    pub fn pairs(&self) -> usize {
        self.listed.len()
    }

    /// How many negatives of its own each pair has that the data lists.
    pub fn negatives_per_pair(&self) -> usize {
        self.negatives.len().checked_div(self.listed.len()).unwrap_or(0)
    }

    /// The rows of a pair's negatives, by its place.
    pub fn negatives(&self, place: usize) -> &[usize] {
        let each = self.negatives_per_pair();
        &self.negatives[place * each..][..each]
    }

    /// The group of each row as the second member of a pair; none of a row that is none.
    pub fn groups_of_seconds(&self) -> Vec<Option<usize>> {
        let mut groups = vec![None; self.len()];
        for pair in &self.listed {
            groups[pair.b] = Some(pair.group);
        }
        groups
    }

    /// Where in its file the first pair stands that names a row.
    pub(crate) fn line_of(&self, row: usize) -> Option<u64> {
        let names = |(place, pair): &(usize, &Listed)| {
            pair.a == row || pair.b == row || self.negatives(*place).contains(&row)
        };
        self.listed.iter().enumerate().find(names).map(|(_, pair)| pair.line)
    }

    /// Whether the data is a list of pairs.
    pub fn is_list(&self) -> bool {
        !self.listed.is_empty()
    }
}
