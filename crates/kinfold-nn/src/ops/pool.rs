//! Pooling of images: the largest of each window, and the mean of all pixels.

use super::buffer::Buffer;
use super::flex;
use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, Flex, backend_extension};
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
    let padding = flex::padding(&layer.padding, size, layer.kernel_size, layer.stride);
    let windows = Windows { size, kernel: layer.kernel_size, stride: layer.stride, padding };
    let plain = layer.dilation == [1, 1] && !layer.ceil_mode;
    let taps = layer.kernel_size[0] * layer.kernel_size[1];
    let fits = windows.fit() && (1..=256).contains(&taps) && x.shape().num_elements() > 0;
    if !plain || !fits || !flex::is_ours(&x) {
        return layer.forward(x);
    }
    Tensor::from_dispatch(<Dispatch as Pooling>::largest(x.into_dispatch(), windows))
}

/// The mean over all pixels: `[n, channels, height, width]` to `[n, channels]`.
pub fn global_average_pool(x: Tensor<4>) -> Tensor<2> {
    let [n, channels, height, width] = x.dims();
    if !flex::is_ours(&x) || x.shape().num_elements() == 0 {
        return x.reshape([n, channels, height * width]).mean_dim(2).reshape([n, channels]);
    }
    Tensor::from_dispatch(<Dispatch as Pooling>::mean(x.into_dispatch()))
}

/// The windows of a pooling. Pairs are of rows and columns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Windows {
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

    /// Calls `with` for every pixel of the output and every pixel of the input in its window, each
    /// as its number in its image, and the tap that it is.
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

/// What the operations need of a backend.
#[backend_extension(Autodiff, Flex)]
pub(crate) trait Pooling: Backend {
    fn largest(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self>;
    fn mean(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Pooling for Flex {
    fn largest(x: FlexTensor, windows: Windows) -> FlexTensor {
        largest(x, &windows).0
    }
    fn mean(x: FlexTensor) -> FlexTensor {
        mean(x)
    }
}

impl<C: CheckpointStrategy> Pooling for Autodiff<Flex, C> {
    fn largest(x: FloatTensor<Self>, windows: Windows) -> FloatTensor<Self> {
        let prepared = LargestBackward.prepare::<C>([x.node()]).compute_bound().stateful();
        let (out, taps) = largest(x.into_primitive(), &windows);
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((taps.into(), windows), out),
            OpsKind::UnTracked(prepared) => prepared.finish(out),
        }
    }
    fn mean(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let prepared = MeanBackward.prepare::<C>([x.node()]).compute_bound().stateful();
        let x = x.into_primitive();
        let shape = x.layout().shape().clone();
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(shape, mean(x)),
            OpsKind::UnTracked(prepared) => prepared.finish(mean(x)),
        }
    }
}

/// The largest of each window, and which tap that is.
fn largest(x: FlexTensor, windows: &Windows) -> (FlexTensor, Vec<u8>) {
    let x = flex::with_channels_last(x);
    let [n, channels, height, width] = flex::images(&x).shape;
    let [rows, columns] = windows.out();
    let per_image = rows * columns * channels;
    let mut out = Buffer::any(n * per_image);
    out.fill(f32::NEG_INFINITY);
    let mut taps = vec![0; n * per_image];
    out.par_chunks_mut(per_image)
        .zip(taps.par_chunks_mut(per_image))
        .zip(flex::numbers(&x).par_chunks(height * width * channels))
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
    (flex::tensor(out, Shape::new([n, channels, rows, columns])), taps)
}

#[derive(Debug)]
struct LargestBackward;

impl Backward<Flex, 1> for LargestBackward {
    type State = (Arc<[u8]>, Windows);

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = flex::with_channels_last(grads.consume::<Flex>(&ops.node));
        let ([Some(node)], (taps, windows)) = (ops.parents, ops.state) else { return };
        let [n, channels, rows, columns] = flex::images(&gradient).shape;
        let [height, width] = windows.size;
        let mut out = Buffer::zeros(n * height * width * channels);
        let per_image = rows * columns * channels;
        out.par_chunks_mut(height * width * channels)
            .zip(flex::numbers(&gradient).par_chunks(per_image))
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
        grads
            .register::<Flex>(node.id, flex::tensor(out, Shape::new([n, channels, height, width])));
    }
}

fn mean(x: FlexTensor) -> FlexTensor {
    let x = flex::with_channels_last(x);
    let [n, channels, height, width] = flex::images(&x).shape;
    let mut out = vec![0.0; n * channels];
    out.par_chunks_mut(channels)
        .zip(flex::numbers(&x).par_chunks(height * width * channels))
        .for_each(|(out, x)| {
            for pixel in x.chunks_exact(channels) {
                out.iter_mut().zip(pixel).for_each(|(sum, x)| *sum += x);
            }
            out.iter_mut().for_each(|sum| *sum /= (height * width) as f32);
        });
    flex::plain(out, Shape::new([n, channels]))
}

#[derive(Debug)]
struct MeanBackward;

impl Backward<Flex, 1> for MeanBackward {
    /// The input's shape.
    type State = Shape;

    fn backward(
        self,
        ops: Ops<Self::State, 1>,
        grads: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = flex::with_channels_last(grads.consume::<Flex>(&ops.node));
        let [Some(node)] = ops.parents else { return };
        let shape = ops.state;
        let [_, channels, height, width] = [0, 1, 2, 3].map(|i| shape[i]);
        let mut out = Buffer::any(shape.num_elements());
        out.par_chunks_mut(height * width * channels)
            .zip(flex::numbers(&gradient).par_chunks(channels))
            .for_each(|(out, dy)| {
                for pixel in out.chunks_exact_mut(channels) {
                    for c in 0..channels {
                        pixel[c] = dy[c] / (height * width) as f32;
                    }
                }
            });
        grads.register::<Flex>(node.id, flex::tensor(out, shape));
    }
}
