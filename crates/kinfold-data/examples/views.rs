//! Views of your images without training: a sheet of PNG to look at.
//!
//! `cargo run --release -p kinfold-data --example views -- [folder, zip or data file] [sheet.png]`

#![allow(clippy::print_stdout, reason = "an example prints")]

use kinfold_data::{
    DIGITS, ImageSettings, Images, PairSettings, Pairs, Recipe, Split, ViewSettings, draw_pairs,
};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let data = arguments.next().unwrap_or(DIGITS.to_owned());
    let file = arguments.next().unwrap_or("views.png".to_owned());

    let recipe = Recipe::Affine(ViewSettings::default());
    let reading = ImageSettings::default().reading(&data, recipe.wants_originals());
    let images = Images::read(&data, &reading)?;
    let pairs =
        Pairs::new(&images.items, &Split::new(&images.items, 0.0), &PairSettings::default())?;
    println!("{} images, {} numbers each", images.len(), images.stride());

    // Eight pairs, `[16, channels, size, size]`: the first views of all, then the second.
    let batch = pairs.batches(8, 0, 0).into_iter().next().ok_or("no eight pairs")?;
    let views = draw_pairs(&images, &batch, &recipe, 0, 0)?;
    let (size, channels) = (reading.size, reading.channels);
    let mut sheet = image::RgbImage::new(8 * size as u32, 2 * size as u32);
    for (i, view) in views.chunks(images.stride()).enumerate() {
        let (left, top) = (i % 8 * size, i / 8 * size);
        for pixel in 0..size * size {
            let level = |c: usize| (255.0 * view[c % channels * size * size + pixel]) as u8;
            let (x, y) = ((left + pixel % size) as u32, (top + pixel / size) as u32);
            sheet.put_pixel(x, y, image::Rgb([level(0), level(1), level(2)]));
        }
    }
    // Small pictures are enlarged to be seen.
    let zoom = 64_u32.div_ceil(size as u32);
    let (width, height) = (zoom * sheet.width(), zoom * sheet.height());
    image::imageops::resize(&sheet, width, height, image::imageops::Nearest).save(&file)?;
    println!("{file}: each column is a pair");
    Ok(())
}
