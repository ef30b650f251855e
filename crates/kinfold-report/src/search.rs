//! The nearest neighbours of an image or a text: search by example.
//!
//! Input: a run, queries, and things to search among. Output: for each query the nearest by cosine
//! of their embeddings, and of images a picture of them. Everything is looked at, so nothing is missed.

use crate::picture::{check_png, png, shrunk};
use burn::tensor::Device;
use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::iso_8859_1::FONT_6X13;
use embedded_graphics::pixelcolor::Gray8;
use embedded_graphics::prelude::*;
use embedded_graphics::text::Text;
use image::ExtendedColorType;
use kinfold::Embeddings;
use kinfold::measures::{Neighbour, each_row, fused, nearest};
use kinfold_data::{Bm25, Data, Images, Texts};
use kinfold_train::Error;
use kinfold_train::run::{SavedModel, write_whole};
use kinfold_train::tensors::embed;
use serde::Serialize;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What was searched.
    pub data: Data,
    /// The nearest of each query.
    pub matches: Vec<Matches>,
    queries: Data,
}

/// The nearest of one query.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Matches {
    /// The query's file, or the text.
    pub query: String,
    /// The nearest first.
    pub neighbours: Vec<Match>,
}

/// A neighbour.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Match {
    /// The cosine of its embedding and the query's.
    pub cosine: f32,
    /// What it is ranked by, where that is not the cosine: the sum of the cosine and BM25's score, each in
    /// standard deviations over all that was searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub score: Option<f32>,
    /// Its label; empty where there is none.
    pub label: String,
    /// Its name.
    pub name: String,
    /// Its row among what was searched.
    pub row: usize,
}

/// Looks for the `k` things of `data` (by default what the run was trained on) that are nearest to
/// each of `queries`, which are files of images, or texts where `run` is of texts, by its encoder; of texts
/// `with_bm25` by their words, too.
///
/// # Errors
/// When the run or the data cannot be read, a query is no image that can be read, or `k` is 0 or more
/// than there are things.
pub fn search(
    run: &Path,
    queries: &[String],
    data: Option<&str>,
    k: usize,
    with_bm25: bool,
) -> Result<Found, Error> {
    let device = Device::flex();
    let saved = SavedModel::open(run)?;
    let settings = saved.settings(data);
    let model = saved.trained(run, &device)?;
    let data = settings.read()?;
    let queries = match &data {
        Data::Images(_) => {
            let files: Vec<PathBuf> = queries.iter().map(PathBuf::from).collect();
            let reading = settings.image.reading(&settings.data, false);
            Data::Images(Images::of_files(&files, &reading)?)
        }
        Data::Texts(texts) => {
            Data::Texts(Texts::of_strings(queries.to_vec(), texts.tokenizer.clone())?)
        }
        Data::Vectors(_) => {
            let text = "a query is an image or a text, but this run is of vectors: kinfold embed makes \
                        files of them for what searches your index";
            return Err(Error::Setting(text.to_owned()));
        }
    };
    let n = data.items().len();
    if k == 0 || k > n {
        let (name, noun) = (&settings.data, data.kind().noun());
        return Err(Error::Setting(format!(
            "the {k} nearest are asked for, but it must be 1 to {n}: {name} has {n} {noun}"
        )));
    }
    let views = saved.averaged_views(None)?;
    let embed = |data| embed(&model, data, &views, &device);
    let (keys, asked) = (embed(&data)?, embed(&queries)?);
    let dim = keys.len() / n;
    let (asked, keys) = (Embeddings::new(&asked, dim)?, Embeddings::new(&keys, dim)?);
    let found = match (with_bm25, &data) {
        (false, _) => nearest(asked, keys, k)?
            .into_iter()
            .map(|near| near.into_iter().map(|near| (near, None)).collect())
            .collect(),
        (true, Data::Texts(texts)) => {
            let bm25 = Bm25::new(&texts.items.names);
            let names = &queries.items().names;
            each_row(asked, keys, |i, cosines| best(cosines, &bm25.scores(&names[i]), k))?
        }
        (true, _) => {
            let noun = data.kind().noun();
            return Err(Error::Setting(format!("BM25 ranks texts, but this run is of {noun}")));
        }
    };
    let items = data.items();
    let matched = |(Neighbour { row, cosine }, score)| Match {
        cosine: cosine as f32,
        score,
        label: items.labels[row].clone(),
        name: items.names[row].clone(),
        row,
    };
    let matches = queries.items().names.iter().zip(found).map(|(query, neighbours)| Matches {
        query: query.clone(),
        neighbours: neighbours.into_iter().map(matched).collect(),
    });
    let matches = matches.collect();
    Ok(Found { data, matches, queries })
}

/// The `k` best of a query by the sum of its cosines and scores, each in standard deviations from the mean.
fn best(cosines: &[f32], scores: &[f32], k: usize) -> Vec<(Neighbour, Option<f32>)> {
    let sum = fused(cosines, scores);
    let mut rows: Vec<usize> = (0..sum.len()).collect();
    let order = |a: &usize, b: &usize| sum[*b].total_cmp(&sum[*a]).then(a.cmp(b));
    rows.select_nth_unstable_by(k - 1, order);
    rows.truncate(k);
    rows.sort_unstable_by(order);
    let matched = |row| (Neighbour { row, cosine: f64::from(cosines[row]) }, Some(sum[row]));
    rows.into_iter().map(matched).collect()
}

/// The side of an image in the picture, the space about it, and the height of a line of text, in
/// pixels.
const SIDE: usize = 112;
const GAP: usize = 14;
const LINE: usize = 15;

impl Found {
    /// Whether a file of this name can hold the picture.
    ///
    /// # Errors
    /// When its ending is none or another format's.
    pub fn check_name(out: &Path) -> Result<(), Error> {
        check_png(out)
    }

    /// Draws each query and its neighbours as a row of a PNG file, with their names; a file of that
    /// name is replaced.
    ///
    /// # Errors
    /// When the name does not end in .png, what was found is no images, an image cannot be read any more, or the file cannot be
    /// written.
    pub fn draw(&self, out: &Path) -> Result<(), Error> {
        check_png(out)?;
        let (Data::Images(queries), Data::Images(images)) = (&self.queries, &self.data) else {
            let text = "a picture is of images, but this run is of other things";
            return Err(Error::Setting(text.to_owned()));
        };
        let columns = 1 + self.matches.iter().map(|m| m.neighbours.len()).max().unwrap_or(0);
        let tall = SIDE + 2 * LINE + GAP;
        // The query stands apart from what was found.
        let (width, height) = (2 * GAP + columns * (SIDE + GAP), GAP + self.matches.len() * tall);
        let mut canvas = Canvas { width, height, pixels: vec![255; 3 * width * height] };
        for (i, found) in self.matches.iter().enumerate() {
            let top = GAP + i * tall;
            canvas.image(queries, i, GAP, top)?;
            canvas.frame(GAP, top);
            canvas.text(&fitting(&found.query), GAP, top + SIDE);
            canvas.text("query", GAP, top + SIDE + LINE);
            for (j, near) in found.neighbours.iter().enumerate() {
                let left = 2 * GAP + (j + 1) * (SIDE + GAP);
                canvas.image(images, near.row, left, top)?;
                let label = fitting(&format!("{:.3} {}", near.cosine, near.label));
                canvas.text(&fitting(&near.name), left, top + SIDE);
                canvas.text(&label, left, top + SIDE + LINE);
            }
        }
        let file = png(&canvas.pixels, width, height, ExtendedColorType::Rgb8)?;
        write_whole(out, |to| to.write_all(&file).map_err(Error::file("write", out)))
    }
}

/// As much of the end of a name as fits below an image.
fn fitting(name: &str) -> String {
    const LETTERS: usize = SIDE / 6;
    let letters = name.chars().count();
    if letters <= LETTERS {
        return name.to_owned();
    }
    let end: String = name.chars().skip(letters - (LETTERS - 2)).collect();
    format!("..{end}")
}

/// Pixels `[height, width, 3]` to draw on.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    /// An image, as large as fits, with sharp pixels where it is small.
    fn image(&mut self, images: &Images, row: usize, left: usize, top: usize) -> Result<(), Error> {
        let picture = images.scaled(row)?;
        let channels = picture.channels;
        let (pixels, (width, height)) = shrunk(&picture, SIDE);
        for y in 0..SIDE {
            for x in 0..SIDE {
                let from = (y * height / SIDE * width + x * width / SIDE) * channels;
                let colour = [0, 1, 2].map(|c| pixels[from + c.min(channels - 1)]);
                self.set(left + x, top + y, colour);
            }
        }
        Ok(())
    }

    /// A frame about an image.
    fn frame(&mut self, left: usize, top: usize) {
        const BLUE: [u8; 3] = [40, 90, 160];
        for at in 0..SIDE + 6 {
            for far in 1..=3 {
                self.set(left - 3 + at, top - far, BLUE);
                self.set(left - 3 + at, top + SIDE - 1 + far, BLUE);
                self.set(left - far, top - 3 + at, BLUE);
                self.set(left + SIDE - 1 + far, top - 3 + at, BLUE);
            }
        }
    }

    fn set(&mut self, x: usize, y: usize, colour: [u8; 3]) {
        if x < self.width && y < self.height {
            let at = 3 * (y * self.width + x);
            self.pixels[at..at + 3].copy_from_slice(&colour);
        }
    }

    /// A line of text; letters that the font does not have are question marks.
    fn text(&mut self, text: &str, left: usize, top: usize) {
        let style = MonoTextStyle::new(&FONT_6X13, Gray8::BLACK);
        let place = Point::new(left as i32, (top + LINE) as i32);
        let Ok(_) = Text::new(text, place, style).draw(self);
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.width as u32, self.height as u32)
    }
}

impl DrawTarget for Canvas {
    type Color = Gray8;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Gray8>>>(
        &mut self,
        pixels: I,
    ) -> Result<(), Infallible> {
        for Pixel(Point { x, y }, colour) in pixels {
            if let (Ok(x), Ok(y)) = (usize::try_from(x), usize::try_from(y)) {
                self.set(x, y, [colour.luma(); 3]);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(fitting("digits/0001"), "digits/0001");
        let fitted = fitting("alphabets/Greek/character01/0394_20.png");
        assert_eq!(fitted, "..er01/0394_20.png");
    }
}
