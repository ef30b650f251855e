//! Rows of named columns, as .jsonl, .csv or .parquet.
//!
//! Input: the file. Output: its columns and rows, each cell as text and each row with its place in the file; and
//! such a file with further columns.
//! A cell that is missing, or null, is none; numbers are as the file writes them.

use crate::Error;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a file of rows holds.
pub(crate) struct Table {
    pub(crate) path: PathBuf,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Vec<Row>,
    /// What a row's number counts: `line` or `row`.
    unit: &'static str,
}

/// A row of a table.
pub(crate) struct Row {
    /// Its place in the file, counted from 1.
    pub(crate) number: u64,
    /// One for each column, or fewer.
    cells: Vec<Option<String>>,
}

impl Row {
    pub(crate) fn take(&mut self, column: usize) -> Option<String> {
        self.cells.get_mut(column).and_then(Option::take)
    }
}

/// The rows of a file of pairs with their negatives in columns of their own, as .jsonl where the name `out`
/// ends so, and else as .csv.
/// Negatives that the file has are left out, as are rows for whose number `negatives` has none.
///
/// # Errors
/// When the file cannot be read, or `file` cannot be written.
pub fn write_negatives<'t>(
    data: &Path,
    negatives: &dyn Fn(u64) -> Option<Vec<&'t str>>,
    each: usize,
    out: &Path,
    file: &mut File,
) -> Result<(), Error> {
    let mut table = Table::read(data)?;
    let kept: Vec<usize> =
        (0..table.columns.len()).filter(|&at| !is_negative(&table.columns[at])).collect();
    let mut names: Vec<String> = kept.iter().map(|&at| table.columns[at].clone()).collect();
    names.extend((1..=each).map(|number| format!("negative_{number}")));
    let rows = std::mem::take(&mut table.rows).into_iter().filter_map(|mut row| {
        let negatives = negatives(row.number)?.into_iter().map(|text| Some(text.to_owned()));
        let cells = kept.iter().map(|&at| row.take(at));
        Some(cells.chain(negatives).collect::<Vec<Option<String>>>())
    });
    let unwritten =
        |e: std::io::Error| Error::File { action: "write", path: out.to_path_buf(), source: e };
    match ending(out).as_deref() {
        Some("jsonl") => {
            let mut file = BufWriter::new(file);
            for row in rows {
                let cells = names.iter().zip(row).filter_map(|(name, cell)| {
                    Some(format!("{}: {}", Value::from(name.as_str()), Value::from(cell?)))
                });
                let cells = cells.collect::<Vec<String>>().join(", ");
                writeln!(file, "{{{cells}}}").map_err(unwritten)?;
            }
            file.flush().map_err(unwritten)
        }
        _ => {
            let mut file = csv::Writer::from_writer(BufWriter::new(file));
            let wrong = |e: csv::Error| unwritten(std::io::Error::other(e));
            file.write_record(&names).map_err(wrong)?;
            for row in rows {
                file.write_record(row.iter().map(|cell| cell.as_deref().unwrap_or_default()))
                    .map_err(wrong)?;
            }
            file.flush().map_err(unwritten)
        }
    }
}

/// Whether a column is `negative`, or `negative_` and a number.
pub(crate) fn is_negative(column: &str) -> bool {
    let number = column.strip_prefix("negative").map(|end| end.strip_prefix('_').unwrap_or(end));
    column == "negative" || number.is_some_and(|number| number.parse::<u32>().is_ok())
}

/// How a file's name ends, in lower case.
fn ending(path: &Path) -> Option<String> {
    path.extension().and_then(|ending| ending.to_str()).map(str::to_lowercase)
}

/// Whether a file of this name is read here.
pub(crate) fn is_table(path: &Path) -> bool {
    matches!(ending(path).as_deref(), Some("jsonl" | "csv" | "parquet"))
}

impl Table {
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let table = match ending(path).as_deref() {
            Some("jsonl") => json_lines(path),
            Some("csv") => csv(path),
            _ => parquet(path),
        }?;
        if table.rows.is_empty() {
            return Err(Error::data_file(path, "it has no row, but at least one is needed"));
        }
        Ok(table)
    }

    /// The place of a column.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column == name)
    }

    /// What is wrong with a row.
    pub(crate) fn wrong(&self, number: u64, reason: &str) -> Error {
        Error::data_file(&self.path, format!("{} {number}: {reason}", self.unit))
    }
}

/// The columns of a file, without its rows.
pub(crate) fn columns(path: &Path) -> Result<Vec<String>, Error> {
    match ending(path).as_deref() {
        Some("parquet") => {
            Ok(plain_columns(&open_parquet(path)?).into_iter().map(|x| x.0).collect())
        }
        Some("jsonl") => {
            use std::io::{BufRead, BufReader};
            let mut first = Vec::new();
            let mut file = BufReader::new(File::open(path).map_err(Error::read(path))?);
            while first.trim_ascii().is_empty() {
                first.clear();
                if file.read_until(b'\n', &mut first).map_err(Error::read(path))? == 0 {
                    return Ok(Vec::new());
                }
            }
            let first: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&first);
            Ok(first.map(|first| first.keys().cloned().collect()).unwrap_or_default())
        }
        _ => {
            let file = File::open(path).map_err(Error::read(path))?;
            let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
            let headers = reader.headers().map(|row| row.iter().map(heading).collect());
            Ok(headers.unwrap_or_default())
        }
    }
}

/// A column's name in a first row, which may begin with a byte order mark.
fn heading(cell: &str) -> String {
    cell.trim_start_matches('\u{feff}').trim().to_owned()
}

fn csv(path: &Path) -> Result<Table, Error> {
    let wrong = |e: csv::Error| match e.into_kind() {
        csv::ErrorKind::Io(e) => Error::read(path)(e),
        csv::ErrorKind::Utf8 { pos, .. } => {
            let line = pos.map_or(0, |pos| pos.line());
            Error::data_file(path, format!("line {line}: it is not UTF-8"))
        }
        kind => Error::data_file(path, format!("it cannot be read as CSV: {kind:?}")),
    };
    let file = File::open(path).map_err(Error::read(path))?;
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(file);
    let columns: Vec<String> = reader.headers().map_err(wrong)?.iter().map(heading).collect();
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(wrong)? {
        let number = record.position().map_or(0, |at| at.line());
        if record.len() != columns.len() {
            let (found, needed) = (record.len(), columns.len());
            let reason =
                format!("line {number}: it has {found} cells, but there are {needed} columns");
            return Err(Error::data_file(path, reason));
        }
        let cell = |cell: &str| Some(cell.to_owned()).filter(|cell| !cell.is_empty());
        rows.push(Row { number, cells: record.iter().map(cell).collect() });
    }
    Ok(Table { path: path.to_path_buf(), columns, rows, unit: "line" })
}

fn json_lines(path: &Path) -> Result<Table, Error> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let (mut columns, mut rows): (Vec<String>, Vec<Row>) = (Vec::new(), Vec::new());
    for (number, text) in (1..).zip(bytes.split(|&byte| byte == b'\n')) {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let wrong = |reason: String| Error::data_file(path, format!("line {number}: {reason}"));
        let text = std::str::from_utf8(text).map_err(|_| wrong("it is not UTF-8".into()))?;
        let object: serde_json::Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| wrong(format!("it is no JSON object of named cells: {e}")))?;
        let mut cells = vec![None; columns.len()];
        for (name, value) in object {
            let at = columns.iter().position(|column| *column == name).unwrap_or_else(|| {
                columns.push(name);
                cells.push(None);
                columns.len() - 1
            });
            cells[at] = match value {
                Value::String(text) => Some(text),
                Value::Null => None,
                other => Some(other.to_string()),
            };
        }
        rows.push(Row { number, cells });
    }
    Ok(Table { path: path.to_path_buf(), columns, rows, unit: "line" })
}

fn open_parquet(path: &Path) -> Result<SerializedFileReader<File>, Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    SerializedFileReader::new(file)
        .map_err(|e| Error::data_file(path, format!("it cannot be read as Parquet: {e}")))
}

/// The columns of a file that hold a text or a number a row, and their types.
fn plain_columns(reader: &SerializedFileReader<File>) -> Vec<(String, Arc<Type>)> {
    let schema = reader.metadata().file_metadata().schema();
    let plain = schema.get_fields().iter().filter(|field| field.is_primitive());
    plain.map(|field| (field.name().to_owned(), field.clone())).collect()
}

fn parquet(path: &Path) -> Result<Table, Error> {
    let wrong = |e: &dyn std::fmt::Display| {
        Error::data_file(path, format!("it cannot be read as Parquet: {e}"))
    };
    let reader = open_parquet(path)?;
    let (columns, fields): (Vec<_>, Vec<_>) = plain_columns(&reader).into_iter().unzip();
    let name = reader.metadata().file_metadata().schema().name().to_owned();
    let schema =
        Type::group_type_builder(&name).with_fields(fields).build().map_err(|e| wrong(&e))?;
    let mut rows = Vec::new();
    for (number, row) in (1..).zip(reader.get_row_iter(Some(schema)).map_err(|e| wrong(&e))?) {
        let row = row.map_err(|e| wrong(&e))?;
        let cell = |(_, field): (&String, &Field)| match field {
            Field::Null => None,
            Field::Str(text) => Some(text.clone()),
            Field::Bytes(bytes) => std::str::from_utf8(bytes.data()).ok().map(str::to_owned),
            other => Some(other.to_string()),
        };
        rows.push(Row { number, cells: row.get_column_iter().map(cell).collect() });
    }
    Ok(Table { path: path.to_path_buf(), columns, rows, unit: "row" })
}
