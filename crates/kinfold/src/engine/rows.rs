//! The rows of a matrix as they are compared: divided by their length for the cosine, read from the
//! caller's memory whenever they are needed, never kept in a copy of the same shape.

use crate::embeddings::{Element, Embeddings, Real, norm, sum_of};
use crate::engine::threads::Team;
use crate::loss::Similarity;

/// One matrix, or two stacked.
pub(crate) struct Rows<'a, T> {
    first: Embeddings<'a, T>,
    second: Option<Embeddings<'a, T>>,
    similarity: Similarity,
    /// The least length that the cosine divides by.
    floor: f64,
    /// The rows' lengths, whatever the similarity.
    lengths: Vec<f64>,
}

impl<'a, T: Element> Rows<'a, T> {
    /// A matrix and, where there is one, another below it.
    pub(crate) fn new(
        first: Embeddings<'a, T>,
        second: Option<Embeddings<'a, T>>,
        (similarity, floor): (Similarity, f64),
        team: &Team,
    ) -> Self {
        const FEW: usize = 64;
        let mut rows = Self { first, second, similarity, floor, lengths: Vec::new() };
        let mut lengths = vec![0.0; first.rows() + second.map_or(0, |second| second.rows())];
        team.each(lengths.chunks_mut(FEW).enumerate(), |(part, lengths)| {
            for (i, length) in lengths.iter_mut().enumerate() {
                *length = norm(rows.raw(part * FEW + i));
            }
        });
        rows.lengths = lengths;
        rows
    }

    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    pub(crate) fn dim(&self) -> usize {
        self.first.dim()
    }

    /// The longest row as it is compared.
    pub(crate) fn longest(&self) -> f64 {
        let longest = self.lengths.iter().fold(0.0f64, |longest, &length| longest.max(length));
        match self.similarity {
            Similarity::Cosine => (longest / self.floor).min(1.0),
            Similarity::Dot => longest,
        }
    }

    #[inline(always)]
    fn raw(&self, i: usize) -> &'a [T] {
        match &self.second {
            Some(second) if i >= self.first.rows() => second.row(i - self.first.rows()),
            _ => self.first.row(i),
        }
    }

    /// What row i is multiplied by before it is compared.
    #[inline(always)]
    fn factor(&self, i: usize) -> f64 {
        match self.similarity {
            Similarity::Cosine => self.lengths[i].max(self.floor).recip(),
            Similarity::Dot => 1.0,
        }
    }

    /// Row i as it is compared, `[d]`.
    #[inline(always)]
    pub(crate) fn read(&self, i: usize, out: &mut [T::Real]) {
        let factor = self.factor(i);
        for (out, x) in out.iter_mut().zip(self.raw(i)) {
            *out = T::Real::from_f64(x.real().f64() * factor);
        }
    }

    /// The similarity of row i and row j of `other`, in f64.
    #[inline(always)]
    pub(crate) fn similarity(&self, i: usize, other: &Self, j: usize) -> f64 {
        let (of_i, of_j) = (self.factor(i), other.factor(j));
        let term = |x: T, y: T| (x.real().f64() * of_i) * (y.real().f64() * of_j);
        sum_of(self.raw(i), other.raw(j), term)
    }

    /// From the gradient with respect to row i as it is compared to that with respect to the row
    /// itself, times `factor`: `∂L/∂x = (g − ⟨g, u⟩ u) / ‖x‖` for the cosine, where below the floor
    /// the divisor is a constant. Returns `⟨g, u⟩`.
    #[inline(always)]
    pub(crate) fn through_comparison(&self, i: usize, g: &mut [T::Real], factor: f64) -> f64 {
        let divide = self.factor(i);
        let x = self.raw(i);
        let along = sum_of(g, x, |g, x| g.f64() * (x.real().f64() * divide));
        let normalised = self.similarity == Similarity::Cosine && self.lengths[i] > self.floor;
        let back = if normalised { along * divide } else { 0.0 };
        let factor = factor * divide;
        for (g, x) in g.iter_mut().zip(x) {
            *g = T::Real::from_f64((g.f64() - back * x.real().f64()) * factor);
        }
        along
    }
}
