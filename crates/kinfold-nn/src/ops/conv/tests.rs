//! Convolution on every set of vectors that this machine has, against sums in f64. (Against Burn's
//! own, and on the best vectors alone: `tests/ops.rs`.)

use super::correlate::Correlation;
use super::geometry::Pass;
use super::{Geometry, Weights, by_winograd, forward, of_input, reduce, winograd};
use crate::ops::memory::buffer::Buffer;
use crate::ops::memory::images::Frame;
use crate::ops::memory::tensor::{contiguous, images, images_tensor, numbers, shape};
use crate::ops::memory::vector::MOST_LANES;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use std::sync::Mutex;
use std::sync::atomic::Ordering;

/// A tensor of `number(i)` for each index.
fn filled(shape: [usize; 4], mut number: impl FnMut(usize) -> f32) -> FlexTensor {
    let mut all = Buffer::any(shape.iter().product());
    all.iter_mut().enumerate().for_each(|(i, x)| *x = number(i));
    contiguous(all, shape)
}

fn tensor(shape: [usize; 4], by: usize) -> FlexTensor {
    filled(shape, |i| (i * by % 103) as f32 / 51.0 - 1.0)
}

#[track_caller]
fn close(what: &str, ours: &FlexTensor, expected: &[f64]) {
    let ours = ours.to_contiguous();
    let largest = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
    assert_eq!(numbers(&ours).len(), expected.len(), "{what}");
    for (i, (ours, expected)) in numbers(&ours).iter().zip(expected).enumerate() {
        let apart = (f64::from(*ours) - expected).abs();
        assert!(apart < 1e-5 * largest, "{what}: {ours} instead of {expected} at {i}");
    }
}

/// Output, and gradients of input and weights, in rows.
fn expected(g: &Geometry, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
    let [rows, columns] = g.out();
    let mut y = vec![0.0; dy.len()];
    let (mut dx, mut dw) = (vec![0.0; x.len()], vec![0.0; w.len()]);
    for (at, y) in y.iter_mut().enumerate() {
        let (column, row) = (at % columns, at / columns % rows);
        let (filter, image) = (at / columns / rows % g.filters, at / columns / rows / g.filters);
        for tap in 0..g.channels * g.kernel[0] * g.kernel[1] {
            let (tx, ty) = (tap % g.kernel[1], tap / g.kernel[1] % g.kernel[0]);
            let channel = tap / g.kernel[1] / g.kernel[0];
            let inside =
                |i: usize, at: usize| at.checked_sub(g.padding[0][i]).filter(|&at| at < g.size[i]);
            let places = (inside(0, row * g.stride[0] + ty), inside(1, column * g.stride[1] + tx));
            if let (Some(v), Some(u)) = places {
                let i = ((image * g.channels + channel) * g.size[0] + v) * g.size[1] + u;
                let j = filter * g.channels * g.kernel[0] * g.kernel[1] + tap;
                *y += f64::from(x[i]) * f64::from(w[j]);
                dx[i] += f64::from(dy[at]) * f64::from(w[j]);
                dw[j] += f64::from(dy[at]) * f64::from(x[i]);
            }
        }
    }
    [y, dx, dw]
}

/// Output, and gradients of input and weights, by Winograd's algorithm.
fn by_tiles(g: &Geometry, x: &FlexTensor, w: &FlexTensor, dy: &FlexTensor) -> [FlexTensor; 3] {
    let correlate = |x: &FlexTensor, weights: &Weights, (frame, pass): (Frame, Pass), of: Shape| {
        let mut out = Buffer::any(of.num_elements());
        let correlation = Correlation {
            images: &images(x),
            frame: &frame,
            weights,
            bias: None,
            together: g.together(),
            out_size: pass.grid,
        };
        winograd::correlate(&correlation, &pass, &mut out);
        images_tensor(out, of)
    };
    let weights = Weights::forward(numbers(w), g);
    let y = correlate(x, &weights, (g.frame(), g.forward()), shape(dy));
    let weights = Weights::backward(numbers(w), g);
    let (frame, mut passes) = g.backward();
    let dx = correlate(dy, &weights, (frame, passes.remove(0)), shape(x));
    let (dw, _) = by_winograd(g, &images(x), &images(dy));
    [y, dx, contiguous(dw, shape(w))]
}

/// One test at a time may say which vectors there are, or rely on it.
static VECTORS: Mutex<()> = Mutex::new(());

#[test]
fn every_set_of_vectors_gives_the_sums() {
    let _alone = VECTORS.lock();
    for lanes in [usize::MAX, 8, 4] {
        MOST_LANES.store(lanes, Ordering::Relaxed);
        for (channels, filters) in [(1, 3), (3, 20), (20, 17), (40, 50), (70, 70)] {
            for (kernel, stride) in [([3, 3], [1, 1]), ([3, 2], [2, 1]), ([1, 5], [3, 2])] {
                let (size, padding) = ([6, 7], [[1, 2], [0, 1]]);
                let g = Geometry { images: 3, channels, size, filters, kernel, stride, padding };
                let [rows, columns] = g.out();
                let x = tensor([3, channels, 6, 7], 37);
                let w = tensor([filters, channels, kernel[0], kernel[1]], 29);
                let dy = tensor([3, filters, rows, columns], 43);
                let [y, dx, dw] = expected(&g, numbers(&x), numbers(&w), numbers(&dy));
                let what = format!("{lanes} lanes, {g:?}");
                close(&what, &forward(&x, &w, None, &g), &y);
                close(&what, &of_input(&dy, &w, &g), &dx);
                let (weights, _) = reduce(&g, &images(&x), &images(&dy));
                close(&what, &contiguous(weights, shape(&w)), &dw);
            }
            for (images, size) in [(3, [6, 7]), (40, [5, 8]), (1, [3, 1]), (2, [37, 36])] {
                if images * channels * filters * size[0] > 200_000 {
                    continue;
                }
                for padding in [[[1, 1], [1, 1]], [[1, 2], [0, 1]], [[3, 1], [2, 4]]] {
                    let (kernel, stride) = ([3, 3], [1, 1]);
                    let g = Geometry { images, channels, size, filters, kernel, stride, padding };
                    let [rows, columns] = g.out();
                    let x = tensor([images, channels, size[0], size[1]], 37);
                    let w = tensor([filters, channels, 3, 3], 29);
                    let dy = tensor([images, filters, rows, columns], 43);
                    if rows * columns == 0 {
                        continue;
                    }
                    let sums = expected(&g, numbers(&x), numbers(&w), numbers(&dy));
                    for (ours, sums) in by_tiles(&g, &x, &w, &dy).iter().zip(&sums) {
                        close(&format!("tiles, {lanes} lanes, {g:?}"), ours, sums);
                    }
                }
            }
        }
    }
    MOST_LANES.store(usize::MAX, Ordering::Relaxed);
}

fn norm(x: impl Iterator<Item = f64>) -> f64 {
    x.map(|x| x * x).sum::<f64>().sqrt()
}

/// Numbers like a generator's, and with them sums whose rounding errors are as in training.
fn drawn(shape: [usize; 4], mut seed: u64) -> FlexTensor {
    let mut draw = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    filled(shape, |_| draw())
}

/// Errors against those of sums over taps, which are chosen for a single image: as parts of the norm,
/// and of the sum of the magnitudes of a number's products. (Of 512 channels: 2.3e-6 and 1.1e-6 of the
/// output's norm. A tap of which images of 4×4 have few products fares worst by its magnitudes.)
#[test]
fn tiles_are_nearly_as_exact_as_sums_over_taps() {
    let _alone = VECTORS.lock();
    let (kernel, stride, padding) = ([3, 3], [1, 1], [[1, 1], [1, 1]]);
    for (channels, filters, size) in [(64, 64, [8, 8]), (512, 64, [4, 4]), (256, 48, [9, 7])] {
        let g = Geometry { images: 1, channels, size, filters, kernel, stride, padding };
        let x = drawn([1, channels, size[0], size[1]], 1);
        let w = drawn([filters, channels, 3, 3], 2);
        let dy = drawn([1, filters, size[0], size[1]], 3);
        let [a, b, c] = [&x, &w, &dy].map(numbers);
        let exact = expected(&g, a, b, c);
        let magnitudes = [a, b, c].map(|x| x.iter().map(|x| x.abs()).collect::<Vec<_>>());
        let most = expected(&g, &magnitudes[0], &magnitudes[1], &magnitudes[2]);
        let (dw, _) = reduce(&g, &images(&x), &images(&dy));
        let dw = contiguous(dw, shape(&w));
        let direct = [forward(&x, &w, None, &g), of_input(&dy, &w, &g), dw];
        for (ours, bounds) in [(direct, [1.5e-6, 3e-7]), (by_tiles(&g, &x, &w, &dy), [4e-6, 4e-6])]
        {
            for (i, ours) in ours.into_iter().enumerate() {
                let ours = ours.to_contiguous();
                let apart = numbers(&ours).iter().zip(&exact[i]);
                let apart: Vec<f64> = apart.map(|(x, y)| f64::from(*x) - y).collect();
                let largest = apart.iter().zip(&most[i]).map(|(x, y)| x.abs() / y.max(1e-9));
                let largest = largest.fold(0.0, f64::max);
                let of_norm = norm(apart.into_iter()) / norm(exact[i].iter().copied());
                assert!(of_norm < bounds[0], "{of_norm:e} of the norm: {i}, {g:?}");
                assert!(largest < bounds[1], "{largest:e} of the magnitudes: {i}, {g:?}");
            }
        }
    }
}
