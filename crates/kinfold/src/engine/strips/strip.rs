//! The loops over strips: phase A over blocks of rows, phase B over panels of columns.
//!
//! Input: a packed problem and a shift. Output: outcomes of rows and columns; gradients are added to those
//! of the problem's rows and columns.

use super::block::{Block, Factors, Pass, Shift};
use super::memory::{Memory, StripBuffers, Sums, pair};
use super::packed_problem::PackedProblem;
use super::plan::Plan;
use crate::embeddings::{Element, Real};
use crate::engine::aligned::Aligned;
use crate::engine::kernels::{Layout, Operand, Product, Work};
use crate::engine::packed::SIDE;
use crate::engine::problem::Region;
use crate::engine::rows::Rows;
use crate::engine::terms::outcome::RowOutcome;
use crate::engine::terms::rule::{RowSums, Terms};
use std::array::from_fn;
use std::ops::Range;

/// Panels that a thread takes at a time in phase B, at most, and pieces that threads should find.
const PANELS_A_TIME: usize = 8;
const PIECES: usize = 16;
/// About so many rows are the inner indices of a product in phase B.
const ROWS_A_TIME: usize = 288;

/// A shift of all exponentials, and the least sum of them that has not lost too much to underflow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommonShift {
    pub(crate) shift: f64,
    pub(crate) least_sum: f64,
}

/// How many rows there are, and how long the longest is as it is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Extent {
    pub(crate) count: usize,
    pub(crate) longest: f64,
}

impl Extent {
    pub(crate) fn of<T: Element>(rows: &Rows<'_, T>) -> Self {
        Self { count: rows.len(), longest: rows.longest() }
    }
}

impl CommonShift {
    /// The shift with which no exponential in R can overflow, nor sums of them and their products: 0 where
    /// possible. Given 1/τ, and the power of the exponentials.
    pub(crate) fn new<R>(scale: f64, rows: Extent, columns: Extent, power: f64) -> Self {
        // Exponents that numbers of this type have, and digits, in units of ln.
        let (range, digits) = if size_of::<R>() == 4 { (87.0, 18.0) } else { (708.0, 38.0) };
        let ln_count = (rows.count.max(columns.count) as f64).ln();
        let bound = scale * rows.longest * columns.longest;
        let room = range - 8.0 - ln_count - rows.longest.max(columns.longest).max(1.0).ln();
        Self {
            shift: (bound - room / power).max(0.0),
            least_sum: (ln_count + digits - range).exp(),
        }
    }
}

/// The outcomes of a problem's rows and, both ways, of its columns.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    pub(crate) rows: Vec<RowOutcome>,
    /// Empty where columns do not choose, or are the rows.
    pub(crate) columns: Vec<RowOutcome>,
}

/// Where the gradients of a problem are added: all of a batch's; empty for the value alone.
pub(crate) type Gradients<'g, 'o, R> = &'g mut [&'o mut [R]];

impl<T: Element> PackedProblem<'_, T> {
    /// One way, with a common shift: None where it turns out not to be safe. What has been added to the
    /// gradients by then is of no use.
    pub(crate) fn one_way(
        &self,
        common: CommonShift,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Option<Outcomes> {
        let underflows = |i, sums| self.rule.underflows(i, sums, common.least_sum);
        // The sigmoid's terms are no exponentials.
        let is_sigmoid = matches!(self.plan.terms, Terms::Sigmoid(_));
        self.strips_one_way(Shift::Common(common.shift), gradients, |i, sums| {
            is_sigmoid || !underflows(i, sums)
        })
    }

    /// One way, with each row's own shift.
    pub(crate) fn one_way_safely(&self, gradients: Gradients<'_, '_, T::Real>) -> Outcomes {
        let always = |_, _| true;
        self.strips_one_way(Shift::RowMaximum, gradients, always).unwrap_or_default()
    }

    fn strips_one_way(
        &self,
        shift: Shift,
        gradients: Gradients<'_, '_, T::Real>,
        is_safe: impl Fn(usize, [f64; 2]) -> bool,
    ) -> Option<Outcomes> {
        let plan = &self.plan;
        let gradient = !gradients.is_empty();
        let mut memory = Memory::new(plan, gradient);
        let mut sums = Sums::one_way(plan);
        let mut matrix = Aligned::<T::Real>::any(plan.strip_len(0));
        let mut column_gradients = self.column_gradients(gradient);
        for s in 0..plan.strips() {
            let out = self.row_gradients(gradients);
            let buffers =
                StripBuffers { matrix: &mut matrix, memory: &mut memory, sums: &mut sums, out };
            self.phase_a(s, Pass::OneWay { shift, gradient }, buffers);
            let [first, second] = &sums.rows;
            let sums_of = |i: usize| [first[i], second.get(i).copied().unwrap_or(0.0)];
            let mut rows = s * plan.strip_rows()..plan.shape.rows.min((s + 1) * plan.strip_rows());
            if !rows.all(|i| !self.is_computed(i) || is_safe(i, sums_of(i))) {
                return None;
            }
            if gradient && plan.shape.gradient_columns > 0 {
                self.phase_b(s, &matrix, &memory, &mut column_gradients);
            }
        }
        if gradient {
            self.add_column_gradients(&column_gradients, gradients);
        }
        Some(Outcomes { rows: sums.outcomes, columns: Vec::new() })
    }

    /// Both ways, or the triangle: rows choose among columns and columns among rows, by the same
    /// exponentials. Those of the first strips are kept for the second pass as far as `budget` bytes
    /// reach. None where the shift turns out not to be safe; then nothing has been added to the
    /// gradients.
    pub(crate) fn both_ways(
        &self,
        common: CommonShift,
        budget: usize,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Option<Outcomes> {
        let plan = &self.plan;
        let gradient = !gradients.is_empty();
        let mut memory = Memory::new(plan, gradient);
        let kept = if gradient { plan.kept::<T::Real>(budget) } else { 0 };
        // One buffer for each strip that is kept, and one for all others.
        let mut matrices: Vec<_> = (0..plan.strips().min(kept + 1))
            .map(|s| Aligned::<T::Real>::any(plan.strip_len(s)))
            .collect();

        let shift = common.shift;
        let mut sums = Sums::both_ways(plan);
        let panels_len = plan.panels * plan.width;
        let mut column_sums = pair(plan, panels_len);
        for s in 0..plan.strips() {
            sums.columns.iter_mut().for_each(|columns| columns.fill(0.0));
            let buffers = StripBuffers {
                matrix: &mut matrices[s.min(kept)],
                memory: &mut memory,
                sums: &mut sums,
                out: &mut [],
            };
            self.phase_a(s, Pass::Sums { shift, keep: s < kept }, buffers);
            for (total, columns) in column_sums.iter_mut().zip(&sums.columns) {
                for block in columns.chunks(panels_len) {
                    total.iter_mut().zip(block).for_each(|(sum, block)| *sum += block);
                }
            }
        }
        let outcomes = self.outcomes(&sums, &column_sums, common)?;
        if !gradient {
            return Some(outcomes);
        }

        let factors = self.factors(&outcomes);
        let mut column_gradients = self.column_gradients(true);
        for s in 0..plan.strips() {
            let matrix = &mut *matrices[s.min(kept)];
            let out = self.row_gradients(gradients);
            let buffers = StripBuffers { matrix, memory: &mut memory, sums: &mut sums, out };
            let pass = Pass::Weighted { shift, kept: s < kept, factors: &factors };
            self.phase_a(s, pass, buffers);
            self.phase_b(s, &matrices[s.min(kept)], &memory, &mut column_gradients);
        }
        self.add_column_gradients(&column_gradients, gradients);
        Some(outcomes)
    }

    /// The rows of the block that row i is in.
    fn block_of(&self, i: usize) -> Range<usize> {
        let start = i / self.plan.block_rows * self.plan.block_rows;
        start..self.plan.shape.rows.min(start + self.plan.block_rows)
    }

    /// Whether row i is in a block that is not passed over.
    fn is_computed(&self, i: usize) -> bool {
        self.rule.counts(self.block_of(i))
    }

    /// The first row that is computed.
    fn first_row(&self) -> usize {
        let mut blocks = (0..self.plan.shape.rows).step_by(self.plan.block_rows);
        blocks.find(|&row| self.is_computed(row)).unwrap_or_default()
    }

    /// Phase A over strip `s`: threads own blocks of rows.
    fn phase_a(&self, s: usize, pass: Pass<'_, T::Real>, buffers: StripBuffers<'_, '_, T::Real>) {
        let blocks = buffers.blocks(&self.plan, s);
        let blocks = blocks.filter(|block| self.is_computed(block.first_row));
        self.team.each_inlined(blocks, PhaseA { problem: self, pass });
    }

    /// Phase B over strip `s`, threads own panels of columns:
    /// `column gradients[panel] += (a[strip]ᵀ W)[:, panel]`.
    fn phase_b(
        &self,
        s: usize,
        matrix: &[T::Real],
        memory: &Memory<T::Real>,
        column_gradients: &mut [T::Real],
    ) {
        let plan = &self.plan;
        let base = plan.first_panel(s * plan.strip_rows());
        let panel_len = plan.column_gradient_len();
        let from = (base * panel_len).min(column_gradients.len());
        let column_gradients = &mut column_gradients[from..];
        let panels = column_gradients.len() / panel_len;
        let at_once = (panels / PIECES).clamp(1, PANELS_A_TIME);
        let pieces = column_gradients.chunks_mut(at_once * panel_len).enumerate();
        self.team.each(pieces, |(i, panels)| {
            self.panel_gradients(s, base + i * at_once, matrix, memory, panels);
        });
    }

    /// Strip `s`'s part of the gradient of some panels of columns, the first of which is `first`, added to
    /// `out`, which the first row that is computed overwrites. The features of some blocks stay in the second
    /// cache while all of the panels go by.
    fn panel_gradients(
        &self,
        s: usize,
        first: usize,
        matrix: &[T::Real],
        memory: &Memory<T::Real>,
        out: &mut [T::Real],
    ) {
        let plan = &self.plan;
        let Plan { block_rows, .. } = *plan;
        let start = s * plan.strip_rows();
        let rows = plan.strip_rows().min(plan.shape.rows - start);
        let base = plan.first_panel(start);
        let (block_len, panel_len) = (plan.block_len(s), plan.column_gradient_len());
        let together = (ROWS_A_TIME / block_rows).max(1);
        // In the triangle, blocks further down do not reach a panel.
        let reaching = |j: usize| match plan.shape.region {
            Region::Triangle { .. } => rows.min((j + 1) * plan.width - start),
            _ => rows,
        };
        let first_row = self.first_row();
        let mut block = 0;
        while block * block_rows < rows {
            let before = block * block_rows;
            if !self.is_computed(start + before) {
                block += 1;
                continue;
            }
            let left = rows - before;
            // A block that is not full is a product of its own: its rows end earlier.
            let most = together.min(left / block_rows).max(1);
            let computed = |more: &usize| self.is_computed(start + before + more * block_rows);
            let blocks = 1 + (1..most).take_while(computed).count();
            for (j, out) in (first..).zip(out.chunks_mut(panel_len)) {
                let reaching = reaching(j).saturating_sub(before).div_ceil(block_rows);
                if reaching == 0 {
                    continue;
                }
                let features = &memory.row_features[block * plan.row_features_len()..];
                let weights = &matrix[block * block_len + (j - base) * plan.panel_len()..];
                let stride = block_rows * plan.height;
                let product = Product {
                    layout: Layout::Packed,
                    left: Operand::panels(features, plan.left_feature_panels, stride)
                        .segments(plan.row_features_len()),
                    right: Operand::panel(weights).segments(block_len),
                    segments: blocks.min(reaching),
                    depth: block_rows.min(left),
                    add: start + before > first_row,
                    next_right: plan.panel_len(),
                };
                self.kernels.product(&product, out, panel_len);
            }
            block += blocks;
        }
    }

    /// The gradients of the problem's rows.
    fn row_gradients<'g, 'o>(
        &self,
        gradients: &'g mut [&'o mut [T::Real]],
    ) -> Gradients<'g, 'o, T::Real> {
        if gradients.is_empty() {
            return gradients;
        }
        &mut gradients[self.problem.rows.gradient..][..self.plan.shape.rows]
    }

    /// Room for the columns' gradient, `[panels, features, width]`. The first block overwrites it.
    fn column_gradients(&self, gradient: bool) -> Aligned<T::Real> {
        let panels = if gradient { self.plan.gradient_panels() } else { 0 };
        Aligned::any(panels * self.plan.column_gradient_len())
    }

    /// Adds the columns' gradient that phase B has left in panels.
    fn add_column_gradients(
        &self,
        column_gradients: &[T::Real],
        gradients: Gradients<'_, '_, T::Real>,
    ) {
        let width = self.plan.width;
        let Some(columns) = self.problem.columns else { return };
        let panels = gradients[columns.gradient..][..self.plan.shape.gradient_columns]
            .chunks_mut(width)
            .zip(column_gradients.chunks(self.plan.column_gradient_len()));
        self.team.each_inlined(panels, AddColumnGradients { width });
    }

    /// The outcomes of rows and columns; in the triangle, where a row's candidates are those to its right
    /// and those above it, of rows only. None where the shift turns out not to be safe.
    fn outcomes(
        &self,
        sums: &Sums,
        column_sums: &[Vec<f64>; 2],
        common: CommonShift,
    ) -> Option<Outcomes> {
        let triangle = matches!(self.plan.shape.region, Region::Triangle { .. });
        // Half of the triangle's positives were found from the other side.
        let positive = |i: usize| {
            let partner = self.problem.positive(i)?;
            Some(sums.positives[if triangle { partner.min(i) } else { i }])
        };
        let outcome = |i: usize, sums: [f64; 2]| {
            if self.rule.underflows(i, sums, common.least_sum) {
                return None;
            }
            let sums = RowSums { sums, shifts: [common.shift; 2] };
            Some(self.rule.outcome(i, sums, positive(i)))
        };
        let at = |sums: &[Vec<f64>; 2], i: usize| {
            [sums[0][i], if self.plan.terms.two() { sums[1][i] } else { 0.0 }]
        };
        let all = 0..self.plan.shape.rows;
        if triangle {
            let sum = |i| {
                let (right, above) = (at(&sums.rows, i), at(column_sums, i));
                [right[0] + above[0], right[1] + above[1]]
            };
            let rows = all.map(|i| outcome(i, sum(i))).collect::<Option<_>>()?;
            return Some(Outcomes { rows, columns: Vec::new() });
        }
        let rows = all.clone().map(|i| outcome(i, at(&sums.rows, i))).collect::<Option<_>>()?;
        let columns = all.map(|i| outcome(i, at(column_sums, i))).collect::<Option<_>>()?;
        Some(Outcomes { rows, columns })
    }

    /// What terms are multiplied by, from the outcomes of rows and columns.
    fn factors(&self, outcomes: &Outcomes) -> Factors<T::Real> {
        let triangle = outcomes.columns.is_empty();
        let rows = &outcomes.rows;
        let columns = if triangle { rows } else { &outcomes.columns };
        let real = |x: f64| T::Real::from_f64(x);
        let padded = |outcomes: &[RowOutcome], which: usize| {
            let mut factors: Vec<_> =
                outcomes.iter().map(|outcome| real(outcome.factors[which])).collect();
            factors.resize(self.plan.panels * self.plan.width, T::Real::default());
            factors
        };
        let both = |outcomes: &[RowOutcome]| {
            let two = self.plan.terms.two();
            [padded(outcomes, 0), if two { padded(outcomes, 1) } else { Vec::new() }]
        };
        let of_positives = rows.iter().enumerate().map(|(i, row)| {
            let other = if triangle { self.problem.positive(i) } else { Some(i) };
            real(row.positive + other.map_or(0.0, |other| columns[other].positive))
        });
        Factors {
            of_positives: of_positives.collect(),
            of_rows: both(rows),
            of_columns: both(columns),
        }
    }
}

/// What threads do with the blocks of a strip.
struct PhaseA<'p, 'b, T: Element> {
    problem: &'b PackedProblem<'p, T>,
    pass: Pass<'b, T::Real>,
}

impl<'w, 'o, T: Element> Work<Block<'w, 'o, T::Real>> for PhaseA<'_, '_, T> {
    #[inline(always)]
    fn run(&self, block: Block<'w, 'o, T::Real>) {
        block.run(self.problem, self.pass);
    }
}

/// Adds the gradients of a panel's columns, `[features, width]`, to those of their rows.
struct AddColumnGradients {
    width: usize,
}

impl<R: Real> Work<(&mut [&mut [R]], &[R])> for AddColumnGradients {
    #[inline(always)]
    fn run(&self, (out, panel): (&mut [&mut [R]], &[R])) {
        let width = self.width;
        for (part, rows) in out.chunks_mut(SIDE).enumerate() {
            let panel = &panel[part * SIDE..];
            let mut turned = 0;
            if let [a, b, c, d] = rows {
                turned = a.len() / SIDE * SIDE;
                for k in (0..turned).step_by(SIDE) {
                    // The compiler makes shuffles of this.
                    let columns: [[R; SIDE]; SIDE] =
                        from_fn(|feature| from_fn(|i| panel[(k + feature) * width + i]));
                    for (i, row) in [&mut *a, b, c, d].into_iter().enumerate() {
                        for (x, column) in row[k..k + SIDE].iter_mut().zip(&columns) {
                            *x += column[i];
                        }
                    }
                }
            }
            for (i, row) in rows.iter_mut().enumerate() {
                for (k, x) in row.iter_mut().enumerate().skip(turned) {
                    *x += panel[k * width + i];
                }
            }
        }
    }
}
