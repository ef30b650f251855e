//! Ours beside torchvision's, from a file that `tests/golden/views.py` wrote.
//!
//! Input: that file, results only; its pictures are a formula. Output: how far ours are from
//! it.

use super::Picture;
use super::blur::blur;
use super::colour::{self, Step};
use super::crop::Crop;
use super::resize::resize;
use super::simclr::Plan;
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    resize: Vec<Resized>,
    colour: Vec<Coloured>,
    blur: Vec<Blurred>,
    whole: Whole,
}

/// Channels, left, top, width, height, size, and whether it is mirrored.
type Place = [usize; 7];

#[derive(Deserialize)]
struct Resized {
    crop: Place,
    out: Vec<f32>,
}

#[derive(Deserialize)]
struct Coloured {
    steps: Vec<(String, f32)>,
    out: Vec<f32>,
}

#[derive(Deserialize)]
struct Blurred {
    channels: usize,
    size: usize,
    radius: usize,
    sigma: f64,
    out: Vec<f32>,
}

#[derive(Deserialize)]
struct Whole {
    crop: Place,
    steps: Vec<(String, f32)>,
    sigma: f64,
    out: Vec<f32>,
}

const WIDTH: usize = 19;
const HEIGHT: usize = 13;

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../tests/golden/views.json")).expect("a golden file")
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| ((i * i * 31 + i * 7) % 256) as u8).collect()
}

fn planes(channels: usize, size: usize) -> Vec<f32> {
    bytes(channels * size * size).into_iter().map(|byte| f32::from(byte) / 255.0).collect()
}

fn crop_of([_, left, top, width, height, ..]: Place) -> Crop {
    Crop { left, top, width, height }
}

fn steps(steps: &[(String, f32)]) -> Vec<Step> {
    let step = |(name, factor): &(String, f32)| match name.as_str() {
        "brightness" => Step::Brightness(*factor),
        "contrast" => Step::Contrast(*factor),
        "saturation" => Step::Saturation(*factor),
        "hue" => Step::Hue(*factor),
        _ => Step::Grey,
    };
    steps.iter().map(step).collect()
}

/// The largest difference.
fn gap(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn resize_agrees_with_torchvision() {
    for Resized { crop, out } in golden().resize {
        let [channels, .., size, flip] = crop;
        let bytes = bytes(WIDTH * HEIGHT * channels);
        let picture = Picture::new(&bytes, WIDTH, HEIGHT, channels).expect("fits");
        let mut ours = vec![0.0; out.len()];
        resize(&picture, crop_of(crop), size, flip == 1, &mut ours);
        let gap = gap(&ours, &out);
        assert!(gap < 3e-6, "{crop:?}: {gap}");
    }
}

#[test]
fn colours_agree_with_torchvision() {
    for Coloured { steps: named, out } in golden().colour {
        let mut ours = planes(3, 6);
        colour::apply(&steps(&named), 3, &mut ours);
        let gap = gap(&ours, &out);
        assert!(gap < 3e-6, "{named:?}: {gap}");
    }
}

#[test]
fn blur_agrees_with_torchvision() {
    for Blurred { channels, size, radius, sigma, out } in golden().blur {
        let mut ours = planes(channels, size);
        blur(&mut ours, size, radius, sigma);
        let gap = gap(&ours, &out);
        assert!(gap < 3e-6, "{size} {radius} {sigma}: {gap}");
    }
}

#[test]
fn a_whole_view_agrees_with_torchvision() {
    let Whole { crop, steps: named, sigma, out } = golden().whole;
    let bytes = bytes(WIDTH * HEIGHT * 3);
    let picture = Picture::new(&bytes, WIDTH, HEIGHT, 3).expect("fits");
    let plan =
        Plan { crop: crop_of(crop), flip: crop[6] == 1, steps: steps(&named), blur: Some(sigma) };
    let mut ours = vec![0.0; out.len()];
    plan.draw(&picture, crop[5], &mut ours);
    let gap = gap(&ours, &out);
    assert!(gap < 1e-5, "{gap}");
}
