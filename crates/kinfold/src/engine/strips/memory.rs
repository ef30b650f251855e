//! What the blocks of a strip work in: scratch memory, and the sums they add to.

use super::block::{Block, Scratch};
use super::packed_problem::parts;
use super::plan::Plan;
use crate::embeddings::Real;
use crate::engine::aligned::Aligned;
use crate::engine::terms::outcome::RowOutcome;

/// Scratch memory for all blocks of a strip, a [`Scratch`] each.
pub(crate) struct Memory<R: Real> {
    rows: Aligned<R>,
    guide_rows: Aligned<R>,
    pub(crate) row_features: Aligned<R>,
    row_gradients: Aligned<R>,
    partial_sums: Aligned<R>,
    panel_copy: Aligned<R>,
    shifts: Aligned<R>,
    factors: Aligned<R>,
}

impl<R: Real> Memory<R> {
    pub(crate) fn new(plan: &Plan, gradient: bool) -> Self {
        let any = |numbers: usize| Aligned::any(numbers * plan.strip_blocks);
        let if_gradient = |numbers: usize| if gradient { numbers } else { 0 };
        Self {
            rows: any(plan.rows_len()),
            guide_rows: any(plan.guide_rows_len()),
            row_features: any(if_gradient(plan.row_features_len())),
            row_gradients: any(if_gradient(plan.row_gradients_len())),
            partial_sums: any(plan.partial_sums_len()),
            panel_copy: any(plan.panel_copy_len()),
            shifts: any(3 * plan.block_rows),
            factors: any(2 * plan.block_rows),
        }
    }

    fn scratch<'w>(&'w mut self, plan: &Plan) -> impl Iterator<Item = Scratch<'w, R>> + use<'w, R> {
        let blocks = plan.strip_blocks;
        let part = move |x: &'w mut [R]| {
            let len = x.len() / blocks;
            parts(x, len)
        };
        let (mut rows, mut guide_rows) = (part(&mut self.rows), part(&mut self.guide_rows));
        let mut row_features = part(&mut self.row_features);
        let mut row_gradients = part(&mut self.row_gradients);
        let mut partial_sums = part(&mut self.partial_sums);
        let mut panel_copy = part(&mut self.panel_copy);
        let (mut shifts, mut factors) = (part(&mut self.shifts), part(&mut self.factors));
        std::iter::from_fn(move || {
            Some(Scratch {
                rows: rows.next()?,
                guide_rows: guide_rows.next()?,
                row_features: row_features.next()?,
                row_gradients: row_gradients.next()?,
                partial_sums: partial_sums.next()?,
                panel_copy: panel_copy.next()?,
                shifts: shifts.next()?,
                factors: factors.next()?,
            })
        })
    }
}

/// Sums over all rows of a problem, and for each block of a strip over columns. Where there is one sum,
/// the second are empty.
pub(crate) struct Sums {
    /// Of the rows, `[rows]`.
    pub(crate) rows: [Vec<f64>; 2],
    /// The logits of the rows' positives, `[rows]`, in f64.
    pub(crate) positives: Vec<f64>,
    /// The rows' outcomes, `[rows]`; one way only, as both ways they wait for all sums.
    pub(crate) outcomes: Vec<RowOutcome>,
    /// Of the columns, `[blocks, panels, width]`; empty one way.
    pub(crate) columns: [Vec<f64>; 2],
}

impl Sums {
    /// Rows choose among columns.
    pub(crate) fn one_way(plan: &Plan) -> Self {
        let outcomes = vec![RowOutcome::default(); plan.shape.rows];
        Self { outcomes, ..Self::new(plan, 0) }
    }

    /// Columns choose, too.
    pub(crate) fn both_ways(plan: &Plan) -> Self {
        Self::new(plan, plan.strip_blocks)
    }

    fn new(plan: &Plan, blocks: usize) -> Self {
        Self {
            rows: pair(plan, plan.shape.rows),
            positives: vec![0.0; plan.shape.rows],
            outcomes: Vec::new(),
            columns: pair(plan, blocks * plan.panels * plan.width),
        }
    }
}

/// `len` zeros for the first sums, and as many for the second where there are two.
pub(crate) fn pair(plan: &Plan, len: usize) -> [Vec<f64>; 2] {
    [vec![0.0; len], vec![0.0; if plan.terms.two() { len } else { 0 }]]
}

/// What phase A works in over one strip.
pub(crate) struct StripBuffers<'w, 'o, R: Real> {
    /// The strip's part of the matrix, `[blocks, panels, block rows, width]`.
    pub(crate) matrix: &'w mut [R],
    pub(crate) memory: &'w mut Memory<R>,
    pub(crate) sums: &'w mut Sums,
    /// The gradients of all rows of the problem; empty where none are computed.
    pub(crate) out: &'w mut [&'o mut [R]],
}

impl<'w, 'o, R: Real> StripBuffers<'w, 'o, R> {
    /// The blocks of strip `s`, each with what belongs to it alone.
    pub(crate) fn blocks(
        self,
        plan: &Plan,
        s: usize,
    ) -> impl Iterator<Item = Block<'w, 'o, R>> + use<'w, 'o, R> {
        let Self { matrix, memory, sums, out } = self;
        let (strip_start, block_rows) = (s * plan.strip_rows(), plan.block_rows);
        let rows = strip_start..plan.shape.rows.min(strip_start + plan.strip_rows());
        let some = |len: usize| if len == 0 { 0..0 } else { rows.clone() };
        let Sums { rows: [first_rows, second_rows], positives, outcomes, columns } = sums;
        let panels_len = plan.panels * plan.width;
        let [first_columns, second_columns] = columns;
        let (of_second, of_outcomes) = (some(second_rows.len()), some(outcomes.len()));
        let of_out = some(out.len());

        let mut matrix = matrix.chunks_mut(plan.block_len(s));
        let mut scratch = memory.scratch(plan);
        let mut first_rows = first_rows[rows.clone()].chunks_mut(block_rows);
        let mut second_rows = parts(&mut second_rows[of_second], block_rows);
        let mut positives = positives[rows.clone()].chunks_mut(block_rows);
        let mut outcomes = parts(&mut outcomes[of_outcomes], block_rows);
        let mut first_columns = parts(first_columns, panels_len);
        let mut second_columns = parts(second_columns, panels_len);
        let mut out = parts(&mut out[of_out], block_rows);
        let starts = rows.step_by(block_rows);
        starts.map_while(move |first_row| {
            Some(Block {
                first_row,
                strip_start,
                matrix: matrix.next()?,
                scratch: scratch.next()?,
                row_sums: [first_rows.next()?, second_rows.next()?],
                positives: positives.next()?,
                outcomes: outcomes.next()?,
                column_sums: [first_columns.next()?, second_columns.next()?],
                out: out.next()?,
            })
        })
    }
}
