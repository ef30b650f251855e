//! Another model's opinion of what is a negative.
//!
//! Comes in: a guide's embeddings of the same things. Goes out: its rows and columns, packed beside
//! ours, and for each row the similarity above which a column is a false negative.

use crate::embeddings::{Element, Real};
use crate::engine::aligned::Aligned;
use crate::engine::rows::Rows;
use crate::engine::strips::panel::pack;
use crate::engine::strips::plan::Plan;
use crate::engine::strips::run::Run;
use crate::engine::threads::Team;

/// A guide's rows and columns, and above what it calls a column a false negative of a row.
pub(crate) struct Judge<'a, T: Element> {
    pub(crate) rows: Rows<'a, T>,
    pub(crate) columns: Rows<'a, T>,
    pub(crate) thresholds: Vec<T::Real>,
}

impl<'a, T: Element> Judge<'a, T> {
    pub(crate) fn new(run: &Run<'_, '_, T::Real>, guide: &crate::loss::Guide<'a, T>) -> Self {
        let compared = (crate::Similarity::Cosine, crate::NORM_FLOOR);
        let cosine = |first, second| Rows::new(first, second, compared, run.team);
        let (rows, keys) = (cosine(guide.queries, None), cosine(guide.keys, None));
        let thresholds = (0..rows.len()).map(|i| threshold(rows.similarity(i, &keys, i)));
        let thresholds = thresholds.collect();
        Self { rows, columns: cosine(guide.keys, guide.negatives), thresholds }
    }
}

/// What a guide must find above `similarity` to call a candidate a false negative: rounding alone must
/// not make one of what it finds equal.
pub(crate) fn threshold<R: Real>(similarity: f64) -> R {
    let rounding = if size_of::<R>() == 4 { 2e-6 } else { 4e-15 };
    R::from_f64(similarity + rounding)
}

/// Another model's rows and columns: what it finds closer than a row's threshold is no negative.
pub(crate) struct Guide<'p, T: Element> {
    pub(crate) rows: &'p Rows<'p, T>,
    pub(crate) columns: Aligned<T::Real>,
    /// Similarities, `[rows]`.
    pub(crate) thresholds: &'p [T::Real],
}

impl<'p, T: Element> Guide<'p, T> {
    /// Packs the guide's columns as the right operand of its similarities, `[panels, dim, width]`.
    pub(crate) fn new(
        plan: &Plan,
        rows: &'p Rows<'p, T>,
        columns: &Rows<'p, T>,
        thresholds: &'p [T::Real],
        team: &Team,
    ) -> Self {
        let (width, dim) = (plan.width, columns.dim());
        let mut packed = Aligned::zeros(plan.panels * dim * width);
        team.each(packed.chunks_mut(dim * width).enumerate(), |(j, panel)| {
            let mut row = vec![T::Real::default(); dim];
            let these = j * width..columns.len().min((j + 1) * width);
            pack(width, columns, these, &mut row, panel);
        });
        Self { rows, columns: packed, thresholds }
    }
}
