//! Rows by prefix: what each prefix of a row is divided by, and its features as they are compared.
//!
//! Input: the rows of a matrix, and the prefixes. Output: features, each divided by the length of the shortest
//! prefix that has it, and the ratios of these lengths.

use crate::embeddings::{Element, Real, norm, sum_of};
use crate::engine::kernels::WIDEST_TILE;
use crate::engine::packed::FeatureRows;
use crate::engine::rows::Rows;
use crate::engine::threads::Team;
use crate::loss::{MOST_PREFIXES, Prefix, Similarity};
use std::ops::Range;

/// Rows that a thread takes at a time.
const ROWS_A_TIME: usize = 64;

/// A number for each prefix.
pub(crate) type EachPrefix = [f64; MOST_PREFIXES];

/// The features that a prefix has more than the one before it.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    pub(crate) features: Range<usize>,
    /// What the loss over the prefix that ends here counts.
    pub(crate) weight: f64,
}

/// The segments that prefixes end, the shortest first.
pub(crate) fn segments(prefixes: &[Prefix]) -> Vec<Segment> {
    let starts = std::iter::once(0).chain(prefixes.iter().map(|prefix| prefix.dim));
    let segment = |(start, prefix): (usize, &Prefix)| Segment {
        features: start..prefix.dim,
        weight: prefix.weight,
    };
    starts.zip(prefixes).map(segment).collect()
}

/// The rows of a matrix, and what their prefixes are divided by.
pub(crate) struct PrefixRows<'p, T: Element> {
    rows: &'p Rows<'p, T>,
    segments: &'p [Segment],
    /// `[rows, prefixes]`.
    divisors: Vec<f64>,
    /// What the dot product up to a segment is multiplied by before the segment's own is added, `[prefixes,
    /// rows]` and as many more as a panel reaches beyond; nothing for the first segment.
    pub(crate) ratios: Vec<Vec<T::Real>>,
}

impl<'p, T: Element> PrefixRows<'p, T> {
    pub(crate) fn new(rows: &'p Rows<'p, T>, segments: &'p [Segment], team: &Team) -> Self {
        let each = segments.len();
        let mut divisors = vec![1.0; rows.len() * each];
        let comparison = rows.comparison();
        if comparison.similarity == Similarity::Cosine {
            let parts = divisors.chunks_mut(ROWS_A_TIME * each).enumerate();
            team.each(parts, |(part, divisors)| {
                for (i, divisors) in divisors.chunks_mut(each).enumerate() {
                    let row = rows.raw(part * ROWS_A_TIME + i);
                    for (divisor, segment) in divisors.iter_mut().zip(segments) {
                        *divisor = norm(&row[..segment.features.end]).max(comparison.norm_floor);
                    }
                }
            });
        }
        let ratios = (0..each).map(|k| {
            let ratio = |of_row: &[f64]| T::Real::from_f64(of_row[k - 1] / of_row[k]);
            let mut ratios: Vec<_> = match k {
                0 => Vec::new(),
                _ => divisors.chunks(each).map(ratio).collect(),
            };
            ratios.resize(ratios.len() + WIDEST_TILE, T::Real::default());
            ratios
        });
        let ratios = ratios.collect();
        Self { rows, segments, divisors, ratios }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    fn divisors(&self, i: usize) -> &[f64] {
        &self.divisors[i * self.segments.len()..][..self.segments.len()]
    }

    /// The similarities of row i and row j of `other`, a prefix after the other, in f64.
    pub(crate) fn similarities(&self, i: usize, other: &Self, j: usize) -> EachPrefix {
        let (of_i, of_j) = (self.divisors(i), other.divisors(j));
        let (x, y) = (self.rows.raw(i), other.rows.raw(j));
        let mut out = [0.0; MOST_PREFIXES];
        let mut so_far = 0.0;
        for (k, segment) in self.segments.iter().enumerate() {
            if k > 0 {
                so_far *= (of_i[k - 1] / of_i[k]) * (of_j[k - 1] / of_j[k]);
            }
            let term = |x: T, y: T| (x.real().f64() / of_i[k]) * (y.real().f64() / of_j[k]);
            so_far += sum_of(&x[segment.features.clone()], &y[segment.features.clone()], term);
            out[k] = so_far;
        }
        out
    }

    /// From the gradient by the features of row i as they are compared to that by the row itself, times
    /// `factor`. `along` are, for each prefix, `⟨g, u⟩` of its unit vector u and the gradient g by it: what
    /// of the gradient goes into the length, which the cosine does not see.
    pub(crate) fn backward(&self, i: usize, out: &mut [T::Real], along: &EachPrefix, factor: f64) {
        let comparison = self.rows.comparison();
        let (divisors, x) = (self.divisors(i), self.rows.raw(i));
        let cosine = comparison.similarity == Similarity::Cosine;
        for (m, segment) in self.segments.iter().enumerate() {
            let longer = divisors.iter().zip(along).skip(m);
            let normalised =
                longer.filter(|(divisor, _)| cosine && **divisor > comparison.norm_floor);
            let back: f64 =
                normalised.map(|(divisor, along)| along * (divisors[m] / divisor).powi(2)).sum();
            let divide = divisors[m].recip();
            let features = segment.features.clone();
            for (g, x) in out[features.clone()].iter_mut().zip(&x[features]) {
                *g = T::Real::from_f64(
                    (g.f64() - back * (x.real().f64() * divide)) * divide * factor,
                );
            }
        }
    }
}

impl<T: Element> FeatureRows<T::Real> for PrefixRows<'_, T> {
    fn dim(&self) -> usize {
        self.segments.last().map_or(0, |segment| segment.features.end)
    }

    #[inline(always)]
    fn read_part(&self, i: usize, from: usize, out: &mut [T::Real]) {
        let (x, end) = (self.rows.raw(i), from + out.len());
        for (segment, divisor) in self.segments.iter().zip(self.divisors(i)) {
            let here = segment.features.start.max(from)..segment.features.end.min(end);
            if here.is_empty() {
                continue;
            }
            let factor = divisor.recip();
            let to = &mut out[here.start - from..here.end - from];
            for (to, x) in to.iter_mut().zip(&x[here]) {
                *to = T::Real::from_f64(x.real().f64() * factor);
            }
        }
    }
}
