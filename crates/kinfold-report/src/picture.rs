//! Pixels for a page: pictures as data in the page itself, and the colours of numbers.
//!
//! Input: images, or numbers between 0 and 1. Output: `data:` addresses of PNG files.

use base64::Engine;
use image::codecs::png::PngEncoder;
use image::imageops::{self, FilterType};
use image::{ExtendedColorType, GrayImage, ImageEncoder, RgbImage};
use kinfold_data::{Data, Picture};
use kinfold_train::Error;
use std::path::Path;

/// The colours of 0 to 1, dark to light in even steps, told apart also by those who see few colours
/// (nine of matplotlib's magma, CC0).
pub(crate) const COLOURS: [[u8; 3]; 9] = [
    [0, 0, 4],
    [28, 16, 68],
    [79, 18, 123],
    [129, 37, 129],
    [181, 54, 122],
    [229, 80, 100],
    [251, 135, 97],
    [254, 194, 135],
    [252, 253, 191],
];

/// The colour of a number between 0 and 1.
pub(crate) fn colour(x: f64) -> [u8; 3] {
    let at = x.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let below = (at as usize).min(COLOURS.len() - 2);
    let (a, b, part) = (COLOURS[below], COLOURS[below + 1], at - below as f64);
    [0, 1, 2].map(|c| (f64::from(a[c]) * (1.0 - part) + f64::from(b[c]) * part).round() as u8)
}

/// A matrix of numbers between 0 and 1 as a picture, a pixel for each.
pub(crate) fn matrix(n: usize, number: &dyn Fn(usize, usize) -> f64) -> Result<String, Error> {
    let all = (0..n * n).flat_map(|ij| colour(number(ij / n, ij % n)));
    let pixels: Vec<u8> = all.collect();
    data(&png(&pixels, n, n, ExtendedColorType::Rgb8)?)
}

/// An image as training sees it, at most `most` pixels wide; none of things that are no images.
pub(super) fn thumbnail(data: &Data, row: usize, most: usize) -> Result<Option<String>, Error> {
    let Data::Images(images) = data else { return Ok(None) };
    let picture = images.scaled(row)?;
    let (pixels, side) = shrunk(&picture, most);
    let kind = if picture.channels == 1 { ExtendedColorType::L8 } else { ExtendedColorType::Rgb8 };
    self::data(&png(&pixels, side.0, side.1, kind)?).map(Some)
}

/// A picture's bytes, 255 for white, at most `most` pixels wide and high; and its width and height.
pub(crate) fn shrunk(picture: &Picture<'_>, most: usize) -> (Vec<u8>, (usize, usize)) {
    let white = u32::from(picture.white.max(1));
    let pixels: Vec<u8> =
        picture.pixels.iter().map(|&p| (u32::from(p) * 255 / white).min(255) as u8).collect();
    let (width, height) = (picture.width, picture.height);
    let longest = width.max(height);
    if longest <= most {
        return (pixels, (width, height));
    }
    let to = |side: usize| (side * most / longest).max(1) as u32;
    let (w, h) = (to(width), to(height));
    let (from_w, from_h) = (width as u32, height as u32);
    let small = match picture.channels {
        1 => GrayImage::from_raw(from_w, from_h, pixels)
            .map(|image| imageops::resize(&image, w, h, FilterType::Triangle).into_raw()),
        _ => RgbImage::from_raw(from_w, from_h, pixels)
            .map(|image| imageops::resize(&image, w, h, FilterType::Triangle).into_raw()),
    };
    (small.unwrap_or_default(), (w as usize, h as usize))
}

/// Whether a file of this name can hold a picture of ours.
pub(crate) fn check_png(out: &Path) -> Result<(), Error> {
    if out.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("png")) {
        return Err(Error::Setting(format!("{} does not end in .png", out.display())));
    }
    Ok(())
}

/// A PNG file.
pub(crate) fn png(
    pixels: &[u8],
    width: usize,
    height: usize,
    kind: ExtendedColorType,
) -> Result<Vec<u8>, Error> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(pixels, width as u32, height as u32, kind)
        .map_err(|e| Error::Data(format!("a picture cannot be written as PNG: {e}")))?;
    Ok(file)
}

fn data(png: &[u8]) -> Result<String, Error> {
    let text = base64::engine::general_purpose::STANDARD.encode(png);
    Ok(format!("data:image/png;base64,{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_grow_lighter() {
        let light = |x: f64| {
            let [r, g, b] = colour(x).map(f64::from);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        let steps: Vec<f64> = (0..=100).map(|i| light(f64::from(i) / 100.0)).collect();
        assert!(steps.windows(2).all(|pair| pair[0] < pair[1]), "{steps:?}");
        assert_eq!(colour(-1.0), COLOURS[0]);
        assert_eq!(colour(2.0), COLOURS[8]);
    }

    #[test]
    fn large_pictures_shrink_and_small_ones_stay() {
        let pixels = vec![200; 40 * 20 * 3];
        let large = Picture::new(&pixels, 40, 20, 3).expect("fits");
        let (small, side) = shrunk(&large, 10);
        assert_eq!((side, small.len()), ((10, 5), 150));
        assert!(small.iter().all(|&p| p == 200));
        let digit = Picture { white: 16, ..Picture::new(&[0, 8, 16, 4], 2, 2, 1).expect("fits") };
        assert_eq!(shrunk(&digit, 10), (vec![0, 127, 255, 63], (2, 2)));
    }
}
