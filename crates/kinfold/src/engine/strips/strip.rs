//! The loops over strips, and phase B.

use crate::embeddings::{Element, Real};
use crate::engine::aligned::Aligned;
use crate::engine::candidates::groups::{Marks, NONE};
use crate::engine::candidates::guide::Guide;
use crate::engine::kernels::{Kernels, Left, Product, Work};
use crate::engine::rows::Rows;
use crate::engine::strips::block::{Block, Factors, Pass, Scratch};
use crate::engine::strips::plan::{Candidates, DEPTH, Partner, Plan};
use crate::engine::terms::rule::{Choosing, Chosen, Sums, Terms};
use crate::engine::threads::Team;

/// What is subtracted from logits before they are exponentiated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Reference {
    /// One number for all: exponentials serve rows and columns alike.
    Common(f64),
    /// The largest negative of each row: always safe, one way only.
    RowMaximum,
}

/// The rows of a matrix, and where among all gradients theirs begin.
pub(crate) type Side<'p, T> = (&'p Rows<'p, T>, usize);

/// What stands beside rows and columns.
pub(crate) struct Beside<'p, T: Element> {
    pub(crate) choosing: &'p Choosing<'p>,
    /// Each row's partner, where [`Partner::Listed`]; [`NONE`] without.
    pub(crate) partners: &'p [u32],
    /// The rows' positives, where [`Candidates::Apart`], and of which row the first one is.
    pub(crate) positives: Option<(&'p Rows<'p, T>, usize)>,
    pub(crate) marks: Option<&'p Marks>,
    pub(crate) guide: Option<Guide<'p, T>>,
}

/// Rows that choose among columns, packed.
pub(crate) struct Problem<'p, T: Element> {
    pub(crate) plan: Plan,
    pub(crate) kernels: &'static Kernels<T::Real>,
    pub(crate) team: &'p Team,
    /// 1/τ.
    pub(crate) scale: T::Real,
    pub(crate) a: &'p Rows<'p, T>,
    /// Where among all gradients those of the rows begin, and those of the columns.
    first_out: (usize, usize),
    pub(crate) b: &'p Rows<'p, T>,
    pub(crate) beside: Beside<'p, T>,
    /// The columns as the right operand of the logits, `[chunks, panels, dim, width]`.
    pub(crate) columns: Aligned<T::Real>,
    /// The columns as the right operand of the rows' gradient,
    /// `[chunks, right features, columns, width]`; empty for the value alone.
    pub(crate) features: Aligned<T::Real>,
}

/// Memory for the blocks of a strip.
struct Memory<R: Real> {
    left: Aligned<R>,
    gathered: Aligned<R>,
    features: Aligned<R>,
    lanes: Aligned<R>,
    spare: Aligned<R>,
    guide: Aligned<R>,
    references: Aligned<R>,
    factors: Aligned<R>,
}

/// Sums over a problem's rows, and over columns for each block of a strip; the second ones are empty
/// where there is one sum alone.
struct AllSums {
    /// Of the rows, `[rows]`.
    rows: [Vec<f64>; 2],
    /// The logits of the rows' positives, `[rows]`, in f64.
    positives: Vec<f64>,
    /// What the rows' choices come to, `[rows]`, one way.
    chosen: Vec<Chosen>,
    /// `[blocks, panels, width]`; empty where nobody asks for them.
    columns: [Vec<f64>; 2],
}

impl AllSums {
    fn new(plan: &Plan, blocks: usize) -> Self {
        let both = |len: usize| [vec![0.0; len], vec![0.0; if plan.terms.two() { len } else { 0 }]];
        Self {
            rows: both(plan.rows),
            positives: vec![0.0; plan.rows],
            // Both ways choices wait for all sums.
            chosen: vec![Chosen::default(); if blocks == 0 { plan.rows } else { 0 }],
            columns: both(blocks * plan.panels * plan.width),
        }
    }
}

impl<R: Real> Memory<R> {
    fn new(plan: &Plan, gradient: bool) -> Self {
        let any = |numbers: usize| Aligned::any(numbers * plan.blocks);
        // Rows are read by way of `gathered`, so it holds one at least.
        Self {
            left: any(plan.left_len()),
            gathered: any(if gradient { plan.gathered_len() } else { plan.dim }.max(plan.guide)),
            features: any(if gradient { plan.features_len() } else { 0 }),
            lanes: any(plan.lanes_len()),
            spare: any(plan.spare_len()),
            guide: any(plan.guide_left_len()),
            references: any(3 * plan.block),
            factors: any(2 * plan.block),
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
        let (mut spare, mut guide) = (part(&mut self.spare), part(&mut self.guide));
        let (mut references, mut factors) = (part(&mut self.references), part(&mut self.factors));
        std::iter::from_fn(move || {
            Some(Scratch {
                left: left.next()?,
                gathered: gathered.next()?,
                features: features.next()?,
                lanes: lanes.next()?,
                spare: spare.next()?,
                guide: guide.next()?,
                references: references.next()?,
                factors: factors.next()?,
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
    pub(crate) fn new(
        plan: Plan,
        kernels: &'static Kernels<T::Real>,
        team: &'p Team,
        (a, of_a): Side<'p, T>,
        (b, of_b): Side<'p, T>,
        beside: Beside<'p, T>,
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
        let first_out = (of_a, of_b);
        let scale = T::Real::from_f64(beside.choosing.scale);
        Self { plan, kernels, team, scale, a, b, beside, first_out, columns, features }
    }

    /// The column that is row i's positive, where it is among those that i is compared with.
    #[inline(always)]
    pub(crate) fn positive(&self, i: usize) -> Option<usize> {
        let column = match self.plan.candidates {
            Candidates::Rectangle { offset } => Some(i + offset),
            Candidates::Apart => None,
            Candidates::Triangle { .. } => self.partner(i).filter(|&j| j > i),
            Candidates::Square { .. } => self.partner(i),
        };
        column.filter(|&column| column < self.plan.columns)
    }

    /// The row that is row i's positive, where rows are compared with themselves.
    #[inline(always)]
    fn partner(&self, i: usize) -> Option<usize> {
        match self.plan.candidates {
            Candidates::Rectangle { .. } | Candidates::Apart => None,
            Candidates::Triangle { partner } | Candidates::Square { partner } => match partner {
                Partner::View(pairs) => Some(if i < pairs { i + pairs } else { i - pairs }),
                Partner::Listed => {
                    let partner = self.beside.partners[i];
                    (partner != NONE).then_some(partner as usize)
                }
            },
        }
    }

    /// Whether row i has a positive of its own, wherever that is.
    #[inline(always)]
    pub(crate) fn has_positive(&self, i: usize) -> bool {
        match self.plan.candidates {
            Candidates::Rectangle { .. } | Candidates::Apart => true,
            Candidates::Triangle { .. } | Candidates::Square { .. } => self.partner(i).is_some(),
        }
    }

    /// The logit of row i's positive, without the margin, in f64; 0 where it has none among its
    /// columns.
    #[inline(always)]
    pub(crate) fn positive_logit(&self, i: usize) -> f64 {
        let similarity = match self.beside.positives {
            Some((positives, first)) => self.a.similarity(i, positives, first + i),
            None => match self.positive(i) {
                Some(j) => self.a.similarity(i, self.b, j),
                None => return 0.0,
            },
        };
        self.beside.choosing.scale * similarity
    }

    /// `width` features, from panel `l`, of a column.
    pub(crate) fn features_of(&self, column: usize, l: usize) -> &[T::Real] {
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
        sums: &mut AllSums,
        out: &mut [&mut [T::Real]],
    ) {
        let plan = &self.plan;
        let (start, block) = (s * plan.strip(), plan.block);
        let rows = start..plan.rows.min(start + plan.strip());
        let first = self.first_out.0;
        let of_out = if out.is_empty() { 0..0 } else { first + rows.start..first + rows.end };
        let AllSums { rows: [firsts, seconds], positives, chosen, columns } = sums;
        let some = |len: usize| if len == 0 { 0..0 } else { rows.clone() };
        let (of_seconds, of_chosen) = (some(seconds.len()), some(chosen.len()));
        let (seconds, chosen) = (&mut seconds[of_seconds], &mut chosen[of_chosen]);
        let [of_columns, second_of_columns] = columns;
        let of_panels = plan.panels * plan.width;
        let blocks = firsts[rows.clone()]
            .chunks_mut(block)
            .zip(parts(seconds, block))
            .zip(stored.chunks_mut(plan.stored_block_len(s)))
            .zip(memory.blocks(plan))
            .zip(positives[rows.clone()].chunks_mut(block))
            .zip(parts(chosen, block))
            .zip(parts(of_columns, of_panels).zip(parts(second_of_columns, of_panels)))
            .zip(parts(&mut out[of_out], block))
            .enumerate();
        let blocks = blocks.map(
            |(i, (((((((first, second), stored), scratch), positives), chosen), columns), out))| {
                Block {
                    first: start + i * block,
                    strip: start,
                    stored,
                    scratch,
                    sums: [first, second],
                    positives,
                    chosen,
                    column_sums: [columns.0, columns.1],
                    out,
                }
            },
        );
        self.team.each_inlined(blocks, PhaseA { problem: self, pass });
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
        let from = (base * panel_len).min(scattered.len());
        let panels = scattered[from..].chunks_mut(few * panel_len).enumerate();
        self.team.each(panels, |(i, panels)| {
            for (j, out) in panels.chunks_mut(panel_len).enumerate() {
                let j = base + i * few + j;
                // In the triangle, blocks further down do not reach this panel.
                let reaching = match plan.candidates {
                    Candidates::Triangle { .. } => rows.min((j + 1) * plan.width - start),
                    _ => rows,
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
        let panels = out[first..first + self.plan.moving]
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

    /// One way: what each row's choice comes to; gradients are added to `out`. None where the common
    /// reference turns out not to be safe; what was added to `out` by then is of no use.
    pub(crate) fn one_way(
        &self,
        reference: Reference,
        least: f64,
        out: &mut [&mut [T::Real]],
    ) -> Option<Vec<Chosen>> {
        let plan = &self.plan;
        let gradient = !out.is_empty();
        let mut memory = Memory::new(plan, gradient);
        let mut sums = AllSums::new(plan, 0);
        let mut stored = Aligned::<T::Real>::any(plan.stored_len(0));
        let mut scattered = self.scattered(gradient);
        let pass = Pass::Rows { reference, gradient };
        let needs_reference = !matches!(plan.terms, Terms::Sigmoid(_));
        for s in 0..plan.strips() {
            self.phase_a(s, pass, &mut stored, &mut memory, &mut sums, out);
            let mut strip = s * plan.strip()..plan.rows.min((s + 1) * plan.strip());
            let lost = |i| {
                let [first, second] = &sums.rows;
                self.beside.choosing.lost(i, first[i], second.get(i).copied(), least)
            };
            if needs_reference && reference != Reference::RowMaximum && strip.any(lost) {
                return None;
            }
            if gradient && plan.moving > 0 {
                self.phase_b(s, &stored, &memory, &mut scattered);
            }
        }
        if gradient {
            self.collect(&scattered, out);
        }
        Some(sums.chosen)
    }

    /// Both ways, or the triangle: rows choose among columns and columns among rows, by the same
    /// exponentials. Those of the first strips are kept for the second pass as far as `budget` bytes
    /// reach. What the choices of rows come to and, both ways, those of columns; gradients are added
    /// to `out`. None where the reference turns out not to be safe; then nothing has been added.
    pub(crate) fn shared(
        &self,
        reference: f64,
        least: f64,
        budget: usize,
        out: &mut [&mut [T::Real]],
    ) -> Option<(Vec<Chosen>, Vec<Chosen>)> {
        let plan = &self.plan;
        let gradient = !out.is_empty();
        let mut memory = Memory::new(plan, gradient);
        let kept = if gradient { plan.kept::<T::Real>(budget) } else { 0 };
        // One buffer for each strip that is kept, and one for all others.
        let mut stored: Vec<_> = (0..plan.strips().min(kept + 1))
            .map(|s| Aligned::<T::Real>::any(plan.stored_len(s)))
            .collect();

        let mut sums = AllSums::new(plan, plan.blocks);
        let of_panels = plan.panels * plan.width;
        let second = if plan.terms.two() { of_panels } else { 0 };
        let mut of_columns = [vec![0.0; of_panels], vec![0.0; second]];
        for s in 0..plan.strips() {
            let pass = Pass::Sums { reference, stored: s < kept };
            sums.columns.iter_mut().for_each(|columns| columns.fill(0.0));
            self.phase_a(s, pass, &mut stored[s.min(kept)], &mut memory, &mut sums, &mut []);
            for (total, columns) in of_columns.iter_mut().zip(&sums.columns) {
                for block in columns.chunks(of_panels) {
                    total.iter_mut().zip(block).for_each(|(sum, block)| *sum += block);
                }
            }
        }
        let (rows, columns) = self.choices(&sums, &of_columns, reference, least)?;

        if gradient {
            let factors = self.factors(&rows, &columns);
            let mut scattered = self.scattered(true);
            for s in 0..plan.strips() {
                let pass = Pass::Weighted { reference, kept: s < kept, factors: &factors };
                let stored = &mut stored[s.min(kept)];
                self.phase_a(s, pass, stored, &mut memory, &mut sums, out);
                self.phase_b(s, stored, &memory, &mut scattered);
            }
            self.collect(&scattered, out);
        }
        Some((rows, columns))
    }

    /// Memory for the columns' gradient, `[panels, features, width]`.
    fn scattered(&self, gradient: bool) -> Aligned<T::Real> {
        let panels = if gradient { self.plan.moving_panels() } else { 0 };
        Aligned::<T::Real>::zeros(panels * self.plan.scattered_panel_len())
    }

    /// From the sums of rows and columns, what their choices come to; in the triangle, where a row's
    /// candidates are those to its right and those above it, of rows alone.
    fn choices(
        &self,
        sums: &AllSums,
        columns: &[Vec<f64>; 2],
        reference: f64,
        least: f64,
    ) -> Option<(Vec<Chosen>, Vec<Chosen>)> {
        let choosing = self.beside.choosing;
        let two = self.plan.terms.two();
        // Half of the triangle's positives were found from the other side.
        let positive = |i: usize| {
            let row = self.partner(i).map_or(i, |partner| partner.min(i));
            self.has_positive(i).then(|| sums.positives[row])
        };
        let choose = |sums: [&dyn Fn(usize) -> f64; 2]| -> Option<Vec<Chosen>> {
            (0..self.plan.rows)
                .map(|i| {
                    let (first, second) = (sums[0](i), if two { sums[1](i) } else { 0.0 });
                    if choosing.lost(i, first, two.then_some(second), least) {
                        return None;
                    }
                    let sums = Sums { reference, first, other: reference, second };
                    Some(choosing.choose(i, sums, positive(i)))
                })
                .collect()
        };
        let [firsts, seconds] = &sums.rows;
        if matches!(self.plan.candidates, Candidates::Triangle { .. }) {
            let first = |i: usize| firsts[i] + columns[0][i];
            let second = |i: usize| seconds[i] + columns[1][i];
            return Some((choose([&first, &second])?, Vec::new()));
        }
        let rows = choose([&|i| firsts[i], &|i| seconds[i]])?;
        Some((rows, choose([&|i| columns[0][i], &|i| columns[1][i]])?))
    }

    /// What terms are multiplied by, from what the choices come to.
    fn factors(&self, rows: &[Chosen], columns: &[Chosen]) -> Factors<T::Real> {
        let triangle = columns.is_empty();
        let columns = if triangle { rows } else { columns };
        let real = |x: f64| T::Real::from_f64(x);
        let padded = |of: fn(&Chosen) -> f64, chosen: &[Chosen]| {
            let mut factors: Vec<_> = chosen.iter().map(|chosen| real(of(chosen))).collect();
            factors.resize(self.plan.panels * self.plan.width, T::Real::default());
            factors
        };
        let both = |chosen: &[Chosen]| {
            let two = self.plan.terms.two();
            let second = if two { padded(|c| c.second, chosen) } else { Vec::new() };
            [padded(|c| c.first, chosen), second]
        };
        let of_positives = rows.iter().enumerate().map(|(i, chosen)| {
            let other = if triangle { self.partner(i) } else { Some(i) };
            real(chosen.positive + other.map_or(0.0, |other| columns[other].positive))
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
    problem: &'b Problem<'p, T>,
    pass: Pass<'b, T::Real>,
}

impl<'w, 'o, T: Element> Work<Block<'w, 'o, T::Real>> for PhaseA<'_, '_, T> {
    #[inline(always)]
    fn run(&self, block: Block<'w, 'o, T::Real>) {
        block.run(self.problem, self.pass);
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
