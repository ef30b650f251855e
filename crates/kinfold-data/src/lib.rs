//! What a contrastive model is trained on: images from files of many formats, pairs of them, and
//! random views.
//!
//! Input: the name of some data, and settings. Output: [`Images`] of one shape, a [`Split`] of them,
//! [`Pairs`] in batches, and views `[2n, channels, size, size]` of a batch ([`draw_pairs`]). Nothing
//! here knows a framework, prints, or writes a file. All that is random follows from a seed.
//!
//! ```
//! use kinfold_data::{DIGITS, ImageSettings, Images, PairSettings, Pairs, Recipe, Split};
//! use kinfold_data::{SimclrSettings, draw_pairs};
//!
//! let recipe = Recipe::Simclr(SimclrSettings::CIFAR);
//! let reading = ImageSettings::default().reading(DIGITS, recipe.wants_originals());
//! let images = Images::read(DIGITS, &reading)?;
//! let split = Split::new(&images.items, 0.2);
//! let pairs = Pairs::new(&images.items, &split, &PairSettings::default())?;
//! for batch in pairs.batches(64, 0, 0) {
//!     let views = draw_pairs(&images, &batch, &recipe, 0, 0)?;
//!     assert_eq!(views.len(), 2 * 64 * 8 * 8);
//! }
//! # Ok::<(), kinfold_data::Error>(())
//! ```
//!
//! Modules point one way: items → sources → rows → cache → images, texts, vectors → pairs → views → data.

#![warn(clippy::unwrap_used)]

mod budget;
mod cache;
mod data;
mod error;
mod groups;
mod images;
mod items;
mod pairs;
mod picture;
pub mod random;
mod rows;
mod settings;
mod sources;
#[cfg(test)]
mod tests;
mod texts;
mod vectors;
mod views;

pub use data::{Data, DataReading, Kind, TOKENIZER, Views};
pub use error::Error;
pub use images::Images;
pub use items::{Items, Skipped};
pub use pairs::{Expansion, LeftOut, Pair, PairSettings, PairSource, Pairs, Split};
pub use picture::Picture;
pub use settings::{
    DIGITS, ImageSettings, MEMORY, Reading, TextReading, TextSettings, TokenizerSource,
    VectorReading, VectorSettings,
};
pub use sources::matrix::{Matrix, labels as labels_of_file};
pub use sources::table::write_negatives;
pub use sources::{npy, texts as files_of_name};
pub use texts::{Bags, Bm25, Texts, Tokenizer};
pub use vectors::Vectors;
pub use views::{
    AveragedViews, Key, Recipe, Sheet, SimclrSettings, ViewSettings, contact_sheet, draw_averaged,
    draw_pairs, draw_views, pair_sheet,
};

/// The README's example compiles, too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
