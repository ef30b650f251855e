//! A look at views before training: a contact sheet as a PNG file.
//!
//! Input: settings, and where the sheet goes. Output: a picture with a row for each of some
//! images, first the image and then its views, as the first epochs of training would see them; or the
//! pairs of the first batch.

use crate::picture::{check_png, png};
use image::ExtendedColorType;
use kinfold_data::{Data, Images, Pairs, Sheet, Split, contact_sheet, pair_sheet};
use kinfold_train::run::write_whole;
use kinfold_train::{Error, Settings};
use std::io::Write;
use std::path::Path;

/// The side of a tile, in pixels, that smaller images are enlarged to.
const TILE: usize = 96;

/// What a sheet shows.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The data.
    pub images: Images,
    /// Images, or pairs, shown.
    pub shown: usize,
}

/// Writes a sheet of `count` images, spread over the data, with `views` views of each.
///
/// # Errors
/// When settings or data cannot be used, or the file cannot be written.
pub fn preview(
    settings: &Settings,
    count: usize,
    views: usize,
    out: &Path,
) -> Result<Preview, Error> {
    check(settings, count, views, out)?;
    let images = images(settings)?;
    let shown = count.min(images.len());
    let rows = (0..shown).map(|i| i * images.len() / shown);
    let pictures = rows.map(|row| Ok((row, settings.view.picture(&images, row)?)));
    let pictures: Vec<_> = pictures.collect::<Result<_, Error>>()?;
    let sheet = contact_sheet(&pictures, &settings.view, views, images.size, settings.seed);
    let sheet = sheet.map_err(Error::Setting)?;
    drop(pictures);
    write(sheet, images.size, out)?;
    Ok(Preview { images, shown })
}

/// Writes a sheet of the first pairs of the first batch as training would make them, `rows` rows of
/// `columns`.
///
/// # Errors
/// As [`preview`], and when there are no such pairs.
pub fn preview_pairs(
    settings: &Settings,
    rows: usize,
    columns: usize,
    out: &Path,
) -> Result<Preview, Error> {
    check(settings, rows, columns, out)?;
    let images = images(settings)?;
    let split = Split::new(&images.items, settings.hold_out);
    let pairs = Pairs::new(&images.items, &split, &settings.pairs)?;
    let batch = settings.batch.unwrap_or(pairs.largest_batch()).min(pairs.largest_batch());
    let mut batch = pairs.batches(batch, settings.seed, 0).into_iter().next().unwrap_or_default();
    batch.truncate(rows * columns);
    let sheet = pair_sheet(&images, &batch, &settings.view, columns, (settings.seed, 0))?;
    write(sheet, images.size, out)?;
    Ok(Preview { images, shown: batch.len() })
}

/// The images that settings name.
fn images(settings: &Settings) -> Result<Images, Error> {
    match settings.read()? {
        Data::Images(images) => Ok(images),
        other => {
            let text = format!("a sheet shows images, but the data is {}", other.kind().noun());
            Err(Error::Setting(text))
        }
    }
}

/// A text and the tokens that an encoder sees of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenizedText {
    /// The text.
    pub text: String,
    /// Its tokens, as the vocabulary writes them.
    pub tokens: Vec<String>,
}

/// Some texts, spread over the data, as an encoder sees them.
///
/// # Errors
/// When settings or data cannot be used, or the data is no texts.
pub fn preview_texts(settings: &Settings, count: usize) -> Result<Vec<TokenizedText>, Error> {
    settings.check()?;
    let Data::Texts(texts) = settings.read()? else {
        return Err(Error::Setting("these are no texts".to_owned()));
    };
    let (n, shown) = (texts.items.len(), count.min(texts.items.len()));
    let tokenized = (0..shown).map(|i| {
        let text = texts.items.names[i * n / shown].clone();
        Ok(TokenizedText { tokens: texts.tokenizer.pieces(&text)?, text })
    });
    tokenized.collect()
}

fn check(settings: &Settings, rows: usize, columns: usize, out: &Path) -> Result<(), Error> {
    settings.check()?;
    for (name, value, most) in [("images", rows, 200), ("columns", columns, 100)] {
        if !(1..=most).contains(&value) {
            let text = format!("{name} is {value}, but a sheet shows 1 to {most}");
            return Err(Error::Setting(text));
        }
    }
    check_png(out)
}

fn write(sheet: Sheet, size: usize, out: &Path) -> Result<(), Error> {
    let sheet = sheet.enlarged((TILE / size).max(1));
    let png = png(&sheet.pixels, sheet.width, sheet.height, ExtendedColorType::Rgb8)?;
    write_whole(out, |file| file.write_all(&png).map_err(Error::file("write", out)))
}
