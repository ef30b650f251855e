//! Vectors that some model has made already, and which of them belong together.
//!
//! Input: a matrix of queries and one of documents, row i of both a pair; or pairs of names (.jsonl, .csv,
//! .parquet) and a matrix whose rows have these names; or a matrix alone, whose rows belong together by their
//! labels. Output: [`Vectors`], each as long as 1. Vectors that are equal to the bit are one.

use crate::Error;
use crate::groups::Groups;
use crate::items::{Items, Listed};
use crate::rows::{self, Labels};
use crate::settings::VectorReading;
use crate::sources::matrix::Matrix;
use crate::sources::npy;
use crate::sources::table::Table;
use rayon::prelude::*;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

/// Vectors of one length.
#[derive(Debug, Clone)]
pub struct Vectors {
    /// Their names, and which belong together.
    pub items: Items,
    /// Numbers of one.
    pub dim: usize,
    /// `[rows, dim]`.
    values: Arc<Vec<f32>>,
}

impl Vectors {
    /// The vectors of some files.
    ///
    /// # Errors
    /// When a file cannot be read, files do not fit together, a name is not found, or a vector is of zeros or
    /// not finite.
    pub fn read(path: &Path, reading: &VectorReading) -> Result<Self, Error> {
        match (&reading.documents, &reading.table) {
            (Some(documents), _) => in_two_files(path, documents),
            (None, Some(table)) => by_name(path, table, reading.columns.as_ref()),
            (None, None) => alone(path),
        }
    }

    /// The numbers of some rows, `[rows, dim]`.
    pub(crate) fn values(&self, rows: impl Iterator<Item = usize>) -> Vec<f32> {
        let mut values = Vec::with_capacity(rows.size_hint().0 * self.dim);
        rows.for_each(|row| values.extend_from_slice(&self.values[row * self.dim..][..self.dim]));
        values
    }

    /// A checksum of the numbers.
    pub(crate) fn checksum(&self) -> u32 {
        let append = |crc, number: &f32| crc32c::crc32c_append(crc, &number.to_le_bytes());
        self.values.iter().fold(0, append)
    }

    fn new(items: Items, values: Vec<f32>, dim: usize) -> Self {
        Self { items, dim, values: Arc::new(values) }
    }
}

/// A matrix whose rows are as long as 1.
fn unit_rows(path: &Path) -> Result<Matrix, Error> {
    let mut matrix = Matrix::read(path)?;
    let wrong = |row: usize, what: &str| Error::data_file(path, format!("row {row} {what}"));
    if let Some(at) = matrix.numbers.iter().position(|number| !number.is_finite()) {
        let (row, number) = (at / matrix.dim, matrix.numbers[at]);
        return Err(wrong(row, &format!("(counted from 0) holds {number}, which is no vector's")));
    }
    let length = |row: &[f32]| row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let lengths: Vec<f64> = matrix.numbers.par_chunks(matrix.dim).map(length).collect();
    if let Some(row) = lengths.iter().position(|&length| length == 0.0) {
        return Err(wrong(row, "(counted from 0) is all zeros, which has no direction"));
    }
    matrix.numbers.par_chunks_mut(matrix.dim).zip(lengths).for_each(|(row, length)| {
        row.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    });
    Ok(matrix)
}

/// What a row of a file without names is called, as NumPy counts.
fn numbered(path: &Path, row: usize) -> String {
    let file = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    format!("{file}[{row}]")
}

/// Distinct vectors as they are met.
struct Distinct {
    rows: HashMap<Vec<u32>, usize>,
    items: Items,
    values: Vec<f32>,
}

impl Distinct {
    fn row(&mut self, path: &Path, matrix: &Matrix, row: usize) -> usize {
        let vector = &matrix.numbers[row * matrix.dim..][..matrix.dim];
        let next = self.items.names.len();
        let bits = vector.iter().map(|x| x.to_bits()).collect();
        *self.rows.entry(bits).or_insert_with(|| {
            let name = matrix.names.as_ref().map(|names| names[row].clone());
            self.items.names.push(name.unwrap_or_else(|| numbered(path, row)));
            let label = matrix.labels.as_ref().map(|labels| labels[row].clone());
            self.items.labels.push(label.unwrap_or_default());
            self.values.extend_from_slice(vector);
            next
        })
    }
}

/// Row i of both files belongs together.
fn in_two_files(queries: &Path, documents: &Path) -> Result<Vectors, Error> {
    let [mut of_queries, mut of_documents] = [unit_rows(queries)?, unit_rows(documents)?];
    let shape = |matrix: &Matrix| [matrix.rows(), matrix.dim];
    if shape(&of_queries) != shape(&of_documents) {
        return Err(Error::Data(format!(
            "{} is {:?} but {} is {:?}: row i of one has to belong to row i of the other, in as many \
             dimensions, as an adapter begins with what the vectors are",
            queries.display(),
            shape(&of_queries),
            documents.display(),
            shape(&of_documents)
        )));
    }
    // A pair has one label, whichever file says it.
    let labels = match of_queries.labels.take().or(of_documents.labels.take()) {
        None => npy::labels_beside(queries, of_queries.rows())?,
        labels => labels,
    };
    of_queries.labels.clone_from(&labels);
    of_documents.labels.clone_from(&labels);
    let mut distinct =
        Distinct { rows: HashMap::new(), items: Items::default(), values: Vec::new() };
    let (mut listed, mut groups) = (Vec::new(), Groups::default());
    for row in 0..of_queries.rows() {
        let a = distinct.row(queries, &of_queries, row);
        let b = distinct.row(documents, &of_documents, row);
        let label =
            labels.as_ref().map(|labels| labels[row].clone()).filter(|label| !label.is_empty());
        groups.pair(a, b, None, label);
        listed.push(Listed { a, b, group: 0, line: row as u64 });
    }
    groups.write(&mut listed);
    let items = Items { listed, ..distinct.items };
    Ok(Vectors::new(items, distinct.values, of_queries.dim))
}

/// Pairs of names, and a table of the vectors of these names.
fn by_name(pairs: &Path, table: &Path, columns: Option<&[String; 2]>) -> Result<Vectors, Error> {
    let names = columns.map_or(["anchor", "positive"], |[a, b]| [a.as_str(), b.as_str()]);
    let items = rows::pairs(Table::read(pairs)?, names, Labels::Join)?;
    let matrix = unit_rows(table)?;
    let places = matrix.names.as_deref().map(|names| places_of(names, table)).transpose()?;
    // Where the vectors have no names, they go by their number.
    let place = |name: &String| match &places {
        Some(places) => places.get(name.as_str()).copied(),
        None => name.parse().ok().filter(|&row: &usize| row < matrix.rows()),
    };
    let mut values = Vec::with_capacity(items.len() * matrix.dim);
    for (row, name) in items.names.iter().enumerate() {
        let Some(place) = place(name) else {
            let line = items.line_of(row).unwrap_or_default();
            let known = match &places {
                Some(_) => "that is no name there".to_owned(),
                None => format!("its rows go by their number, 0 to {}", matrix.rows() - 1),
            };
            let reason =
                format!("line {line}: {name:?} has no vector in {}: {known}", table.display());
            return Err(Error::data_file(pairs, reason));
        };
        values.extend_from_slice(&matrix.numbers[place * matrix.dim..][..matrix.dim]);
    }
    Ok(Vectors::new(items, values, matrix.dim))
}

/// The row of each name, of which there is one.
fn places_of<'n>(names: &'n [String], table: &Path) -> Result<HashMap<&'n str, usize>, Error> {
    let mut places = HashMap::new();
    for (row, name) in names.iter().enumerate() {
        if let Some(earlier) = places.insert(name.as_str(), row) {
            let reason =
                format!("rows {earlier} and {row} (counted from 0) are both called {name:?}");
            return Err(Error::data_file(table, reason));
        }
    }
    Ok(places)
}

/// Vectors that belong together by their labels, or are to be embedded.
fn alone(path: &Path) -> Result<Vectors, Error> {
    let Matrix { numbers, dim, names, mut labels } = unit_rows(path)?;
    let rows = numbers.len() / dim;
    if labels.is_none() {
        // Labels beside may be another file's: here each is a file of its own.
        labels = npy::labels_beside(path, rows).ok().flatten();
    }
    let names = names.unwrap_or_else(|| (0..rows).map(|row| numbered(path, row)).collect());
    let labels = labels.unwrap_or_else(|| vec![String::new(); rows]);
    Ok(Vectors::new(Items { names, labels, ..Items::default() }, numbers, dim))
}
