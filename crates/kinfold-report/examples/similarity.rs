//! Draws the README's picture: the cosine of every two held-out digits, sorted by class, by their
//! pixels and by a trained encoder.
//!
//! `cargo run --release -p kinfold-report --example similarity -- runs/NAME docs/similarity.png`

use image::{GrayImage, Luma, imageops};
use kinfold_train::{Settings, embed};
use std::error::Error;
use std::path::Path;

/// Pixels between the two pictures.
const GAP: u32 = 12;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [run, out] = arguments.as_slice() else {
        return Err("usage: similarity RUN OUT.png".into());
    };
    let data = Settings::default().read()?;
    let (_, classes) = data.items().classes();
    let mut rows = data.split(0.2).test;
    rows.sort_by_key(|&i| (classes[i], i));

    let all: Vec<usize> = (0..classes.len()).collect();
    let raw = data.raw(&all)?.ok_or("digits are pictures")?;
    let trained = embed(Path::new(run), None, None)?;
    let pictures = [
        matrix(&raw, raw.len() / all.len(), &rows),
        matrix(&trained.embeddings, trained.dim, &rows),
    ];
    let side = rows.len() as u32;
    let mut picture = GrayImage::from_pixel(2 * side + GAP, side, Luma([255]));
    for (i, matrix) in (0u32..).zip(&pictures) {
        imageops::replace(&mut picture, matrix, i64::from(i * (side + GAP)), 0);
    }
    picture.save(out)?;
    Ok(())
}

/// The cosines of all pairs of rows: black is 1; white is the lowest of them.
fn matrix(embeddings: &[f32], dim: usize, rows: &[usize]) -> GrayImage {
    let unit: Vec<Vec<f32>> = rows
        .iter()
        .map(|&i| {
            let row = &embeddings[i * dim..(i + 1) * dim];
            let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
            row.iter().map(|x| x / length).collect()
        })
        .collect();
    let cosine =
        |i: usize, j: usize| -> f32 { unit[i].iter().zip(&unit[j]).map(|(a, b)| a * b).sum() };
    let lowest = (0..rows.len())
        .flat_map(|i| (0..rows.len()).map(move |j| (i, j)))
        .fold(1.0f32, |lowest, (i, j)| lowest.min(cosine(i, j)));
    GrayImage::from_fn(rows.len() as u32, rows.len() as u32, |x, y| {
        let share = (cosine(y as usize, x as usize) - lowest) / (1.0 - lowest);
        Luma([(255.0 * (1.0 - share)) as u8])
    })
}
