//! Colour jitter and the loss of colour.
//!
//! Input: planes `[channels, pixels]` of [0, 1] and what to do. Output: the same planes,
//! changed in place, still in [0, 1]. Nothing random is here, and no pixel sees another but through
//! the mean that contrast needs. The definitions are torchvision's for float tensors; its weights
//! of grey (.2989, .587, .114) are also those of the SimCLR paper's code. On one channel, what
//! would change colours only does nothing, as in torchvision.

/// A step of colour jitter, with its factor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Step {
    /// Times the factor.
    Brightness(f32),
    /// Away from the mean of the picture's grey, by the factor.
    Contrast(f32),
    /// Away from each pixel's grey, by the factor.
    Saturation(f32),
    /// This share of a turn around the colour wheel, −.5 to .5.
    Hue(f32),
    /// To grey.
    Grey,
}

/// Pixels that go through all steps together; their planes fit the fastest cache.
const TOGETHER: usize = 1024;

/// All steps in order, on planes of `channels`, 1 or 3.
pub(super) fn apply(steps: &[Step], channels: usize, planes: &mut [f32]) {
    // Contrast needs the mean of what the steps before it leave: it begins another pass.
    let contrast = |i: &usize| matches!(steps[*i], Step::Contrast(_));
    let (mut done, mut mean) = (0, 0.0);
    for end in (0..steps.len()).filter(contrast).chain([steps.len()]) {
        mean = pass(&steps[done..end], mean, channels, planes, end < steps.len());
        done = end;
    }
}

/// Steps of which only the first may be contrast, with the mean it needs; the mean that they leave.
fn pass(steps: &[Step], mean: f32, channels: usize, planes: &mut [f32], wants_mean: bool) -> f32 {
    let pixels = planes.len() / channels;
    let mut sum = 0.0;
    if channels == 1 {
        for grey in planes.chunks_mut(TOGETHER) {
            steps.iter().for_each(|step| step.of_grey(grey, mean));
            sum += if wants_mean { sum_of(grey) } else { 0.0 };
        }
    } else {
        let (red, rest) = planes.split_at_mut(pixels);
        let (green, blue) = rest.split_at_mut(pixels);
        let mut room = [0.0; TOGETHER];
        let green_and_blue = green.chunks_mut(TOGETHER).zip(blue.chunks_mut(TOGETHER));
        for (r, (g, b)) in red.chunks_mut(TOGETHER).zip(green_and_blue) {
            steps.iter().for_each(|step| step.of_colour(r, g, b, mean));
            if wants_mean {
                let greys = &mut room[..r.len()];
                for (grey, (r, (g, b))) in greys.iter_mut().zip(r.iter().zip(g.iter().zip(&*b))) {
                    *grey = grey_of(*r, *g, *b);
                }
                sum += sum_of(greys);
            }
        }
    }
    (sum / pixels as f64) as f32
}

/// The sum, in an order that is always the same and that registers can take.
fn sum_of(values: &[f32]) -> f64 {
    let (blocks, rest) = values.as_chunks::<16>();
    let mut sums = [0.0f32; 16];
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += value;
        }
    }
    f64::from(sums.iter().sum::<f32>() + rest.iter().sum::<f32>())
}

impl Step {
    fn of_grey(self, grey: &mut [f32], mean: f32) {
        match self {
            Self::Brightness(factor) => brighten(grey, factor),
            Self::Contrast(factor) => away_from(grey, mean, factor),
            Self::Saturation(_) | Self::Hue(_) | Self::Grey => {}
        }
    }

    fn of_colour(self, r: &mut [f32], g: &mut [f32], b: &mut [f32], mean: f32) {
        match self {
            Self::Brightness(factor) => [r, g, b].into_iter().for_each(|p| brighten(p, factor)),
            Self::Contrast(factor) => {
                [r, g, b].into_iter().for_each(|p| away_from(p, mean, factor));
            }
            Self::Saturation(factor) => saturate(r, g, b, factor),
            Self::Hue(turn) => rotate(r, g, b, turn),
            Self::Grey => {
                each(r, g, b, |r, g, b| {
                    let grey = grey_of(r, g, b);
                    [grey, grey, grey]
                });
            }
        }
    }
}

fn grey_of(r: f32, g: f32, b: f32) -> f32 {
    0.2989 * r + 0.587 * g + 0.114 * b
}

/// Into [0, 1]. Written out, because `f32::clamp` keeps a NaN, which costs instructions.
fn unit(value: f32) -> f32 {
    let value = if value > 0.0 { value } else { 0.0 };
    if value < 1.0 { value } else { 1.0 }
}

fn brighten(plane: &mut [f32], factor: f32) {
    plane.iter_mut().for_each(|p| *p = unit(*p * factor));
}

fn away_from(plane: &mut [f32], mean: f32, factor: f32) {
    let rest = (1.0 - factor) * mean;
    plane.iter_mut().for_each(|p| *p = unit(factor * *p + rest));
}

fn saturate(r: &mut [f32], g: &mut [f32], b: &mut [f32], factor: f32) {
    each(r, g, b, |r, g, b| {
        let rest = (1.0 - factor) * grey_of(r, g, b);
        [unit(factor * r + rest), unit(factor * g + rest), unit(factor * b + rest)]
    });
}

/// The hue of HSV moves; value (the largest channel) and chroma (largest less smallest) stay.
///
/// Without branches: with the hue h in sixths of a turn, red is the smallest channel plus chroma
/// times |h − 3| − 1 cut to [0, 1], green with 2 − |h − 2|, blue with 2 − |h − 4|. These are the
/// six pieces of the usual definition in one.
fn rotate(r: &mut [f32], g: &mut [f32], b: &mut [f32], turn: f32) {
    // A hue is at least −1 here and below 5; shifted by 1 to 7 it is in [0, 12).
    let shift = 6.0 * if turn < 1.0 / 6.0 { turn + 1.0 } else { turn };
    each(r, g, b, |r, g, b| {
        let (high, low) = (larger(larger(r, g), b), smaller(smaller(r, g), b));
        let chroma = high - low;
        let (difference, sector) = if high == g { (b - r, 2.0) } else { (r - g, 4.0) };
        let (difference, sector) = if high == r { (g - b, 0.0) } else { (difference, sector) };
        // Grey has no chroma and no difference: any divisor will do.
        let hue = difference / larger(chroma, f32::MIN_POSITIVE) + (sector + shift);
        let hue = if hue >= 6.0 { hue - 6.0 } else { hue };
        let channel = |part: f32| low + chroma * unit(part);
        [
            channel((hue - 3.0).abs() - 1.0),
            channel(2.0 - (hue - 2.0).abs()),
            channel(2.0 - (hue - 4.0).abs()),
        ]
    });
}

fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

fn smaller(a: f32, b: f32) -> f32 {
    if a < b { a } else { b }
}

/// Each pixel on its own.
fn each(r: &mut [f32], g: &mut [f32], b: &mut [f32], change: impl Fn(f32, f32, f32) -> [f32; 3]) {
    for (r, (g, b)) in r.iter_mut().zip(g.iter_mut().zip(b)) {
        [*r, *g, *b] = change(*r, *g, *b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The textbook's definitions, a pixel at a time, in f64.
    fn reference(steps: &[Step], planes: &[f32]) -> Vec<f64> {
        let n = planes.len() / 3;
        let mut pixels: Vec<[f64; 3]> =
            (0..n).map(|i| [0, 1, 2].map(|c| f64::from(planes[c * n + i]))).collect();
        let grey = |p: &[f64; 3]| 0.2989 * p[0] + 0.587 * p[1] + 0.114 * p[2];
        for step in steps {
            let mean = pixels.iter().map(grey).sum::<f64>() / n as f64;
            for pixel in &mut pixels {
                let own = grey(pixel);
                let blend = |from: f64, f: f32| {
                    move |p: f64| (f64::from(f) * p + (1.0 - f64::from(f)) * from).clamp(0.0, 1.0)
                };
                *pixel = match *step {
                    Step::Brightness(f) => pixel.map(blend(0.0, f)),
                    Step::Contrast(f) => pixel.map(blend(mean, f)),
                    Step::Saturation(f) => pixel.map(blend(own, f)),
                    Step::Hue(turn) => turned(*pixel, f64::from(turn)),
                    Step::Grey => [own; 3],
                };
            }
        }
        (0..3).flat_map(|c| pixels.iter().map(move |p| p[c])).collect()
    }

    fn turned([r, g, b]: [f64; 3], turn: f64) -> [f64; 3] {
        let (value, low) = (r.max(g).max(b), r.min(g).min(b));
        if value == low {
            return [r, g, b];
        }
        let hue = match () {
            () if value == r => (g - b) / (value - low),
            () if value == g => 2.0 + (b - r) / (value - low),
            () => 4.0 + (r - g) / (value - low),
        };
        let hue = (hue + 6.0 * turn).rem_euclid(6.0);
        let saturation = (value - low) / value;
        let part = hue - hue.floor();
        let (p, q) = (value * (1.0 - saturation), value * (1.0 - saturation * part));
        let t = value * (1.0 - saturation * (1.0 - part));
        [[value, t, p], [q, value, p], [p, value, t], [p, q, value], [t, p, value], [value, p, q]]
            [hue as usize % 6]
    }

    /// Every combination of a few levels, so that ties, greys, black and white are among them.
    fn planes() -> Vec<f32> {
        let levels = [0.0, 1e-6, 0.1, 0.25, 0.5, 0.500001, 0.7, 0.8, 0.99, 1.0, 0.3, 0.123];
        let n = levels.len();
        (0..3)
            .flat_map(|c| (0..n.pow(3)).map(move |i| levels[i / n.pow(c) % n]))
            .collect::<Vec<f32>>()
    }

    #[test]
    fn every_step_agrees_with_the_textbook() {
        let mut cases: Vec<Vec<Step>> = vec![vec![Step::Grey], vec![]];
        for f in [0.0, 0.2, 0.7, 1.0, 1.3, 1.8] {
            cases.extend(
                [Step::Brightness(f), Step::Contrast(f), Step::Saturation(f)].map(|s| vec![s]),
            );
        }
        for turn in [-0.5, -0.2, -1.0 / 6.0, -0.01, 0.0, 0.1, 1.0 / 6.0, 0.17, 0.2, 0.4, 0.5] {
            cases.push(vec![Step::Hue(turn)]);
        }
        let four =
            [Step::Brightness(1.4), Step::Contrast(0.5), Step::Saturation(1.6), Step::Hue(0.15)];
        for order in [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 0, 1], [2, 3, 1, 0], [0, 3, 2, 1]] {
            let mut steps = order.map(|i: usize| four[i]).to_vec();
            cases.push(steps.clone());
            steps.push(Step::Grey);
            cases.push(steps);
        }
        cases.push(vec![Step::Contrast(0.5), Step::Hue(0.1), Step::Contrast(1.5)]);
        for steps in cases {
            let mut ours = planes();
            apply(&steps, 3, &mut ours);
            for (ours, right) in ours.iter().zip(reference(&steps, &planes())) {
                assert!((0.0..=1.0).contains(ours), "{steps:?}: {ours}");
                assert!((f64::from(*ours) - right).abs() < 1e-5, "{steps:?}: {ours} {right}");
            }
        }
    }

    #[test]
    fn grey_pictures_have_brightness_and_contrast_only() {
        let picture: Vec<f32> = (0..4000).map(|i| (i % 97) as f32 / 97.0).collect();
        let mean = picture.iter().sum::<f32>() / 4000.0;
        let mut ours = picture.clone();
        apply(&[Step::Hue(0.3), Step::Saturation(0.2), Step::Grey], 1, &mut ours);
        assert_eq!(ours, picture);
        apply(&[Step::Hue(0.3), Step::Contrast(1.5), Step::Brightness(0.5)], 1, &mut ours);
        for (ours, before) in ours.iter().zip(&picture) {
            let right = (1.5 * before - 0.5 * mean).clamp(0.0, 1.0) * 0.5;
            assert!((ours - right).abs() < 1e-5);
        }
    }
}
