//! The loops over strips, for all prefixes at once: sums, then gradients.
//!
//! Input: a problem, its rows and columns by prefix. Output: outcomes of rows and columns for each prefix;
//! gradients by the rows themselves.

use super::block::{Block, Factors, Pass, Scratch};
use super::packed::FeaturePanels;
use super::prefixes::{EachPrefix, PrefixRows, Segment};
use super::problem::Prefixes;
use crate::embeddings::{Element, Real};
use crate::engine::aligned::Aligned;
use crate::engine::kernels::{Layout, Operand, Product, Work};
use crate::engine::problem::Region;
use crate::engine::strips::packed_problem::parts;
use crate::engine::strips::plan::Plan;
use crate::engine::strips::strip::Gradients;
use crate::engine::terms::outcome::RowOutcome;
use crate::engine::terms::rule::RowSums;
use crate::loss::MOST_PREFIXES;

/// Blocks whose part of the columns' gradient is added up before it is added to that of others.
const TOGETHER: usize = 2;
/// Panels that a thread takes at a time for the columns' gradient, at most, and pieces that threads
/// should find.
const PANELS_A_TIME: usize = 8;
const PIECES: usize = 16;
/// Rows whose gradient a thread finishes at a time.
const ROWS_A_TIME: usize = 32;

/// For each prefix, the outcomes of rows and, both ways, of columns.
pub(crate) struct Outcomes {
    pub(crate) rows: Vec<Vec<RowOutcome>>,
    /// Empty where columns do not choose, or are the rows.
    pub(crate) columns: Vec<Vec<RowOutcome>>,
}

/// Sums over rows, `[blocks, prefixes, block rows]`, and over columns, `[prefixes, panels, width]`.
pub(crate) struct Sums {
    rows: Vec<f64>,
    columns: Vec<f64>,
    each: usize,
    block_rows: usize,
}

impl Sums {
    fn of_row(&self, k: usize, i: usize) -> f64 {
        let (block, row) = (i / self.block_rows, i % self.block_rows);
        self.rows[(block * self.each + k) * self.block_rows + row]
    }

    fn of_column(&self, k: usize, j: usize) -> f64 {
        self.columns[k * (self.columns.len() / self.each) + j]
    }

    /// What row i has along each prefix, and what column j has.
    pub(crate) fn along(&self, row: Option<usize>, column: Option<usize>) -> EachPrefix {
        let mut out = [0.0; MOST_PREFIXES];
        for (k, out) in out.iter_mut().enumerate().take(self.each) {
            *out = row.map_or(0.0, |i| self.of_row(k, i))
                + column.map_or(0.0, |j| self.of_column(k, j));
        }
        out
    }
}

/// How a problem is cut into strips.
#[derive(Clone, Copy)]
pub(crate) struct StripPlan<'p> {
    pub(crate) plan: &'p Plan,
    /// Prefixes.
    pub(crate) each: usize,
    /// Blocks of a strip: no more than keep all threads busy, as the weights of all prefixes are stored. A
    /// multiple of [`TOGETHER`], so that sums are the same ones whatever their number.
    pub(crate) blocks: usize,
}

impl<'p> StripPlan<'p> {
    pub(crate) fn new(plan: &'p Plan, each: usize, threads: usize) -> Self {
        Self { plan, each, blocks: threads.next_multiple_of(TOGETHER) }
    }

    fn strips(&self) -> usize {
        self.plan.shape.rows.div_ceil(self.rows())
    }

    /// Rows of a strip but perhaps the last.
    fn rows(&self) -> usize {
        self.blocks * self.plan.block_rows
    }

    /// Numbers of one block's part of the matrix, `[prefixes, panels, block rows, width]`.
    fn block_len(&self) -> usize {
        self.each * self.plan.panels * self.plan.panel_len()
    }
}

/// Bytes of every buffer together.
pub(crate) fn bytes<R>(strips: StripPlan<'_>, segments: &[Segment], gradient: bool) -> usize {
    let StripPlan { plan, each, blocks } = strips;
    let [left, right] =
        [plan.height, plan.width].map(|width| FeaturePanels::new(segments, width).count());
    let dim = segments.last().map_or(0, |segment| segment.features.end);
    let of_block = plan.block_rows * (dim + each * plan.lanes + 2 * plan.width + 1);
    let columns = plan.panels * plan.width;
    let mut numbers = blocks * of_block + columns * dim;
    if gradient {
        let features = left * plan.height + right * plan.width;
        numbers += blocks * (plan.block_rows * features + strips.block_len());
        numbers += plan.chunks() * right * plan.chunk_panels * plan.width * plan.width;
        numbers += plan.gradient_panels() * left * plan.height * plan.width;
    }
    let sums = each * (2 * plan.shape.rows + (blocks + 2) * columns) * size_of::<f64>();
    let rest = 320 * (plan.shape.rows + plan.shape.columns) * each + (1 << 16);
    numbers * size_of::<R>() + sums + rest
}

impl<T: Element> Prefixes<'_, T> {
    fn each(&self) -> usize {
        self.segments.len()
    }

    fn strips(&self) -> StripPlan<'_> {
        StripPlan::new(&self.packed.plan, self.each(), self.packed.team.threads())
    }

    /// Outcomes; and what gradients have along each prefix, where some are asked for: those by rows and
    /// columns as they are compared are added. None where the shift turns out not to be safe.
    pub(crate) fn run(
        &self,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Option<(Outcomes, Option<Sums>)> {
        let asked = !gradients.is_empty();
        let mut memory = Memory::new(self, asked);
        let sums = self.pass(Pass::Sums, &mut memory, &mut [], &mut []);
        let outcomes = self.outcomes(&sums)?;
        let along = asked.then(|| self.gradients(&outcomes, &mut memory, gradients));
        Some((outcomes, along))
    }

    fn outcomes(&self, sums: &Sums) -> Option<Outcomes> {
        let plan = &self.packed.plan;
        let square = self.packed.problem.is_square();
        let (rule, common) = (self.packed.rule, self.common);
        let mut positives: Vec<EachPrefix> = vec![[0.0; MOST_PREFIXES]; plan.shape.rows];
        let parts = positives.chunks_mut(ROWS_A_TIME).enumerate();
        self.packed.team.each(parts, |(part, positives)| {
            for (i, positive) in (part * ROWS_A_TIME..).zip(positives) {
                if let Some(j) = self.packed.problem.positive(i) {
                    *positive = self.rows.similarities(i, self.columns, j);
                }
            }
        });
        let outcome = |i: usize, k: usize, sum: f64| {
            if rule.underflows(i, [sum, 0.0], common.least_sum) {
                return None;
            }
            let sums = RowSums { sums: [sum, 0.0], shifts: [common.shift; 2] };
            let positive = self.packed.problem.positive(i).map(|_| rule.scale * positives[i][k]);
            Some(rule.outcome(i, sums, positive))
        };
        let all = |sum: &dyn Fn(usize, usize) -> f64| -> Option<Vec<Vec<RowOutcome>>> {
            let of_prefix = |k| (0..plan.shape.rows).map(|i| outcome(i, k, sum(k, i))).collect();
            (0..self.each()).map(of_prefix).collect()
        };
        let rows = match square {
            // A row's candidates are those to its right and those above it.
            true => all(&|k, i| sums.of_row(k, i) + sums.of_column(k, i))?,
            false => all(&|k, i| sums.of_row(k, i))?,
        };
        let columns =
            if self.both && !square { all(&|k, j| sums.of_column(k, j))? } else { Vec::new() };
        Some(Outcomes { rows, columns })
    }

    fn gradients(
        &self,
        outcomes: &Outcomes,
        memory: &mut Memory<T::Real>,
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Sums {
        let plan = &self.packed.plan;
        let factors = self.factors(outcomes);
        let panel_len = self.left_features.count() * plan.height * plan.width;
        let mut of_columns = Aligned::any(plan.gradient_panels() * panel_len);
        let along = self.pass(Pass::Gradient(&factors), memory, &mut of_columns, gradients);
        if let Some(columns) = self.packed.problem.columns {
            let out = &mut gradients[columns.gradient..][..plan.shape.gradient_columns];
            let panels = out.chunks_mut(plan.width).zip(of_columns.chunks(panel_len));
            let work = AddColumnGradients {
                width: plan.width,
                height: plan.height,
                panels: &self.left_features,
            };
            self.packed.team.each_inlined(panels, work);
        }
        along
    }

    /// A pass over all strips. Its sums are those of exponentials, or of what gradients have along prefixes.
    fn pass(
        &self,
        pass: Pass<'_, T::Real>,
        memory: &mut Memory<T::Real>,
        column_gradients: &mut [T::Real],
        gradients: Gradients<'_, '_, T::Real>,
    ) -> Sums {
        let (plan, each, strips) = (&self.packed.plan, self.each(), self.strips());
        let blocks = plan.shape.rows.div_ceil(plan.block_rows);
        let columns_len = each * plan.panels * plan.width;
        let mut sums = Sums {
            rows: vec![0.0; blocks * each * plan.block_rows],
            columns: vec![0.0; columns_len],
            each,
            block_rows: plan.block_rows,
        };
        let mut of_columns = vec![0.0; strips.blocks * columns_len];
        for s in 0..strips.strips() {
            of_columns.fill(0.0);
            let start = s * strips.rows();
            let rows = start..plan.shape.rows.min(start + strips.rows());
            let of_strip = if gradients.is_empty() { 0..0 } else { rows.clone() };
            let first = self.packed.problem.rows.gradient.min(gradients.len());
            let mut out = parts(&mut gradients[first..][of_strip], plan.block_rows);
            let of_rows = &mut sums.rows[start * each..];
            let of_rows = of_rows.chunks_mut(each * plan.block_rows);
            let own = of_rows.zip(of_columns.chunks_mut(columns_len));
            let base = plan.first_panel(start);
            let starts = rows.clone().step_by(plan.block_rows);
            let items = starts.zip(own.zip(memory.blocks(strips.blocks))).map(
                |(start, ((row_sums, column_sums), (matrix, scratch)))| Block {
                    rows: start..rows.end.min(start + plan.block_rows),
                    base,
                    matrix,
                    scratch,
                    row_sums,
                    column_sums,
                    out: out.next().unwrap_or(&mut []),
                },
            );
            self.packed.team.each_inlined(items, PhaseA { prefixes: self, pass });
            for block in of_columns.chunks(columns_len) {
                sums.columns.iter_mut().zip(block).for_each(|(sum, block)| *sum += block);
            }
            if matches!(pass, Pass::Gradient(_)) {
                self.phase_b(s, rows.len(), memory, column_gradients);
            }
        }
        sums
    }

    /// `column gradients[panel] += (a[strip]ᵀ W)[:, panel]`, threads own panels of columns.
    fn phase_b(
        &self,
        s: usize,
        rows: usize,
        memory: &Memory<T::Real>,
        column_gradients: &mut [T::Real],
    ) {
        let (plan, start) = (&self.packed.plan, s * self.strips().rows());
        let panel_len = self.left_features.count() * plan.height * plan.width;
        let base = plan.first_panel(start);
        let from = (base * panel_len).min(column_gradients.len());
        let column_gradients = &mut column_gradients[from..];
        let panels = column_gradients.len() / panel_len;
        let at_once = (panels / PIECES).clamp(1, PANELS_A_TIME);
        let pieces = column_gradients.chunks_mut(at_once * panel_len).enumerate();
        self.packed.team.each(pieces, |(i, out)| {
            let first = base + i * at_once;
            for (j, out) in (first..).zip(out.chunks_mut(panel_len)) {
                // In the triangle, blocks further down do not reach a panel.
                let reaching = match plan.shape.region {
                    Region::Triangle { .. } => {
                        rows.min(((j + 1) * plan.width).saturating_sub(start))
                    }
                    _ => rows,
                };
                let reaching = Reaching { blocks: reaching.div_ceil(plan.block_rows), rows };
                self.panel_gradient(s, &reaching, memory, j, out);
            }
        });
    }

    /// What strip `s` adds to the gradient of panel `j`.
    fn panel_gradient(
        &self,
        s: usize,
        reaching: &Reaching,
        memory: &Memory<T::Real>,
        j: usize,
        out: &mut [T::Real],
    ) {
        let Plan { height, width, block_rows, .. } = self.packed.plan;
        let &Reaching { blocks, rows } = reaching;
        let start = s * self.strips().rows();
        let (stride, base) = (block_rows * height, self.packed.plan.first_panel(start));
        let features_len = self.left_features.count() * stride;
        let (block_len, panel_len) = (self.strips().block_len(), self.packed.plan.panel_len());
        let (matrix, stored) = (&memory.matrix, block_len / self.each());
        for (k, panels) in self.left_features.of_segment.iter().enumerate() {
            let out = &mut out[panels.start * height * width..][..panels.len() * height * width];
            let len = out.len();
            let mut block = 0;
            while block < blocks {
                // A block that is not full is a product of its own: its rows end earlier.
                let left = rows - block * block_rows;
                let together = (left / block_rows).min(blocks - block).clamp(1, TOGETHER);
                let features = &memory.row_features[block * features_len + panels.start * stride..];
                let weights = &matrix[block * block_len + k * stored + (j - base) * panel_len..];
                let product = Product {
                    layout: Layout::Packed,
                    left: Operand::panels(features, panels.len(), stride).segments(features_len),
                    right: Operand::panel(weights).segments(block_len),
                    segments: together,
                    depth: block_rows.min(left),
                    add: start + block > 0,
                    next_right: panel_len,
                };
                self.packed.kernels.product(&product, out, len);
                block += together;
            }
        }
    }

    /// What exponentials are multiplied by, from the outcomes of rows and columns.
    fn factors(&self, outcomes: &Outcomes) -> Factors<T::Real> {
        let plan = &self.packed.plan;
        let square = self.packed.problem.is_square();
        let columns = if square { &outcomes.rows } else { &outcomes.columns };
        let len = (plan.panels * plan.width).max(plan.shape.rows);
        let padded = |of_prefix: Option<&Vec<RowOutcome>>, weight: f64| {
            let factor = |outcome: &RowOutcome| T::Real::from_f64(weight * outcome.factors[0]);
            let mut factors: Vec<_> = of_prefix.into_iter().flatten().map(factor).collect();
            factors.resize(len, T::Real::default());
            factors
        };
        let weights = || self.segments.iter().map(|segment| segment.weight).enumerate();
        let of_positives = weights().map(|(k, weight)| {
            let positive = |(i, row): (usize, &RowOutcome)| {
                let other = if square { self.packed.problem.positive(i) } else { Some(i) };
                let back = columns.get(k).zip(other).map_or(0.0, |(of, other)| of[other].positive);
                T::Real::from_f64(weight * (row.positive + back))
            };
            outcomes.rows[k].iter().enumerate().map(positive).collect()
        });
        Factors {
            of_rows: weights().map(|(k, weight)| padded(outcomes.rows.get(k), weight)).collect(),
            of_columns: weights().map(|(k, weight)| padded(columns.get(k), weight)).collect(),
            of_positives: of_positives.collect(),
        }
    }

    /// From gradients by rows as they are compared to those by the rows themselves. `outs` are the
    /// gradients of `rows`, and `along` says what row i's has along each prefix.
    pub(crate) fn through_lengths(
        &self,
        rows: &PrefixRows<'_, T>,
        outs: &mut [&mut [T::Real]],
        along: &(dyn Fn(usize) -> EachPrefix + Sync),
        factor: f64,
    ) {
        let pieces = outs.chunks_mut(ROWS_A_TIME).enumerate();
        self.packed.team.each(pieces, |(part, outs)| {
            for (i, out) in outs.iter_mut().enumerate() {
                let i = part * ROWS_A_TIME + i;
                rows.backward(i, out, &along(i), factor);
            }
        });
    }
}

/// The first blocks of a strip that reach a panel, and the strip's rows.
struct Reaching {
    blocks: usize,
    rows: usize,
}

/// What threads do with the blocks of a strip.
struct PhaseA<'b, 'p, T: Element> {
    prefixes: &'b Prefixes<'p, T>,
    pass: Pass<'b, T::Real>,
}

impl<'w, 'o, T: Element> Work<Block<'w, 'o, T::Real>> for PhaseA<'_, '_, T> {
    #[inline(always)]
    fn run(&self, block: Block<'w, 'o, T::Real>) {
        block.run(self.prefixes, self.pass);
    }
}

/// Scratch memory for all blocks of a strip.
struct Memory<R: Real> {
    matrix: Aligned<R>,
    rows: Aligned<R>,
    row_features: Aligned<R>,
    row_gradients: Aligned<R>,
    cosines: Aligned<R>,
    copy: Aligned<R>,
    partial_sums: Aligned<R>,
    shifts: Aligned<R>,
}

impl<R: Real> Memory<R> {
    fn new<T: Element<Real = R>>(p: &Prefixes<'_, T>, gradient: bool) -> Self {
        let plan = &p.packed.plan;
        let strips = p.strips();
        let any = |numbers: usize| Aligned::any(numbers * strips.blocks);
        let if_gradient = |numbers: usize| if gradient { numbers } else { 0 };
        let dim = p.segments.last().map_or(0, |segment| segment.features.end);
        Self {
            matrix: any(if_gradient(strips.block_len())),
            rows: any(plan.block_rows * dim),
            row_features: any(if_gradient(p.left_features.count() * plan.block_rows * plan.height)),
            row_gradients: any(if_gradient(p.right_features.count() * plan.panel_len())),
            cosines: any(plan.panel_len()),
            copy: any(plan.panel_len()),
            partial_sums: any(p.segments.len() * plan.block_rows * plan.lanes),
            shifts: any(plan.block_rows),
        }
    }

    /// Each block's part of the matrix, and its scratch.
    fn blocks<'w>(
        &'w mut self,
        blocks: usize,
    ) -> impl Iterator<Item = (&'w mut [R], Scratch<'w, R>)> + use<'w, R> {
        let part = move |x: &'w mut [R]| {
            let len = x.len() / blocks;
            parts(x, len)
        };
        let (mut matrix, mut rows) = (part(&mut self.matrix), part(&mut self.rows));
        let (mut row_features, mut row_gradients) =
            (part(&mut self.row_features), part(&mut self.row_gradients));
        let (mut cosines, mut copy) = (part(&mut self.cosines), part(&mut self.copy));
        let (mut partial_sums, mut shifts) = (part(&mut self.partial_sums), part(&mut self.shifts));
        std::iter::from_fn(move || {
            let scratch = Scratch {
                rows: rows.next()?,
                row_features: row_features.next()?,
                row_gradients: row_gradients.next()?,
                cosines: cosines.next()?,
                copy: copy.next()?,
                partial_sums: partial_sums.next()?,
                shifts: shifts.next()?,
            };
            Some((matrix.next()?, scratch))
        })
    }
}

/// Adds the gradients of a panel's columns, `[feature panels, height, width]`, to those of their rows.
struct AddColumnGradients<'p> {
    width: usize,
    height: usize,
    panels: &'p FeaturePanels,
}

impl<R: Real> Work<(&mut [&mut [R]], &[R])> for AddColumnGradients<'_> {
    #[inline(always)]
    fn run(&self, (rows, panel): (&mut [&mut [R]], &[R])) {
        let tiles = panel.chunks(self.height * self.width);
        for (tile, features) in tiles.zip(&self.panels.features) {
            for (i, row) in rows.iter_mut().enumerate() {
                let sums = tile[i..].iter().step_by(self.width);
                row[features.clone()].iter_mut().zip(sums).for_each(|(x, &sum)| *x += sum);
            }
        }
    }
}
