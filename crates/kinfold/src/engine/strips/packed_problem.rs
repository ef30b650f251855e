//! The packed operands of one similarity problem: n rows against m candidate columns.
//!
//! Columns are packed here, once; rows are packed by each block. What blocks and panels ask about the
//! problem they ask here.

use super::plan::Plan;
use crate::embeddings::{Element, Real};
use crate::engine::aligned::Aligned;
use crate::engine::candidates::sides::{Problem, Side};
use crate::engine::kernels::{Kernels, Work};
use crate::engine::packed::{SIDE, Square, pack, parts_of};
use crate::engine::problem::Shape;
use crate::engine::rows::Rows;
use crate::engine::terms::rule::RowRule;
use crate::engine::threads::Team;

/// Rows that choose among columns, and the columns packed.
pub(crate) struct PackedProblem<'p, T: Element> {
    pub(crate) plan: Plan,
    pub(crate) kernels: &'static Kernels<T::Real>,
    pub(crate) team: &'p Team,
    pub(crate) problem: Problem<'p, T>,
    pub(crate) rule: &'p RowRule<'p>,
    /// 1/τ.
    pub(crate) scale: T::Real,
    pub(crate) columns: PackedColumns<T::Real>,
    /// A guide's columns, `[panels, guide dim, width]`; empty without a guide.
    pub(crate) guide_columns: Aligned<T::Real>,
}

/// The columns, packed twice.
pub(crate) struct PackedColumns<R: Real> {
    /// As the right operand of the logits, `[chunks, panels, dim, width]`.
    pub(crate) for_logits: Aligned<R>,
    /// As the right operand of the rows' gradient, `[chunks, right feature panels, columns, width]`; empty
    /// for the value alone.
    pub(crate) for_gradient: Aligned<R>,
}

impl<R: Real> PackedColumns<R> {
    fn new<T: Element<Real = R>>(
        plan: &Plan,
        columns: &Rows<'_, T>,
        gradient: bool,
        team: &Team,
    ) -> Self {
        let mut for_logits = Aligned::any(plan.chunks() * plan.chunk_columns_len());
        let features_len = if gradient { plan.chunk_features_len() } else { 0 };
        let mut for_gradient = Aligned::any(plan.chunks() * features_len);
        let chunks = for_logits.chunks_mut(plan.chunk_columns_len());
        let chunks = chunks.zip(parts(&mut for_gradient, features_len)).enumerate();
        team.each_inlined(chunks, PackChunk { plan, columns });
        Self { for_logits, for_gradient }
    }
}

impl<'p, T: Element> PackedProblem<'p, T> {
    /// Packs `columns`, which are those of the problem.
    pub(crate) fn new(
        problem: Problem<'p, T>,
        columns: Side<'p, T>,
        rule: &'p RowRule<'p>,
        kernels: &'static Kernels<T::Real>,
        gradient: bool,
        team: &'p Team,
    ) -> Self {
        let plan = Plan::new(kernels, problem.shape, rule.terms());
        let guide_columns = problem
            .guide
            .map_or_else(|| Aligned::zeros(0), |guide| pack_guide(&plan, &guide.columns, team));
        let columns = PackedColumns::new(&plan, columns.rows, gradient, team);
        let scale = T::Real::from_f64(rule.scale);
        Self { plan, kernels, team, problem, rule, scale, columns, guide_columns }
    }

    /// The problem without its columns, which are packed elsewhere.
    pub(crate) fn unpacked(
        problem: Problem<'p, T>,
        rule: &'p RowRule<'p>,
        kernels: &'static Kernels<T::Real>,
        team: &'p Team,
    ) -> Self {
        let plan = Plan::new(kernels, problem.shape, rule.terms());
        let nothing = || Aligned::any(0);
        let columns = PackedColumns { for_logits: nothing(), for_gradient: nothing() };
        let scale = T::Real::from_f64(rule.scale);
        Self { plan, kernels, team, problem, rule, scale, columns, guide_columns: nothing() }
    }

    /// The logit of row i's positive, without the margin, in f64; 0 where it is not visited from this
    /// row.
    #[inline(always)]
    pub(crate) fn positive_logit(&self, i: usize) -> f64 {
        let elsewhere = self.problem.is_square() && self.problem.positive_column(i).is_none();
        let similarity = if elsewhere { None } else { self.problem.positive_similarity(i) };
        similarity.map_or(0.0, |similarity| self.rule.scale * similarity)
    }

    /// `width` features, from panel `l` of them, of a column.
    pub(crate) fn features_of(&self, column: usize, l: usize) -> &[T::Real] {
        let Plan { chunk_panels, width, .. } = self.plan;
        let chunk_columns = chunk_panels * width;
        let (c, j) = (column / chunk_columns, column % chunk_columns);
        let from = c * self.plan.chunk_features_len() + (l * chunk_columns + j) * width;
        &self.columns.for_gradient[from..]
    }
}

/// `x` in pieces of `len`, and then empty ones without end.
pub(crate) fn parts<X>(x: &mut [X], len: usize) -> impl Iterator<Item = &mut [X]> {
    x.chunks_mut(len.max(1)).chain(std::iter::repeat_with(|| &mut [] as &mut [X]))
}

/// Packs a chunk of the columns, as both right operands.
struct PackChunk<'c, T> {
    plan: &'c Plan,
    columns: &'c Rows<'c, T>,
}

/// The number of a chunk, its columns for the logits and for the gradient.
type Chunk<'w, R> = (usize, (&'w mut [R], &'w mut [R]));

impl<T: Element> Work<Chunk<'_, T::Real>> for PackChunk<'_, T> {
    #[inline(always)]
    fn run(&self, (chunk, (for_logits, for_gradient)): Chunk<'_, T::Real>) {
        let Plan { width, chunk_panels, .. } = *self.plan;
        let Shape { dim, columns, .. } = self.plan.shape;
        let chunk_columns = chunk_panels * width;
        let first = chunk * chunk_columns;
        let panels = chunk_panels.min((columns - first).div_ceil(width));
        let parts = (0..panels).flat_map(|j| (0..width).step_by(SIDE).map(move |part| (j, part)));
        for (j, part) in parts {
            // Columns that only fill the last panel are zeros.
            let (at, count) = (j * width + part, SIDE.min(width - part));
            let which = columns.min(first + at)..columns.min(first + at + count);
            for features in parts_of(0..dim) {
                let square = Square::read(self.columns, which.clone(), &features);
                let panel = &mut for_logits[(j * dim + features.start) * width + part..];
                square.write_columns(features.len(), count, width, panel);
                for i in 0..count {
                    let row = square.row(i)[..features.len()].chunks(width);
                    let panels = for_gradient.chunks_mut(chunk_columns * width);
                    for (panel, row) in panels.skip(features.start / width).zip(row) {
                        let to = &mut panel[(at + i) * width..][..width];
                        let (to, missing) = to.split_at_mut(row.len());
                        to.copy_from_slice(row);
                        missing.fill(T::Real::default());
                    }
                }
            }
        }
    }
}

/// Packs a guide's columns as the right operand of its similarities, `[panels, guide dim, width]`.
fn pack_guide<T: Element>(plan: &Plan, columns: &Rows<'_, T>, team: &Team) -> Aligned<T::Real> {
    let (width, dim) = (plan.width, columns.dim());
    let mut packed = Aligned::zeros(plan.panels * dim * width);
    team.each(packed.chunks_mut(dim * width).enumerate(), |(j, panel)| {
        let these = j * width..columns.len().min((j + 1) * width);
        pack(width, columns, these, panel);
    });
    packed
}
