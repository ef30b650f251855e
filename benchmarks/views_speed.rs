//! Views per second on one core: SimCLR's, the rival of `benchmarks/views.py`, and those of drawings.
//!
//! Usage: `cargo run --release -p kinfold-benchmarks --bin views_speed -- [seconds per case]`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "figures are its output")]

use kinfold_data::Picture;
use kinfold_data::{Key, Recipe, SimclrSettings, ViewSettings};
use std::hint::black_box;

/// The picture of benchmarks/views.py: smooth colours under a texture.
fn picture(width: usize, height: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for c in 0..3 {
                let smooth = x * (3 + c) / 4 + y * (5 - c) / 4;
                bytes.push(((smooth + (x * y * 7 + 13 * c * x) % 41) % 256) as u8);
            }
        }
    }
    bytes
}

/// Seconds that this thread has run (Linux), so that other work on the machine does not count.
fn seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn main() {
    let mut args = std::env::args().skip(1);
    let least: f64 = args.next().map_or(3.0, |text| text.parse().unwrap());
    let blurred = |blur| SimclrSettings { blur, ..Default::default() };
    let cases = [
        ("32x32 from 32x32, s=.5, no blur", 32, 32, 32, SimclrSettings::CIFAR),
        ("224x224 from 500x375, s=1, blur", 500, 375, 224, SimclrSettings::default()),
        ("  of it without blur", 500, 375, 224, blurred(0.0)),
        ("  of it blur always", 500, 375, 224, blurred(1.0)),
        (
            "  of it without blur and jitter",
            500,
            375,
            224,
            SimclrSettings { strength: 0.0, ..blurred(0.0) },
        ),
    ];
    for (name, width, height, size, settings) in cases {
        let bytes = picture(width, height);
        let picture = Picture::new(&bytes, width, height, 3).unwrap();
        measure(name, &picture, size, &Recipe::Simclr(settings), least);
    }
    let affine = ViewSettings::default();
    let elastic = ViewSettings { elastic: 0.03, ..affine };
    let cases = [
        ("affine", affine),
        ("  and elastic", elastic),
        ("  and thickness", ViewSettings { thickness: 0.03, ..affine }),
        ("  and both, half shared", ViewSettings { thickness: 0.03, shared: 0.5, ..elastic }),
    ];
    for size in [28, 105] {
        let bytes = picture(size, size);
        let bytes: Vec<u8> = bytes.chunks(3).map(|pixel| pixel[0]).collect();
        let picture = Picture::new(&bytes, size, size, 1).unwrap();
        for (name, settings) in cases {
            measure(
                &format!("{size}x{size} {name}"),
                &picture,
                size,
                &Recipe::Affine(settings),
                least,
            );
        }
    }
}

fn measure(name: &str, picture: &Picture<'_>, size: usize, recipe: &Recipe, least: f64) {
    let mut out = vec![0.0; picture.channels * size * size];
    let (start, mut count) = (seconds(), 0);
    while seconds() - start < least {
        for _ in 0..50 {
            let key = Key { seed: 0, epoch: 0, image: count, view: 0 };
            recipe.draw(black_box(picture), size, key, black_box(&mut out)).unwrap();
            count += 1;
        }
    }
    let speed = count as f64 / (seconds() - start);
    println!("{name}: {speed:8.0} views/s  (kinfold)");
}
