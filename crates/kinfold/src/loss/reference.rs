//! The oracle: every loss of the family as a textbook writes it, dense, in f64.
//!
//! It goes through the rows one by one and through all candidates of each, and keeps nothing clever,
//! so that it can be read at one sitting and believed. Everything else is tested against it. Not for
//! use on large inputs. In this order below:
//!
//! 1. which candidates a row has (`Problem::candidates`): two embeddings each, and the logit
//!    `s = (similarity − margin, if it is a positive) / τ`;
//! 2. the row's loss, and its slope `∂L/∂s` at each logit (`row_loss`);
//! 3. from the slopes to the gradients ([`dense`]): `s = ⟨a, b⟩ / τ`, so `∂L/∂a` gains `slope · b / τ`,
//!    `∂L/∂b` gains `slope · a / τ` and `∂L/∂log(1/τ)` gains `slope · s`;
//! 4. back through the normalisation (`through_normalisation`).
//!
//! One care is taken beyond a textbook's. A loss of 1e-12 shall be right to many digits, where
//! `logsumexp − s_pos` would return rounding noise. So positives are kept out of the sum that they
//! are compared with: with `x = ln neg − ln pos` the loss is `ln(1 + eˣ)`, and the positive's slope
//! is `−neg/(neg + pos) = −eˣ/(1 + eˣ)`, never `p − 1`. Sums of exponentials are only ever held as
//! their logarithms, so that logits of ±1e4 overflow nowhere.

use super::{Batch, ContrastiveLoss, Form, GUIDE_MARGIN, Guide, Negatives, Objective, Similarity};
use crate::embeddings::{Element, Embeddings, NORM_FLOOR, norm};

/// The loss and its gradients, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Dense {
    /// The mean over rows (by their weights, where they have some), in nats.
    pub mean: f64,
    /// The sum over rows, each times its weight.
    pub sum: f64,
    /// Each row's loss, without its weight; see [`Value::rows`](super::Value::rows).
    pub rows: Vec<f64>,
    /// The gradient with respect to the queries, `[n, d]`: of the mean, or of the sum where that is
    /// the reduction. So are the others.
    pub queries: Vec<f64>,
    /// The gradient with respect to the keys, `[m, d]`; empty where there are none.
    pub keys: Vec<f64>,
    /// The gradient with respect to explicit negatives; empty where there are none.
    pub negatives: Vec<f64>,
    /// The derivative with respect to log(1/τ).
    pub log_scale: f64,
    /// The derivative with respect to the sigmoid's bias; 0 for every other objective.
    pub bias: f64,
}

/// The loss and all its gradients for inputs that [`ContrastiveLoss::value`] would accept.
pub fn info_nce<T: Element>(
    loss: &ContrastiveLoss,
    queries: Embeddings<'_, T>,
    keys: Embeddings<'_, T>,
) -> Dense {
    dense(loss, &Batch::new(queries, keys))
}

/// The loss and all its gradients for a batch that [`ContrastiveLoss::value`] would accept.
pub fn dense<T: Element>(loss: &ContrastiveLoss, batch: &Batch<'_, T>) -> Dense {
    if !loss.matryoshka().is_empty() {
        return of_prefixes(loss, batch);
    }
    let problem = Problem::new(loss, batch);
    let scale = loss.temperature().scale();
    let mut rows = vec![0.0; batch.rows(loss.form())];
    let weights = batch.row_weights.map_or_else(|| vec![1.0; rows.len()], <[f64]>::to_vec);
    let all: f64 = weights.iter().sum();

    let mut gradients: [Matrix; 3] = std::array::from_fn(|which| problem.compared[which].zeros());
    let (mut log_scale, mut bias) = (0.0, 0.0);
    for Chooser { place, row, share } in problem.choosers() {
        let candidates = problem.candidates(place);
        let out = row_loss(loss, &candidates, problem.positive_weight(place));
        rows[row] += loss.factor * share * out.value;

        // What the gradients are gradients of counts this row so much.
        let weight = loss.factor * share * weights[row] * loss.reduced(all.recip(), 1.0);
        for (candidate, slope) in candidates.iter().zip(&out.slopes) {
            let Candidate { left, right, .. } = *candidate;
            let by = weight * slope * scale;
            gradients[left.of as usize].add(left.row, by, problem.compared(right));
            gradients[right.of as usize].add(right.row, by, problem.compared(left));
        }
        log_scale += weight * out.log_scale(&candidates);
        bias += weight * out.bias;
    }
    if loss.similarity() == Similarity::Cosine {
        for (x, gradient) in problem.given.iter().zip(&mut gradients) {
            through_normalisation(x, loss.norm_floor, gradient);
        }
    }
    let sum: f64 = rows.iter().zip(&weights).map(|(row, weight)| row * weight).sum();
    let [queries, keys, negatives] = gradients.map(|gradient| gradient.data);
    Dense { mean: sum / all, sum, rows, queries, keys, negatives, log_scale, bias }
}

/// The sum of the losses over all prefixes.
fn of_prefixes<T: Element>(loss: &ContrastiveLoss, batch: &Batch<'_, T>) -> Dense {
    let dim = batch.queries.dim();
    let zeros = |x: Option<Embeddings<'_, T>>| vec![0.0; x.map_or(0, |x| x.rows() * dim)];
    let mut all = Dense {
        mean: 0.0,
        sum: 0.0,
        rows: vec![0.0; batch.rows(loss.form())],
        queries: zeros(Some(batch.queries)),
        keys: zeros(batch.keys),
        negatives: zeros(batch.negatives.given()),
        log_scale: 0.0,
        bias: 0.0,
    };
    for prefix in loss.matryoshka() {
        let one = dense(&loss.of_prefix(prefix), &batch.prefix(prefix.dim));
        all.mean += one.mean;
        all.sum += one.sum;
        all.log_scale += one.log_scale;
        all.bias += one.bias;
        all.rows.iter_mut().zip(&one.rows).for_each(|(all, one)| *all += one);
        for (all, one) in [
            (&mut all.queries, &one.queries),
            (&mut all.keys, &one.keys),
            (&mut all.negatives, &one.negatives),
        ] {
            for (all, one) in all.chunks_mut(dim).zip(one.chunks(prefix.dim)) {
                all.iter_mut().zip(one).for_each(|(all, one)| *all += one);
            }
        }
    }
    all
}

/// A dense matrix, row-major.
struct Matrix {
    data: Vec<f64>,
    columns: usize,
}

impl Matrix {
    fn of<T: Element>(x: Option<&Embeddings<'_, T>>, columns: usize) -> Self {
        Self { data: x.map_or_else(Vec::new, Embeddings::to_f64), columns }
    }
    fn zeros(&self) -> Self {
        Self { data: vec![0.0; self.data.len()], columns: self.columns }
    }
    fn rows(&self) -> usize {
        self.data.len() / self.columns
    }
    fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.columns..(i + 1) * self.columns]
    }
    fn row_mut(&mut self, i: usize) -> &mut [f64] {
        &mut self.data[i * self.columns..(i + 1) * self.columns]
    }
    /// Row i gains `by · x`.
    fn add(&mut self, i: usize, by: f64, x: &[f64]) {
        self.row_mut(i).iter_mut().zip(x).for_each(|(sum, x)| *sum += by * x);
    }
    /// Each row divided by its length, or by `floor` where it is shorter.
    fn normalised(&self, floor: f64) -> Self {
        let mut out = Self { data: self.data.clone(), columns: self.columns };
        for i in 0..self.rows() {
            let length = norm(self.row(i)).max(floor);
            out.row_mut(i).iter_mut().for_each(|v| *v /= length);
        }
        out
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// A matrix of the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    Queries,
    Keys,
    Negatives,
}

/// A row of a matrix of the batch.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    of: Of,
    row: usize,
}

/// An embedding that chooses among others.
struct Chooser {
    place: Place,
    /// Which of the loss's rows that is, and how much of it: half of it both ways.
    row: usize,
    share: f64,
}

/// One of those that a row chooses among.
struct Candidate {
    /// The two embeddings that are compared.
    left: Place,
    right: Place,
    logit: f64,
    positive: bool,
}

struct Problem<'a, T> {
    loss: &'a ContrastiveLoss,
    batch: &'a Batch<'a, T>,
    /// Queries, keys and negatives as they were given; those that there are none of have no rows.
    given: [Matrix; 3],
    /// As they are compared: of unit length for the cosine.
    compared: [Matrix; 3],
    /// The guide's, of unit length.
    guide: Option<[Matrix; 3]>,
    /// What each pair's positive logit counts in the weighted decoupled loss.
    positive_weights: Vec<f64>,
}

impl<'a, T: Element> Problem<'a, T> {
    fn new(loss: &'a ContrastiveLoss, batch: &'a Batch<'a, T>) -> Self {
        let negatives = match &batch.negatives {
            Negatives::None => None,
            Negatives::Shared(x) | Negatives::PerQuery(x) => Some(x),
        };
        let matrices = |queries: &Embeddings<'_, T>, keys, negatives| {
            [Some(queries), keys, negatives].map(|x| Matrix::of(x, queries.dim()))
        };
        let given = matrices(&batch.queries, batch.keys.as_ref(), negatives);
        let compared = given.each_ref().map(|x| match loss.similarity() {
            Similarity::Cosine => x.normalised(loss.norm_floor),
            Similarity::Dot => Matrix { data: x.data.clone(), columns: x.columns },
        });
        let guide = batch.guide.as_ref().map(|Guide { queries, keys, negatives }| {
            let guide = matrices(queries, Some(keys), negatives.as_ref());
            guide.map(|x| x.normalised(NORM_FLOOR))
        });
        let mut out = Self { loss, batch, given, compared, guide, positive_weights: Vec::new() };
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            out.positive_weights = out.weights_of_pairs(sigma);
        }
        out
    }

    fn compared(&self, place: Place) -> &[f64] {
        self.compared[place.of as usize].row(place.row)
    }

    fn similarity(&self, left: Place, right: Place) -> f64 {
        dot(self.compared(left), self.compared(right))
    }

    /// `w_i = 2 − n·softmax_i(similarity of pair i / σ)`: distant pairs count more.
    fn weights_of_pairs(&self, sigma: f64) -> Vec<f64> {
        let pairs = (0..self.compared[0].rows()).map(|row| {
            let query = Place { of: Of::Queries, row };
            self.similarity(query, self.partner(query)) / sigma
        });
        let all = log_sum_exp(pairs.clone());
        let n = self.compared[0].rows() as f64;
        pairs.map(|x| 2.0 - n * (x - all).exp()).collect()
    }

    /// What the positive's logit counts in the loss of the embedding at `place`.
    fn positive_weight(&self, place: Place) -> f64 {
        self.positive_weights.get(place.row).copied().unwrap_or(1.0)
    }

    /// Who chooses among whom; where every pair is on its own, both ways are one.
    fn form(&self) -> Form {
        if self.loss.objective().is_sigmoid() { Form::OneWay } else { self.loss.form() }
    }

    /// Who chooses, and which row of the loss that is.
    fn choosers(&self) -> Vec<Chooser> {
        let n = self.batch.queries.rows();
        let all = |of, first, share| {
            (0..self.compared[of as usize].rows()).map(move |row| Chooser {
                place: Place { of, row },
                row: first + row,
                share,
            })
        };
        match self.form() {
            Form::OneWay => all(Of::Queries, 0, 1.0).collect(),
            Form::BothWays => all(Of::Queries, 0, 0.5).chain(all(Of::Keys, 0, 0.5)).collect(),
            Form::NtXent => all(Of::Queries, 0, 1.0).chain(all(Of::Keys, n, 1.0)).collect(),
        }
    }

    /// The other half of an embedding's pair.
    fn partner(&self, place: Place) -> Place {
        match place.of {
            Of::Queries => Place { of: Of::Keys, row: place.row + self.loss.offset },
            _ => Place { of: Of::Queries, row: place.row - self.loss.offset },
        }
    }

    /// All that the embedding at `chooser` chooses among.
    fn candidates(&self, chooser: Place) -> Vec<Candidate> {
        let candidate = |(left, right)| {
            let positive = self.is_positive(chooser, left, right);
            if !positive && self.is_excluded(chooser, left, right) {
                return None;
            }
            let margin = if positive { self.loss.margin } else { 0.0 };
            let logit = (self.similarity(left, right) - margin) * self.loss.temperature().scale();
            Some(Candidate { left, right, logit, positive })
        };
        self.comparisons(chooser).into_iter().filter_map(candidate).collect()
    }

    /// The comparisons that are candidates of `chooser`, unless they are excluded.
    fn comparisons(&self, chooser: Place) -> Vec<(Place, Place)> {
        let all = |of: Of| (0..self.compared[of as usize].rows()).map(move |row| Place { of, row });
        let beside = |left: Place, of: Of| all(of).map(move |right| (left, right));
        let (queries, keys) = (beside(chooser, Of::Queries), beside(chooser, Of::Keys));
        match self.form() {
            Form::NtXent => return queries.chain(keys).collect(),
            Form::BothWays if chooser.of == Of::Keys => return queries.collect(),
            Form::BothWays => return keys.collect(),
            Form::OneWay => {}
        }
        let mut out: Vec<_> = match self.loss.in_batch {
            true => keys.collect(),
            false => vec![(chooser, self.partner(chooser))],
        };
        let negatives = beside(chooser, Of::Negatives);
        match &self.batch.negatives {
            Negatives::None => {}
            Negatives::Shared(_) => out.extend(negatives),
            Negatives::PerQuery(x) => {
                let each = x.rows() / self.batch.queries.rows();
                out.extend(negatives.skip(chooser.row * each).take(each));
            }
        }
        if self.loss.within_views {
            out.extend(queries);
            out.extend(beside(self.partner(chooser), Of::Keys));
        }
        out
    }

    fn is_positive(&self, chooser: Place, left: Place, right: Place) -> bool {
        match self.batch.labels {
            Some(labels) => right != chooser && labels[right.row] == labels[chooser.row],
            // Within views, the positive's comparison with itself is none with the chooser.
            None => left == chooser && right == self.partner(chooser),
        }
    }

    /// Whether a comparison that is no positive is no negative either.
    fn is_excluded(&self, chooser: Place, left: Place, right: Place) -> bool {
        let known = self.id(right).is_some_and(|id| self.id(chooser) == Some(id));
        let guided = self.guide.as_ref().is_some_and(|guide| {
            let cosine = |a: Place, b: Place| {
                dot(guide[a.of as usize].row(a.row), guide[b.of as usize].row(b.row))
            };
            cosine(left, right) > cosine(chooser, self.partner(chooser)) + GUIDE_MARGIN
        });
        left == right || known || guided
    }

    /// What an embedding is of; a query is of what its key is of.
    fn id(&self, place: Place) -> Option<u64> {
        let (ids, keys) = (self.batch.ids?, self.compared[Of::Keys as usize].rows());
        match (place.of, &self.batch.negatives) {
            (Of::Queries, _) => Some(ids[self.partner(place).row]),
            (Of::Keys, _) => Some(ids[place.row]),
            (Of::Negatives, Negatives::Shared(_)) => ids.get(keys + place.row).copied(),
            (Of::Negatives, _) => None,
        }
    }
}

/// The loss of one row.
struct RowLoss {
    value: f64,
    /// ∂L/∂s, at each candidate.
    slopes: Vec<f64>,
    /// What the slopes add up to, which is known better than by adding them up.
    total: f64,
    /// The derivative with respect to log(1/τ) where logits are held fixed.
    explicit: f64,
    bias: f64,
}

impl RowLoss {
    /// The derivative with respect to log(1/τ): `Σ slope · s`. Slopes of positives and negatives
    /// mostly balance, so logits are counted from a positive's, which leaves differences of logits
    /// instead of a difference of large sums.
    fn log_scale(&self, candidates: &[Candidate]) -> f64 {
        let from = candidates.iter().find(|c| c.positive).map_or(0.0, |c| c.logit);
        let terms = candidates.iter().zip(&self.slopes).map(|(c, slope)| slope * (c.logit - from));
        terms.sum::<f64>() + self.total * from + self.explicit
    }
}

/// A row's loss and its slopes. `positive_weight` is for the weighted decoupled loss alone.
fn row_loss(loss: &ContrastiveLoss, candidates: &[Candidate], positive_weight: f64) -> RowLoss {
    let logits =
        |positive: bool| candidates.iter().filter(move |c| c.positive == positive).map(|c| c.logit);
    let slopes = |of_positive: &dyn Fn(f64) -> f64, of_negative: &dyn Fn(f64) -> f64| {
        let slope =
            |c: &Candidate| if c.positive { of_positive(c.logit) } else { of_negative(c.logit) };
        candidates.iter().map(slope).collect::<Vec<f64>>()
    };
    let (positives, negatives) = (logits(true).count() as f64, logits(false).count() as f64);
    let objective = loss.objective();
    let needs_negatives = objective.is_decoupled() || objective.is_corrected();
    if positives == 0.0 || (negatives == 0.0 && needs_negatives) {
        let slopes = slopes(&|_| 0.0, &|_| 0.0);
        return RowLoss { value: 0.0, slopes, total: 0.0, explicit: 0.0, bias: 0.0 };
    }

    // ln pos and ln neg, and each candidate's part of its sum.
    let (log_pos, log_neg) = (log_sum_exp(logits(true)), log_sum_exp(logits(false)));
    let part_of_pos = |s: f64| (s - log_pos).exp();
    let part_of_neg = |s: f64| (s - log_neg).exp();
    let balanced = |value, slopes| RowLoss { value, slopes, total: 0.0, explicit: 0.0, bias: 0.0 };
    match objective {
        // ln(neg + pos) − mean_P s, which is ln(1 + neg/pos) where there is one positive. What is
        // added beyond that is exactly 0 then, as are `ln pos − s_p` and `part_of_pos − 1`.
        Objective::Softmax | Objective::SupConOutside => {
            let mean_positive = logits(true).sum::<f64>() / positives;
            let all = positives + negatives;
            let mean = (logits(true).sum::<f64>() + logits(false).sum::<f64>()) / all;
            let smoothing = loss.label_smoothing;
            let x = log_neg - log_pos;
            let value =
                softplus(x) + (log_pos - mean_positive) + smoothing * (mean_positive - mean);
            let of_positive = |s| {
                (part_of_pos(s) - 1.0 / positives) - sigmoid(x) * part_of_pos(s)
                    + smoothing * (1.0 / positives - 1.0 / all)
            };
            let of_negative = |s| sigmoid(x) * part_of_neg(s) - smoothing / all;
            balanced(value, slopes(&of_positive, &of_negative))
        }
        // ln(neg + pos) − ln(pos / |P|).
        Objective::SupConInside => {
            let x = log_neg - log_pos;
            let value = softplus(x) + positives.ln();
            let of_positive = |s| -sigmoid(x) * part_of_pos(s);
            balanced(value, slopes(&of_positive, &|s| sigmoid(x) * part_of_neg(s)))
        }
        // ln neg − w s_p.
        Objective::Decoupled | Objective::DecoupledWeighted { .. } => {
            let value = log_neg - positive_weight * log_pos;
            let slopes = slopes(&|_| -positive_weight, &part_of_neg);
            RowLoss { total: 1.0 - positive_weight, ..balanced(value, slopes) }
        }
        // ln(1 + g/pos), g = max((R − τ⁺ N pos) / (1 − τ⁺), N e^(−1/τ)), R = neg.
        Objective::Debiased { positive_share } => {
            let x = Corrected::new(loss, positive_share, log_neg - log_pos, negatives, log_pos);
            x.row(slopes(&|_| -1.0, &part_of_neg), slopes(&|_| -1.0, &|_| 0.0))
        }
        // The same, with R = N Σ e^((1+β)s) / Σ e^(βs).
        Objective::HardNegatives { positive_share, concentration: beta } => {
            let harder = log_sum_exp(logits(false).map(|s| (1.0 + beta) * s));
            let weights = log_sum_exp(logits(false).map(|s| beta * s));
            let log_r = negatives.ln() + harder - weights;
            let x = Corrected::new(loss, positive_share, log_r - log_pos, negatives, log_pos);
            let of_negative = |s: f64| {
                (1.0 + beta) * ((1.0 + beta) * s - harder).exp() - beta * (beta * s - weights).exp()
            };
            x.row(slopes(&|_| -1.0, &of_negative), slopes(&|_| -1.0, &|_| 0.0))
        }
        // ((λ Z)^q − e^(q s_p)) / q, Z = pos + neg.
        Objective::Rince { q, lambda } => {
            // ln Z − s_p and ln(λ Z) − s_p, small where the loss is.
            let x = softplus(log_neg - log_pos);
            let y = lambda.ln() + x;
            let of_pair = (q * log_pos).exp();
            let of_positive = |_| of_pair * (q * y - x).exp_m1();
            let of_negative = |s: f64| of_pair * (q * y - x + (s - log_pos)).exp();
            let value = of_pair * (q * y).exp_m1() / q;
            RowLoss { total: q * value, ..balanced(value, slopes(&of_positive, &of_negative)) }
        }
        // ln(1 + e^(−s_p − b)) + Σ ln(1 + e^(s_j + b)).
        Objective::Sigmoid { bias } => {
            let value =
                softplus(-log_pos - bias) + logits(false).map(|s| softplus(s + bias)).sum::<f64>();
            let slopes = slopes(&|s| -sigmoid(-s - bias), &|s| sigmoid(s + bias));
            let total = slopes.iter().sum();
            RowLoss { total, bias: total, ..balanced(value, slopes) }
        }
    }
}

/// Negatives that are corrected for the positives among them, as `x = ln(g/pos)`.
struct Corrected {
    x: f64,
    /// ∂x/∂(ln R − ln pos), or None where the lower bound has taken over.
    slope: Option<f64>,
    scale: f64,
}

impl Corrected {
    /// From `y = ln(R/pos)`, the number of negatives N and `ln pos`.
    fn new(loss: &ContrastiveLoss, share: f64, y: f64, negatives: f64, log_pos: f64) -> Self {
        let scale = loss.temperature().scale();
        // R/pos − τ⁺N = R/pos · rest, where rest is 1 − e^(ln τ⁺N − y): at most 1, and perhaps
        // negative, whose logarithm is NaN and loses against the bound.
        let rest = -((share * negatives).ln() - y).exp_m1();
        let corrected = y + rest.ln() - (1.0 - share).ln();
        let bound = negatives.ln() - scale - log_pos;
        if corrected >= bound {
            Self { x: corrected, slope: Some(rest.recip()), scale }
        } else {
            Self { x: bound, slope: None, scale }
        }
    }

    /// ln(1 + eˣ), given the slopes of `ln(R/pos)` and of `−ln pos` at each candidate.
    fn row(&self, corrected: Vec<f64>, bound: Vec<f64>) -> RowLoss {
        let (mut slopes, slope, total, explicit) = match self.slope {
            Some(slope) => (corrected, sigmoid(self.x) * slope, 0.0, 0.0),
            // g is N e^(−1/τ): it depends on τ, and on no logit.
            None => (bound, sigmoid(self.x), -sigmoid(self.x), -self.scale * sigmoid(self.x)),
        };
        slopes.iter_mut().for_each(|s| *s *= slope);
        RowLoss { value: softplus(self.x), slopes, total, explicit, bias: 0.0 }
    }
}

/// `ln Σ eˣ`; −∞ for none.
fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let largest = x.clone().fold(f64::NEG_INFINITY, f64::max);
    if largest == f64::NEG_INFINITY {
        return largest;
    }
    largest + x.map(|x| (x - largest).exp()).sum::<f64>().ln()
}

/// `ln(1 + eˣ)`.
fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `eˣ / (1 + eˣ)`, the slope of `softplus`.
fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x < 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) }
}

/// From the gradient with respect to `u = x / max(‖x‖, floor)` to that with respect to `x`.
fn through_normalisation(x: &Matrix, floor: f64, gradient: &mut Matrix) {
    for i in 0..x.rows() {
        let length = norm(x.row(i));
        let g = gradient.row_mut(i);
        if length > floor {
            let along: f64 = g.iter().zip(x.row(i)).map(|(g, x)| g * x / length).sum();
            for (g, x) in g.iter_mut().zip(x.row(i)) {
                *g = (*g - along * x / length) / length;
            }
        } else {
            g.iter_mut().for_each(|g| *g /= floor);
        }
    }
}
