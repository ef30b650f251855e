//! Batch norm's passes over memory. Numbers are pixels by channels, `[pixels, channels]`; every pass
//! goes through so many pixels at a time, which a thread has in its cache, and what is summed is
//! added up in their order, in f64.

use crate::ops::buffer::Buffer;
use crate::ops::vector::{self, Loops};
use rayon::prelude::*;
use std::sync::Arc;

/// Numbers that a thread takes at a time.
const PART: usize = 16384;
/// Pixels that are summed in f32.
const SHORT: usize = 64;

/// Mean and (biased) variance of a channel.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moments {
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

/// What a channel is normalised with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Channel {
    mean: f64,
    inverse_deviation: f64,
    scale: f32,
    shift: f32,
}

impl Channel {
    pub(crate) fn new(moments: &Moments, gamma: f32, beta: f32, epsilon: f64) -> Self {
        let inverse_deviation = 1.0 / (moments.variance + epsilon).sqrt();
        let scale = f64::from(gamma) * inverse_deviation;
        let shift = f64::from(beta) - moments.mean * scale;
        Self { mean: moments.mean, inverse_deviation, scale: scale as f32, shift: shift as f32 }
    }
}

/// The gradients of γ and β.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) gamma: f64,
    pub(crate) beta: f64,
}

/// What says which outputs were made 0.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mask<'a> {
    /// None were.
    Nothing,
    /// The input, normalised again.
    Input,
    /// The output.
    Output(&'a [f32]),
}

/// Pixels of so many channels that a thread takes at a time.
fn pixels(channels: usize) -> usize {
    (PART / channels.max(1)).max(1)
}

/// The moments of every channel: about each part's own mean, then put together.
pub(crate) fn moments(x: &[f32], channels: usize) -> Arc<[Moments]> {
    let parts: Vec<(f64, Vec<Moments>)> = x
        .par_chunks(pixels(channels) * channels)
        .map(|x| {
            let mut moments = vec![Moments::default(); channels];
            vector::run_loops(OfPart { x, moments: &mut moments });
            ((x.len() / channels) as f64, moments)
        })
        .collect();
    let mut count = 0.0;
    let mut all = vec![Moments::default(); channels];
    for (more, parts) in parts {
        let total = count + more;
        for (all, part) in all.iter_mut().zip(parts) {
            let apart = part.mean - all.mean;
            all.mean += apart * more / total;
            // For now sums of squares.
            all.variance += part.variance + apart * apart * count * more / total;
        }
        count = total;
    }
    all.iter_mut().for_each(|moments| moments.variance /= count);
    all.into()
}

/// Means and sums of squares about them.
struct OfPart<'a> {
    x: &'a [f32],
    moments: &'a mut [Moments],
}

impl Loops for OfPart<'_> {
    #[inline(always)]
    fn run(self) {
        let channels = self.moments.len();
        let count = (self.x.len() / channels) as f64;
        let (mut sums, mut means) = (vec![0.0f32; channels], vec![0.0f32; channels]);
        for some in self.x.chunks(SHORT * channels) {
            sums.fill(0.0);
            for pixel in some.chunks_exact(channels) {
                for c in 0..channels {
                    sums[c] += pixel[c];
                }
            }
            for c in 0..channels {
                self.moments[c].mean += f64::from(sums[c]);
            }
        }
        for c in 0..channels {
            self.moments[c].mean /= count;
            means[c] = self.moments[c].mean as f32;
        }
        for some in self.x.chunks(SHORT * channels) {
            sums.fill(0.0);
            for pixel in some.chunks_exact(channels) {
                for c in 0..channels {
                    let apart = pixel[c] - means[c];
                    sums[c] += apart * apart;
                }
            }
            for c in 0..channels {
                self.moments[c].variance += f64::from(sums[c]);
            }
        }
        // The squares were about the mean as an f32.
        for c in 0..channels {
            let rounded = self.moments[c].mean - f64::from(means[c]);
            let squares = self.moments[c].variance - count * rounded * rounded;
            self.moments[c].variance = squares.max(0.0);
        }
    }
}

/// `x · scale + shift (+ residual)`, rectified if wanted.
pub(crate) fn normalise(
    x: &[f32],
    residual: Option<&[f32]>,
    channels: &[Channel],
    rectified: bool,
) -> Buffer {
    let mut y = Buffer::any(x.len());
    let part = pixels(channels.len()) * channels.len();
    let (scale, shift) = scales(channels);
    y.par_chunks_mut(part).enumerate().for_each(|(i, y)| {
        let range = i * part..i * part + y.len();
        let residual = residual.map(|residual| &residual[range.clone()]);
        vector::run_loops(Normalise {
            x: &x[range],
            residual,
            scale: &scale,
            shift: &shift,
            rectified,
            y,
        });
    });
    y
}

fn scales(channels: &[Channel]) -> (Vec<f32>, Vec<f32>) {
    channels.iter().map(|channel| (channel.scale, channel.shift)).unzip()
}

struct Normalise<'a> {
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    scale: &'a [f32],
    shift: &'a [f32],
    rectified: bool,
    y: &'a mut [f32],
}

impl Loops for Normalise<'_> {
    #[inline(always)]
    fn run(self) {
        let count = self.scale.len();
        // The least that an output can be. A NaN stays one.
        let least = if self.rectified { 0.0 } else { f32::NEG_INFINITY };
        let (scale, shift) = (&self.scale[..count], &self.shift[..count]);
        for (i, y) in self.y.chunks_exact_mut(count).enumerate() {
            let x = &self.x[i * count..][..count];
            match self.residual {
                None => {
                    for c in 0..count {
                        let value = x[c] * scale[c] + shift[c];
                        y[c] = if value < least { least } else { value };
                    }
                }
                Some(residual) => {
                    let residual = &residual[i * count..][..count];
                    for c in 0..count {
                        let value = x[c] * scale[c] + shift[c] + residual[c];
                        y[c] = if value < least { least } else { value };
                    }
                }
            }
        }
    }
}

/// The gradients of γ and β, from the input and the gradient of the output.
pub(crate) fn gradient_sums(
    x: &[f32],
    dy: &[f32],
    mask: Mask<'_>,
    channels: &[Channel],
) -> Vec<Sums> {
    let part = pixels(channels.len()) * channels.len();
    let (scale, shift) = scales(channels);
    let means: Vec<f32> = channels.iter().map(|channel| channel.mean as f32).collect();
    let parts: Vec<Vec<Sums>> = x
        .par_chunks(part)
        .enumerate()
        .map(|(i, x)| {
            let range = i * part..i * part + x.len();
            let mut sums = vec![Sums::default(); channels.len()];
            vector::run_loops(GradientSums {
                x,
                dy: &dy[range.clone()],
                mask: mask.of(range),
                scale: &scale,
                shift: &shift,
                means: &means,
                sums: &mut sums,
            });
            sums
        })
        .collect();
    let mut all = vec![Sums::default(); channels.len()];
    for part in parts {
        for (all, part) in all.iter_mut().zip(part) {
            all.gamma += part.gamma;
            all.beta += part.beta;
        }
    }
    for (sums, channel) in all.iter_mut().zip(channels) {
        // They were about the mean as an f32.
        let rounded = channel.mean - f64::from(channel.mean as f32);
        sums.gamma = (sums.gamma - rounded * sums.beta) * channel.inverse_deviation;
    }
    all
}

impl Mask<'_> {
    fn of(&self, range: std::ops::Range<usize>) -> Mask<'_> {
        match self {
            Mask::Output(y) => Mask::Output(&y[range]),
            mask => *mask,
        }
    }

    /// Calls `with` for every pixel of `count` channels, with its number and what is positive where
    /// its output was.
    #[inline(always)]
    fn gradient(
        &self,
        pixel: usize,
        x: &[f32],
        dy: &[f32],
        scale: &[f32],
        shift: &[f32],
        to: &mut [f32],
    ) {
        let count = to.len();
        let (x, dy) = (&x[..count], &dy[..count]);
        let (scale, shift) = (&scale[..count], &shift[..count]);
        match self {
            Mask::Nothing => to.copy_from_slice(dy),
            Mask::Input => {
                for c in 0..count {
                    to[c] = if x[c] * scale[c] + shift[c] <= 0.0 { 0.0 } else { dy[c] };
                }
            }
            Mask::Output(y) => {
                let y = &y[pixel * count..][..count];
                for c in 0..count {
                    to[c] = if y[c] <= 0.0 { 0.0 } else { dy[c] };
                }
            }
        }
    }
}

struct GradientSums<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    mask: Mask<'a>,
    scale: &'a [f32],
    shift: &'a [f32],
    means: &'a [f32],
    sums: &'a mut [Sums],
}

impl Loops for GradientSums<'_> {
    #[inline(always)]
    fn run(self) {
        let count = self.sums.len();
        let mut numbers = vec![0.0f32; 3 * count];
        let (masked, rest) = numbers.split_at_mut(count);
        let (gamma, beta) = rest.split_at_mut(count);
        let means = &self.means[..count];
        let pixels = self.x.len() / count;
        for first in (0..pixels).step_by(SHORT) {
            gamma.fill(0.0);
            beta.fill(0.0);
            for pixel in first..pixels.min(first + SHORT) {
                let x = &self.x[pixel * count..][..count];
                let dy = &self.dy[pixel * count..][..count];
                self.mask.gradient(pixel, x, dy, self.scale, self.shift, masked);
                for c in 0..count {
                    beta[c] += masked[c];
                    gamma[c] += masked[c] * (x[c] - means[c]);
                }
            }
            for c in 0..count {
                self.sums[c].beta += f64::from(beta[c]);
                self.sums[c].gamma += f64::from(gamma[c]);
            }
        }
    }
}

/// What the gradient of the input is made of: `of_gradient · dy + of_input · x + constant`.
#[derive(Debug)]
pub(crate) struct Coefficients {
    of_gradient: Vec<f32>,
    of_input: Vec<f32>,
    constant: Vec<f32>,
}

/// Those of so many numbers. Moments that are the batch's own change with the input.
pub(crate) fn coefficients(
    channels: &[Channel],
    sums: &[Sums],
    numbers: usize,
    trains: bool,
) -> Coefficients {
    let share = if trains { channels.len() as f64 / numbers as f64 } else { 0.0 };
    let of_gradient = channels.iter().map(|channel| channel.scale).collect();
    let (of_input, constant) = channels
        .iter()
        .zip(sums)
        .map(|(channel, sums)| {
            let scale = f64::from(channel.scale) * share;
            let of_input = -scale * sums.gamma * channel.inverse_deviation;
            (of_input as f32, (-scale * sums.beta - of_input * channel.mean) as f32)
        })
        .unzip();
    Coefficients { of_gradient, of_input, constant }
}

/// The gradients of the input, and, if wanted, of what was added.
pub(crate) fn gradient(
    x: &[f32],
    dy: &[f32],
    mask: Mask<'_>,
    channels: &[Channel],
    coefficients: &Coefficients,
    of_residual: bool,
) -> (Buffer, Option<Buffer>) {
    let part = pixels(channels.len()) * channels.len();
    let (scale, shift) = scales(channels);
    let mut out = Buffer::any(x.len());
    let mut masked = of_residual.then(|| Buffer::any(x.len()));
    let work = |(i, out, masked): (usize, &mut [f32], &mut [f32])| {
        let range = i * part..i * part + out.len();
        vector::run_loops(Gradient {
            x: &x[range.clone()],
            dy: &dy[range.clone()],
            mask: mask.of(range),
            scale: &scale,
            shift: &shift,
            coefficients,
            out,
            masked,
        });
    };
    match &mut masked {
        None => {
            out.par_chunks_mut(part).enumerate().for_each(|(i, out)| work((i, out, &mut [])));
        }
        Some(masked) => out
            .par_chunks_mut(part)
            .zip(masked.par_chunks_mut(part))
            .enumerate()
            .for_each(|(i, (out, masked))| work((i, out, masked))),
    }
    (out, masked)
}

struct Gradient<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    mask: Mask<'a>,
    scale: &'a [f32],
    shift: &'a [f32],
    coefficients: &'a Coefficients,
    out: &'a mut [f32],
    /// Empty if not wanted.
    masked: &'a mut [f32],
}

impl Loops for Gradient<'_> {
    #[inline(always)]
    fn run(self) {
        let count = self.scale.len();
        let of_gradient = &self.coefficients.of_gradient[..count];
        let of_input = &self.coefficients.of_input[..count];
        let constant = &self.coefficients.constant[..count];
        for (pixel, out) in self.out.chunks_exact_mut(count).enumerate() {
            let x = &self.x[pixel * count..][..count];
            let dy = &self.dy[pixel * count..][..count];
            self.mask.gradient(pixel, x, dy, self.scale, self.shift, out);
            if !self.masked.is_empty() {
                self.masked[pixel * count..][..count].copy_from_slice(out);
            }
            for c in 0..count {
                out[c] = out[c] * of_gradient[c] + (x[c] * of_input[c] + constant[c]);
            }
        }
    }
}
