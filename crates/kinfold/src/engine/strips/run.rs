//! One computation: what every loss of the family asks of the strips, and what becomes of what they
//! return.
//!
//! Comes in: rows, columns, how they choose. Goes out: choices, and gradients with respect to the
//! embeddings as they were given.

use crate::embeddings::{Element, Embeddings, Real};
use crate::engine::candidates::groups::Marks;
use crate::engine::candidates::guide::Guide;
use crate::engine::rows::Rows;
use crate::engine::strips::plan::{Candidates, Plan, Shape};
use crate::engine::strips::strip::{Beside, Problem, Reference, Side};
use crate::engine::terms::rule::{Choosing, Chosen, Count};
use crate::engine::threads::Team;
use crate::engine::{Outcome, passes};
use crate::loss::{ContrastiveLoss, Form, Statistics, Value};

/// One computation.
pub(crate) struct Run<'l, 'o, R> {
    pub(crate) loss: &'l ContrastiveLoss,
    pub(crate) team: &'l Team,
    pub(crate) row_weights: &'l [f64],
    /// The gradient of each query, then of each key, then of explicit negatives where it is asked
    /// for; empty for the value alone.
    pub(crate) out: Vec<&'o mut [R]>,
}

impl<'l, R: Real> Run<'l, '_, R> {
    pub(crate) fn clear(&mut self) {
        self.out.iter_mut().for_each(|row| row.fill(R::default()));
    }

    pub(crate) fn rows<'a, T: Element<Real = R>>(
        &self,
        first: Embeddings<'a, T>,
        second: Option<Embeddings<'a, T>>,
    ) -> Rows<'a, T> {
        Rows::new(first, second, (self.loss.similarity(), self.loss.norm_floor), self.team)
    }

    pub(crate) fn choosing(&self, negatives: Count) -> Choosing<'l> {
        Choosing::new(self.loss, negatives, self.row_weights)
    }

    /// What the choices of rows come to and, both ways, those of columns; gradients are added to what
    /// there is. First with one reference for all; where that is not safe, one way at a time.
    pub(crate) fn chosen<T: Element<Real = R>>(
        &mut self,
        a: Side<'_, T>,
        b: Side<'_, T>,
        candidates: Candidates,
        moving: usize,
        sides: &Sides<'_, '_, T>,
    ) -> (Vec<Chosen>, Vec<Chosen>) {
        let loss = self.loss;
        let (c, least) = self.reference(a.0, b.0, sides);
        let problem = self.problem(a, b, candidates, moving, sides, false);
        let fast = match passes(loss) {
            Form::OneWay => {
                let chosen = problem.one_way(Reference::Common(c), least, &mut self.out);
                chosen.map(|chosen| (chosen, Vec::new()))
            }
            Form::BothWays | Form::NtXent => {
                problem.shared(c, least, loss.memory_budget, &mut self.out)
            }
        };
        drop(problem);
        if let Some(chosen) = fast {
            return chosen;
        }
        self.clear();
        let mut one_way = |a, b, candidates, moving, sides: &Sides<'_, '_, T>| {
            let problem = self.problem(a, b, candidates, moving, sides, true);
            let chosen = problem.one_way(Reference::RowMaximum, 0.0, &mut self.out);
            // A reference of each row's own is always safe.
            chosen.unwrap_or_default()
        };
        match candidates {
            Candidates::Triangle { partner } => {
                (one_way(a, b, Candidates::Square { partner }, moving, sides), Vec::new())
            }
            _ if loss.form() == Form::BothWays => {
                let there = one_way(a, b, candidates, moving, sides);
                let panels = a.0.len().next_multiple_of(R::kernels(loss.instructions).width);
                let marks = sides.marks.map(|marks| marks.swapped(panels));
                let back = Sides { marks: marks.as_ref(), ..*sides };
                (there, one_way(b, a, candidates, a.0.len(), &back))
            }
            _ => (one_way(a, b, candidates, moving, sides), Vec::new()),
        }
    }

    /// A reference for all exponentials with which none can overflow, nor their sums and products;
    /// and the least sum of them that has not lost too much to underflow.
    fn reference<T: Element<Real = R>>(
        &self,
        a: &Rows<'_, T>,
        b: &Rows<'_, T>,
        sides: &Sides<'_, '_, T>,
    ) -> (f64, f64) {
        // Exponents that numbers of this type have, and digits, in units of ln.
        let (range, digits) = if size_of::<R>() == 4 { (87.0, 18.0) } else { (708.0, 38.0) };
        let count = (a.len().max(b.len()) as f64).ln();
        let (of_a, of_b) = (a.longest(), b.longest().max(sides.longest_own));
        let bound = self.loss.temperature().scale() * of_a * of_b;
        let room = range - 8.0 - count - of_a.max(of_b).max(1.0).ln();
        let (power, _) = sides.choosing.terms().powers();
        ((bound - room / power).max(0.0), (count + digits - range).exp())
    }

    /// Rows `a` choose among columns `b`.
    fn problem<'p, T: Element<Real = R>>(
        &self,
        a: Side<'p, T>,
        b: Side<'p, T>,
        candidates: Candidates,
        moving: usize,
        sides: &Sides<'p, '_, T>,
        stored: bool,
    ) -> Problem<'p, T>
    where
        'l: 'p,
    {
        let gradient = !self.out.is_empty();
        let kernels = R::kernels(self.loss.instructions);
        let choosing = sides.choosing;
        let shape = Shape {
            rows: a.0.len(),
            columns: b.0.len(),
            dim: a.0.dim(),
            candidates,
            terms: choosing.terms(),
            guide: sides.guide.map_or(0, |(rows, ..)| rows.dim()),
            moving,
            stored: gradient || stored,
        };
        let plan = Plan::new(kernels, shape);
        let guide = sides.guide.map(|(rows, columns, thresholds)| {
            Guide::new(&plan, rows, columns, thresholds, self.team)
        });
        let beside = Beside {
            choosing,
            partners: sides.partners,
            positives: sides.positives,
            marks: sides.marks,
            guide,
        };
        Problem::new(plan, kernels, self.team, a, b, beside, gradient)
    }

    /// Gradients by rows as they are compared become gradients by the rows themselves, of the mean or
    /// of the sum. `segments` are the matrices in the order of the gradients, with their rows; the
    /// derivative by log(1/τ) is `share` times what the first `counted` rows have along themselves,
    /// as stacked views count every pair of rows from both sides.
    pub(crate) fn through_comparison<T: Element<Real = R>>(
        &mut self,
        segments: &[(&Rows<'_, T>, usize)],
        outcome: &mut Outcome,
        (counted, share): (usize, f64),
    ) {
        let scale = self.loss.temperature().scale();
        let factor = self.factor(&outcome.losses);
        outcome.explicit *= factor;
        outcome.bias *= factor;
        outcome.log_scale *= factor;
        if self.out.is_empty() {
            return;
        }
        let factor = scale * factor;
        const FEW: usize = 32;
        let mut along = vec![0.0; self.out.len()];
        let (mut outs, mut alongs) = (&mut self.out[..], &mut along[..]);
        let mut parts = Vec::new();
        for &(rows, count) in segments {
            let count = count.min(outs.len());
            let (out, along);
            (out, outs) = outs.split_at_mut(count);
            (along, alongs) = alongs.split_at_mut(count);
            let pieces = out.chunks_mut(FEW).zip(along.chunks_mut(FEW)).enumerate();
            parts.extend(pieces.map(|piece| (rows, piece)));
        }
        self.team.each(parts.into_iter(), |(rows, (part, (out, along)))| {
            for (i, (g, along)) in out.iter_mut().zip(along).enumerate() {
                *along = rows.through_comparison(part * FEW + i, g, factor);
            }
        });
        outcome.log_scale += share * along[..counted].iter().sum::<f64>() * factor;
    }

    /// What gradients are multiplied by beside 1/τ: for the mean over rows, and both ways of both.
    fn factor(&self, losses: &[f64]) -> f64 {
        let ways = if passes(self.loss) == Form::BothWays { 0.5 } else { 1.0 };
        ways * self.loss.factor * self.loss.reduced(1.0 / self.weight(losses), 1.0)
    }

    /// The sum of the rows' weights.
    fn weight(&self, losses: &[f64]) -> f64 {
        if self.row_weights.is_empty() {
            losses.len() as f64
        } else {
            self.row_weights.iter().sum()
        }
    }

    pub(crate) fn value(&self, outcome: Outcome, statistics: Statistics) -> Value {
        let Outcome { losses, log_scale, explicit, bias } = outcome;
        let weight = self.weight(&losses);
        let weighted =
            |(i, loss): (usize, &f64)| loss * self.row_weights.get(i).copied().unwrap_or(1.0);
        let sum = self.loss.factor * losses.iter().enumerate().map(weighted).sum::<f64>();
        let gradient = !self.out.is_empty();
        Value {
            mean: sum / weight,
            sum,
            rows: losses.into_iter().map(|loss| self.loss.factor * loss).collect(),
            log_scale: if gradient { log_scale + explicit } else { 0.0 },
            bias: if gradient { bias } else { 0.0 },
            statistics,
        }
    }
}

/// What stands beside the rows and columns of a problem, whichever way it is gone about.
#[derive(Clone, Copy)]
pub(crate) struct Sides<'p, 'g, T: Element> {
    pub(crate) choosing: &'p Choosing<'p>,
    pub(crate) partners: &'p [u32],
    pub(crate) positives: Option<(&'p Rows<'p, T>, usize)>,
    pub(crate) marks: Option<&'p Marks>,
    pub(crate) guide: Option<GuideRows<'p, 'g, T>>,
    /// The longest of the negatives that rows have for themselves.
    pub(crate) longest_own: f64,
}

/// A guide's rows and columns, and each row's threshold.
pub(crate) type GuideRows<'p, 'g, T> =
    (&'p Rows<'p, T>, &'g Rows<'p, T>, &'p [<T as Element>::Real]);
