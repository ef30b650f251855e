//! Every source of images with small files made here, what is wrong with damaged ones, and pairs.

#![allow(clippy::unwrap_used)]

mod damage;
mod encoded;
mod listed;
mod pairing;
mod plain;
mod texts;
mod vectors;

use super::*;
use image::{DynamicImage, ImageFormat};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn reading(size: usize, channels: usize) -> Reading {
    Reading { size, channels, memory: MEMORY, originals: false, background: 255, invert: false }
}

fn read(path: &Path, reading: &Reading) -> Result<Images, Error> {
    Images::read(path.to_str().unwrap(), reading)
}

/// What is said of data that cannot be read; every part has to be in it.
fn refused(path: &Path, parts: &[&str]) {
    let said = read(path, &reading(4, 1)).unwrap_err().to_string();
    for part in parts {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

/// A picture of its own for every seed.
fn picture(seed: usize, width: u32, height: u32) -> DynamicImage {
    image::RgbImage::from_fn(width, height, |x, y| {
        let [x, y] = [x as usize, y as usize];
        image::Rgb([x * 20 + seed * 7, y * 20, (x * y + seed * 31) % 251].map(|v| v as u8))
    })
    .into()
}

fn png(image: &DynamicImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn write(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Names and images of a small folder: labels `a` with 3, `a-b` with 2, `c/d` with 4, one image in
/// no sub-folder.
fn small() -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("alone.png".to_owned(), png(&picture(0, 9, 5)))];
    for (label, images) in [("a", 3), ("a-b", 2), ("c/d", 4)] {
        for i in 0..images {
            let image = picture(files.len(), 6 + i, 7);
            files.push((format!("{label}/{i}.png"), png(&image)));
        }
    }
    files
}

fn small_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in small() {
        write(folder.path(), &name, bytes);
    }
    folder
}

/// Images that need no file, with these labels.
fn labelled(labels: &[&str]) -> Images {
    let names = (0..labels.len()).map(|i| i.to_string()).collect();
    let labels: Vec<String> = labels.iter().map(|&label| label.to_owned()).collect();
    let pixels = vec![0; labels.len() * 4];
    Images::of_pixels(names, labels, pixels, 2, 1).unwrap()
}

/// Two sets of images are the same to the last bit.
fn assert_same(a: &Images, b: &Images) {
    assert_eq!((&a.items.names, &a.items.labels), (&b.items.names, &b.items.labels));
    let rows: Vec<usize> = (0..a.len()).collect();
    assert_eq!(a.pixels(&rows).unwrap(), b.pixels(&rows).unwrap());
    for row in rows {
        assert_eq!(a.original(row).unwrap(), b.original(row).unwrap());
    }
}
