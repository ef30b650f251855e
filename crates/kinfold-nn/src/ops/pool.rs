//! Pooling of images: the largest of each window, and the mean of all pixels.

use super::conv::padding;
use super::memory::buffer::Buffer;
use super::memory::tensor::{
    contiguous, images, images_tensor, is_ours, numbers, shape, with_channels_last,
};
use super::operation::{Operation, apply};
use burn::backend::flex::FlexTensor;
use burn::nn::pool::MaxPool2d;
use burn::tensor::{Shape, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// `layer.forward(x)`: `[n, channels, height, width]` to `[n, channels, rows, columns]`. Of several
/// largest numbers the first has the gradient.
///
/// Computed here on the CPU, in `f32`, without dilation and rounding up; else by Burn.
///
/// # Panics
/// As Burn's own, where `x` does not fit the layer.
pub fn max_pool2d(x: Tensor<4>, layer: &MaxPool2d) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let size = [height, width];
    let padding = padding(&layer.padding, size, layer.kernel_size, layer.stride);
    let windows = Windows { size, kernel: layer.kernel_size, stride: layer.stride, padding };
    let plain = layer.dilation == [1, 1] && !layer.ceil_mode;
    let taps = layer.kernel_size[0] * layer.kernel_size[1];
    if !(plain && windows.fit() && (1..=256).contains(&taps) && is_ours(&x)) {
        return layer.forward(x);
    }
    apply(MaxPool { windows }, [x.into_dispatch()])
}

/// The mean over all pixels: `[n, channels, height, width]` to `[n, channels]`.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    if !is_ours(&x) {
        let [n, channels, height, width] = x.dims();
        return x.reshape([n, channels, height * width]).mean_dim(2).reshape([n, channels]);
    }
    apply(GlobalMean, [x.into_dispatch()])
}

/// The windows of a max pooling. Pairs are of rows and columns.
#[derive(Clone, Copy, Debug)]
struct Windows {
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [[usize; 2]; 2],
}

impl Windows {
    /// Whether every window has a pixel.
    fn fit(&self) -> bool {
        (0..2).all(|i| {
            let (before, after) = (self.padding[0][i], self.padding[1][i]);
            before < self.kernel[i]
                && after < self.kernel[i]
                && self.size[i] + before + after >= self.kernel[i]
                && self.stride[i] > 0
        })
    }

    fn out(&self) -> [usize; 2] {
        [0, 1].map(|i| {
            let padded = self.size[i] + self.padding[0][i] + self.padding[1][i];
            (padded - self.kernel[i]) / self.stride[i] + 1
        })
    }

    /// Calls `with` for every pixel of the output and every pixel of the input in its window: the indices
    /// of both in their images, and the tap of the window.
    fn each(&self, mut with: impl FnMut(usize, usize, u8)) {
        let [rows, columns] = self.out();
        let at = |i: usize, out: usize, tap: usize| {
            (out * self.stride[i] + tap)
                .checked_sub(self.padding[0][i])
                .filter(|&at| at < self.size[i])
        };
        for out in 0..rows * columns {
            for tap in 0..self.kernel[0] * self.kernel[1] {
                let y = at(0, out / columns, tap / self.kernel[1]);
                let x = at(1, out % columns, tap % self.kernel[1]);
                if let (Some(y), Some(x)) = (y, x) {
                    with(out, y * self.size[1] + x, tap as u8);
                }
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct MaxPool {
    windows: Windows,
}

impl Operation<1> for MaxPool {
    /// The tap of each output's number.
    type Saved = (Arc<[u8]>, Windows);

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, Self::Saved) {
        let windows = self.windows;
        let x = with_channels_last(x);
        let [n, channels, height, width] = images(&x).shape;
        let [rows, columns] = windows.out();
        let per_image = rows * columns * channels;
        let mut out = Buffer::any(n * per_image);
        out.fill(f32::NEG_INFINITY);
        let mut taps = vec![0; n * per_image];
        out.par_chunks_mut(per_image)
            .zip(taps.par_chunks_mut(per_image))
            .zip(numbers(&x).par_chunks(height * width * channels))
            .for_each(|((out, taps), x)| {
                windows.each(|to, from, tap| {
                    let out = &mut out[to * channels..][..channels];
                    let taps = &mut taps[to * channels..][..channels];
                    let x = &x[from * channels..][..channels];
                    for c in 0..channels {
                        // A NaN is the largest of all.
                        if x[c] > out[c] || x[c].is_nan() {
                            (out[c], taps[c]) = (x[c], tap);
                        }
                    }
                });
            });
        let out = images_tensor(out, Shape::new([n, channels, rows, columns]));
        (out, (taps.into(), windows))
    }

    fn backward(
        (taps, windows): Self::Saved,
        gradient: FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let gradient = with_channels_last(gradient);
        let [n, channels, rows, columns] = images(&gradient).shape;
        let [height, width] = windows.size;
        let mut out = Buffer::zeros(n * height * width * channels);
        let per_image = rows * columns * channels;
        out.par_chunks_mut(height * width * channels)
            .zip(numbers(&gradient).par_chunks(per_image))
            .zip(taps.par_chunks(per_image))
            .for_each(|((out, dy), taps)| {
                windows.each(|from, to, tap| {
                    let dy = &dy[from * channels..][..channels];
                    let taps = &taps[from * channels..][..channels];
                    let out = &mut out[to * channels..][..channels];
                    for c in 0..channels {
                        out[c] += if taps[c] == tap { dy[c] } else { 0.0 };
                    }
                });
            });
        [Some(images_tensor(out, Shape::new([n, channels, height, width])))]
    }
}

#[derive(Clone, Copy, Debug)]
struct GlobalMean;

impl Operation<1> for GlobalMean {
    /// The input's shape.
    type Saved = Shape;

    fn forward(&self, [x]: [FlexTensor; 1]) -> (FlexTensor, Shape) {
        let x = with_channels_last(x);
        let [n, channels, height, width] = images(&x).shape;
        let mut out = Buffer::zeros(n * channels);
        out.par_chunks_mut(channels)
            .zip(numbers(&x).par_chunks(height * width * channels))
            .for_each(|(out, x)| {
                for pixel in x.chunks_exact(channels) {
                    out.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
                }
                out.iter_mut().for_each(|sum| *sum /= (height * width) as f32);
            });
        (contiguous(out, [n, channels]), shape(&x))
    }

    fn backward(shape: Shape, gradient: FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        let gradient = with_channels_last(gradient);
        let [_, channels, height, width] = shape.dims();
        let mut out = Buffer::any(shape.num_elements());
        out.par_chunks_mut(height * width * channels)
            .zip(numbers(&gradient).par_chunks(channels))
            .for_each(|(out, dy)| {
                for pixel in out.chunks_exact_mut(channels) {
                    for c in 0..channels {
                        pixel[c] = dy[c] / (height * width) as f32;
                    }
                }
            });
        [Some(images_tensor(out, shape))]
    }
}
