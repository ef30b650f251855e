//! Operands cut at the ends of prefixes: no panel of features has those of two segments.
//!
//! Input: rows by prefix. Output: columns packed for the logits and for the rows' gradient; and where each
//! panel of features begins and ends.

use super::prefixes::{PrefixRows, Segment};
use crate::embeddings::{Element, Real};
use crate::engine::aligned::Aligned;
use crate::engine::kernels::Work;
use crate::engine::packed::{FeatureRows, pack};
use crate::engine::strips::plan::Plan;
use crate::engine::threads::Team;
use std::ops::Range;

/// Panels of features: `width` of them each, or as many as are left of a segment.
#[derive(Debug)]
pub(crate) struct FeaturePanels {
    pub(crate) features: Vec<Range<usize>>,
    /// The panels of each segment.
    pub(crate) of_segment: Vec<Range<usize>>,
}

impl FeaturePanels {
    pub(crate) fn new(segments: &[Segment], width: usize) -> Self {
        let (mut features, mut of_segment) = (Vec::new(), Vec::new());
        for segment in segments {
            let (before, Range { start, end }) = (features.len(), segment.features.clone());
            features.extend((start..end).step_by(width).map(|from| from..end.min(from + width)));
            of_segment.push(before..features.len());
        }
        Self { features, of_segment }
    }

    pub(crate) fn count(&self) -> usize {
        self.features.len()
    }
}

/// The columns of a problem, packed twice.
pub(crate) struct PackedColumns<R: Real> {
    /// As the right operand of the logits, `[panels, dim, width]`.
    pub(crate) for_logits: Aligned<R>,
    /// As the right operand of the rows' gradient, `[chunks, feature panels, chunk columns, width]`; empty
    /// for the value alone.
    pub(crate) for_gradient: Aligned<R>,
}

impl<R: Real> PackedColumns<R> {
    pub(crate) fn new<T: Element<Real = R>>(
        plan: &Plan,
        panels: &FeaturePanels,
        columns: &PrefixRows<'_, T>,
        gradient: bool,
        team: &Team,
    ) -> Self {
        let chunk_columns = plan.chunk_panels * plan.width;
        let mut for_logits = Aligned::any(plan.panels * columns.dim() * plan.width);
        let work = PackForLogits { width: plan.width, columns };
        team.each_inlined(for_logits.chunks_mut(columns.dim() * plan.width).enumerate(), work);
        let len = if gradient { panels.count() * chunk_columns * plan.width } else { 0 };
        let mut for_gradient = Aligned::any(plan.chunks() * len);
        if gradient {
            let work = PackForGradient { width: plan.width, chunk_columns, panels, columns };
            team.each_inlined(for_gradient.chunks_mut(len).enumerate(), work);
        }
        Self { for_logits, for_gradient }
    }
}

struct PackForLogits<'c, 'p, T: Element> {
    width: usize,
    columns: &'c PrefixRows<'p, T>,
}

impl<T: Element> Work<(usize, &mut [T::Real])> for PackForLogits<'_, '_, T> {
    #[inline(always)]
    fn run(&self, (j, panel): (usize, &mut [T::Real])) {
        let (width, columns) = (self.width, self.columns);
        pack(width, columns, j * width..columns.len().min((j + 1) * width), panel);
    }
}

struct PackForGradient<'c, 'p, T: Element> {
    width: usize,
    chunk_columns: usize,
    panels: &'c FeaturePanels,
    columns: &'c PrefixRows<'p, T>,
}

impl<T: Element> Work<(usize, &mut [T::Real])> for PackForGradient<'_, '_, T> {
    #[inline(always)]
    fn run(&self, (chunk, out): (usize, &mut [T::Real])) {
        let Self { width, chunk_columns, panels, columns } = *self;
        for (panel, features) in out.chunks_mut(chunk_columns * width).zip(&panels.features) {
            for (i, to) in panel.chunks_mut(width).enumerate() {
                // Columns that only fill the last panel are zeros.
                let column = chunk * chunk_columns + i;
                let len = if column < columns.len() { features.len() } else { 0 };
                let (to, missing) = to.split_at_mut(len);
                missing.fill(T::Real::default());
                if len > 0 {
                    columns.read_part(column, features.start, to);
                }
            }
        }
    }
}
