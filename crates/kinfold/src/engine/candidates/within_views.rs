//! Queries that are also pushed from each other, and their keys from each other, in one softmax.
//!
//! Row i has logits `⟨q_i, k_j⟩`, `⟨q_i, q_j⟩`, `⟨k_i, k_j⟩` and `⟨q_i, negative_j⟩`. Side by side and with
//! zeros these are dot products of one row with one set of columns,
//!
//! ```text
//! row       [q_i, k_i]
//! columns   [k_j, 0]   [q_j, 0]   [0, k_j]   [negative_j, 0]
//! ```
//!
//! so the strips need to know nothing of it; half of their work is with zeros. A guide's embeddings are
//! laid out the same way.

use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::Outcome;
use crate::engine::candidates::groups::{Marks, Small};
use crate::engine::candidates::guide::threshold;
use crate::engine::rows::Rows;
use crate::engine::strips::plan::Candidates;
use crate::engine::strips::run::{Run, Sides};
use crate::engine::terms::rule::Count;
use crate::loss::{Batch, Negatives, Similarity};

/// Rows one after the other, without gaps.
struct Matrix<R> {
    data: Vec<R>,
    dim: usize,
}

impl<R: Real> Matrix<R> {
    fn zeros(rows: usize, dim: usize) -> Self {
        Self { data: vec![R::default(); rows * dim], dim }
    }

    fn embeddings(&self) -> Embeddings<'_, R> {
        Embeddings::unchecked(&self.data, self.dim)
    }

    /// Writes the rows of `x` as they are compared, from row `first` and feature `left` on.
    fn put<T: Element<Real = R>>(&mut self, x: &Rows<'_, T>, first: usize, left: usize) {
        for i in 0..x.len() {
            let at = (first + i) * self.dim + left;
            x.read(i, &mut self.data[at..at + x.dim()]);
        }
    }

    fn row(&self, i: usize, left: usize, dim: usize) -> &[R] {
        &self.data[i * self.dim + left..][..dim]
    }
}

/// Rows and columns side by side.
fn side_by_side<T: Element>(
    queries: &Rows<'_, T>,
    keys: &Rows<'_, T>,
    negatives: Option<&Rows<'_, T>>,
) -> (Matrix<T::Real>, Matrix<T::Real>) {
    let (n, d) = (queries.len(), queries.dim());
    let mut rows = Matrix::zeros(n, 2 * d);
    rows.put(queries, 0, 0);
    rows.put(keys, 0, d);
    let mut columns = Matrix::zeros(3 * n + negatives.map_or(0, Rows::len), 2 * d);
    columns.put(keys, 0, 0);
    columns.put(queries, n, 0);
    columns.put(keys, 2 * n, d);
    if let Some(negatives) = negatives {
        columns.put(negatives, 3 * n, 0);
    }
    (rows, columns)
}

/// See [`ContrastiveLoss::with_within_views`](crate::ContrastiveLoss::with_within_views).
pub(crate) fn run<T: Element>(run: &mut Run<'_, '_, T::Real>, batch: &Batch<'_, T>) -> Outcome {
    let keys = batch.keys.unwrap_or(batch.queries);
    let (q, k) = (run.rows(batch.queries, None), run.rows(keys, None));
    let negatives = match batch.negatives {
        Negatives::Shared(x) => Some(run.rows(x, None)),
        Negatives::None | Negatives::PerQuery(_) => None,
    };
    let (n, d) = (q.len(), q.dim());
    let (rows, columns) = side_by_side(&q, &k, negatives.as_ref());
    let all = columns.data.len() / (2 * d);

    let loss = run.loss.with_similarity(Similarity::Dot);
    let mut of_rows = Matrix::zeros(if run.out.is_empty() { 0 } else { n }, 2 * d);
    let mut of_columns = Matrix::zeros(if run.out.is_empty() { 0 } else { all }, 2 * d);
    let out = of_rows.data.chunks_mut(2 * d).chain(of_columns.data.chunks_mut(2 * d));
    let mut inner =
        Run { loss: &loss, team: run.team, row_weights: run.row_weights, out: out.collect() };
    let a = inner.rows(rows.embeddings(), None);
    let b = inner.rows(columns.embeddings(), None);

    let marks = marks(
        batch,
        n,
        all,
        <T::Real as crate::engine::Arithmetic>::kernels(loss.instructions).width,
    );
    let guide = batch.guide.map(|guide| {
        let cosine = |x| Rows::new(x, None, (Similarity::Cosine, crate::NORM_FLOOR), run.team);
        let (of_q, of_k) = (cosine(guide.queries), cosine(guide.keys));
        let of_negatives = guide.negatives.map(cosine);
        let thresholds: Vec<_> =
            (0..n).map(|i| threshold::<T::Real>(of_q.similarity(i, &of_k, i))).collect();
        (side_by_side(&of_q, &of_k, of_negatives.as_ref()), thresholds)
    });
    let guide = guide.as_ref().map(|((rows, columns), thresholds)| {
        (inner.rows(rows.embeddings(), None), inner.rows(columns.embeddings(), None), thresholds)
    });
    let negatives_of = match (&guide, &marks) {
        (None, Some(marks)) => Count::Each(marks.others(all)),
        _ => Count::Unknown,
    };
    let choosing = inner.choosing(negatives_of);
    let sides = Sides {
        choosing: &choosing,
        partners: &[],
        positives: None,
        marks: marks.as_ref(),
        guide: guide.as_ref().map(|(rows, columns, thresholds)| (rows, columns, &thresholds[..])),
        longest_own: 0.0,
    };
    let rectangle = Candidates::Rectangle { offset: 0 };
    let (chosen, _) = inner.chosen((&a, 0), (&b, n), rectangle, all, &sides);
    let mut outcome = Outcome::of(&chosen);
    drop(inner);

    // Every logit is linear in its row, so this is Σ s ∂L/∂s.
    let along = rows.data.iter().zip(&of_rows.data).map(|(x, g)| x.f64() * g.f64());
    outcome.log_scale = choosing.scale * along.sum::<f64>();
    for (i, out) in run.out.iter_mut().enumerate() {
        let parts: &[&[T::Real]] = if i < n {
            &[of_rows.row(i, 0, d), of_columns.row(n + i, 0, d)]
        } else if i < 2 * n {
            let i = i - n;
            &[of_rows.row(i, d, d), of_columns.row(i, 0, d), of_columns.row(2 * n + i, d, d)]
        } else {
            &[of_columns.row(n + i, 0, d)]
        };
        for part in parts {
            out.iter_mut().zip(*part).for_each(|(out, &x)| *out += x);
        }
    }
    let mut segments = vec![(&q, n), (&k, n)];
    segments.extend(negatives.as_ref().map(|negatives| (negatives, negatives.len())));
    run.through_comparison(&segments, &mut outcome, (n, 0.0));
    outcome
}

/// Ids of the columns; without ids and a guide, a row's own query and key have its mark, since nothing
/// is a negative of itself.
fn marks<T: Element>(
    batch: &Batch<'_, T>,
    n: usize,
    columns: usize,
    width: usize,
) -> Option<Marks> {
    let mut small = Small::new();
    let ids = match batch.ids {
        Some(ids) => small.all(ids.iter().copied()),
        None if batch.guide.is_none() => small.all(0..n as u64),
        None => return None,
    };
    let (own, of_negatives) = ids.split_at(n);
    let of_columns = [own, own, own, of_negatives].concat();
    Some(Marks::new(
        own.to_vec(),
        resized(of_columns, columns),
        columns.next_multiple_of(width),
        true,
    ))
}

fn resized(mut marks: Vec<u32>, columns: usize) -> Vec<u32> {
    marks.resize(columns, crate::engine::candidates::groups::NONE);
    marks
}
