//! Phase A: what one thread does with one block of rows.
//!
//! Comes in: a block of rows of `a` and all columns, packed. Goes out: the block's weights, left in
//! the strip for phase B; its row sums and its share of the column sums; the gradient of its rows.
//! While a chunk of columns is worked on, everything it takes lies in the second cache.

use crate::embeddings::{Element, Real};
use crate::engine::kernels::{Left, Product};
use crate::engine::strips::panel::{
    MOST_WIDTH, asked, each_own, exponentials_alone, hide, pack, panel_product, self_and_others,
    weigh_panel,
};
use crate::engine::strips::plan::Plan;
use crate::engine::strips::strip::{Problem, Reference};
use crate::engine::terms::rule::{Chosen, Sums, Terms};
use std::ops::Range;

/// What phase A is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pass<'p, R> {
    /// One way: sums, what each row's choice comes to and, as its weights are known with that, the
    /// gradient.
    Rows { reference: Reference, gradient: bool },
    /// Sums alone, of rows and columns.
    Sums { reference: f64, stored: bool },
    /// The gradient, with weights `E_ij · (of_rows_i + of_columns_j)`.
    Weighted { reference: f64, kept: bool, factors: &'p Factors<R> },
}

/// What terms are multiplied by where both their row and their column choose. The second ones are
/// for the second terms, and 0 where there are none.
#[derive(Debug)]
pub(crate) struct Factors<R> {
    /// As long as all panels, as those of columns are.
    pub(crate) of_rows: [Vec<R>; 2],
    pub(crate) of_columns: [Vec<R>; 2],
    /// The weight of each row's positive.
    pub(crate) of_positives: Vec<R>,
}

/// A block of rows and the memory that belongs to it alone.
pub(crate) struct Block<'w, 'o, R> {
    /// Its first row.
    pub(crate) first: usize,
    /// The first row of its strip.
    pub(crate) strip: usize,
    /// The strip's numbers: `[panels, block, width]`.
    pub(crate) stored: &'w mut [R],
    pub(crate) scratch: Scratch<'w, R>,
    /// Sums over negatives, `[rows]`; the second ones are empty where there is one sum alone.
    pub(crate) sums: [&'w mut [f64]; 2],
    /// The logits of its rows' positives, `[rows]`.
    pub(crate) positives: &'w mut [f64],
    /// What its rows' choices come to, `[rows]`, one way.
    pub(crate) chosen: &'w mut [Chosen],
    /// Its share of the sums over columns, `[panels, width]`; empty one way.
    pub(crate) column_sums: [&'w mut [f64]; 2],
    /// Its rows' gradient, to be added to; empty for the value alone.
    pub(crate) out: &'w mut [&'o mut [R]],
}

/// Memory for one block, by what [`Plan`] says of its length.
pub(crate) struct Scratch<'w, R> {
    pub(crate) left: &'w mut [R],
    pub(crate) gathered: &'w mut [R],
    pub(crate) features: &'w mut [R],
    /// A vector for each row, for sums and maxima.
    pub(crate) lanes: &'w mut [R],
    /// A copy of a panel.
    pub(crate) spare: &'w mut [R],
    /// The guide's rows, packed.
    pub(crate) guide: &'w mut [R],
    /// Of each row; then what the two powers make of it, or that of the row's own label.
    pub(crate) references: &'w mut [R],
    /// What each row's terms are multiplied by, and its second terms.
    pub(crate) factors: &'w mut [R],
}

impl<R: Real> Block<'_, '_, R> {
    /// Does what `pass` says.
    #[inline(always)]
    pub(crate) fn run<T: Element<Real = R>>(mut self, p: &Problem<'_, T>, pass: Pass<'_, R>) {
        let Plan { chunk, panels, .. } = p.plan;
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
            Pass::Rows { reference, gradient } => {
                match reference {
                    Reference::Common(c) => self.refer(p, c),
                    Reference::RowMaximum => self.references(p, first_panel..panels),
                }
                let ready = reference == Reference::RowMaximum;
                let at_once = gradient && p.plan.terms.single_pass();
                for (c, range) in chunks.clone() {
                    self.terms(p, range.clone(), p.plan.stored, ready);
                    if at_once {
                        self.gather(p, c, range, c > 0);
                    }
                }
                self.choose(p);
                if at_once {
                    self.finish_at_once(p);
                } else if gradient {
                    for (i, chosen) in self.chosen.iter().enumerate() {
                        self.scratch.factors[i] = R::from_f64(chosen.first);
                        self.scratch.factors[p.plan.block + i] = R::from_f64(chosen.second);
                    }
                    for (c, range) in chunks {
                        self.weigh_rows(p, range.clone());
                        self.gather(p, c, range, c > 0);
                    }
                    self.finish_weighted(p);
                }
            }
            Pass::Sums { reference, stored } => {
                self.refer(p, reference);
                for (_, range) in chunks {
                    self.terms(p, range, stored, false);
                }
            }
            Pass::Weighted { reference, kept, factors } => {
                self.refer(p, reference);
                let start = first_panel / chunk;
                for (c, range) in chunks {
                    if !kept {
                        self.terms(p, range.clone(), true, false);
                    }
                    self.weigh(p, range.clone(), factors);
                    self.gather(p, c, range, c > start);
                }
                self.finish_weighted(p);
            }
        }
    }

    fn rows(&self) -> usize {
        self.positives.len()
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
        // Any memory of a row's length will do to read it into.
        let rows = self.first..self.first + self.rows();
        pack(p.plan.height, p.a, rows.clone(), self.scratch.gathered, self.scratch.left);
        if let Some(guide) = &p.beside.guide {
            pack(p.plan.height, guide.rows, rows, self.scratch.gathered, self.scratch.guide);
        }
    }

    /// One reference for all rows.
    fn refer<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, reference: f64) {
        let reference = match p.plan.terms {
            // What is subtracted from the sigmoid's logit makes it larger by the bias.
            Terms::Sigmoid(bias) => -bias,
            Terms::One | Terms::ByLabel | Terms::Powers(_) => reference,
        };
        self.scratch.references.fill(R::from_f64(reference));
        if matches!(p.plan.terms, Terms::Powers(_)) {
            self.raise_references(p);
        }
    }

    /// What the two powers make of the rows' references.
    fn raise_references<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>) {
        let (first, second) = p.plan.terms.powers();
        let (references, powers) = self.scratch.references.split_at_mut(p.plan.block);
        let (firsts, seconds) = powers.split_at_mut(p.plan.block);
        for (&reference, (a, b)) in references.iter().zip(firsts.iter_mut().zip(seconds)) {
            *a = R::from_f64(first * reference.f64());
            *b = R::from_f64(second * reference.f64());
        }
    }

    /// The dot products with panel `j`, minus infinity where the column is no negative of the row.
    fn products<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, j: usize, base: usize) {
        let at = (j - base) * p.plan.panel_len();
        let out = &mut self.stored[at..at + p.plan.panel_len()];
        let rows = self.positives.len();
        panel_product(p, (self.scratch.left, p.plan.dim), &p.columns, j, rows, out);
        let panel = &mut out[..rows * p.plan.width];
        hide(p, panel, self.first, j);
        if let Some(guide) = &p.beside.guide {
            let spare = &mut *self.scratch.spare;
            panel_product(p, (self.scratch.guide, p.plan.guide), &guide.columns, j, rows, spare);
            let found = spare.chunks(p.plan.width).zip(&guide.thresholds[self.first..]);
            for (row, (found, &threshold)) in panel.chunks_mut(p.plan.width).zip(found) {
                for (x, &found) in row.iter_mut().zip(found) {
                    *x = if found > threshold { R::from_f64(f64::NEG_INFINITY) } else { *x };
                }
            }
        }
    }

    /// Each row's largest logit among its negatives becomes its reference; by label, also that among
    /// its own label.
    fn references<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, panels: Range<usize>) {
        let Plan { lanes, width, block, .. } = p.plan;
        let (base, rows) = (self.base(&p.plan), self.rows());
        let by_label = p.plan.terms == Terms::ByLabel;
        let lanes = if by_label { width } else { lanes };
        self.scratch.lanes.fill(R::from_f64(f64::NEG_INFINITY));
        for j in panels {
            self.products(p, j, base);
            let panel = &self.stored[self.panel(&p.plan, j, base)];
            let (first, second) = self.scratch.lanes.split_at_mut(block * lanes);
            if by_label {
                let larger = |x: R, y: R| if x > y { x } else { y };
                self_and_others(p, self.first, j, panel, |at, x, own| {
                    let maxima = if own { &mut *second } else { &mut *first };
                    maxima[at] = larger(x, maxima[at]);
                });
            } else {
                p.kernels.maxima(panel, &mut first[..rows * lanes]);
            }
        }
        let largest = |x: &[R]| x.iter().fold(x[0], |m, &x| if x > m { x } else { m });
        for i in 0..rows {
            let choosing = p.beside.choosing;
            let own = choosing.own.get(self.first + i).map_or(f64::NEG_INFINITY, |own| own.largest);
            // Without negatives, whatever number; there is nothing to exponentiate.
            let finite = |x: f64| if x.is_finite() { x } else { 0.0 };
            let found = largest(&self.scratch.lanes[i * lanes..(i + 1) * lanes]);
            let found = finite((p.scale * found).f64().max(own));
            self.scratch.references[i] = R::from_f64(found);
            if by_label {
                let second = &self.scratch.lanes[(block + i) * lanes..][..lanes];
                let found = finite((p.scale * largest(second)).f64());
                self.scratch.references[block + i] = R::from_f64(found);
            }
        }
        if matches!(p.plan.terms, Terms::Powers(_)) {
            self.raise_references(p);
        }
    }

    /// Turns a chunk's dot products, computed here unless they are `ready`, into terms, and adds up
    /// their sums: a vector of R for each row within the chunk, f64 across chunks. Where there are
    /// two powers the dot products stay, and terms are made anew when they are weighed.
    fn terms<T: Element<Real = R>>(
        &mut self,
        p: &Problem<'_, T>,
        panels: Range<usize>,
        stored: bool,
        ready: bool,
    ) {
        let Plan { width, block, lanes, .. } = p.plan;
        let rows = self.rows();
        let base = if stored { self.base(&p.plan) } else { panels.start };
        self.scratch.lanes.fill(R::default());
        // One way nobody asks for sums over columns.
        let mut unasked = [[0.0; MOST_WIDTH]; 2];
        for j in panels {
            if !ready {
                self.products(p, j, base);
            }
            let at = self.panel(&p.plan, j, base);
            let panel = &mut self.stored[at];
            let [first_unasked, second_unasked] = &mut unasked;
            let [first_columns, second_columns] = &mut self.column_sums;
            let first_columns = asked(first_columns, first_unasked, j, width);
            let second_columns = asked(second_columns, second_unasked, j, width);
            let references = &self.scratch.references[..rows];
            match p.plan.terms {
                Terms::One => {
                    let lanes = &mut self.scratch.lanes[..rows * lanes];
                    p.kernels.exponentials(panel, p.scale, references, lanes, first_columns);
                }
                Terms::Sigmoid(_) => {
                    let (losses, weights) = self.scratch.lanes.split_at_mut(block * lanes);
                    let (losses, weights) =
                        (&mut losses[..rows * lanes], &mut weights[..rows * lanes]);
                    p.kernels.sigmoids(panel, p.scale, references, losses, weights);
                }
                Terms::Powers(_) => {
                    let (first, second) = p.plan.terms.powers();
                    let (firsts, seconds) = self.scratch.lanes.split_at_mut(block * lanes);
                    let powers =
                        [(1, first, firsts, first_columns), (2, second, seconds, second_columns)];
                    for (which, power, sums, columns) in powers {
                        let spare = &mut self.scratch.spare[..panel.len()];
                        spare.copy_from_slice(panel);
                        let references = &self.scratch.references[which * block..][..rows];
                        let scale = R::from_f64(power * p.beside.choosing.scale);
                        let sums = &mut sums[..rows * lanes];
                        p.kernels.exponentials(spare, scale, references, sums, columns);
                    }
                }
                Terms::ByLabel => {
                    // The row's own label has a reference of its own.
                    let own = &self.scratch.references[block..];
                    let shift = R::from_f64(p.beside.choosing.scale.recip());
                    each_own(p, self.first, j, panel, |row, x| {
                        *x += shift * (references[row] - own[row]);
                    });
                    // The kernel would add up both together.
                    exponentials_alone(p, panel, p.scale, references);
                    let (firsts, seconds) = self.scratch.lanes.split_at_mut(block * width);
                    let zero = R::default();
                    self_and_others(p, self.first, j, panel, |at, x, own| {
                        let (first, second) = if own { (zero, x) } else { (x, zero) };
                        firsts[at] += first;
                        seconds[at] += second;
                        first_columns[at % width] += first.f64();
                        second_columns[at % width] += second.f64();
                    });
                }
            }
        }
        let lanes = if p.plan.terms == Terms::ByLabel { width } else { lanes };
        let (firsts, seconds) = self.scratch.lanes.split_at(block * lanes);
        let [first, second] = &mut self.sums;
        for (sums, lanes_of) in [(first, firsts), (second, seconds)] {
            for (sum, lanes) in sums.iter_mut().zip(lanes_of.chunks(lanes)) {
                *sum += lanes.iter().map(|x| x.f64()).sum::<f64>();
            }
        }
    }

    /// One way: the rows' sums are complete, and so is what their choices come to.
    fn choose<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>) {
        let by_label = p.plan.terms == Terms::ByLabel;
        for i in 0..self.rows() {
            let reference = self.scratch.references[i].f64();
            let sums = Sums {
                reference,
                first: self.sums[0][i],
                other: if by_label {
                    self.scratch.references[p.plan.block + i].f64()
                } else {
                    reference
                },
                second: self.sums[1].get(i).copied().unwrap_or(0.0),
            };
            let row = self.first + i;
            let positive = p.has_positive(row).then_some(self.positives[i]);
            self.chosen[i] = p.beside.choosing.choose(row, sums, positive);
        }
    }

    /// Turns a chunk's terms into weights, one way.
    fn weigh_rows<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>, panels: Range<usize>) {
        let base = self.base(&p.plan);
        let none = [R::default(); MOST_WIDTH];
        for j in panels.clone() {
            let at = self.panel(&p.plan, j, base);
            let (of_rows, more) = self.scratch.factors.split_at(p.plan.block);
            let rows = [&of_rows[..self.positives.len()], &more[..self.positives.len()]];
            let columns = [&none[..p.plan.width]; 2];
            let scratch = (&*self.scratch.references, &mut *self.scratch.spare);
            weigh_panel(p, self.first, j, &mut self.stored[at], scratch, rows, columns);
        }
        self.set_positives(p, panels, |block, i| R::from_f64(block.chosen[i].positive));
    }

    /// Turns a chunk's terms into weights, where columns choose, too.
    fn weigh<'f, T: Element<Real = R>>(
        &mut self,
        p: &Problem<'_, T>,
        panels: Range<usize>,
        factors: &'f Factors<R>,
    ) {
        let width = p.plan.width;
        let base = self.base(&p.plan);
        let rows = self.first..self.first + self.rows();
        for j in panels.clone() {
            let at = self.panel(&p.plan, j, base);
            let part = |factors: &'f [Vec<R>; 2], range: Range<usize>| {
                let [first, second] = factors;
                [&first[range.clone()], second.get(range).unwrap_or(&[])]
            };
            let of_rows = part(&factors.of_rows, rows.clone());
            let of_columns = part(&factors.of_columns, j * width..(j + 1) * width);
            let scratch = (&*self.scratch.references, &mut *self.scratch.spare);
            weigh_panel(p, self.first, j, &mut self.stored[at], scratch, of_rows, of_columns);
        }
        self.set_positives(p, panels, |block, i| factors.of_positives[block.first + i]);
    }

    /// Writes the weights of the positives among some panels.
    #[inline(always)]
    fn set_positives<T: Element<Real = R>>(
        &mut self,
        p: &Problem<'_, T>,
        panels: Range<usize>,
        weight: impl Fn(&Self, usize) -> R,
    ) {
        for i in 0..self.rows() {
            let positive = p.positive(self.first + i);
            if let Some(column) = positive.filter(|c| panels.contains(&(c / p.plan.width))) {
                self.set(&p.plan, i, column, weight(self, i));
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

    /// One way, with terms that were gathered before their factor was known.
    #[inline(always)]
    fn finish_at_once<T: Element<Real = R>>(&mut self, p: &Problem<'_, T>) {
        let Plan { dim, width, .. } = p.plan;
        for i in 0..self.rows() {
            let Chosen { first, positive, .. } = self.chosen[i];
            // W_ip = factor · of_positive, like all other weights.
            let (factor, of_positive) =
                if first == 0.0 { (0.0, positive) } else { (first, positive / first) };
            let (mut factor, of_positive) = (R::from_f64(factor), R::from_f64(of_positive));
            if factor == R::default() {
                // No negative has a weight; the positive may have one all the same.
                self.clear(&p.plan, i);
                let gathered = self.scratch.gathered.chunks_mut(p.plan.panel_len());
                gathered.for_each(|panel| panel[i * width..(i + 1) * width].fill(R::default()));
                factor = R::from_f64(if first == 0.0 { 1.0 } else { 0.0 });
            }
            let column = p.positive(self.first + i);
            if let Some(column) = column {
                self.set(&p.plan, i, column, of_positive);
            }
            // out += factor · (Σ_negatives E b + of_positive · b_positive)
            for l in (0..dim).step_by(width) {
                let gathered = &self.scratch.gathered[l / width * p.plan.panel_len() + i * width..];
                let out = &mut self.out[i][l..dim.min(l + width)];
                match column {
                    Some(column) => {
                        let positive = &p.features_of(column, l / width)[..width];
                        for ((out, &sum), &b) in out.iter_mut().zip(gathered).zip(positive) {
                            *out += factor * (sum + of_positive * b);
                        }
                    }
                    None => {
                        out.iter_mut().zip(gathered).for_each(|(out, &sum)| *out += factor * sum);
                    }
                }
            }
            self.pack_features(p, i, factor);
        }
    }

    /// Takes away all weights of the block's row i.
    fn clear(&mut self, p: &Plan, i: usize) {
        for panel in self.stored.chunks_mut(p.panel_len()) {
            panel[i * p.width..(i + 1) * p.width].fill(R::default());
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
