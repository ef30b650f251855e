//! What a linear classifier makes of frozen embeddings.
//!
//! Input: labelled embeddings `[n, d]` to learn from, and others to judge by. Output: an accuracy.
//! Multinomial logistic regression over standardised features, fitted by L-BFGS (Liu and Nocedal
//! 1989): one pass over the embeddings for a value and its gradient, and no copy of them.

use super::labelled::{Labelled, check_dimension};
use crate::Error;
use crate::embeddings::{Element, Real, sum_of};
use crate::engine::Work;
use crate::execution::Instructions;
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;

/// Iterations at most. Accuracy has long settled by then.
const ITERATIONS: usize = 100;
/// Where the largest number of the gradient is no larger, the fit is done.
const TOLERANCE: f64 = 1e-4;
/// Pairs of steps and changes of the gradient that the curvature is known by.
const HISTORY: usize = 10;
/// Parts that the rows are summed up in, whatever the number of threads.
const PARTS: usize = 16;

/// Linear-probe accuracy: the share of `test` that a logistic regression, fitted on `train`, gives its
/// own label.
///
/// The mean cross-entropy plus `‖W‖² / 2n` is minimised, for weights W of features with mean 0 and
/// variance 1 over `train`: what scikit-learn does by `make_pipeline(StandardScaler(),
/// LogisticRegression())`. At most 100 iterations.
///
/// # Errors
/// When dimensions disagree.
pub fn linear_probe_accuracy<T: Element>(
    train: Labelled<'_, T>,
    test: Labelled<'_, T>,
) -> Result<f64, Error> {
    check_dimension(train, test)?;
    let problem = Problem::new(train);
    let zeros = vec![0.0; problem.classes.len() * (train.embeddings.dim() + 1)];
    let probe = problem.layer(&minimum(zeros, |weights| problem.value_and_gradient(weights)));
    let labels = test.labels.par_iter().enumerate();
    let right = labels.filter(|&(i, &label)| {
        let mut logits = vec![0.0; problem.classes.len()];
        probe.logits([test.embeddings.row(i)], &mut logits);
        let best = (0..logits.len()).rev().max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
        best.is_some_and(|class| problem.classes[class] == label)
    });
    Ok(right.count() as f64 / test.labels.len() as f64)
}

/// What is minimised.
struct Problem<'a, T> {
    train: Labelled<'a, T>,
    /// The distinct labels, in order, and the place of each row's among them.
    classes: Vec<u64>,
    of_rows: Vec<usize>,
    /// Of each feature; the inverse is 0 where a feature is the same everywhere.
    mean: Vec<f64>,
    inverse_deviation: Vec<f64>,
}

impl<'a, T: Element> Problem<'a, T> {
    fn new(train: Labelled<'a, T>) -> Self {
        let mut classes = train.labels.to_vec();
        classes.sort_unstable();
        classes.dedup();
        let place = |label: &u64| classes.partition_point(|class| class < label);
        let of_rows = train.labels.iter().map(place).collect();
        let n = train.embeddings.rows() as f64;
        let each = |of: &(dyn Fn(usize, f64) -> f64 + Sync)| -> Vec<f64> {
            let sums = parts(train.embeddings.rows()).map(|rows| {
                let mut sums = vec![0.0; train.embeddings.dim()];
                for i in rows {
                    for (k, x) in train.embeddings.row(i).iter().enumerate() {
                        sums[k] += of(k, x.real().f64());
                    }
                }
                sums
            });
            let sums = added(sums.collect());
            sums.into_iter().map(|sum| sum / n).collect()
        };
        let mean = each(&|_, x| x);
        let variance = each(&|k, x| (x - mean[k]).powi(2));
        let inverse = |(variance, mean): (&f64, &f64)| {
            let constant = variance.sqrt() <= 1e-6 * mean.abs();
            if constant { 0.0 } else { variance.sqrt().recip() }
        };
        let inverse_deviation = variance.iter().zip(&mean).map(inverse).collect();
        Self { train, classes, of_rows, mean, inverse_deviation }
    }

    /// Weights of standardised features, `[classes, d + 1]`, the bias last, as a layer over the
    /// features themselves.
    fn layer(&self, weights: &[f64]) -> Layer<T::Real> {
        let dim = self.mean.len();
        let mut layer = Layer { dim, weights: Vec::new(), bias: Vec::new() };
        for class in weights.chunks(dim + 1) {
            let scaled = || class.iter().zip(&self.inverse_deviation).map(|(w, scale)| w * scale);
            layer.weights.extend(scaled().map(T::Real::from_f64));
            let of_mean: f64 = scaled().zip(&self.mean).map(|(w, mean)| w * mean).sum();
            layer.bias.push(class[dim] - of_mean);
        }
        layer
    }

    fn value_and_gradient(&self, weights: &[f64]) -> (f64, Vec<f64>) {
        let (layer, dim) = (self.layer(weights), self.mean.len());
        let n = self.of_rows.len() as f64;
        let pass = Pass { problem: self, layer: &layer };
        let sums = parts(self.of_rows.len()).map(|rows| {
            let mut sums = vec![0.0; self.classes.len() * (dim + 1) + 1];
            Instructions::best().run(&pass, (rows, &mut sums));
            sums
        });
        let mut gradient = added(sums.collect());
        let mut value = gradient.pop().unwrap_or_default() / n;
        for (gradient, weights) in gradient.chunks_mut(dim + 1).zip(weights.chunks(dim + 1)) {
            let of_bias = gradient[dim];
            let standards = self.mean.iter().zip(&self.inverse_deviation);
            for ((g, w), (mean, scale)) in gradient.iter_mut().zip(weights).zip(standards) {
                *g = ((*g - mean * of_bias) * scale + w) / n;
                value += w * w / (2.0 * n);
            }
            gradient[dim] = of_bias / n;
        }
        (value, gradient)
    }
}

/// A linear layer over features as they are.
struct Layer<R> {
    dim: usize,
    /// `[classes, d]`.
    weights: Vec<R>,
    bias: Vec<f64>,
}

impl<R: Real> Layer<R> {
    /// The logits of some rows, `[rows, classes]`. A weight is loaded once for all rows. Loops throughout,
    /// since what an iterator calls is not compiled for the caller's instructions.
    #[inline(always)]
    fn logits<T: Element<Real = R>, const N: usize>(&self, rows: [&[T]; N], logits: &mut [f64]) {
        const LANES: usize = 16;
        let (classes, whole) = (self.bias.len(), self.dim / LANES * LANES);
        for (class, weights) in self.weights.chunks_exact(self.dim).enumerate() {
            let mut sums = [[R::default(); LANES]; N];
            for at in (0..whole).step_by(LANES) {
                let weights = &weights[at..at + LANES];
                for (sums, row) in sums.iter_mut().zip(&rows) {
                    let row = &row[at..at + LANES];
                    for lane in 0..LANES {
                        sums[lane] += row[lane].real() * weights[lane];
                    }
                }
            }
            for (i, (sums, row)) in sums.iter_mut().zip(&rows).enumerate() {
                for (sum, at) in sums.iter_mut().zip(whole..self.dim) {
                    *sum += row[at].real() * weights[at];
                }
                let sum = sums.iter().fold(0.0, |total, sum| total + sum.f64());
                logits[i * classes + class] = sum + self.bias[class];
            }
        }
    }
}

/// Over some rows: the sums of `∂L/∂logits · (x, 1)`, `[classes, d + 1]`, and of L.
struct Pass<'p, 'a, T: Element> {
    problem: &'p Problem<'a, T>,
    layer: &'p Layer<T::Real>,
}

/// Rows that go through the layer together.
const TOGETHER: usize = 4;
/// Rows whose products with one weight are added up in the type itself.
const ROWS_A_TIME: usize = 64;

impl<T: Element> Work<(Range<usize>, &mut Vec<f64>)> for Pass<'_, '_, T> {
    #[inline(always)]
    fn run(&self, (rows, sums): (Range<usize>, &mut Vec<f64>)) {
        let (classes, dim) = (self.problem.classes.len(), self.problem.mean.len());
        let mut gradient = vec![T::Real::default(); classes * dim];
        let mut logits = vec![0.0; TOGETHER * classes];
        for first in rows.clone().step_by(ROWS_A_TIME) {
            gradient.fill(T::Real::default());
            let end = rows.end.min(first + ROWS_A_TIME);
            let whole = first + (end - first) / TOGETHER * TOGETHER;
            for i in (first..whole).step_by(TOGETHER) {
                let rows = [i, i + 1, i + 2, i + 3];
                self.add::<TOGETHER>(rows, &mut logits, &mut gradient, sums);
            }
            for i in whole..end {
                self.add([i], &mut logits, &mut gradient, sums);
            }
            for (sums, gradient) in sums.chunks_mut(dim + 1).zip(gradient.chunks(dim)) {
                sums.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g.f64());
            }
        }
    }
}

impl<T: Element> Pass<'_, '_, T> {
    /// Adds what some rows contribute: that of weights to `gradient`, `[classes, d]`, the rest to `sums`.
    #[inline(always)]
    fn add<const N: usize>(
        &self,
        which: [usize; N],
        logits: &mut [f64],
        gradient: &mut [T::Real],
        sums: &mut [f64],
    ) {
        let Problem { train, of_rows, classes, mean, .. } = self.problem;
        let (classes, dim) = (classes.len(), mean.len());
        let rows = which.map(|i| &train.embeddings.row(i)[..dim]);
        self.layer.logits(rows, logits);
        // Logits become the loss's derivatives by them.
        for (logits, i) in logits.chunks_exact_mut(classes).zip(which) {
            let largest = logits.iter().fold(f64::NEG_INFINITY, |x, &y| x.max(y));
            let own = logits[of_rows[i]] - largest;
            logits.iter_mut().for_each(|x| *x = (*x - largest).exp());
            let sum: f64 = logits.iter().sum();
            logits.iter_mut().for_each(|x| *x /= sum);
            logits[of_rows[i]] -= 1.0;
            if let Some(loss) = sums.last_mut() {
                *loss += sum.ln() - own;
            }
        }
        for (class, gradient) in gradient.chunks_exact_mut(dim).enumerate() {
            let mut by_logits = [T::Real::default(); N];
            for i in 0..N {
                let by_logit = logits[i * classes + class];
                sums[class * (dim + 1) + dim] += by_logit;
                by_logits[i] = T::Real::from_f64(by_logit);
            }
            for (k, gradient) in gradient.iter_mut().enumerate() {
                let mut g = *gradient;
                for i in 0..N {
                    g += by_logits[i] * rows[i][k].real();
                }
                *gradient = g;
            }
        }
    }
}

/// The rows in parts that depend on their number alone.
fn parts(rows: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    let len = rows.div_ceil(PARTS);
    (0..rows.div_ceil(len)).into_par_iter().map(move |part| part * len..rows.min((part + 1) * len))
}

/// The sum of vectors of one length, in their order.
fn added(vectors: Vec<Vec<f64>>) -> Vec<f64> {
    let add = |mut sum: Vec<f64>, x: Vec<f64>| {
        sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += x);
        sum
    };
    vectors.into_iter().reduce(add).unwrap_or_default()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    sum_of(a, b, |a, b| a * b)
}

/// `x + factor · direction`.
fn moved(x: &[f64], factor: f64, direction: &[f64]) -> Vec<f64> {
    x.iter().zip(direction).map(|(x, d)| x + factor * d).collect()
}

/// Where a convex function, of which there are values and gradients, is least, by L-BFGS from `x` on.
fn minimum(mut x: Vec<f64>, f: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Vec<f64> {
    let (mut value, mut gradient) = f(&x);
    let mut history: VecDeque<(Vec<f64>, Vec<f64>)> = VecDeque::new();
    for _ in 0..ITERATIONS {
        if gradient.iter().all(|g| g.abs() <= TOLERANCE) {
            break;
        }
        let direction = descent(&gradient, &history);
        let slope = dot(&gradient, &direction);
        let mut step = 1.0;
        // Without a history there is no telling how far; with one, 1 is nearly always right.
        if history.is_empty() {
            step = dot(&gradient, &gradient).sqrt().recip().min(1.0);
        }
        let (next, next_value, next_gradient) = loop {
            let next = moved(&x, step, &direction);
            let (next_value, next_gradient) = f(&next);
            if next_value <= value + 1e-4 * step * slope {
                break (next, next_value, next_gradient);
            }
            step /= 2.0;
            if step < 1e-10 {
                // As low as rounding lets it come.
                return x;
            }
        };
        let (change, of_gradient) =
            (moved(&next, -1.0, &x), moved(&next_gradient, -1.0, &gradient));
        if dot(&change, &of_gradient) > 0.0 {
            history.truncate(HISTORY - 1);
            history.push_front((change, of_gradient));
        }
        (x, value, gradient) = (next, next_value, next_gradient);
    }
    x
}

/// The direction in which to go down: `−H g`, for the inverse curvature H that the history, newest
/// first, tells.
fn descent(gradient: &[f64], history: &VecDeque<(Vec<f64>, Vec<f64>)>) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut shares = Vec::new();
    for (change, of_gradient) in history {
        let share = dot(change, &direction) / dot(change, of_gradient);
        direction = moved(&direction, -share, of_gradient);
        shares.push(share);
    }
    if let Some((change, of_gradient)) = history.front() {
        let scale = dot(change, of_gradient) / dot(of_gradient, of_gradient);
        direction.iter_mut().for_each(|d| *d *= scale);
    }
    for ((change, of_gradient), share) in history.iter().zip(shares).rev() {
        let back = dot(of_gradient, &direction) / dot(change, of_gradient);
        direction = moved(&direction, share - back, change);
    }
    direction
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Embeddings;

    /// Numbers that look like noise.
    fn noise(count: usize, mut seed: u64) -> Vec<f64> {
        let mut next = || {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f64 / (1u64 << 23) as f64 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    /// Three classes that overlap, with features of very different scales and one that never changes.
    fn overlapping(n: usize) -> (Vec<f64>, Vec<u64>) {
        let labels: Vec<u64> = (0..n as u64).map(|i| 7 * (i % 3)).collect();
        let mut x = noise(4 * n, 3);
        for (row, label) in x.chunks_mut(4).zip(&labels) {
            row[0] = 1e-3 * (row[0] + *label as f64 / 14.0);
            row[1] = 1e3 * (row[1] - *label as f64 / 20.0) + 5e3;
            row[3] = 2.0;
        }
        (x, labels)
    }

    #[test]
    fn gradients_are_those_of_the_value() -> Result<(), Error> {
        let (x, labels) = overlapping(50);
        let train = Labelled::new(Embeddings::new(&x, 4)?, &labels)?;
        let problem = Problem::new(train);
        let at = noise(15, 9);
        let (_, gradient) = problem.value_and_gradient(&at);
        for i in 0..at.len() {
            let value = |by: f64| {
                let mut at = at.clone();
                at[i] += by;
                problem.value_and_gradient(&at).0
            };
            let slope = (value(1e-5) - value(-1e-5)) / 2e-5;
            assert!((slope - gradient[i]).abs() < 1e-8, "{i}: {slope} {}", gradient[i]);
        }
        Ok(())
    }

    /// Plain gradient descent on the standardised features, with every sum written out.
    #[test]
    fn the_minimum_is_that_of_gradient_descent() -> Result<(), Error> {
        let n = 120;
        let (x, labels) = overlapping(n);
        let train = Labelled::new(Embeddings::new(&x, 4)?, &labels)?;
        let problem = Problem::new(train);
        let fitted = minimum(vec![0.0; 15], |weights| problem.value_and_gradient(weights));

        let column = |k: usize| (0..n).map(move |i| i * 4 + k);
        let mut features = vec![0.0; 4 * n];
        for k in 0..3 {
            let mean = column(k).map(|at| x[at]).sum::<f64>() / n as f64;
            let variance = column(k).map(|at| (x[at] - mean).powi(2)).sum::<f64>() / n as f64;
            column(k).for_each(|at| features[at] = (x[at] - mean) / variance.sqrt());
        }
        let mut weights = [[0.0; 5]; 3];
        for _ in 0..20_000 {
            let mut gradient = [[0.0; 5]; 3];
            for i in 0..n {
                let row = &features[4 * i..4 * i + 4];
                let logit = |w: &[f64; 5]| (0..4).map(|k| w[k] * row[k]).sum::<f64>() + w[4];
                let e = weights.map(|w| logit(&w).exp());
                for c in 0..3 {
                    let own = if labels[i] == 7 * c as u64 { 1.0 } else { 0.0 };
                    let p = e[c] / e.iter().sum::<f64>() - own;
                    (0..4).for_each(|k| gradient[c][k] += p * row[k]);
                    gradient[c][4] += p;
                }
            }
            for (w, g) in weights.iter_mut().zip(gradient) {
                for k in 0..5 {
                    let penalty = if k < 4 { w[k] } else { 0.0 };
                    w[k] -= 0.5 * (g[k] + penalty) / n as f64;
                }
            }
        }
        for (a, b) in fitted.iter().zip(weights.as_flattened()) {
            assert!((a - b).abs() < 3e-3, "{fitted:?} {weights:?}");
        }
        Ok(())
    }

    #[test]
    fn classes_that_a_line_parts_are_told_apart_and_shuffled_labels_are_not() -> Result<(), Error> {
        let n = 900;
        let labels: Vec<u64> = (0..n as u64).map(|i| i % 3).collect();
        let rows = |seed: u64| -> Vec<f32> {
            let mut x: Vec<f32> = noise(8 * n, seed).iter().map(|&x| x as f32).collect();
            for (row, label) in x.chunks_mut(8).zip(&labels) {
                row[*label as usize] += 2.5;
            }
            x
        };
        let (train, test) = (rows(1), rows(2));
        let labelled = |x, labels| Labelled::new(Embeddings::new(x, 8)?, labels);
        let (train, test) = (labelled(&train[..], &labels)?, labelled(&test[..], &labels)?);
        let accuracy = linear_probe_accuracy(train, test)?;
        assert!(accuracy > 0.98, "{accuracy}");
        let shuffled: Vec<u64> = noise(n, 5).iter().map(|x| (x.abs() * 2.999) as u64).collect();
        let train = Labelled { labels: &shuffled, ..train };
        let accuracy = linear_probe_accuracy(train, test)?;
        assert!((accuracy - 1.0 / 3.0).abs() < 0.15, "{accuracy}");
        Ok(())
    }

    #[test]
    fn the_number_of_threads_changes_nothing() -> Result<(), Error> {
        let (x, labels) = overlapping(500);
        let train = Labelled::new(Embeddings::new(&x, 4)?, &labels)?;
        let on = |threads: usize| {
            let pool =
                rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| Problem::new(train).value_and_gradient(&noise(15, 2)))
        };
        assert_eq!(on(1), on(3));
        Ok(())
    }
}
