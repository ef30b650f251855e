//! The rows of a matrix as they are compared: divided by their length for the cosine, read from the
//! caller's memory whenever they are needed, never kept in a copy of the same shape.

use super::threads::each;
use crate::embeddings::{Element, Embeddings, NORM_FLOOR, Real, norm};
use crate::loss::Similarity;

/// One matrix, or two stacked.
pub(super) struct Rows<'a, T> {
    first: Embeddings<'a, T>,
    second: Option<Embeddings<'a, T>>,
    similarity: Similarity,
    /// The rows' lengths, whatever the similarity.
    lengths: Vec<f64>,
}

impl<'a, T: Element> Rows<'a, T> {
    pub(super) fn new(
        first: Embeddings<'a, T>,
        second: Option<Embeddings<'a, T>>,
        similarity: Similarity,
        threads: usize,
    ) -> Self {
        let mut rows = Self { first, second, similarity, lengths: Vec::new() };
        let mut lengths = vec![0.0; first.rows() + second.map_or(0, |second| second.rows())];
        each(threads, lengths.chunks_mut(64).enumerate(), |(chunk, lengths)| {
            for (i, length) in lengths.iter_mut().enumerate() {
                *length = norm(rows.raw(chunk * 64 + i));
            }
        });
        rows.lengths = lengths;
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    pub(super) fn dim(&self) -> usize {
        self.first.dim()
    }

    /// The longest row as it is compared.
    pub(super) fn longest(&self) -> f64 {
        let longest = self.lengths.iter().fold(0.0f64, |longest, &length| longest.max(length));
        match self.similarity {
            Similarity::Cosine => longest.min(1.0),
            Similarity::Dot => longest,
        }
    }

    fn raw(&self, i: usize) -> &'a [T] {
        match &self.second {
            Some(second) if i >= self.first.rows() => second.row(i - self.first.rows()),
            _ => self.first.row(i),
        }
    }

    /// What row i is multiplied by before it is compared.
    fn factor(&self, i: usize) -> f64 {
        match self.similarity {
            Similarity::Cosine => self.lengths[i].max(NORM_FLOOR).recip(),
            Similarity::Dot => 1.0,
        }
    }

    /// Row i as it is compared, `[d]`.
    pub(super) fn read(&self, i: usize, out: &mut [T::Real]) {
        let factor = self.factor(i);
        for (out, x) in out.iter_mut().zip(self.raw(i)) {
            *out = T::Real::from_f64(x.real().f64() * factor);
        }
    }

    /// The similarity of row i and row j of `other`, in f64.
    pub(super) fn similarity(&self, i: usize, other: &Self, j: usize) -> f64 {
        let (of_i, of_j) = (self.factor(i), other.factor(j));
        let term = |(x, y): (&T, &T)| (x.real().f64() * of_i) * (y.real().f64() * of_j);
        sum_of(self.raw(i), other.raw(j), term)
    }

    /// From the gradient with respect to row i as it is compared to that with respect to the row
    /// itself, times `factor`: `∂L/∂x = (g − ⟨g, u⟩ u) / ‖x‖` for the cosine, where below the floor
    /// the divisor is a constant. Returns `⟨g, u⟩`.
    pub(super) fn through_comparison(&self, i: usize, g: &mut [T::Real], factor: f64) -> f64 {
        let divide = self.factor(i);
        let x = self.raw(i);
        let along = sum_of(g, x, |(g, x)| g.f64() * (x.real().f64() * divide));
        let normalised = self.similarity == Similarity::Cosine && self.lengths[i] > NORM_FLOOR;
        let back = if normalised { along * divide } else { 0.0 };
        let factor = factor * divide;
        for (g, x) in g.iter_mut().zip(x) {
            *g = T::Real::from_f64((g.f64() - back * x.real().f64()) * factor);
        }
        along
    }
}

/// `Σ term(a_l, b_l)`, in an order that vectors can follow.
fn sum_of<A, B>(a: &[A], b: &[B], term: impl Fn((&A, &B)) -> f64) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0; LANES];
    let whole = a.len() / LANES * LANES;
    for (a, b) in a[..whole].chunks_exact(LANES).zip(b[..whole].chunks_exact(LANES)) {
        for lane in 0..LANES {
            sums[lane] += term((&a[lane], &b[lane]));
        }
    }
    let tail: f64 = a[whole..].iter().zip(&b[whole..]).map(&term).sum();
    sums.iter().sum::<f64>() + tail
}
