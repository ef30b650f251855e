//! Convolution on every set of vectors that this machine has, against sums in f64. (Against Burn's
//! own, and on the best vectors alone: `tests/ops.rs`.)

use super::reduce::by_winograd;
use super::{Geometry, Task, Weights, forward, of_input, reduce, winograd};
use crate::ops::flex;
use crate::ops::vector::MOST_LANES;
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use std::sync::atomic::Ordering;

fn numbers(len: usize, by: usize) -> Vec<f32> {
    (0..len).map(|i| (i * by % 103) as f32 / 51.0 - 1.0).collect()
}

fn tensor(shape: [usize; 4], by: usize) -> FlexTensor {
    flex::plain(numbers(shape.iter().product(), by), Shape::new(shape))
}

#[track_caller]
fn close(what: &str, ours: &FlexTensor, expected: &[f64]) {
    let ours = ours.to_contiguous();
    let largest = expected.iter().fold(1.0f64, |largest, x| largest.max(x.abs()));
    assert_eq!(flex::numbers(&ours).len(), expected.len(), "{what}");
    for (i, (ours, expected)) in flex::numbers(&ours).iter().zip(expected).enumerate() {
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
    let (images, gradients) = (flex::images(x), flex::images(dy));
    let numbers = |shape: &Shape| crate::ops::buffer::Buffer::any(shape.num_elements());
    let (of_y, of_x) = (dy.layout().shape().clone(), x.layout().shape().clone());
    let (mut y, mut dx) = (numbers(&of_y), numbers(&of_x));
    let weights = Weights::forward(flex::numbers(w), g);
    winograd::correlate(&images, &g.frame(), &g.forward(), &weights, None, &mut y);
    let weights = Weights::backward(flex::numbers(w), g);
    let (frame, passes) = g.backward();
    winograd::correlate(&gradients, &frame, &passes[0], &weights, None, &mut dx);
    let (dw, _) = by_winograd(g, &images, &gradients);
    let dw = flex::plain(dw, w.layout().shape().clone());
    [flex::tensor(y, of_y), flex::tensor(dx, of_x), dw]
}

#[test]
fn every_set_of_vectors_gives_the_sums() {
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
                let [y, dx, dw] =
                    expected(&g, flex::numbers(&x), flex::numbers(&w), flex::numbers(&dy));
                let what = format!("{lanes} lanes, {g:?}");
                let task = Task { geometry: g, bias: false };
                close(&what, &forward(&x, &w, &w, &task), &y);
                close(&what, &of_input(&dy, &w, &g), &dx);
                let (weights, _) = reduce(&g, &flex::images(&x), &flex::images(&dy));
                close(&what, &flex::plain(weights, w.layout().shape().clone()), &dw);
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
                    let sums =
                        expected(&g, flex::numbers(&x), flex::numbers(&w), flex::numbers(&dy));
                    for (ours, sums) in by_tiles(&g, &x, &w, &dy).iter().zip(&sums) {
                        close(&format!("tiles, {lanes} lanes, {g:?}"), ours, sums);
                    }
                }
            }
        }
    }
    MOST_LANES.store(usize::MAX, Ordering::Relaxed);
}
