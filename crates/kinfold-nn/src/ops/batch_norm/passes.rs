//! Batch norm's passes over memory. Numbers are `[pixels, channels]`. A thread takes as many pixels at a
//! time as its cache holds, and sums are added up in the order of the pixels, in f64.

use crate::ops::memory::buffer::Buffer;
use crate::ops::memory::vector::vectorized;
use rayon::prelude::*;
use std::ops::Range;
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

/// How a channel is normalised.
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

/// The scales and shifts of all channels.
#[derive(Clone, Debug)]
pub(crate) struct Affine {
    scale: Vec<f32>,
    shift: Vec<f32>,
}

impl Affine {
    pub(crate) fn new(channels: &[Channel]) -> Self {
        let (scale, shift) = channels.iter().map(|channel| (channel.scale, channel.shift)).unzip();
        Self { scale, shift }
    }
}

/// Where to read which outputs ReLU cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mask<'a> {
    /// Nowhere: there is no ReLU.
    None,
    /// In the input, normalised again.
    Input,
    /// In the output.
    Output(&'a [f32]),
}

/// What the backward pass reads of some pixels: the input, the gradient of the output, and the mask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pixels<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) dy: &'a [f32],
    pub(crate) mask: Mask<'a>,
    pub(crate) affine: &'a Affine,
}

impl<'a> Pixels<'a> {
    /// Some of the numbers.
    fn part(&self, range: Range<usize>) -> Pixels<'a> {
        let mask = match self.mask {
            Mask::Output(y) => Mask::Output(&y[range.clone()]),
            mask => mask,
        };
        Pixels { x: &self.x[range.clone()], dy: &self.dy[range], mask, affine: self.affine }
    }

    /// The input of pixel `at`.
    #[inline(always)]
    fn input(&self, at: usize, channels: usize) -> &'a [f32] {
        &self.x[at * channels..][..channels]
    }

    /// Writes the gradient of pixel `at` before ReLU.
    #[inline(always)]
    fn masked_gradient(&self, at: usize, to: &mut [f32]) {
        let count = to.len();
        let (x, dy) = (self.input(at, count), &self.dy[at * count..][..count]);
        let (scale, shift) = (&self.affine.scale[..count], &self.affine.shift[..count]);
        match self.mask {
            Mask::None => to.copy_from_slice(dy),
            Mask::Input => {
                for c in 0..count {
                    to[c] = if x[c] * scale[c] + shift[c] <= 0.0 { 0.0 } else { dy[c] };
                }
            }
            Mask::Output(y) => {
                let y = &y[at * count..][..count];
                for c in 0..count {
                    to[c] = if y[c] <= 0.0 { 0.0 } else { dy[c] };
                }
            }
        }
    }
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
            vectorized(
                #[inline(always)]
                || part_moments(x, &mut moments),
            );
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

/// The means of some pixels, and the sums of squares about them.
#[inline(always)]
fn part_moments(x: &[f32], moments: &mut [Moments]) {
    let channels = moments.len();
    let count = (x.len() / channels) as f64;
    let (mut sums, mut means) = (vec![0.0f32; channels], vec![0.0f32; channels]);
    for some in x.chunks(SHORT * channels) {
        sums.fill(0.0);
        for pixel in some.chunks_exact(channels) {
            for c in 0..channels {
                sums[c] += pixel[c];
            }
        }
        for c in 0..channels {
            moments[c].mean += f64::from(sums[c]);
        }
    }
    for c in 0..channels {
        moments[c].mean /= count;
        means[c] = moments[c].mean as f32;
    }
    for some in x.chunks(SHORT * channels) {
        sums.fill(0.0);
        for pixel in some.chunks_exact(channels) {
            for c in 0..channels {
                let apart = pixel[c] - means[c];
                sums[c] += apart * apart;
            }
        }
        for c in 0..channels {
            moments[c].variance += f64::from(sums[c]);
        }
    }
    // The squares were about the mean as an f32.
    for c in 0..channels {
        let rounded = moments[c].mean - f64::from(means[c]);
        let squares = moments[c].variance - count * rounded * rounded;
        moments[c].variance = squares.max(0.0);
    }
}

/// `x · scale + shift (+ residual)`, with ReLU where `rectified`.
pub(crate) fn normalise(
    x: &[f32],
    residual: Option<&[f32]>,
    affine: &Affine,
    rectified: bool,
) -> Buffer {
    let channels = affine.scale.len();
    let mut y = Buffer::any(x.len());
    let part = pixels(channels) * channels;
    // The least that an output can be. A NaN stays one.
    let least = if rectified { 0.0 } else { f32::NEG_INFINITY };
    y.par_chunks_mut(part).enumerate().for_each(|(i, y)| {
        let range = i * part..i * part + y.len();
        let (x, residual) = (&x[range.clone()], residual.map(|residual| &residual[range]));
        vectorized(
            #[inline(always)]
            || normalise_part(x, residual, affine, least, y),
        );
    });
    y
}

#[inline(always)]
fn normalise_part(x: &[f32], residual: Option<&[f32]>, affine: &Affine, least: f32, y: &mut [f32]) {
    let count = affine.scale.len();
    let (scale, shift) = (&affine.scale[..count], &affine.shift[..count]);
    for (i, y) in y.chunks_exact_mut(count).enumerate() {
        let x = &x[i * count..][..count];
        match residual {
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

/// The gradients of γ and β.
pub(crate) fn gradient_sums(all: &Pixels<'_>, channels: &[Channel]) -> Vec<Sums> {
    let part = pixels(channels.len()) * channels.len();
    let means: Vec<f32> = channels.iter().map(|channel| channel.mean as f32).collect();
    let parts: Vec<Vec<Sums>> = all
        .x
        .par_chunks(part)
        .enumerate()
        .map(|(i, x)| {
            let some = all.part(i * part..i * part + x.len());
            let mut sums = vec![Sums::default(); channels.len()];
            vectorized(
                #[inline(always)]
                || part_gradient_sums(&some, &means, &mut sums),
            );
            sums
        })
        .collect();
    let mut total = vec![Sums::default(); channels.len()];
    for part in parts {
        for (total, part) in total.iter_mut().zip(part) {
            total.gamma += part.gamma;
            total.beta += part.beta;
        }
    }
    for (sums, channel) in total.iter_mut().zip(channels) {
        // They were about the mean as an f32.
        let rounded = channel.mean - f64::from(channel.mean as f32);
        sums.gamma = (sums.gamma - rounded * sums.beta) * channel.inverse_deviation;
    }
    total
}

/// The gradients of γ, times the deviation, and of β from some pixels.
#[inline(always)]
fn part_gradient_sums(some: &Pixels<'_>, means: &[f32], sums: &mut [Sums]) {
    let count = sums.len();
    let mut numbers = vec![0.0f32; 3 * count];
    let (masked, rest) = numbers.split_at_mut(count);
    let (gamma, beta) = rest.split_at_mut(count);
    let means = &means[..count];
    let pixels = some.x.len() / count;
    for first in (0..pixels).step_by(SHORT) {
        gamma.fill(0.0);
        beta.fill(0.0);
        for pixel in first..pixels.min(first + SHORT) {
            let x = some.input(pixel, count);
            some.masked_gradient(pixel, masked);
            for c in 0..count {
                beta[c] += masked[c];
                gamma[c] += masked[c] * (x[c] - means[c]);
            }
        }
        for c in 0..count {
            sums[c].beta += f64::from(beta[c]);
            sums[c].gamma += f64::from(gamma[c]);
        }
    }
}

/// The gradient of the input is `of_gradient · dy + of_input · x + constant`.
#[derive(Debug)]
pub(crate) struct Coefficients {
    of_gradient: Vec<f32>,
    of_input: Vec<f32>,
    constant: Vec<f32>,
}

/// The coefficients for a batch of so many pixels. Moments of the batch itself depend on the input.
pub(crate) fn coefficients(
    channels: &[Channel],
    sums: &[Sums],
    pixels: f64,
    trains: bool,
) -> Coefficients {
    let share = if trains { 1.0 / pixels } else { 0.0 };
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

/// The gradients of the input and, if asked for, of the residual.
pub(crate) fn gradient(
    all: &Pixels<'_>,
    coefficients: &Coefficients,
    of_residual: bool,
) -> (Buffer, Option<Buffer>) {
    let channels = coefficients.constant.len();
    let part = pixels(channels) * channels;
    let mut out = Buffer::any(all.x.len());
    let mut masked = of_residual.then(|| Buffer::any(all.x.len()));
    let work = |i: usize, out: &mut [f32], masked: &mut [f32]| {
        let some = all.part(i * part..i * part + out.len());
        vectorized(
            #[inline(always)]
            || part_gradient(&some, coefficients, out, masked),
        );
    };
    match &mut masked {
        None => {
            out.par_chunks_mut(part).enumerate().for_each(|(i, out)| work(i, out, &mut []));
        }
        Some(masked) => out
            .par_chunks_mut(part)
            .zip(masked.par_chunks_mut(part))
            .enumerate()
            .for_each(|(i, (out, masked))| work(i, out, masked)),
    }
    (out, masked)
}

/// The gradients of some pixels; `masked`, of the residual, is empty where it is not asked for.
#[inline(always)]
fn part_gradient(
    some: &Pixels<'_>,
    coefficients: &Coefficients,
    out: &mut [f32],
    masked: &mut [f32],
) {
    let count = coefficients.constant.len();
    let of_gradient = &coefficients.of_gradient[..count];
    let of_input = &coefficients.of_input[..count];
    let constant = &coefficients.constant[..count];
    for (pixel, out) in out.chunks_exact_mut(count).enumerate() {
        let x = some.input(pixel, count);
        some.masked_gradient(pixel, out);
        if !masked.is_empty() {
            masked[pixel * count..][..count].copy_from_slice(out);
        }
        for c in 0..count {
            out[c] = out[c] * of_gradient[c] + (x[c] * of_input[c] + constant[c]);
        }
    }
}
