//! What a run is trained on: things of one kind.
//!
//! Input: the name of some data, and how its things are read. Output: [`Data`], whose pairs, splits and views
//! are asked for in the same way whatever the things are.

use crate::Error;
use crate::images::Images;
use crate::items::Items;
use crate::pairs::{Pair, Split};
use crate::rows;
use crate::settings::{DIGITS, Reading, TextReading, VectorReading};
use crate::sources::{matrix, table};
use crate::texts::{Bags, Texts};
use crate::vectors::Vectors;
use crate::views::{self, AveragedViews, Recipe};
use std::path::Path;

/// The file of a folder that describes its tokenizer.
pub const TOKENIZER: &str = "tokenizer.json";

/// What things some data is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pictures.
    Images,
    /// Sentences, queries, documents.
    Texts,
    /// What some model has made of things of any kind.
    Vectors,
}

impl Kind {
    /// What such things are called.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Images => "images",
            Self::Texts => "texts",
            Self::Vectors => "vectors",
        }
    }

    /// By the name of the data and, where that is a table, by its columns; `columns` are those that the user
    /// names. Data that cannot be read counts as images, whose reader says what is wrong.
    pub fn of(data: &str, columns: Option<&[String; 2]>) -> Self {
        let path = Path::new(data);
        if data == DIGITS || !path.is_file() || !table::is_table(path) {
            return Self::Images;
        }
        let parquet = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("parquet"));
        if parquet && columns.is_none() && matrix::has_embeddings(path) {
            return Self::Vectors;
        }
        let texts = || table::columns(path).is_ok_and(|columns| rows::are_columns(&columns));
        if parquet || columns.is_some() || texts() { Self::Texts } else { Self::Images }
    }
}

/// Things of one kind, and what is known of them.
#[derive(Debug, Clone)]
pub enum Data {
    /// Pictures of one shape.
    Images(Images),
    /// Sentences, queries, documents.
    Texts(Texts),
    /// What some model has made of things of any kind.
    Vectors(Vectors),
}

/// How data is read, whatever it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataReading {
    /// How images are read.
    pub image: Reading,
    /// How texts are read.
    pub text: TextReading,
    /// How vectors are read.
    pub vector: VectorReading,
}

/// What an encoder sees of some things, `n` of them.
#[derive(Debug, Clone)]
pub enum Views {
    /// `[n, channels, size, size]`, each number between 0 and 1.
    Pixels {
        /// The numbers.
        values: Vec<f32>,
        /// 1 or 3.
        channels: usize,
        /// Width and height.
        size: usize,
    },
    /// Tokens of texts.
    Tokens(Bags),
    /// Vectors, `[n, dim]`.
    Vectors {
        /// The numbers.
        values: Vec<f32>,
        /// Numbers of one.
        dim: usize,
        /// So many of the first are queries, and the others documents.
        queries: usize,
    },
}

impl Data {
    /// `digits` or the data at a path, as things of a kind.
    ///
    /// # Errors
    /// When the data cannot be read or is not what its name says.
    pub fn read(data: &str, kind: Kind, reading: &DataReading) -> Result<Self, Error> {
        match kind {
            Kind::Images => Images::read(data, &reading.image).map(Self::Images),
            Kind::Texts => Texts::read(Path::new(data), &reading.text).map(Self::Texts),
            Kind::Vectors => Vectors::read(Path::new(data), &reading.vector).map(Self::Vectors),
        }
    }

    /// Names, labels and pairs of the things.
    pub fn items(&self) -> &Items {
        match self {
            Self::Images(images) => &images.items,
            Self::Texts(texts) => &texts.items,
            Self::Vectors(vectors) => &vectors.items,
        }
    }

    /// What things these are.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Images(_) => Kind::Images,
            Self::Texts(_) => Kind::Texts,
            Self::Vectors(_) => Kind::Vectors,
        }
    }

    /// What the folder of a model needs to read such things again, beside the weights: names and contents
    /// of files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn files(&self) -> Result<Vec<(&'static str, String)>, Error> {
        match self {
            Self::Images(_) | Self::Vectors(_) => Ok(Vec::new()),
            Self::Texts(texts) => Ok(vec![(TOKENIZER, texts.tokenizer.to_json()?)]),
        }
    }

    /// For each token how much it says of a text that has it: a power of the logarithm of one over the share
    /// of such texts, 1 in the mean over tokens that occur; nothing where things have no tokens.
    pub fn token_weights(&self, power: f32) -> Vec<f32> {
        match self {
            Self::Images(_) | Self::Vectors(_) => Vec::new(),
            Self::Texts(texts) => texts.token_weights(power),
        }
    }

    /// What is trained on and what is held out: of pairs of texts whole groups, of pairs of vectors queries,
    /// of pairs of images that a list names nothing.
    pub fn split(&self, share: f64) -> Split {
        match self {
            Self::Vectors(vectors) if vectors.items.is_list() => {
                Split::of_queries(&vectors.items, share)
            }
            Self::Texts(texts) if texts.items.is_list() => Split::of_pairs(&texts.items, share),
            _ => Split::new(self.items(), share),
        }
    }

    /// The things themselves, without any chance; vectors as queries.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn plain(&self, rows: &[usize]) -> Result<Views, Error> {
        match self {
            Self::Images(images) => Ok(pixels(images, images.pixels(rows)?)),
            Self::Texts(texts) => Ok(Views::Tokens(texts.bags(rows.iter().copied()))),
            Self::Vectors(vectors) => Ok(seen(vectors, rows.iter().copied(), rows.len())),
        }
    }

    /// The things as what is looked for: as [`plain`](Self::plain) has them, but vectors as documents.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn documents(&self, rows: &[usize]) -> Result<Views, Error> {
        match self {
            Self::Vectors(vectors) => Ok(seen(vectors, rows.iter().copied(), 0)),
            _ => self.plain(rows),
        }
    }

    /// The things as plain numbers, `[rows, numbers of one]`; none where they are no numbers.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn raw(&self, rows: &[usize]) -> Result<Option<Vec<f32>>, Error> {
        match self {
            Self::Images(images) => images.pixels(rows).map(Some),
            Self::Texts(_) => Ok(None),
            Self::Vectors(vectors) => Ok(Some(vectors.values(rows.iter().copied()))),
        }
    }

    /// A view of each member of each pair, first of every first member and then of every second. Texts and
    /// vectors are seen as they are.
    ///
    /// # Errors
    /// When a member cannot be read any more.
    pub fn draw_pairs(
        &self,
        pairs: &[Pair],
        recipe: &Recipe,
        seed: u64,
        epoch: usize,
    ) -> Result<Views, Error> {
        match self {
            Self::Images(images) => {
                Ok(pixels(images, views::draw_pairs(images, pairs, recipe, seed, epoch)?))
            }
            Self::Texts(texts) => Ok(Views::Tokens(texts.bags(members(pairs)))),
            Self::Vectors(vectors) => Ok(seen(vectors, members(pairs), pairs.len())),
        }
    }

    /// What a step of training sees of some pairs: [`draw_pairs`](Self::draw_pairs), and then the negatives that
    /// the data lists for each of them.
    ///
    /// # Errors
    /// As [`draw_pairs`](Self::draw_pairs).
    pub fn draw_batch(
        &self,
        pairs: &[Pair],
        recipe: &Recipe,
        seed: u64,
        epoch: usize,
    ) -> Result<Views, Error> {
        let mut views = self.draw_pairs(pairs, recipe, seed, epoch)?;
        if self.items().negatives_per_pair() == 0 {
            return Ok(views);
        }
        let negatives = pairs.iter().flat_map(|pair| self.items().negatives(pair.place)).copied();
        match (self, &mut views) {
            (Self::Texts(texts), Views::Tokens(bags)) => {
                negatives.for_each(|row| bags.push(texts.tokens.of(row)));
            }
            (Self::Vectors(vectors), Views::Vectors { values, .. }) => {
                values.extend(vectors.values(negatives));
            }
            _ => {}
        }
        Ok(views)
    }

    /// View `number` of each of these things, as [`draw_views`](views::draw_views) draws it.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn draw_views(
        &self,
        rows: &[usize],
        recipe: &Recipe,
        (seed, epoch): (u64, usize),
        number: usize,
    ) -> Result<Views, Error> {
        match self {
            Self::Images(images) => {
                let values = views::draw_views(images, rows, recipe, (seed, epoch), number)?;
                Ok(pixels(images, values))
            }
            Self::Texts(_) | Self::Vectors(_) => self.plain(rows),
        }
    }

    /// View `number` of each of these things, of those that are averaged. Of texts and vectors there is one.
    ///
    /// # Errors
    /// When one cannot be read any more.
    pub fn draw_averaged(
        &self,
        rows: &[usize],
        views: &AveragedViews,
        number: usize,
    ) -> Result<Views, Error> {
        match self {
            Self::Images(images) => {
                Ok(pixels(images, views::draw_averaged(images, rows, views, number)?))
            }
            Self::Texts(_) | Self::Vectors(_) => self.plain(rows),
        }
    }

    /// A checksum of what the things are made of: other contents, other number.
    pub fn checksum(&self) -> u32 {
        match self {
            Self::Images(images) => images.checksum(),
            Self::Texts(texts) => texts.checksum(),
            Self::Vectors(vectors) => vectors.checksum(),
        }
    }
}

fn pixels(images: &Images, values: Vec<f32>) -> Views {
    Views::Pixels { values, channels: images.channels, size: images.size }
}

/// The rows of every first member, and then of every second.
fn members(pairs: &[Pair]) -> impl Iterator<Item = usize> {
    pairs.iter().map(|pair| pair.a).chain(pairs.iter().map(|pair| pair.b))
}

fn seen(vectors: &Vectors, rows: impl Iterator<Item = usize>, queries: usize) -> Views {
    Views::Vectors { values: vectors.values(rows), dim: vectors.dim, queries }
}
