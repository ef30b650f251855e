//! A look at views before training: a contact sheet as a PNG file.
//!
//! Input: settings, and where the sheet goes. Output: a picture with a row for each of some
//! images, first the image and then its views, as the first epochs of training would see them.

use kinfold_data::{Images, contact_sheet};
use kinfold_train::run::write_whole;
use kinfold_train::{Error, Settings};
use std::io::Write;
use std::path::Path;

/// What a sheet shows.
#[derive(Debug, Clone)]
pub struct Preview {
    /// The data.
    pub images: Images,
    /// Images shown.
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
    settings.check()?;
    for (name, value, most) in [("images", count, 200), ("views", views, 100)] {
        if !(1..=most).contains(&value) {
            let text = format!("{name} is {value}, but a sheet shows 1 to {most}");
            return Err(Error::Setting(text));
        }
    }
    if out.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("png")) {
        return Err(Error::Setting(format!("{} does not end in .png", out.display())));
    }
    let images = settings.images()?;
    let shown = count.min(images.len());
    let rows = (0..shown).map(|i| i * images.len() / shown);
    let pictures = rows.map(|row| Ok((row, settings.view.picture(&images, row)?)));
    let pictures: Vec<_> = pictures.collect::<Result<_, Error>>()?;
    let sheet = contact_sheet(&pictures, &settings.view, views, images.size, settings.seed);
    let sheet = sheet.map_err(Error::Setting)?;
    drop(pictures);
    let mut png = Vec::new();
    let (width, height) = (sheet.width as u32, sheet.height as u32);
    let encoder = image::codecs::png::PngEncoder::new(&mut png);
    image::ImageEncoder::write_image(
        encoder,
        &sheet.pixels,
        width,
        height,
        image::ExtendedColorType::Rgb8,
    )
    .map_err(|e| Error::Data(format!("the sheet cannot be written as PNG: {e}")))?;
    write_whole(out, |file| file.write_all(&png).map_err(Error::file("write", out)))?;
    Ok(Preview { images, shown })
}
