//! The rows of a matrix as they are compared: for the cosine, divided by their length.
//!
//! Input: one matrix, or two stacked. Output: normalised rows, similarities, and gradients taken back
//! through the normalisation. Rows are read from the caller's memory each time; only their lengths
//! are kept, never a copy of the same shape.

use crate::embeddings::{Element, Embeddings, NORM_FLOOR, Real, norm, sum_of};
use crate::engine::threads::Team;
use crate::loss::{ContrastiveLoss, Similarity};

/// How two rows are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    pub(crate) similarity: Similarity,
    /// The least length that the cosine divides by.
    pub(crate) norm_floor: f64,
}

impl Comparison {
    /// The cosine, as measures and guides take it.
    pub(crate) const COSINE: Self = Self { similarity: Similarity::Cosine, norm_floor: NORM_FLOOR };

    /// The dot product as it is.
    pub(crate) const DOT: Self = Self { similarity: Similarity::Dot, norm_floor: NORM_FLOOR };

    pub(crate) fn of(loss: &ContrastiveLoss) -> Self {
        Self { similarity: loss.similarity(), norm_floor: loss.norm_floor }
    }
}

/// One matrix, or two stacked.
pub(crate) struct Rows<'a, T> {
    first: Embeddings<'a, T>,
    second: Option<Embeddings<'a, T>>,
    comparison: Comparison,
    /// The rows' lengths, whatever the similarity.
    lengths: Vec<f64>,
}

impl<'a, T: Element> Rows<'a, T> {
    /// A matrix and, where there is one, another below it.
    pub(crate) fn new(
        first: Embeddings<'a, T>,
        second: Option<Embeddings<'a, T>>,
        comparison: Comparison,
        team: &Team,
    ) -> Self {
        const ROWS_A_TIME: usize = 64;
        let mut rows = Self { first, second, comparison, lengths: Vec::new() };
        let mut lengths = vec![0.0; first.rows() + second.map_or(0, |second| second.rows())];
        team.each(lengths.chunks_mut(ROWS_A_TIME).enumerate(), |(part, lengths)| {
            for (i, length) in lengths.iter_mut().enumerate() {
                *length = norm(rows.raw(part * ROWS_A_TIME + i));
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

    pub(crate) fn comparison(&self) -> Comparison {
        self.comparison
    }

    /// The longest row as it is compared.
    pub(crate) fn longest(&self) -> f64 {
        let longest = self.lengths.iter().fold(0.0f64, |longest, &length| longest.max(length));
        match self.comparison.similarity {
            Similarity::Cosine => (longest / self.comparison.norm_floor).min(1.0),
            Similarity::Dot => longest,
        }
    }

    /// Row i as it was given.
    #[inline(always)]
    pub(crate) fn raw(&self, i: usize) -> &'a [T] {
        match &self.second {
            Some(second) if i >= self.first.rows() => second.row(i - self.first.rows()),
            _ => self.first.row(i),
        }
    }

    /// What row i is multiplied by before it is compared.
    #[inline(always)]
    fn factor(&self, i: usize) -> f64 {
        match self.comparison.similarity {
            Similarity::Cosine => self.lengths[i].max(self.comparison.norm_floor).recip(),
            Similarity::Dot => 1.0,
        }
    }

    /// Row i as it is compared, `[d]`.
    #[inline(always)]
    pub(crate) fn read(&self, i: usize, out: &mut [T::Real]) {
        self.read_part(i, 0, out);
    }

    /// As many features of row i as `out` has room for, as they are compared, beginning with `from`.
    #[inline(always)]
    pub(crate) fn read_part(&self, i: usize, from: usize, out: &mut [T::Real]) {
        let factor = self.factor(i);
        for (out, x) in out.iter_mut().zip(&self.raw(i)[from..]) {
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
    pub(crate) fn backward(&self, i: usize, g: &mut [T::Real], factor: f64) -> f64 {
        let divide = self.factor(i);
        let x = self.raw(i);
        let along = sum_of(g, x, |g, x| g.f64() * (x.real().f64() * divide));
        let normalised = self.comparison.similarity == Similarity::Cosine
            && self.lengths[i] > self.comparison.norm_floor;
        let back = if normalised { along * divide } else { 0.0 };
        let factor = factor * divide;
        for (g, x) in g.iter_mut().zip(x) {
            *g = T::Real::from_f64((g.f64() - back * x.real().f64()) * factor);
        }
        along
    }
}
