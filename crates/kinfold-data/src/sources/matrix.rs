//! Embeddings out of a file.
//!
//! Input: a file, `.npy`, `.parquet`, `.csv` or `.safetensors`, told by its ending. Output: a
//! matrix of f32 `[n, d]`, and names and labels where the file has them. What is f64 or f16 there becomes
//! f32. It takes what `kinfold embed` writes, and what others write in the same formats.

use super::npy;
use crate::Error;
use half::{bf16, f16};
use parquet::basic::Type;
use parquet::column::reader::ColumnReader;
use parquet::data_type::{DataType, DoubleType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::schema::types::SchemaDescriptor;
use safetensors::{Dtype, SafeTensors};
use std::fs::File;
use std::path::Path;

/// A matrix of embeddings.
#[derive(Debug)]
pub struct Matrix {
    /// `[n, dim]`.
    pub numbers: Vec<f32>,
    /// Numbers in a row.
    pub dim: usize,
    /// A name of each row, where the file has a column `name` or `id`.
    pub names: Option<Vec<String>>,
    /// A label of each row, where the file has them and not all are empty.
    pub labels: Option<Vec<String>>,
}

impl Matrix {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.numbers.len() / self.dim
    }

    /// What a file holds.
    ///
    /// # Errors
    /// When it cannot be read, or holds no matrix; the error names the file and what was found.
    pub fn read(path: &Path) -> Result<Self, Error> {
        match ending(path).as_str() {
            "npy" => of_npy(path),
            "parquet" => of_parquet(path),
            "csv" => of_csv(path),
            "safetensors" => of_safetensors(path),
            _ => Err(Error::Setting(format!(
                "{} is no run folder and ends in none of .npy, .parquet, .csv and .safetensors, so \
                 it is not known how to read embeddings from it",
                path.display()
            ))),
        }
    }

    fn new(path: &Path, numbers: Vec<f32>, dim: usize) -> Result<Self, Error> {
        if dim == 0 || numbers.is_empty() {
            return Err(Error::data_file(path, "it holds no numbers"));
        }
        Ok(Self { numbers, dim, names: None, labels: None })
    }

    /// With columns of text, where there are some and they say something.
    fn with_texts(self, names: Option<Vec<String>>, labels: Option<Vec<String>>) -> Self {
        let rows = self.rows();
        let told =
            |texts: &Vec<String>| texts.len() == rows && texts.iter().any(|text| !text.is_empty());
        Self { names: names.filter(told), labels: labels.filter(told), ..self }
    }
}

/// A label a row: whole numbers in a `.npy`, the column `label` of a `.csv` or `.parquet`, or the
/// lines of any other file.
///
/// # Errors
/// When the file cannot be read or holds no labels.
pub fn labels(path: &Path) -> Result<Vec<String>, Error> {
    match ending(path).as_str() {
        "npy" => Ok(npy::integers(path)?),
        "csv" => csv_labels(path),
        "parquet" => {
            let file = opened(path)?;
            texts(&file, "label").map_err(|e| broken(path, e))?.ok_or_else(|| {
                Error::data_file(path, "it has no column `label` of text to take labels from")
            })
        }
        _ => {
            let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
            Ok(text.lines().map(|line| line.trim().to_owned()).collect())
        }
    }
}

fn ending(path: &Path) -> String {
    path.extension().map(|ending| ending.to_string_lossy().to_lowercase()).unwrap_or_default()
}

fn needs_matrix(path: &Path, found: &str) -> Error {
    Error::data_file(path, format!("{found}, but embeddings are a matrix [n, d]"))
}

fn of_npy(path: &Path) -> Result<Matrix, Error> {
    let npy::Header { number, shape, start } = npy::header(path)?;
    let [n, dim] = shape[..] else {
        return Err(needs_matrix(path, &format!("its shape is {shape:?}")));
    };
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let bytes = bytes.get(start as usize..).unwrap_or_default();
    let number = match number.as_str() {
        "<f4" => Dtype::F32,
        "<f8" => Dtype::F64,
        "<f2" => Dtype::F16,
        other => {
            let reason = format!(
                "its numbers are `{other}`, but f32 (`<f4`), f64 (`<f8`) or f16 (`<f2`) is needed"
            );
            return Err(Error::data_file(path, reason));
        }
    };
    let numbers = floats(path, bytes, number)?;
    if n.checked_mul(dim) != Some(numbers.len()) {
        let reason = format!(
            "its shape is {shape:?}, but {} numbers are there: it may have been cut off",
            numbers.len()
        );
        return Err(Error::data_file(path, reason));
    }
    Matrix::new(path, numbers, dim)
}

fn of_safetensors(path: &Path) -> Result<Matrix, Error> {
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let all = SafeTensors::deserialize(&bytes)
        .map_err(|e| Error::data_file(path, format!("it is no safetensors file: {e}")))?;
    let tensors = all.tensors();
    let mut matrices = tensors.iter().filter(|(_, tensor)| tensor.shape().len() == 2);
    let (Some((_, matrix)), None) = (matrices.next(), matrices.next()) else {
        let mut found: Vec<String> =
            tensors.iter().map(|(name, tensor)| format!("{name} {:?}", tensor.shape())).collect();
        found.sort();
        let reason = format!(
            "it holds {}, but one tensor [n, d], and one only, is needed",
            if found.is_empty() { "nothing".to_owned() } else { found.join(", ") }
        );
        return Err(Error::data_file(path, reason));
    };
    Matrix::new(path, floats(path, matrix.data(), matrix.dtype())?, matrix.shape()[1])
}

/// Numbers as they lie in a file, the least byte first.
fn floats(path: &Path, bytes: &[u8], number: Dtype) -> Result<Vec<f32>, Error> {
    fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect()
    }
    Ok(match number {
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F64 => each(bytes, |bytes| f64::from_le_bytes(bytes) as f32),
        Dtype::F16 => each(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
        Dtype::BF16 => each(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        other => {
            let reason = format!("its numbers are {other:?}, but F32, F64, F16 or BF16 is needed");
            return Err(Error::data_file(path, reason));
        }
    })
}

/// Columns that are text in a `.csv`.
const TEXT: [&str; 3] = ["name", "id", "label"];

fn csv_records(path: &Path) -> Result<Vec<csv::StringRecord>, Error> {
    let wrong = |e: csv::Error| Error::data_file(path, e.to_string());
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(path).map_err(wrong)?;
    reader.records().collect::<Result<_, _>>().map_err(wrong)
}

/// A first row that is not all numbers is a header; `name`, `id` and `label` are then text, and every
/// other column a dimension.
fn of_csv(path: &Path) -> Result<Matrix, Error> {
    let records = csv_records(path)?;
    let is_number = |field: &str| field.trim().parse::<f32>().is_ok();
    let header = records.first().filter(|first| !first.iter().all(is_number));
    let is_text = |column: usize| {
        header.is_some_and(|header| TEXT.contains(&header.get(column).unwrap_or_default().trim()))
    };
    let skip = usize::from(header.is_some());
    let columns: Vec<usize> =
        (0..records.first().map_or(0, csv::StringRecord::len)).filter(|&c| !is_text(c)).collect();
    let mut numbers = Vec::with_capacity(records.len() * columns.len());
    for (i, record) in records.iter().enumerate().skip(skip) {
        for &column in &columns {
            let field = record.get(column).unwrap_or_default();
            numbers.push(field.trim().parse().map_err(|_| {
                let reason = format!(
                    "`{field}` in row {}, column {} is no number; columns of text are called `name`, \
                     `id` or `label`",
                    i + 1,
                    column + 1
                );
                Error::data_file(path, reason)
            })?);
        }
    }
    let texts = |name: &str| -> Option<Vec<String>> {
        let column = header?.iter().position(|heading| heading.trim() == name)?;
        let cells = records.iter().skip(skip).map(|record| record.get(column).unwrap_or_default());
        Some(cells.map(str::to_owned).collect())
    };
    let names = texts("name").or_else(|| texts("id"));
    Ok(Matrix::new(path, numbers, columns.len())?.with_texts(names, texts("label")))
}

fn csv_labels(path: &Path) -> Result<Vec<String>, Error> {
    let records = csv_records(path)?;
    let column = records.first().and_then(|first| first.iter().position(|x| x.trim() == "label"));
    let (column, skip) = match (column, records.first()) {
        (Some(column), _) => (column, 1),
        (None, Some(first)) if first.len() == 1 => (0, 0),
        _ => return Err(Error::data_file(path, "it has no column `label` to take labels from")),
    };
    let labels = records.iter().skip(skip).map(|record| record.get(column).unwrap_or_default());
    Ok(labels.map(str::to_owned).collect())
}

fn broken(path: &Path, e: ParquetError) -> Error {
    Error::data_file(path, format!("it cannot be read as Parquet: {e}"))
}

fn opened(path: &Path) -> Result<SerializedFileReader<File>, Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    SerializedFileReader::new(file).map_err(|e| broken(path, e))
}

/// The columns that hold a list of numbers a row.
fn list_columns(schema: &SchemaDescriptor) -> Vec<usize> {
    let is_list = |&i: &usize| {
        let column = schema.column(i);
        column.max_rep_level() == 1 && matches!(column.physical_type(), Type::FLOAT | Type::DOUBLE)
    };
    (0..schema.num_columns()).filter(is_list).collect()
}

/// Whether a Parquet file holds embeddings; one that cannot be read does not.
pub(crate) fn has_embeddings(path: &Path) -> bool {
    opened(path)
        .is_ok_and(|file| !list_columns(file.metadata().file_metadata().schema_descr()).is_empty())
}

/// A column of lists of numbers: `embedding`, or the only one.
fn of_parquet(path: &Path) -> Result<Matrix, Error> {
    let file = opened(path)?;
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let lists = list_columns(&schema);
    let name = |i: usize| schema.column(i).path().parts()[0].clone();
    let named = lists.iter().copied().find(|&i| name(i) == "embedding");
    let column = match (named, &lists[..]) {
        (Some(column), _) => column,
        (None, &[column]) => column,
        _ => {
            let all: Vec<String> = (0..schema.num_columns()).map(name).collect();
            let reason = format!(
                "its columns are {}, but one `embedding` of lists of numbers is needed",
                all.join(", ")
            );
            return Err(Error::data_file(path, reason));
        }
    };
    let mut lists = Lists::default();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group).map_err(|e| broken(path, e))?;
        lists.add(&*group, column).map_err(|e| broken(path, e))?;
    }
    let whole = schema.column(column).max_def_level();
    if let Some(at) = lists.defined.iter().position(|&defined| defined != whole) {
        let row = lists.repeated[..=at].iter().filter(|&&repeated| repeated == 0).count();
        return Err(Error::data_file(path, format!("row {row} of `{}` has a gap", name(column))));
    }
    let starts: Vec<usize> = (0..lists.numbers.len()).filter(|&i| lists.repeated[i] == 0).collect();
    let dim = starts.get(1).copied().unwrap_or(lists.numbers.len());
    if let Some(row) = (0..starts.len()).find(|&row| {
        starts.get(row + 1).copied().unwrap_or(lists.numbers.len()) - starts[row] != dim
    }) {
        let reason = format!("row {} has another number of dimensions than the first", row + 1);
        return Err(Error::data_file(path, reason));
    }
    let column = |name: &str| texts(&file, name).map_err(|e| broken(path, e));
    let names = match column("name")? {
        None => column("id")?,
        names => names,
    };
    Ok(Matrix::new(path, lists.numbers, dim)?.with_texts(names, column("label")?))
}

/// Elements of lists, whether they are there, and 0 where one is its list's first.
#[derive(Default)]
struct Lists {
    numbers: Vec<f32>,
    defined: Vec<i16>,
    repeated: Vec<i16>,
}

impl Lists {
    fn add(&mut self, group: &dyn RowGroupReader, column: usize) -> Result<(), ParquetError> {
        let rows = group.metadata().num_rows() as usize;
        match group.get_column_reader(column)? {
            ColumnReader::FloatColumnReader(reader) => self.take::<FloatType>(reader, rows, |x| x),
            ColumnReader::DoubleColumnReader(reader) => {
                self.take::<DoubleType>(reader, rows, |x| x as f32)
            }
            _ => Ok(()),
        }
    }

    fn take<T: DataType>(
        &mut self,
        mut reader: parquet::column::reader::ColumnReaderImpl<T>,
        mut rows: usize,
        number: impl Fn(T::T) -> f32,
    ) -> Result<(), ParquetError> {
        while rows > 0 {
            let mut numbers = Vec::new();
            let (defined, repeated) = (Some(&mut self.defined), Some(&mut self.repeated));
            let (read, ..) = reader.read_records(rows, defined, repeated, &mut numbers)?;
            if read == 0 {
                break;
            }
            rows -= read;
            self.numbers.extend(numbers.into_iter().map(&number));
        }
        Ok(())
    }
}

/// A column of text, one a row; none where there is no such column, and an empty one for a gap.
fn texts(
    file: &SerializedFileReader<File>,
    name: &str,
) -> Result<Option<Vec<String>>, ParquetError> {
    let schema = file.metadata().file_metadata().schema_descr_ptr();
    let is_text = |&i: &usize| {
        let column = schema.column(i);
        column.path().parts() == [name]
            && column.max_rep_level() == 0
            && column.physical_type() == Type::BYTE_ARRAY
    };
    let Some(column) = (0..schema.num_columns()).find(is_text) else { return Ok(None) };
    let mut all = Vec::new();
    for group in 0..file.num_row_groups() {
        let group = file.get_row_group(group)?;
        let mut rows = group.metadata().num_rows() as usize;
        let ColumnReader::ByteArrayColumnReader(mut reader) = group.get_column_reader(column)?
        else {
            return Ok(None);
        };
        while rows > 0 {
            let (mut values, mut defined) = (Vec::new(), Vec::new());
            let (read, ..) = reader.read_records(rows, Some(&mut defined), None, &mut values)?;
            if read == 0 {
                break;
            }
            rows -= read;
            let mut values = values.iter().map(|x| String::from_utf8_lossy(x.data()).into_owned());
            if defined.is_empty() {
                all.extend(values);
            } else {
                let most = schema.column(column).max_def_level();
                let text = |&d: &i16| (d == most).then(|| values.next()).flatten();
                all.extend(defined.iter().map(text).map(Option::unwrap_or_default));
            }
        }
    }
    Ok(Some(all))
}
