//! Within views: queries are also pushed from each other, and their keys from each other, in one
//! softmax.
//!
//! Row i has logits `⟨q_i, k_j⟩`, `⟨q_i, q_j⟩`, `⟨k_i, k_j⟩` and `⟨q_i, negative_j⟩`. Side by side and with
//! zeros these are dot products of one row with one set of columns,
//!
//! ```text
//! row       [q_i, k_i]
//! columns   [k_j, 0]   [q_j, 0]   [0, k_j]   [negative_j, 0]
//! ```
//!
//! so the strips need no case of their own; half of their work is with zeros. A guide's embeddings are
//! laid out the same way.

use super::groups::{Groups, NONE, interned};
use super::guide::{Guide, thresholds};
use super::sides::Candidates;
use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::problem::Shape;
use crate::engine::rows::{Comparison, Rows};
use crate::engine::threads::Team;
use crate::loss::{self, Batch, ContrastiveLoss, Negatives};

/// Queries, keys and shared negatives, as they are compared.
pub(crate) struct Views<'a, T> {
    queries: Rows<'a, T>,
    keys: Rows<'a, T>,
    negatives: Option<Rows<'a, T>>,
}

impl<'a, T: Element> Views<'a, T> {
    fn of_batch(loss: &ContrastiveLoss, batch: &Batch<'a, T>, team: &Team) -> Self {
        let compared = |x| Rows::new(x, None, Comparison::of(loss), team);
        let negatives = match batch.negatives {
            Negatives::Shared(x) => Some(compared(x)),
            Negatives::None | Negatives::PerQuery(_) => None,
        };
        let keys = compared(batch.keys.unwrap_or(batch.queries));
        Self { queries: compared(batch.queries), keys, negatives }
    }

    fn of_guide(guide: &loss::Guide<'a, T>, team: &Team) -> Self {
        let cosine = |x| Rows::new(x, None, Comparison::COSINE, team);
        let negatives = guide.negatives.map(cosine);
        Self { queries: cosine(guide.queries), keys: cosine(guide.keys), negatives }
    }

    /// The matrices, in the order of the gradients.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &Rows<'a, T>> {
        [&self.queries, &self.keys].into_iter().chain(&self.negatives)
    }

    fn side_by_side(&self) -> SideBySide<T::Real> {
        let Self { queries, keys, negatives } = self;
        let (n, d) = (queries.len(), queries.dim());
        let mut rows = Dense::zeros(n, 2 * d);
        rows.put(queries, 0, 0);
        rows.put(keys, 0, d);
        let mut columns = Dense::zeros(3 * n + negatives.as_ref().map_or(0, Rows::len), 2 * d);
        columns.put(keys, 0, 0);
        columns.put(queries, n, 0);
        columns.put(keys, 2 * n, d);
        if let Some(negatives) = negatives {
            columns.put(negatives, 3 * n, 0);
        }
        SideBySide { rows, columns }
    }
}

/// Rows one after the other, without gaps.
pub(crate) struct Dense<R> {
    data: Vec<R>,
    dim: usize,
}

impl<R: Real> Dense<R> {
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

    /// One half of row i.
    fn half(&self, i: usize, right: bool) -> &[R] {
        let half = self.dim / 2;
        &self.data[i * self.dim + if right { half } else { 0 }..][..half]
    }
}

/// Rows and columns of twice the dimension, or the gradients with respect to them.
pub(crate) struct SideBySide<R> {
    rows: Dense<R>,
    columns: Dense<R>,
}

impl<R: Real> SideBySide<R> {
    /// Room for gradients of this shape; none where none are asked for.
    pub(crate) fn gradients(&self, asked: bool) -> Self {
        let zeros =
            |x: &Dense<R>| Dense::zeros(if asked { x.data.len() / x.dim } else { 0 }, x.dim);
        Self { rows: zeros(&self.rows), columns: zeros(&self.columns) }
    }

    /// Every row, those of the columns after those of the rows.
    pub(crate) fn all_rows(&mut self) -> Vec<&mut [R]> {
        let Self { rows, columns } = self;
        let columns = columns.data.chunks_mut(columns.dim);
        rows.data.chunks_mut(rows.dim).chain(columns).collect()
    }

    /// `Σ ⟨row, gradient of the row⟩`.
    pub(crate) fn along(&self, gradients: &Self) -> f64 {
        let products = self.rows.data.iter().zip(&gradients.rows.data);
        products.map(|(x, g)| x.f64() * g.f64()).sum()
    }

    /// Adds the gradients of rows and columns to those of the queries, keys and negatives that they were
    /// made of; `n` queries.
    pub(crate) fn add_to(&self, n: usize, gradients: &mut [&mut [R]]) {
        let Self { rows, columns } = self;
        let (left, right) = (false, true);
        for (i, out) in gradients.iter_mut().enumerate() {
            let parts: &[&[R]] = if i < n {
                &[rows.half(i, left), columns.half(n + i, left)]
            } else if i < 2 * n {
                let i = i - n;
                &[rows.half(i, right), columns.half(i, left), columns.half(2 * n + i, right)]
            } else {
                &[columns.half(n + i, left)]
            };
            for part in parts {
                out.iter_mut().zip(*part).for_each(|(out, &x)| *out += x);
            }
        }
    }
}

/// A batch laid out side by side, and its guide.
pub(crate) struct WithinViews<'a, T: Element> {
    pub(crate) views: Views<'a, T>,
    pub(crate) side_by_side: SideBySide<T::Real>,
    guide: Option<GuideViews<T::Real>>,
}

/// A guide's embeddings side by side, and each row's threshold.
struct GuideViews<R> {
    side_by_side: SideBySide<R>,
    thresholds: Vec<R>,
}

impl<'a, T: Element> WithinViews<'a, T> {
    pub(crate) fn new(loss: &ContrastiveLoss, batch: &Batch<'a, T>, team: &Team) -> Self {
        let views = Views::of_batch(loss, batch, team);
        let guide = batch.guide.map(|guide| {
            let guide = Views::of_guide(&guide, team);
            let thresholds = thresholds(&guide.queries, &guide.keys);
            GuideViews { side_by_side: guide.side_by_side(), thresholds }
        });
        Self { side_by_side: views.side_by_side(), views, guide }
    }

    /// Rows and columns of twice the dimension.
    pub(crate) fn candidates(
        &self,
        batch: &Batch<'_, T>,
        shape: Shape,
        team: &Team,
    ) -> Candidates<'_, T::Real> {
        let dot = |x| Rows::new(x, None, Comparison::DOT, team);
        let SideBySide { rows, columns } = &self.side_by_side;
        let guide = self.guide.as_ref().map(|GuideViews { side_by_side, thresholds }| {
            let SideBySide { rows, columns } = side_by_side;
            let thresholds = thresholds.clone();
            Guide::of_products(rows.embeddings(), columns.embeddings(), thresholds, team)
        });
        let (rows, columns) = (dot(rows.embeddings()), dot(columns.embeddings()));
        Candidates {
            groups: Some(groups(batch, shape.columns)),
            guide,
            ..Candidates::new(shape, rows, Some(columns))
        }
    }
}

/// Groups by id. Without ids each row is a group of its own with its query and its key, since nothing is
/// a negative of itself.
fn groups<T: Element>(batch: &Batch<'_, T>, columns: usize) -> Groups {
    let n = batch.queries.rows();
    let ids = match batch.ids {
        Some(ids) => interned(ids.iter().copied()),
        None => interned(0..n as u64),
    };
    let (own, of_negatives) = ids.split_at(n);
    let mut of_columns = [own, own, own, of_negatives].concat();
    of_columns.resize(columns, NONE);
    Groups::new(own.to_vec(), of_columns, true)
}
