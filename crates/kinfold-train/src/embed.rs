//! The embeddings of images, or of views of them, of texts or of vectors, as a file for other programs.
//!
//! Input: a run and data. Output: `.npy` (the vectors `[n, d]` alone), `.csv`
//! (`name`, `label`, one column a dimension) or `.parquet` (`name`, `label`, `embedding`), by the
//! name of the file; rows are in the order of the names.

use crate::run::{CONFIG, SavedModel, write_whole};
use crate::{Error, Settings, tensors};
use burn::tensor::Device;
use kinfold_data::Data;
use kinfold_nn::encoders::Model;
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Things and their embeddings.
#[derive(Debug, Clone)]
pub struct Embedded {
    /// What was embedded.
    pub data: Data,
    /// `[n, dim]`.
    pub embeddings: Vec<f32>,
    /// Numbers in an embedding.
    pub dim: usize,
}

/// A kind of file that embeddings are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// NumPy's, the vectors alone.
    Npy,
    /// Comma-separated values.
    Csv,
    /// Apache Parquet.
    Parquet(Compression),
}

/// How the columns of a Parquet file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all: floats hardly shrink.
    #[default]
    None,
    /// Snappy, the default of pandas and pyarrow.
    Snappy,
    /// Zstandard.
    Zstd,
    /// Gzip.
    Gzip,
    /// LZ4, without frames.
    Lz4,
    /// Brotli.
    Brotli,
}

impl From<Compression> for parquet::basic::Compression {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::UNCOMPRESSED,
            Compression::Snappy => Self::SNAPPY,
            Compression::Zstd => Self::ZSTD(Default::default()),
            Compression::Gzip => Self::GZIP(Default::default()),
            Compression::Lz4 => Self::LZ4_RAW,
            Compression::Brotli => Self::BROTLI(Default::default()),
        }
    }
}

impl Format {
    /// By the file's ending, and for Parquet the compression that is asked for.
    ///
    /// # Errors
    /// When it is none of `.npy`, `.csv` and `.parquet`, or is to be compressed and not Parquet.
    pub fn of(path: &Path, compression: Option<Compression>) -> Result<Self, Error> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("parquet") => Ok(Self::Parquet(compression.unwrap_or_default())),
            Some("npy" | "csv") if compression.is_some() => Err(Error::Setting(format!(
                "{} cannot be compressed: .parquet can",
                path.display()
            ))),
            Some("npy") => Ok(Self::Npy),
            Some("csv") => Ok(Self::Csv),
            _ => Err(Error::Setting(format!(
                "{} ends in none of .npy, .csv and .parquet, so its format is unknown",
                path.display()
            ))),
        }
    }
}

/// The embeddings of `data` (by default what it was trained on) by the model of a run; of vectors, as queries.
/// Those of `average` views of each image are averaged, or of as many as the run says.
///
/// # Errors
/// When the run or the data cannot be read, or things have no such number of views.
pub fn embed(run: &Path, data: Option<&str>, average: Option<usize>) -> Result<Embedded, Error> {
    embed_as(run, data, |saved, model, data, device| {
        tensors::embed(model, data, &saved.averaged_views(average)?, device)
    })
}

/// The same as what is looked for: an adapter of vectors may have another tower for documents, or none.
///
/// # Errors
/// As [`embed`].
pub fn embed_documents(run: &Path, data: Option<&str>) -> Result<Embedded, Error> {
    embed_as(run, data, |_, model, data, device| {
        let rows: Vec<usize> = (0..data.items().len()).collect();
        tensors::embed_documents(model, data, &rows, device)
    })
}

fn embed_as(
    run: &Path,
    data: Option<&str>,
    embed: impl Fn(&SavedModel, &Model, &Data, &Device) -> Result<Vec<f32>, Error>,
) -> Result<Embedded, Error> {
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let model = saved.trained(run, &device)?;
    let data = saved.settings(data).read()?;
    let embeddings = embed(&saved, &model, &data, &device)?;
    let dim = embeddings.len() / data.items().len();
    Ok(Embedded { data, embeddings, dim })
}

/// The embeddings of so many random views of each image, as the run makes them but none that it was
/// trained on: the same rows each time, so that row i of any two is a pair.
///
/// # Errors
/// As [`embed`].
pub fn embed_views(run: &Path, data: Option<&str>, views: usize) -> Result<Vec<Embedded>, Error> {
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let model = saved.trained(run, &device)?;
    let Settings { view, seed, epochs, .. } = Settings::from_file(&run.join(CONFIG))?;
    let data = Settings { view, ..saved.settings(data) }.read()?;
    let rows: Vec<usize> = (0..data.items().len()).collect();
    let embed_view = |number| {
        // An epoch that the run did not come to: its views are new.
        let draw = |rows: &[usize]| Ok(data.draw_views(rows, &view, (seed, epochs), number)?);
        let embeddings = tensors::embed_views(&model, &rows, &device, draw)?;
        let dim = embeddings.len() / rows.len();
        Ok(Embedded { data: data.clone(), embeddings, dim })
    };
    (0..views).map(embed_view).collect()
}

impl Embedded {
    /// The first `dim` numbers of each embedding, at unit length.
    ///
    /// # Errors
    /// When embeddings have fewer, or `dim` is 0.
    pub fn cut(self, dim: usize) -> Result<Self, Error> {
        tensors::check_cuts(&[dim], self.dim)?;
        let mut embeddings = tensors::first_numbers(&self.embeddings, self.dim, dim).into_owned();
        tensors::to_unit_length(&mut embeddings, dim);
        Ok(Self { embeddings, dim, ..self })
    }

    /// How many names and labels begin as formulas do: a spreadsheet would compute them. They are written
    /// as they are all the same, since whatever reads the file is to find the names that the images have.
    pub fn formulas(&self) -> usize {
        let items = self.data.items();
        let formula = |text: &&String| text.starts_with(['=', '+', '-', '@']);
        items.names.iter().chain(&items.labels).filter(formula).count()
    }

    /// Writes them as `format`, whole or not at all; a file of that name is replaced.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, format: Format) -> Result<(), Error> {
        write_whole(path, |file| {
            let written = match format {
                Format::Npy => self.npy(file),
                Format::Csv => self.csv(file),
                Format::Parquet(compression) => self.parquet(file, compression),
            };
            written.map_err(Error::file("write", path))
        })
    }

    fn npy(&self, file: &mut File) -> io::Result<()> {
        use ndarray_npy::WriteNpyExt;
        let matrix =
            ndarray::ArrayView2::from_shape((self.data.items().len(), self.dim), &self.embeddings)
                .map_err(io::Error::other)?;
        let mut file = BufWriter::new(file);
        matrix.write_npy(&mut file).map_err(io::Error::other)?;
        file.flush()
    }

    fn csv(&self, file: &mut File) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(BufWriter::new(file));
        let columns = (0..self.dim).map(|i| format!("embedding_{i}"));
        csv.write_record(["name".to_owned(), "label".to_owned()].into_iter().chain(columns))?;
        let items = self.data.items();
        for (i, row) in self.embeddings.chunks(self.dim).enumerate() {
            let (name, label) = (&items.names[i], &items.labels[i]);
            let numbers = row.iter().map(f32::to_string);
            csv.write_record([name.clone(), label.clone()].into_iter().chain(numbers))?;
        }
        csv.flush()
    }

    fn parquet(&self, file: &mut File, compression: Compression) -> io::Result<()> {
        let schema = "message embeddings {
            required binary name (UTF8);
            required binary label (UTF8);
            required group embedding (LIST) { repeated group list { required float element; } }
        }";
        let written = || -> Result<(), ParquetError> {
            let properties =
                WriterProperties::builder().set_compression(compression.into()).build();
            let schema = Arc::new(parse_message_type(schema)?);
            let mut writer =
                SerializedFileWriter::new(BufWriter::new(file), schema, Arc::new(properties))?;
            let mut rows = writer.next_row_group()?;
            let items = self.data.items();
            for texts in [&items.names, &items.labels] {
                let texts: Vec<ByteArray> = texts.iter().map(|t| t.as_str().into()).collect();
                if let Some(mut column) = rows.next_column()? {
                    column.typed::<ByteArrayType>().write_batch(&texts, None, None)?;
                    column.close()?;
                }
            }
            if let Some(mut column) = rows.next_column()? {
                // Every row has `dim` elements: all defined, the first of each begins a new row.
                let defined = vec![1; self.embeddings.len()];
                let repeated: Vec<i16> =
                    (0..self.embeddings.len()).map(|i| i16::from(i % self.dim != 0)).collect();
                let numbers = column.typed::<FloatType>();
                numbers.write_batch(&self.embeddings, Some(&defined), Some(&repeated))?;
                column.close()?;
            }
            rows.close()?;
            writer.close()?;
            Ok(())
        };
        written().map_err(io::Error::other)
    }
}
