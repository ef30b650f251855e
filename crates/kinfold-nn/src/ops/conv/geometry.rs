//! The sizes of a convolution: where each pixel of the output reads in a padded image, and of what the
//! gradient of the input is a convolution.

use crate::ops::memory::images::Frame;
use burn::nn::PaddingConfig2d;

/// The padding of images of this `size`: above and left, then below and right.
pub(crate) fn padding(
    padding: &PaddingConfig2d,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
) -> [[usize; 2]; 2] {
    match *padding {
        PaddingConfig2d::Valid => [[0, 0], [0, 0]],
        PaddingConfig2d::Explicit(top, left, bottom, right) => [[top, left], [bottom, right]],
        PaddingConfig2d::Same => {
            let total = [0, 1].map(|i| {
                let reach = (size[i].div_ceil(stride[i]).max(1) - 1) * stride[i] + kernel[i];
                reach.saturating_sub(size[i])
            });
            [total.map(|total| total / 2), total.map(|total| total - total / 2)]
        }
    }
}
/// The sizes of a convolution. Pairs are of rows and columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) images: usize,
    pub(crate) channels: usize,
    pub(crate) size: [usize; 2],
    pub(crate) filters: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    /// Above and left of the image, then below and right of it.
    pub(crate) padding: [[usize; 2]; 2],
}

impl Geometry {
    /// Rows and columns of the output; none where the kernel is larger than the padded image.
    pub(crate) fn out(&self) -> [usize; 2] {
        [0, 1].map(|i| {
            let padded = self.size[i] + self.padding[0][i] + self.padding[1][i];
            padded.checked_sub(self.kernel[i]).map_or(0, |rest| rest / self.stride[i] + 1)
        })
    }

    /// The padded image, as far as the kernel reads it.
    pub(crate) fn frame(&self) -> Frame {
        let out = self.out();
        let size = [0, 1].map(|i| match out[i] {
            0 => 0,
            out => (out - 1) * self.stride[i] + self.kernel[i],
        });
        Frame { before: self.padding[0], size }
    }

    /// Images that are processed together, so that there are enough pixels.
    pub(crate) fn together(&self) -> usize {
        const PIXELS: usize = 128;
        PIXELS.div_ceil(self.out().iter().product::<usize>().max(1)).min(self.images.max(1))
    }

    /// The pass that gives the output, from the padded image.
    pub(crate) fn forward(&self) -> Pass {
        Pass {
            taps: self.kernel,
            grid: self.out(),
            from: [0, 0],
            step: self.stride,
            to: [0, 0],
            out_step: [1, 1],
            first_tap: [0, 0],
            tap_step: [1, 1],
        }
    }

    /// Whether [`backward`](Self::backward) has a pass for every pixel.
    pub(crate) fn reads_every_pixel(&self) -> bool {
        (0..2).all(|i| self.kernel[i] >= self.stride[i])
    }

    /// The gradient of the output with its frame, and the passes over it that give the gradient of
    /// the input.
    ///
    /// A pixel u of the padded image has a part in output a through tap r + s t, r = u mod s,
    /// where a = ⌊u / s⌋ − t. So the pixels of each r are a convolution, at stride 1, with every
    /// s-th tap, last first.
    pub(crate) fn backward(&self) -> (Frame, Vec<Pass>) {
        let most_taps = [0, 1].map(|i| self.kernel[i].div_ceil(self.stride[i]));
        let before = most_taps.map(|taps| taps - 1);
        let reach = [0, 1].map(|i| (self.padding[0][i] + self.size[i] - 1) / self.stride[i] + 1);
        let frame = Frame { before, size: [before[0] + reach[0], before[1] + reach[1]] };
        let mut passes = Vec::new();
        for y in 0..self.stride[0] {
            for x in 0..self.stride[1] {
                let r = [y, x];
                let taps = [0, 1].map(|i| match self.kernel[i].checked_sub(r[i]) {
                    Some(rest) => rest.div_ceil(self.stride[i]),
                    None => 0,
                });
                // The first pixel of the image with this r.
                let to = [0, 1].map(|i| {
                    let (s, pad) = (self.stride[i], self.padding[0][i]);
                    (r[i] + s - pad % s) % s
                });
                let grid = [0, 1].map(|i| match self.size[i].checked_sub(to[i]) {
                    Some(rest) => rest.div_ceil(self.stride[i]),
                    None => 0,
                });
                if taps.contains(&0) || grid.contains(&0) {
                    continue;
                }
                let first = [0, 1].map(|i| (to[i] + self.padding[0][i]) / self.stride[i]);
                passes.push(Pass {
                    taps,
                    grid,
                    from: [0, 1].map(|i| before[i] + first[i] + 1 - taps[i]),
                    step: [1, 1],
                    to,
                    out_step: self.stride,
                    first_tap: [0, 1].map(|i| r[i] + self.stride[i] * (taps[i] - 1)),
                    tap_step: self.stride.map(|s| -(s as isize)),
                });
            }
        }
        (frame, passes)
    }
}

/// A correlation of a framed image with taps: pixel j of the grid reads from `from + step · j` on and
/// is written to `to + out_step · j`.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    pub(crate) taps: [usize; 2],
    pub(crate) grid: [usize; 2],
    pub(crate) from: [usize; 2],
    pub(crate) step: [usize; 2],
    pub(crate) to: [usize; 2],
    pub(crate) out_step: [usize; 2],
    /// The first tap as a tap of the kernel, and the distance from one to the next.
    pub(crate) first_tap: [usize; 2],
    pub(crate) tap_step: [isize; 2],
}

impl Pass {
    /// The index of tap (y, x) in a kernel of `columns` columns.
    pub(crate) fn tap(&self, y: usize, x: usize, columns: usize) -> usize {
        let at = |i: usize, t: usize| {
            self.first_tap[i].wrapping_add_signed(self.tap_step[i] * t as isize)
        };
        at(0, y) * columns + at(1, x)
    }

    /// For each pixel of `images` images, the offset that it reads from, with `channels` numbers a
    /// pixel, and the offset that it writes to, with `filters` numbers a pixel.
    pub(crate) fn places(
        &self,
        images: usize,
        frame: &Frame,
        channels: usize,
        out: [usize; 2],
        filters: usize,
    ) -> Vec<(usize, usize)> {
        let mut places = Vec::with_capacity(images * self.grid[0] * self.grid[1]);
        for image in 0..images {
            for y in 0..self.grid[0] {
                for x in 0..self.grid[1] {
                    let from = [self.from[0] + y * self.step[0], self.from[1] + x * self.step[1]];
                    let to = [self.to[0] + y * self.out_step[0], self.to[1] + x * self.out_step[1]];
                    places.push((
                        ((image * frame.size[0] + from[0]) * frame.size[1] + from[1]) * channels,
                        ((image * out[0] + to[0]) * out[1] + to[1]) * filters,
                    ));
                }
            }
        }
        places
    }
}
