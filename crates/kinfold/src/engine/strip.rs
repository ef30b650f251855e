//! The loops over strips, and phase B.

use super::aligned::Aligned;
use super::block::{Block, Choice, Factors, Pass, Scratch};
use super::kernels::{Kernels, Left, Product};
use super::plan::{Candidates, DEPTH, Plan};
use super::rows::Rows;
use super::threads::Team;
use crate::embeddings::{Element, Real};

/// What is subtracted from logits before they are exponentiated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reference {
    /// One number for all: exponentials serve rows and columns alike.
    Common(f64),
    /// The largest negative of each row: always safe, one way only.
    RowMaximum,
}

/// The rows of a matrix, and where among all gradients theirs begin.
pub(super) type Side<'p, T> = (&'p Rows<'p, T>, usize);

/// Rows that choose among columns, packed.
pub(super) struct Problem<'p, T: Element> {
    pub(super) plan: Plan,
    pub(super) kernels: &'static Kernels<T::Real>,
    pub(super) team: &'p Team,
    /// 1/τ.
    pub(super) scale: T::Real,
    pub(super) a: &'p Rows<'p, T>,
    /// Where among all gradients those of the rows begin, and those of the columns.
    first_out: (usize, usize),
    pub(super) b: &'p Rows<'p, T>,
    inverse_temperature: f64,
    /// The columns as the right operand of the logits, `[chunks, panels, dim, width]`.
    pub(super) columns: Aligned<T::Real>,
    /// The columns as the right operand of the rows' gradient,
    /// `[chunks, right features, columns, width]`; empty for the value alone.
    pub(super) features: Aligned<T::Real>,
}

/// Memory for the blocks of a strip.
struct Memory<R: Real> {
    left: Aligned<R>,
    gathered: Aligned<R>,
    features: Aligned<R>,
    lanes: Aligned<R>,
    references: Aligned<R>,
}

/// Sums over a problem's rows, and over columns for each block of a strip.
struct Sums {
    /// Of the rows' negatives, `[rows]`.
    rows: Vec<f64>,
    /// The logits of the rows' positives, `[rows]`, in f64.
    positives: Vec<f64>,
    /// The rows' losses, `[rows]`, one way.
    losses: Vec<f64>,
    /// `[blocks, panels, width]`; empty where nobody asks for them.
    columns: Vec<f64>,
}

impl Sums {
    fn new(plan: &Plan, blocks: usize) -> Self {
        Self {
            rows: vec![0.0; plan.rows],
            positives: vec![0.0; plan.rows],
            losses: vec![0.0; plan.rows],
            columns: vec![0.0; blocks * plan.panels * plan.width],
        }
    }
}

impl<R: Real> Memory<R> {
    fn new(plan: &Plan, gradient: bool) -> Self {
        let any = |numbers: usize| Aligned::any(numbers * plan.blocks);
        // Rows are read by way of `gathered`, so it holds one at least.
        Self {
            left: any(plan.left_len()),
            gathered: any(if gradient { plan.gathered_len() } else { plan.dim }),
            features: any(if gradient { plan.features_len() } else { 0 }),
            lanes: any(plan.block * plan.lanes),
            references: any(plan.block),
        }
    }

    fn blocks<'w>(&'w mut self, plan: &Plan) -> impl Iterator<Item = Scratch<'w, R>> + use<'w, R> {
        let blocks = plan.blocks;
        let part = move |x: &'w mut [R]| {
            let len = x.len() / blocks;
            parts(x, len)
        };
        let (mut left, mut gathered) = (part(&mut self.left), part(&mut self.gathered));
        let (mut features, mut lanes) = (part(&mut self.features), part(&mut self.lanes));
        let mut references = part(&mut self.references);
        std::iter::from_fn(move || {
            Some(Scratch {
                left: left.next()?,
                gathered: gathered.next()?,
                features: features.next()?,
                lanes: lanes.next()?,
                references: references.next()?,
            })
        })
    }
}

/// `x` in pieces of `len`, and then empty ones without end.
fn parts<X>(x: &mut [X], len: usize) -> impl Iterator<Item = &mut [X]> {
    x.chunks_mut(len.max(1)).chain(std::iter::repeat_with(|| &mut [] as &mut [X]))
}

impl<'p, T: Element> Problem<'p, T> {
    /// Packs the columns.
    pub(super) fn new(
        plan: Plan,
        kernels: &'static Kernels<T::Real>,
        team: &'p Team,
        scale: f64,
        (a, of_a): Side<'p, T>,
        (b, of_b): Side<'p, T>,
        gradient: bool,
    ) -> Self {
        let mut columns = Aligned::zeros(plan.chunks() * plan.chunk_columns_len());
        let of_features = if gradient { plan.chunk_features_len() } else { 0 };
        let mut features = Aligned::zeros(plan.chunks() * of_features);
        let packed = columns.chunks_mut(plan.chunk_columns_len());
        let packed = packed.zip(parts(&mut features, of_features)).enumerate();
        team.each(packed, |(chunk, (columns, features))| {
            pack_columns(&plan, b, chunk, columns, features);
        });
        let (first_out, inverse_temperature) = ((of_a, of_b), scale);
        let scale = T::Real::from_f64(scale);
        Self { plan, kernels, team, scale, a, b, inverse_temperature, first_out, columns, features }
    }

    /// The logit of row i's positive, in f64; 0 where it has none among its columns.
    #[inline(always)]
    pub(super) fn positive_logit(&self, i: usize) -> f64 {
        let positive = self.plan.positive(i);
        positive.map_or(0.0, |j| self.inverse_temperature * self.a.similarity(i, self.b, j))
    }

    /// `width` features, from panel `l`, of a column.
    pub(super) fn features_of(&self, column: usize, l: usize) -> &[T::Real] {
        let Plan { chunk, width, .. } = self.plan;
        let (c, j) = (column / (chunk * width), column % (chunk * width));
        &self.features[c * self.plan.chunk_features_len() + (l * chunk * width + j) * width..]
    }

    /// Phase A over strip `s`.
    fn phase_a(
        &self,
        s: usize,
        pass: Pass<'_, T::Real>,
        stored: &mut [T::Real],
        memory: &mut Memory<T::Real>,
        sums: &mut Sums,
        out: &mut [&mut [T::Real]],
    ) {
        let plan = &self.plan;
        let (start, block) = (s * plan.strip(), plan.block);
        let rows = start..plan.rows.min(start + plan.strip());
        let first = self.first_out.0;
        let of_out = if out.is_empty() { 0..0 } else { first + rows.start..first + rows.end };
        let blocks = sums.rows[rows.clone()]
            .chunks_mut(block)
            .zip(stored.chunks_mut(plan.stored_block_len(s)))
            .zip(memory.blocks(plan))
            .zip(sums.positives[rows.clone()].chunks_mut(block))
            .zip(sums.losses[rows].chunks_mut(block))
            .zip(parts(&mut sums.columns, plan.panels * plan.width))
            .zip(parts(&mut out[of_out], block))
            .enumerate();
        let blocks = blocks.map(
            |(i, ((((((sums, stored), scratch), positives), losses), column_sums), out))| {
                let first = start + i * block;
                Block {
                    first,
                    strip: start,
                    stored,
                    scratch,
                    sums,
                    positives,
                    losses,
                    column_sums,
                    out,
                }
            },
        );
        self.team.each(blocks, |block| block.run(self, pass));
    }

    /// Phase B over strip `s`: `scattered[panel] += (a[strip]ᵀ W)[:, panel]`.
    fn phase_b(
        &self,
        s: usize,
        stored: &[T::Real],
        memory: &Memory<T::Real>,
        scattered: &mut [T::Real],
    ) {
        let plan = &self.plan;
        let start = s * plan.strip();
        let rows = plan.strip().min(plan.rows - start);
        let base = plan.first_panel(start);
        let of_block = plan.stored_block_len(s);
        let panel_len = plan.scattered_panel_len();
        let together = (DEPTH / plan.block).max(1);
        let few = 4;
        let panels = scattered[base * panel_len..].chunks_mut(few * panel_len).enumerate();
        self.team.each(panels, |(i, panels)| {
            for (j, out) in panels.chunks_mut(panel_len).enumerate() {
                let j = base + i * few + j;
                // In the triangle, blocks further down do not reach this panel.
                let reaching = match plan.candidates {
                    Candidates::Triangle { .. } => rows.min((j + 1) * plan.width - start),
                    Candidates::Rectangle { .. } | Candidates::Square { .. } => rows,
                };
                let mut block = 0;
                while block * plan.block < reaching {
                    let rows = rows - block * plan.block;
                    let blocks = together
                        .min(rows / plan.block)
                        .min((reaching - block * plan.block).div_ceil(plan.block))
                        .max(1);
                    let product = Product {
                        kind: Left::Packed,
                        left: &memory.features[block * plan.features_len()..],
                        left_panels: plan.left_features,
                        left_panel: plan.block * plan.height,
                        left_segment: plan.features_len(),
                        right: &stored[block * of_block + (j - base) * plan.panel_len()..],
                        right_panels: 1,
                        right_panel: 0,
                        right_segment: of_block,
                        segments: blocks,
                        depth: plan.block.min(rows),
                        add: true,
                    };
                    self.kernels.product(&product, out, panel_len);
                    block += blocks;
                }
            }
        });
    }

    /// `out[column] += ` the gradient that phase B has scattered over panels.
    fn collect(&self, scattered: &[T::Real], out: &mut [&mut [T::Real]]) {
        let width = self.plan.width;
        let first = self.first_out.1;
        let panels = out[first..first + self.plan.columns]
            .chunks_mut(width)
            .zip(scattered.chunks(self.plan.scattered_panel_len()));
        self.team.each(panels, |(out, panel)| {
            for (column, out) in out.iter_mut().enumerate() {
                for (out, row) in out.iter_mut().zip(panel.chunks(width)) {
                    *out += row[column];
                }
            }
        });
    }

    /// One way: the mean loss; gradients are added to `out`. None where the common reference turns
    /// out not to be safe; what was added to `out` by then is of no use.
    pub(super) fn one_way(
        &self,
        reference: Reference,
        least: f64,
        out: &mut [&mut [T::Real]],
    ) -> Option<f64> {
        let plan = &self.plan;
        let gradient = !out.is_empty();
        let mut memory = Memory::new(plan, gradient);
        let mut sums = Sums::new(plan, 0);
        let mut stored = Aligned::<T::Real>::any(plan.stored_len(0));
        let mut scattered = self.scattered(gradient);
        let pass = Pass::Whole { reference, gradient };
        for s in 0..plan.strips() {
            self.phase_a(s, pass, &mut stored, &mut memory, &mut sums, out);
            let strip = s * plan.strip()..plan.rows.min((s + 1) * plan.strip());
            let safe = reference == Reference::RowMaximum
                || sums.rows[strip].iter().all(|&sum| sum >= least);
            if !safe {
                return None;
            }
            if gradient {
                self.phase_b(s, &stored, &memory, &mut scattered);
            }
        }
        if gradient {
            self.collect(&scattered, out);
        }
        Some(sums.losses.iter().sum::<f64>() / plan.rows as f64)
    }

    /// Both ways, or the triangle: rows choose among columns and columns among rows, by the same
    /// exponentials. Those of the first strips are kept for the second pass as far as `budget` bytes
    /// reach. The mean loss over all that choose; gradients are added to `out`. None where the
    /// reference turns out not to be safe; then nothing has been added.
    pub(super) fn shared(
        &self,
        reference: f64,
        least: f64,
        budget: usize,
        out: &mut [&mut [T::Real]],
    ) -> Option<f64> {
        let plan = &self.plan;
        let common = T::Real::from_f64(reference);
        let gradient = !out.is_empty();
        let mut memory = Memory::new(plan, gradient);
        let kept = if gradient { plan.kept::<T::Real>(budget) } else { 0 };
        // One buffer for each strip that is kept, and one for all others.
        let mut stored: Vec<_> = (0..plan.strips().min(kept + 1))
            .map(|s| Aligned::<T::Real>::any(plan.stored_len(s)))
            .collect();

        let mut sums = Sums::new(plan, plan.blocks);
        let mut of_columns = vec![0.0; plan.panels * plan.width];
        for s in 0..plan.strips() {
            let pass = Pass::Sums { reference: common, stored: s < kept };
            sums.columns.fill(0.0);
            self.phase_a(s, pass, &mut stored[s.min(kept)], &mut memory, &mut sums, &mut []);
            for block in sums.columns.chunks(of_columns.len()) {
                of_columns.iter_mut().zip(block).for_each(|(sum, block)| *sum += block);
            }
        }
        let (mean, factors) = self.factors(&sums, &of_columns, reference, least)?;

        if gradient {
            let mut scattered = self.scattered(true);
            for s in 0..plan.strips() {
                let pass = Pass::Weighted { reference: common, kept: s < kept, factors: &factors };
                let stored = &mut stored[s.min(kept)];
                self.phase_a(s, pass, stored, &mut memory, &mut sums, out);
                self.phase_b(s, stored, &memory, &mut scattered);
            }
            self.collect(&scattered, out);
        }
        Some(mean)
    }

    /// Memory for the columns' gradient, `[panels, features, width]`.
    fn scattered(&self, gradient: bool) -> Aligned<T::Real> {
        let panels = if gradient { self.plan.panels } else { 0 };
        Aligned::<T::Real>::zeros(panels * self.plan.scattered_panel_len())
    }

    /// From the sums of rows and columns, the mean loss and what exponentials are multiplied by.
    fn factors(
        &self,
        Sums { rows, positives, .. }: &Sums,
        columns: &[f64],
        reference: f64,
        least: f64,
    ) -> Option<(f64, Factors<T::Real>)> {
        let n = self.plan.rows;
        // In the triangle half of the positives were found from the other side.
        let pairs = match self.plan.candidates {
            Candidates::Triangle { pairs } => pairs,
            Candidates::Rectangle { .. } | Candidates::Square { .. } => n,
        };
        let safe = |sums: &[f64]| sums.iter().all(|&sum| sum >= least);
        let choices = |sums: &[f64]| -> Vec<_> {
            let choice = |(i, &sum)| Choice::new(sum, reference, positives[i % pairs]);
            sums.iter().enumerate().map(choice).collect()
        };
        let mean = |choices: &[Choice]| choices.iter().map(|c| c.loss).sum::<f64>() / n as f64;
        let real = |choices: &[Choice]| -> Vec<_> {
            choices.iter().map(|c| T::Real::from_f64(c.factor)).collect()
        };
        let pull = |choice: &Choice, sum: f64| choice.factor * sum;
        let padded = |mut factors: Vec<T::Real>| {
            factors.resize(columns.len(), T::Real::default());
            factors
        };
        if let Candidates::Triangle { pairs } = self.plan.candidates {
            // A row's candidates are those to its right and those above it.
            let sums: Vec<f64> =
                rows.iter().zip(columns).map(|(row, column)| row + column).collect();
            if !safe(&sums) {
                return None;
            }
            let chosen = choices(&sums);
            let of_positives = (0..n).map(|i| {
                let other = (i + pairs) % n;
                T::Real::from_f64(-pull(&chosen[i], sums[i]) - pull(&chosen[other], sums[other]))
            });
            let factors = Factors {
                of_rows: real(&chosen),
                of_columns: padded(real(&chosen)),
                of_positives: of_positives.collect(),
            };
            return Some((mean(&chosen), factors));
        }
        let columns = &columns[..n];
        if !safe(rows) || !safe(columns) {
            return None;
        }
        let (by_rows, by_columns) = (choices(rows), choices(columns));
        let of_positives = (0..n).map(|i| {
            T::Real::from_f64(-pull(&by_rows[i], rows[i]) - pull(&by_columns[i], columns[i]))
        });
        let factors = Factors {
            of_rows: real(&by_rows),
            of_columns: padded(real(&by_columns)),
            of_positives: of_positives.collect(),
        };
        Some((0.5 * (mean(&by_rows) + mean(&by_columns)), factors))
    }
}

/// Packs chunk `chunk` of the columns, as both right operands.
#[inline(always)]
fn pack_columns<T: Element>(
    plan: &Plan,
    b: &Rows<'_, T>,
    chunk: usize,
    columns: &mut [T::Real],
    features: &mut [T::Real],
) {
    let Plan { dim, width, .. } = *plan;
    let all = plan.chunk * width;
    let mut row = vec![T::Real::default(); dim];
    for j in 0..all.min(plan.columns - chunk * all) {
        b.read(chunk * all + j, &mut row);
        let panel = &mut columns[j / width * dim * width + j % width..];
        for (to, &x) in panel.iter_mut().step_by(width).zip(&row) {
            *to = x;
        }
        let panels = features.chunks_mut(all * width);
        for (panel, row) in panels.zip(row.chunks(width)) {
            panel[j * width..][..row.len()].copy_from_slice(row);
        }
    }
}
