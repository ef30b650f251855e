//! A contact sheet: what a recipe makes of some pictures, to look at before training.
//!
//! Input: pictures or pairs of them, a recipe and a seed. Output: one picture in memory: a row for each
//! picture, first the original, then its views as training would see them; or pairs, both views of each side
//! by side. It never writes a file.

use super::{Key, Picture, Recipe, centre, draw_pairs};
use crate::Error;
use crate::images::Images;
use crate::pairs::Pair;
use rayon::prelude::*;
use std::iter::repeat_n;

/// A picture of red, green and blue bytes: `[height, width, 3]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sheet {
    /// `[height, width, 3]`.
    pub pixels: Vec<u8>,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
}

/// White between the cells, in pixels.
const GAP: usize = 2;

/// The originals (the largest square about each centre) and `views` views of each, `size` × `size`.
///
/// A row holds a picture, given with its row in the data; the columns are the two views of the first
/// epoch, then of the second, and so on, as training would see them.
///
/// # Errors
/// When there is no picture or `size` is 0.
pub fn contact_sheet(
    pictures: &[(usize, Picture<'_>)],
    recipe: &Recipe,
    views: usize,
    size: usize,
    seed: u64,
) -> Result<Sheet, String> {
    if pictures.is_empty() || size == 0 {
        return Err(format!(
            "a sheet of {} pictures at {size} pixels was asked for, but it needs at least 1 of each",
            pictures.len()
        ));
    }
    let step = size + GAP;
    let (width, height) = (step * (views + 1) + GAP, step * pictures.len() + GAP);
    let mut pixels = vec![255; 3 * width * height];
    // A band of the sheet is a row of cells and the gap above it; what is left is the last gap.
    let bands = pixels.par_chunks_exact_mut(3 * width * step);
    bands.zip(pictures).try_for_each(|(band, &(image, ref picture))| {
        let mut cell = vec![0.0; picture.channels * size * size];
        centre(picture, size, &mut cell);
        paint(&cell, size, band, width, GAP);
        for column in 0..views {
            let key = Key { seed, epoch: column / 2, image, view: column % 2 };
            recipe.draw(picture, size, key, &mut cell)?;
            paint(&cell, size, band, width, GAP + (column + 1) * step);
        }
        Ok::<(), String>(())
    })?;
    Ok(Sheet { pixels, width, height })
}

/// White between two pairs, in pixels.
const APART: usize = 10;

/// Pairs as an epoch's training sees them, `columns` in a row: the views of each side by side, and white
/// between pairs.
///
/// # Errors
/// When an image cannot be read any more, or there is no pair or no column.
pub fn pair_sheet(
    images: &Images,
    pairs: &[Pair],
    recipe: &Recipe,
    columns: usize,
    (seed, epoch): (u64, usize),
) -> Result<Sheet, Error> {
    let (size, stride) = (images.size, images.stride());
    let columns = columns.min(pairs.len());
    if columns == 0 {
        return Err(Error::Setting("a sheet needs at least one pair and one column".into()));
    }
    let views = draw_pairs(images, pairs, recipe, seed, epoch)?;
    let (across, down) = (2 * size + GAP + APART, size + APART);
    let (width, height) = (across * columns + APART, down * pairs.len().div_ceil(columns) + GAP);
    let mut pixels = vec![255; 3 * width * height];
    for (i, band) in pixels.chunks_exact_mut(3 * width * down).take(height / down).enumerate() {
        for (column, pair) in (i * columns..pairs.len().min((i + 1) * columns)).enumerate() {
            for view in 0..2 {
                let cell = &views[(view * pairs.len() + pair) * stride..][..stride];
                paint(cell, size, band, width, APART + column * across + view * (size + GAP));
            }
        }
    }
    Ok(Sheet { pixels, width, height })
}

impl Sheet {
    /// Every pixel as a square of so many, so that small images can be seen.
    #[must_use]
    pub fn enlarged(self, times: usize) -> Self {
        let (width, height) = (self.width * times, self.height * times);
        let mut pixels = Vec::with_capacity(3 * width * height);
        for row in self.pixels.chunks_exact(3 * self.width) {
            let wide = row.chunks_exact(3).flat_map(|pixel| repeat_n(pixel, times));
            let wide: Vec<u8> = wide.flatten().copied().collect();
            repeat_n(wide, times).for_each(|wide| pixels.extend(wide));
        }
        Self { pixels, width, height }
    }
}

/// Planes of [0, 1] as bytes, into a band of the sheet, `left` pixels from its edge.
fn paint(cell: &[f32], size: usize, band: &mut [u8], width: usize, left: usize) {
    let planes: Vec<&[f32]> = cell.chunks(size * size).collect();
    for y in 0..size {
        for x in 0..size {
            let at = 3 * ((y + GAP) * width + left + x);
            for (channel, byte) in band[at..at + 3].iter_mut().enumerate() {
                let plane = planes[channel.min(planes.len() - 1)];
                *byte = (plane[y * size + x] * 255.0).round() as u8;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::ViewSettings;

    #[test]
    fn a_sheet_shows_each_picture_and_its_views() {
        let grey = [0, 50, 100, 150];
        let colour: Vec<u8> = (0..12).collect();
        let pictures = [
            (5, Picture::new(&grey, 2, 2, 1).expect("fits")),
            (1, Picture::new(&colour, 2, 2, 3).expect("fits")),
        ];
        let still = ViewSettings::STILL;
        let sheet = contact_sheet(&pictures, &Recipe::Affine(still), 3, 2, 0).expect("drawn");
        assert_eq!((sheet.width, sheet.height), (4 * 4 + 2, 2 * 4 + 2));
        let at = |x: usize, y: usize| &sheet.pixels[3 * (y * sheet.width + x)..][..3];
        for column in 0..4 {
            assert_eq!(at(4 * column + 2, 2), [0, 0, 0]);
            assert_eq!(at(4 * column + 3, 3), [150; 3]);
            assert_eq!(at(4 * column + 3, 6), [3, 4, 5]);
            assert_eq!(at(4 * column + 1, 3), [255; 3]);
        }
        assert!(sheet.pixels[3 * sheet.width * 8..].iter().all(|&p| p == 255));
        // The fourth view of the second picture is the second of the second epoch.
        let recipe = Recipe::Affine(ViewSettings::default());
        let sheet = contact_sheet(&pictures, &recipe, 4, 2, 7).expect("drawn");
        let (mut view, key) = (vec![0.0; 12], Key { seed: 7, epoch: 1, image: 1, view: 1 });
        recipe.draw(&pictures[1].1, 2, key, &mut view).expect("drawn");
        let shown = &sheet.pixels[3 * (6 * sheet.width + 4 * 4 + 2)..][..6];
        for (i, &byte) in shown.iter().enumerate() {
            assert_eq!(byte, (view[i % 3 * 4 + i / 3] * 255.0).round() as u8);
        }
        assert!(contact_sheet(&[], &Recipe::Affine(still), 3, 2, 0).is_err());
        assert!(contact_sheet(&pictures, &Recipe::Affine(still), 3, 0, 0).is_err());
    }
}
