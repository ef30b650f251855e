//! A folder of images, nested as deep as it likes; an image's sub-folder is its label.
//!
//! A file counts as an image by its ending (png, jpg, jpeg, webp, bmp); others are not looked at.
//! One that cannot be read as an image is skipped, with its name and the reason kept. A folder
//! without a single readable image is an error.

use super::{Images, Skipped};
use crate::Error;
use image::imageops::FilterType;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "webp", "bmp"];

pub(super) fn load(folder: &Path, size: usize, channels: usize) -> Result<Images, Error> {
    if !folder.is_dir() {
        let what = if folder.exists() { "is no folder" } else { "does not exist" };
        return Err(Error::Data(format!(
            "{} {what}; --data takes `digits` or a folder of images",
            folder.display()
        )));
    }
    let mut others = 0;
    let mut paths = Vec::new();
    for entry in walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(folder).to_path_buf();
            Error::File { action: "read", path, source: e.into() }
        })?;
        if entry.file_type().is_file() {
            let ending = entry.path().extension().and_then(|e| e.to_str()).map(str::to_lowercase);
            match ending {
                Some(ending) if ENDINGS.contains(&ending.as_str()) => paths.push(entry.into_path()),
                _ => others += 1,
            }
        }
    }
    let read: Vec<Result<Vec<f32>, Skipped>> =
        paths.par_iter().map(|path| pixels(path, size, channels)).collect();

    let (mut names, mut labels, mut all, mut skipped) = (vec![], vec![], vec![], vec![]);
    for (path, image) in paths.iter().zip(read) {
        match image {
            Err(skip) => skipped.push(skip),
            Ok(image) => {
                let relative = path.strip_prefix(folder).unwrap_or(path);
                names.push(slashed(relative));
                labels.push(slashed(relative.parent().unwrap_or(Path::new(""))));
                all.extend(image);
            }
        }
    }
    if names.is_empty() {
        let found = match (skipped.first(), others) {
            (Some(first), _) => format!(
                "none of the {} images in it could be read; the first is {}: {}",
                skipped.len(),
                first.path.display(),
                first.reason
            ),
            (None, 0) => "it is empty".to_owned(),
            (None, others) => format!("it holds {others} other files"),
        };
        return Err(Error::Data(format!(
            "{} has no images ({}): {found}",
            folder.display(),
            ENDINGS.join(", ")
        )));
    }
    Ok(Images { names, labels, pixels: all, channels, size, skipped })
}

fn slashed(path: &Path) -> String {
    let parts: Vec<_> = path.components().map(|c| c.as_os_str().to_string_lossy()).collect();
    parts.join("/")
}

/// An image cut to a square about its centre and scaled, `[channels, size, size]` between 0 and 1.
fn pixels(path: &PathBuf, size: usize, channels: usize) -> Result<Vec<f32>, Skipped> {
    let image = image::ImageReader::open(path)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(image::ImageError::IoError)
        .and_then(image::ImageReader::decode)
        .map_err(|e| Skipped { path: path.clone(), reason: e.to_string() })?;
    let side = size as u32;
    let image = image.resize_to_fill(side, side, FilterType::Triangle);
    Ok(match channels {
        1 => image.into_luma8().into_raw().iter().map(|&p| f32::from(p) / 255.0).collect(),
        _ => {
            let interleaved = image.into_rgb8().into_raw();
            let plane = |c| interleaved.iter().skip(c).step_by(3);
            (0..3).flat_map(plane).map(|&p| f32::from(p) / 255.0).collect()
        }
    })
}
