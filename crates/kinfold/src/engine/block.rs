//! Phase A: what one thread does with one block of rows.
//!
//! Comes in: a block of rows of `a` and all columns, packed. Goes out: the block's weights, left in
//! the strip for phase B; its row sums and its share of the column sums; the gradient of its rows.
//! While a chunk of columns is worked on, everything it takes lies in the second cache.

use super::kernels::{Left, Product};
use super::plan::{Candidates, DEPTH, Plan};
use super::strip::{Problem, Reference};
use crate::embeddings::{Element, Real};
use std::ops::Range;

/// What phase A is to do.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pass<'p, R> {
    /// Sums, and because a row's weights are known with its sum, the gradient: one way.
    Whole { reference: Reference, gradient: bool },
    /// Sums alone, of rows and columns.
    Sums { reference: R, stored: bool },
    /// The gradient, with weights `E_ij · (of_rows_i + of_columns_j)`.
    Weighted { reference: R, kept: bool, factors: &'p Factors<R> },
}

/// What exponentials are multiplied by where both their row and their column choose.
#[derive(Debug)]
pub(super) struct Factors<R> {
    pub(super) of_rows: Vec<R>,
    /// As long as all panels.
    pub(super) of_columns: Vec<R>,
    /// The weight of each row's positive.
    pub(super) of_positives: Vec<R>,
}

/// A block of rows and the memory that belongs to it alone.
pub(super) struct Block<'w, 'o, R> {
    /// Its first row.
    pub(super) first: usize,
    /// The first row of its strip.
    pub(super) strip: usize,
    /// The strip's numbers: `[panels, block, width]`.
    pub(super) stored: &'w mut [R],
    pub(super) scratch: Scratch<'w, R>,
    /// Sums over negatives, `[rows]`.
    pub(super) sums: &'w mut [f64],
    /// The logits of its rows' positives, `[rows]`.
    pub(super) positives: &'w mut [f64],
    /// Its rows' losses, `[rows]`, one way.
    pub(super) losses: &'w mut [f64],
    /// Its share of the sums over columns, `[panels, width]`; empty one way.
    pub(super) column_sums: &'w mut [f64],
    /// Its rows' gradient, to be added to; empty for the value alone.
    pub(super) out: &'w mut [&'o mut [R]],
}

/// Memory for one block, by what [`Plan`] says of its length.
pub(super) struct Scratch<'w, R> {
    pub(super) left: &'w mut [R],
    pub(super) gathered: &'w mut [R],
    pub(super) features: &'w mut [R],
    /// A vector for each row, for sums and maxima.
    pub(super) lanes: &'w mut [R],
    pub(super) references: &'w mut [R],
}

impl<R: Real> Block<'_, '_, R> {
    /// Does what `pass` says.
    #[inline(always)]
    pub(super) fn run<T: Element<Real = R>>(mut self, p: &Problem<'_, T>, pass: Pass<'_, R>) {
        let Plan { block, chunk, panels, .. } = p.plan;
        let first_panel = p.plan.first_panel(self.first);
        let chunks = (first_panel / chunk..p.plan.chunks())
            .map(|c| (c, first_panel.max(c * chunk)..panels.min((c + 1) * chunk)));
        if !matches!(pass, Pass::Weighted { kept: true, .. }) {
            self.pack_rows(p);
        }
        if !matches!(pass, Pass::Weighted { .. }) {
            for (i, positive) in self.positives.iter_mut().enumerate() {
                *positive = p.positive_logit(self.first + i);
            }
        }
        match pass {
            Pass::Whole { reference, gradient } => {
                match reference {
                    Reference::Common(c) => {
                        self.scratch.references.fill(R::from_f64(c));
                    }
                    Reference::RowMaximum => {
                        self.references(p, first_panel..panels);
                    }
                }
                let ready = reference == Reference::RowMaximum;
                for (c, range) in chunks {
                    self.exponentials(p, range.clone(), p.plan.stored, ready);
                    if gradient {
                        self.gather(p, c, range, c > 0);
                    }
                }
                self.finish_whole(p, gradient);
            }
            Pass::Sums { reference, stored } => {
                self.scratch.references.fill(reference);
                for (_, range) in chunks {
                    self.exponentials(p, range, stored, false);
                }
            }
            Pass::Weighted { reference, kept, factors } => {
                self.scratch.references.fill(reference);
                let start = first_panel / chunk;
                for (c, range) in chunks {
                    if !kept {
                        self.exponentials(p, range.clone(), true, false);
                    }
                    self.weigh(p, range.clone(), factors);
                    self.gather(p, c, range, c > start);
                }
                self.finish_weighted(p);
            }
        }
        debug_assert!(self.sums.len() <= block);
    }

    fn rows(&self) -> usize {
        self.sums.len()
    }

    /// Where panel `j` lies in what is stored; `base` is the first panel that is.
    fn panel(&self, p: &Plan, j: usize, base: usize) -> Range<usize> {
        (j - base) * p.panel_len()..(j - base) * p.panel_len() + self.rows() * p.width
    }

    /// The first panel that the strip stores.
    fn base(&self, p: &Plan) -> usize {
        p.first_panel(self.strip)
    }

    /// Packs the block's rows as the left operand of the logits.
    #[inline(always)]
    fn pack_rows<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>) {
        let Plan { dim, height, .. } = p.plan;
        // Any memory of a row's length will do to read it into.
        let (row, _) = self.scratch.gathered.split_at_mut(dim);
        self.scratch.left.fill(R::default());
        for i in 0..self.sums.len() {
            p.a.read(self.first + i, row);
            let panel = &mut self.scratch.left[i / height * height * dim..][..height * dim];
            for (to, x) in panel[i % height..].iter_mut().step_by(height).zip(&*row) {
                *to = *x;
            }
        }
    }

    /// The dot products with panel `j`, minus infinity where the column is no negative of the row.
    fn products<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, j: usize, base: usize) {
        let Plan { dim, height, width, .. } = p.plan;
        let left_panels = self.rows().div_ceil(height);
        let at = (j - base) * p.plan.panel_len();
        let out = &mut self.stored[at..at + p.plan.panel_len()];
        for from in (0..dim).step_by(DEPTH) {
            let product = Product {
                kind: Left::Packed,
                left: &self.scratch.left[from * height..],
                left_panels,
                left_panel: dim * height,
                left_segment: 0,
                right: &p.columns[(j * dim + from) * width..],
                right_panels: 1,
                right_panel: 0,
                right_segment: 0,
                segments: 1,
                depth: DEPTH.min(dim - from),
                add: from > 0,
            };
            p.kernels.product(&product, out, p.plan.panel_len());
        }
        let at = self.panel(&p.plan, j, base);
        hide(&p.plan, &mut self.stored[at], self.first, j);
    }

    /// Each row's largest logit among its negatives becomes its reference.
    fn references<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, panels: Range<usize>) {
        let lanes = p.plan.lanes;
        let base = self.base(&p.plan);
        self.scratch.lanes.fill(R::from_f64(f64::NEG_INFINITY));
        for j in panels {
            self.products(p, j, base);
            let at = self.panel(&p.plan, j, base);
            p.kernels.maxima(&self.stored[at], &mut self.scratch.lanes[..self.sums.len() * lanes]);
        }
        for i in 0..self.sums.len() {
            let lanes = &self.scratch.lanes[i * lanes..(i + 1) * lanes];
            let largest = lanes.iter().fold(lanes[0], |m, &x| if x > m { x } else { m });
            self.scratch.references[i] = p.scale * largest;
        }
    }

    /// Turns a chunk's dot products, computed here unless they are `ready`, into exponentials, and
    /// adds up their sums: a vector of R for each row within the chunk, f64 across chunks.
    fn exponentials<T: Element<Real = R>>(
        &mut self,
        p: &Problem<'_, T>,
        panels: Range<usize>,
        stored: bool,
        ready: bool,
    ) {
        let Plan { width, lanes, .. } = p.plan;
        let rows = self.rows();
        let base = if stored { self.base(&p.plan) } else { panels.start };
        self.scratch.lanes.fill(R::default());
        // One way nobody asks for sums over columns.
        let mut unasked = [0.0; MOST_WIDTH];
        for j in panels {
            if !ready {
                self.products(p, j, base);
            }
            let at = self.panel(&p.plan, j, base);
            let column_sums = match &mut *self.column_sums {
                [] => &mut unasked[..width],
                sums => &mut sums[j * width..(j + 1) * width],
            };
            p.kernels.exponentials(
                &mut self.stored[at],
                p.scale,
                &self.scratch.references[..rows],
                &mut self.scratch.lanes[..rows * lanes],
                column_sums,
            );
        }
        for (sum, lanes) in self.sums.iter_mut().zip(self.scratch.lanes.chunks(lanes)) {
            *sum += lanes.iter().map(|x| x.f64()).sum::<f64>();
        }
    }

    /// Turns a chunk's exponentials into weights.
    fn weigh<T: Element<Real = R>>(
        &mut self,
        p: &Problem<'_, T>,
        panels: Range<usize>,
        factors: &Factors<R>,
    ) {
        let width = p.plan.width;
        let base = self.base(&p.plan);
        let rows = self.first..self.first + self.rows();
        for j in panels.clone() {
            let at = self.panel(&p.plan, j, base);
            p.kernels.weights(
                &mut self.stored[at],
                &factors.of_rows[rows.clone()],
                &factors.of_columns[j * width..(j + 1) * width],
            );
        }
        for i in 0..self.rows() {
            let positive = p.plan.positive(self.first + i);
            if let Some(column) = positive.filter(|column| panels.contains(&(column / width))) {
                self.set(&p.plan, i, column, factors.of_positives[self.first + i]);
            }
        }
    }

    /// Writes the weight of the block's row i and `column`.
    fn set(&mut self, p: &Plan, i: usize, column: usize, weight: R) {
        let panel = (column / p.width - self.base(p)) * p.panel_len();
        self.stored[panel + i * p.width + column % p.width] = weight;
    }

    /// `gathered (+)= W b` over chunk `c`, of which the panels in `panels` count.
    fn gather<T: Element<Real = R>>(
        &mut self,
        p: &Problem<'_, T>,
        c: usize,
        panels: Range<usize>,
        add: bool,
    ) {
        let Plan { height, width, chunk, right_features, .. } = p.plan;
        let skipped = (panels.start - c * chunk) * width * width;
        let product = Product {
            kind: Left::AsStored,
            left: &self.stored[(panels.start - self.base(&p.plan)) * p.plan.panel_len()..],
            left_panels: self.rows().div_ceil(height),
            left_panel: height * width,
            left_segment: p.plan.panel_len(),
            right: &p.features[c * p.plan.chunk_features_len() + skipped..],
            right_panels: right_features,
            right_panel: chunk * width * width,
            right_segment: width * width,
            segments: panels.len(),
            depth: width,
            add,
        };
        p.kernels.product(&product, self.scratch.gathered, p.plan.panel_len());
    }

    /// One way: a row's sum is complete, so its loss and the factor of its gradient are known.
    #[inline(always)]
    fn finish_whole<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, gradient: bool) {
        let Plan { dim, width, .. } = p.plan;
        for i in 0..self.rows() {
            let row = self.first + i;
            let column = p.plan.positive(row).expect("one way, every row has a positive");
            let negatives = self.sums[i];
            let chosen =
                Choice::new(negatives, self.scratch.references[i].f64(), self.positives[i]);
            self.losses[i] = chosen.loss;
            if !gradient {
                continue;
            }
            let (factor, negatives) = (R::from_f64(chosen.factor), R::from_f64(-negatives));
            self.set(&p.plan, i, column, negatives);
            // out += factor · (Σ_negatives E b − negatives · b_positive)
            for l in (0..dim).step_by(width) {
                let gathered = &self.scratch.gathered[l / width * p.plan.panel_len() + i * width..];
                let positive = &p.features_of(column, l / width)[..width];
                let out = &mut self.out[i][l..dim.min(l + width)];
                for ((out, &sum), &b) in out.iter_mut().zip(gathered).zip(positive) {
                    *out += factor * (sum + negatives * b);
                }
            }
            self.pack_features(p, i, factor);
        }
    }

    #[inline(always)]
    fn finish_weighted<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>) {
        let Plan { dim, width, .. } = p.plan;
        for i in 0..self.rows() {
            for l in (0..dim).step_by(width) {
                let gathered = &self.scratch.gathered[l / width * p.plan.panel_len() + i * width..];
                let out = &mut self.out[i][l..dim.min(l + width)];
                out.iter_mut().zip(gathered).for_each(|(out, &sum)| *out += sum);
            }
            self.pack_features(p, i, R::from_f64(1.0));
        }
    }

    /// Packs the block's row i, times `factor`, as the left operand of phase B.
    #[inline(always)]
    fn pack_features<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, i: usize, factor: R) {
        let Plan { dim, height, block, .. } = p.plan;
        let (row, _) = self.scratch.left.split_at_mut(dim);
        p.a.read(self.first + i, row);
        for (panel, row) in self.scratch.features.chunks_mut(block * height).zip(row.chunks(height))
        {
            let to = &mut panel[i * height..(i + 1) * height];
            to[row.len()..].fill(R::default());
            to.iter_mut().zip(row).for_each(|(to, &x)| *to = factor * x);
        }
    }
}

/// No tile is wider.
const MOST_WIDTH: usize = 32;

/// Minus infinity where a column of panel `j` is no negative of a row: its positive, itself, pairs
/// seen from the other side, columns that only fill the panel.
fn hide<R: Real>(p: &Plan, panel: &mut [R], first: usize, j: usize) {
    let width = p.width;
    let rows = first..first + panel.len() / width;
    let columns = j * width..(j + 1) * width;
    let hidden = R::from_f64(f64::NEG_INFINITY);
    if columns.end > p.columns {
        for row in panel.chunks_mut(width) {
            row[p.columns - columns.start..].fill(hidden);
        }
    }
    // Column = row + above − below.
    let mut diagonal = |above: usize, below: usize| {
        let start = rows.start.max((columns.start + below).saturating_sub(above));
        let end = rows.end.min((columns.end + below).saturating_sub(above));
        for row in start..end {
            let column = row + above - below;
            panel[(row - rows.start) * width + column - columns.start] = hidden;
        }
    };
    match p.candidates {
        Candidates::Rectangle { offset } => diagonal(offset, 0),
        Candidates::Triangle { pairs } => {
            diagonal(pairs, 0);
            for row in rows.start.max(columns.start)..rows.end {
                let own = (row + 1).min(columns.end) - columns.start;
                panel[(row - rows.start) * width..][..own].fill(hidden);
            }
        }
        Candidates::Square { pairs } => {
            diagonal(0, 0);
            diagonal(pairs, 0);
            diagonal(0, pairs);
        }
    }
}

/// What one row's, or one column's, choice comes to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    /// `ln(1 + negatives / positive)`.
    pub(super) loss: f64,
    /// `1 / (negatives + positive)`: what exponentials are multiplied by to become weights.
    pub(super) factor: f64,
}

impl Choice {
    /// From the sum of the negatives' exponentials above `reference`, and the positive's logit.
    ///
    /// With `t = ln(negatives) + reference − positive`, all in f64, nothing overflows, and a loss of
    /// 1e-12 keeps its digits.
    pub(super) fn new(negatives: f64, reference: f64, positive: f64) -> Self {
        let t = negatives.ln() + reference - positive;
        let loss = if t > 0.0 { t + (-t).exp().ln_1p() } else { t.exp().ln_1p() };
        let share = (1.0 + (-t).exp()).recip();
        Self { loss, factor: share / negatives }
    }
}
