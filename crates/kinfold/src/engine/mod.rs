//! The strip loop: every loss, without the n × n matrix.
//!
//! Comes in: a checked batch and a loss. Goes out: its value and gradients. It never fails. The strips
//! ([strip], [block]) never see which loss they serve: they add up [`Terms`](rule::Terms) of the
//! logits, ask a [`Rule`](rule::Rule) what a row's sums come to, and weigh the terms with that.
//!
//! # The sums
//!
//! Rows a_i choose among columns b_j by their logits `s_ij = ⟨a_i, b_j⟩ / τ`. With the positive p(i)
//! kept out of the sum that it is compared with,
//!
//! ```text
//! E_ij  = exp(s_ij − c)                       0 where j is no negative of i
//! neg_i = Σ_j E_ij
//! L_i   = ln(1 + neg_i / exp(s_ip − c))
//! u_i   = 1 / (neg_i + exp(s_ip − c))
//!
//! ∂L_i/∂s_ij = W_ij = u_i E_ij   for negatives,   W_ip = −u_i neg_i   for the positive
//! ∂L/∂a = W b / τ                ∂L/∂b = Wᵀ a / τ                ∂L/∂ln(1/τ) = Σ_i ⟨a_i, ∂L/∂a_i⟩
//! ```
//!
//! so that neither a loss of 1e-12 nor its gradient drowns in rounding. Where columns choose among
//! rows too (both ways, NT-Xent), they do so by the same exponentials: `W_ij = E_ij (u_i + v_j)`,
//! with v_j from the sum over column j.
//!
//! The other losses of the family go the same way, with other terms and other rules ([rule]); what is
//! linear in the logits (several positives, label smoothing) needs no matrix at all ([even]), nor do
//! negatives that a query has for itself ([own]).
//!
//! # The loop
//!
//! Queries are gone through in strips of m rows, [strip] has the loop:
//!
//! ```text
//! phase A, threads own blocks of rows        (block.rs)
//!     for each chunk of columns:
//!         E  = exp(a bᵀ / τ − c)             while it lies in the second cache: sums of rows, columns
//!         ∂a += W b                          where W is known
//! phase B, threads own panels of columns
//!         ∂bᵀ += aᵀ W
//! ```
//!
//! One way, a row's weights are known with its sum: one pass, three products of n × n × d. Where
//! columns choose too, sums must be complete before there are weights: a first pass finds them, and
//! a second computes the exponentials again (four products), or finds them where the first has left
//! them, as far as the memory budget reaches (three). For NT-Xent the matrix of logits is symmetric,
//! and only its upper triangle is visited (two products, or one and a half).
//!
//! Each number is written by one thread in one fixed order, so the result has the same bits for
//! every number of threads. Products and exponentials are in the type itself, sums of exponentials
//! across chunks, the positives and everything that happens to a row once in f64.
//!
//! # The reference c
//!
//! One c for all exponentials is what lets rows and columns share them. Lengths bound the logits:
//! `|s_ij| ≤ max‖a‖ max‖b‖ / τ`. c is chosen such that nothing can overflow by that bound, 0 where
//! possible; whether too much has underflowed is seen in the sums, afterwards. Where it has (with
//! f32 and cosines, below τ ≈ 0.011 or so), the loss is computed anew with the largest negative of
//! each row as that row's own reference, one way at a time. That is always safe.

mod aligned;
mod block;
mod even;
mod gemm;
mod kernels;
mod marks;
mod own;
mod plan;
mod rows;
mod rule;
mod strip;
mod threads;
mod within;

use crate::embeddings::{Element, Embeddings, Real};
use crate::loss::{Batch, Form, GradientMut, InfoNce, Negatives, Objective, Statistics, Value};
pub use aligned::release_memory;
use even::{Coefficients, Even};
pub use gemm::Gemm;
pub(crate) use kernels::Arithmetic;
pub use kernels::Instructions;
use marks::Small;
use plan::{Candidates, Partner, Plan, Shape};
use rows::Rows;
use rule::{Choosing, Chosen, Count, Rule, Sums};
use strip::{Beside, Guide, Marks, NONE, Problem, Reference, Side};
use threads::Team;

/// Bytes within which exponentials are kept between passes.
pub(crate) const DEFAULT_MEMORY_BUDGET: usize = 512 << 20;

/// Waking a thread takes as long as so many terms of the dot products.
const WORTH_THREADS: usize = 1 << 20;

/// The loss, and where memory for it is given the gradients, of a batch that has been checked.
pub(crate) fn run<T: Element>(
    loss: &InfoNce,
    batch: &Batch<'_, T>,
    gradient: Option<GradientMut<'_, T::Real>>,
) -> Value {
    let threads = if loss.threads == 0 { rayon::current_num_threads() } else { loss.threads };
    let (n, d) = (batch.queries.rows(), batch.queries.dim());
    let explicit = match batch.negatives {
        Negatives::None => 0,
        Negatives::Shared(x) => x.rows(),
        Negatives::PerQuery(x) => x.rows().div_ceil(n),
    };
    let m = batch.keys.map_or(0, |keys| keys.rows()) + explicit;
    let small = n.saturating_mul(m.max(n)).saturating_mul(d) < WORTH_THREADS;
    let team = Team::new(if small { 1 } else { threads }, loss.instructions);
    let statistics = statistics::<T>(loss, n, m, d, gradient.is_some());
    let out = gradient.map_or_else(Vec::new, |gradient| {
        let GradientMut { queries, keys, negatives } = gradient;
        let rows = queries.chunks_mut(d).chain(keys.chunks_mut(d)).chain(negatives.chunks_mut(d));
        rows.collect()
    });
    let mut run = Run { loss, team: &team, out, row_weights: batch.row_weights.unwrap_or(&[]) };
    run.clear();
    let outcome = if loss.within_views {
        within::run(&mut run, batch)
    } else if loss.form() == Form::NtXent {
        run.among_themselves(batch)
    } else {
        run.across(batch)
    };
    run.value(outcome, statistics)
}

/// What a computation came to, before rows are averaged and gradients go back through the
/// normalisation.
struct Outcome {
    /// Each row's loss.
    losses: Vec<f64>,
    /// `Σ s ∂L/∂s` over all logits, without their margins, and what is to be added for these.
    log_scale: f64,
    explicit: f64,
    bias: f64,
}

impl Outcome {
    fn of(chosen: &[Chosen]) -> Self {
        Self {
            losses: chosen.iter().map(|chosen| chosen.loss).collect(),
            log_scale: 0.0,
            explicit: chosen.iter().map(|chosen| chosen.explicit).sum(),
            bias: chosen.iter().map(|chosen| chosen.bias).sum(),
        }
    }

    /// The mean of both ways, whose gradients are added up and halved at the end.
    fn both(there: &[Chosen], back: &[Chosen]) -> Self {
        let (there, back) = (Self::of(there), Self::of(back));
        let losses = there.losses.iter().zip(&back.losses).map(|(a, b)| 0.5 * (a + b)).collect();
        Self {
            losses,
            log_scale: 0.0,
            explicit: there.explicit + back.explicit,
            bias: there.bias + back.bias,
        }
    }
}

/// Bytes that [`run`] needs beyond inputs and outputs.
pub(crate) fn scratch_bytes<T: Element>(
    loss: &InfoNce,
    queries: usize,
    keys: usize,
    dim: usize,
) -> usize {
    statistics::<T>(loss, queries, keys, dim, true).scratch_bytes
}

/// See [`cost::products`](crate::cost::products).
pub(crate) fn products<T: Element>(loss: &InfoNce, queries: usize, keys: usize, dim: usize) -> f64 {
    let (plan, kept) = planned::<T>(loss, queries, keys, dim, true);
    let stored = |strips| (0..strips).map(|s| plan.stored_len(s) as f64).sum::<f64>();
    let again = 1.0 - stored(kept) / stored(plan.strips());
    match passes(loss) {
        // Rows and columns of twice the dimension, three times as many columns.
        Form::OneWay if loss.within_views => 18.0,
        Form::OneWay => 3.0,
        Form::BothWays => 3.0 + again,
        Form::NtXent => (3.0 + again) / 2.0,
    }
}

/// A row's loss where all cosines are 1; see [`InfoNce::ceiling`].
pub(crate) fn collapsed(loss: &InfoNce, pairs: usize) -> f64 {
    let candidates = loss.candidates(pairs).max(1);
    let scale = loss.temperature().scale();
    let negatives = candidates - 1;
    let choosing = Choosing {
        rule: Rule::new(loss.objective()),
        scale,
        margin: loss.margin * scale,
        negatives: Count::Same(negatives),
        own: Vec::new(),
        own_count: 0,
        positive_weights: Vec::new(),
        labelled: Vec::new(),
        row_weights: &[],
    };
    let each = match loss.objective() {
        Objective::Sigmoid { bias } => rule::softplus(scale + bias),
        _ => 1.0,
    };
    let first = negatives as f64 * each;
    let sums = Sums { reference: scale, other: scale, first, second: first };
    // Smoothing pulls up the mean of all candidates, of which the positive alone has a margin.
    let others = negatives as f64 / candidates as f64;
    choosing.choose(0, sums, Some(scale)).loss - loss.label_smoothing * choosing.margin * others
}

/// Which way the loss is gone about: every pair on its own is the same both ways.
fn passes(loss: &InfoNce) -> Form {
    if loss.objective().is_sigmoid() { Form::OneWay } else { loss.form() }
}

/// How `loss` will be computed, unless its reference turns out not to be safe.
fn statistics<T: Element>(
    loss: &InfoNce,
    queries: usize,
    keys: usize,
    dim: usize,
    gradient: bool,
) -> Statistics {
    let (plan, kept) = planned::<T>(loss, queries, keys, dim, gradient);
    let copies = if loss.within_views {
        // Rows and columns as they are compared, and their gradients.
        2 * (plan.rows + plan.columns) * plan.dim * size_of::<T::Real>()
    } else {
        0
    };
    Statistics {
        kept_exponentials: gradient && kept > 0,
        scratch_bytes: plan.bytes::<T::Real>(kept) + copies,
    }
}

/// How `loss` will be cut up, and how many strips of exponentials will be kept.
fn planned<T: Element>(
    loss: &InfoNce,
    queries: usize,
    keys: usize,
    dim: usize,
    gradient: bool,
) -> (Plan, usize) {
    let kernels = T::Real::kernels(loss.instructions);
    let all = queries + keys;
    let rectangle = Candidates::Rectangle { offset: loss.offset };
    let triangle = Candidates::Triangle { partner: Partner::View(queries) };
    let (rows, columns, dim, candidates) = match loss.form() {
        Form::OneWay if loss.within_views => (queries, 2 * queries + keys, 2 * dim, rectangle),
        Form::OneWay | Form::BothWays => (queries, keys, dim, rectangle),
        Form::NtXent => (all, all, dim, triangle),
    };
    let terms = Rule::new(loss.objective()).terms(loss.margin);
    let stored = gradient;
    let shape = Shape { rows, columns, dim, candidates, terms, guide: 0, moving: columns, stored };
    let plan = Plan::new(kernels, shape);
    let kept = match passes(loss) {
        Form::OneWay => 0,
        Form::BothWays | Form::NtXent => plan.kept::<T::Real>(loss.memory_budget),
    };
    (plan, kept)
}

/// One computation.
struct Run<'l, 'o, R> {
    loss: &'l InfoNce,
    team: &'l Team,
    row_weights: &'l [f64],
    /// The gradient of each query, then of each key, then of explicit negatives where it is asked
    /// for; empty for the value alone.
    out: Vec<&'o mut [R]>,
}

impl<'l, R: Real> Run<'l, '_, R> {
    fn clear(&mut self) {
        self.out.iter_mut().for_each(|row| row.fill(R::default()));
    }

    fn rows<'a, T: Element<Real = R>>(
        &self,
        first: Embeddings<'a, T>,
        second: Option<Embeddings<'a, T>>,
    ) -> Rows<'a, T> {
        Rows::new(first, second, (self.loss.similarity(), self.loss.norm_floor), self.team)
    }

    fn choosing(&self, negatives: Count) -> Choosing<'l> {
        let scale = self.loss.temperature().scale();
        Choosing {
            rule: Rule::new(self.loss.objective()),
            scale,
            margin: self.loss.margin * scale,
            negatives,
            own: Vec::new(),
            own_count: 0,
            positive_weights: Vec::new(),
            labelled: Vec::new(),
            row_weights: self.row_weights,
        }
    }

    /// Queries choose among keys and negatives, and both ways keys among queries.
    fn across<T: Element<Real = R>>(&mut self, batch: &Batch<'_, T>) -> Outcome {
        let loss = self.loss;
        let keys = batch.keys.unwrap_or(batch.queries);
        let (a, k) = (self.rows(batch.queries, None), self.rows(keys, None));
        let (n, of_keys) = (a.len(), k.len());
        let shared = match batch.negatives {
            Negatives::Shared(x) => Some(x),
            Negatives::None | Negatives::PerQuery(_) => None,
        };
        let explicit = match batch.negatives {
            Negatives::None => None,
            Negatives::Shared(x) | Negatives::PerQuery(x) => Some(self.rows(x, None)),
        };
        let own = match batch.negatives {
            Negatives::PerQuery(_) => explicit.as_ref(),
            Negatives::None | Negatives::Shared(_) => None,
        };
        // Columns, and where their gradients begin.
        let stacked = shared.filter(|_| loss.in_batch).map(|x| self.rows(keys, Some(x)));
        let (b, of_b) = match (&stacked, shared) {
            (Some(stacked), _) => (Some(stacked), n),
            (None, Some(_)) => (explicit.as_ref(), n + of_keys),
            (None, None) if loss.in_batch => (Some(&k), n),
            (None, None) => (None, n + of_keys),
        };
        let columns = b.map_or(0, Rows::len);
        let moving = self.out.len().saturating_sub(of_b).min(columns);

        let marks = batch.ids.map(|ids| self.marks(ids, n, columns, of_keys));
        let own_positive = usize::from(loss.in_batch);
        let negatives = match &marks {
            _ if batch.guide.is_some() => Count::Unknown,
            None => Count::Same(columns - own_positive),
            // The positive has the row's own id.
            Some(marks) => Count::Each(marks.others(columns)),
        };
        let mut choosing = self.choosing(negatives);
        let terms = choosing.rule.terms(choosing.margin);
        if let Some(own) = own {
            choosing.own = own::sums(&a, own, choosing.scale, terms, self.team);
            choosing.own_count = own.len() / n;
        }
        let similarity = |i: usize| a.similarity(i, &k, loss.offset + i);
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            choosing.positive_weights = positive_weights(n, sigma, similarity);
        }
        let longest_own = own.map_or(0.0, Rows::longest);
        let candidates = if loss.in_batch {
            Candidates::Rectangle { offset: loss.offset }
        } else {
            Candidates::Apart
        };
        let positives = (!loss.in_batch).then_some((&k, loss.offset));
        let guide = batch.guide.map(|guide| {
            let cosine = |first, second| {
                let compared = (crate::Similarity::Cosine, crate::NORM_FLOOR);
                Rows::new(first, second, compared, self.team)
            };
            let (of_a, of_k) = (cosine(guide.queries, None), cosine(guide.keys, None));
            let thresholds: Vec<R> =
                (0..n).map(|i| threshold(of_a.similarity(i, &of_k, i))).collect();
            (of_a, cosine(guide.keys, guide.negatives), thresholds)
        });
        let sides = Sides {
            choosing: &choosing,
            partners: &[],
            positives,
            marks: marks.as_ref(),
            guide: guide.as_ref().map(|(rows, columns, of)| (rows, columns, &of[..])),
            longest_own,
        };

        let logit = |i: usize| choosing.scale * similarity(i);
        let (chosen, back) = match b.filter(|b| b.len() > 0) {
            None => ((0..n).map(|i| choosing.choose_alone(i, logit(i))).collect(), Vec::new()),
            Some(b) => self.chosen((&a, 0), (b, of_b), candidates, moving, &sides),
        };
        let mut outcome =
            if back.is_empty() { Outcome::of(&chosen) } else { Outcome::both(&chosen, &back) };

        let hidden = marks.as_ref().map_or((&[][..], &[][..]), |m| (&m.rows[..], &m.columns[..]));
        let hide = marks.is_some();
        let linear = Linear {
            choosing: &choosing,
            a: &a,
            even: b.map(|b| Even { a: &a, b, itself: false, marks: hidden, hide }),
            positive: &|i| Some((loss.offset + i, logit(i))),
            positives: &k,
            apart: hide || !loss.in_batch,
            own,
            places: Places { of_a: 0, of_b, moving, of_positives: n },
            share: if loss.form() == Form::BothWays { 0.5 } else { 1.0 },
        };
        let even = self.pull_linear(&linear, &mut outcome);
        if loss.form() == Form::BothWays {
            let swapped = (hidden.1, hidden.0);
            let back = Linear {
                a: &k,
                even: Some(Even { a: &k, b: &a, itself: false, marks: swapped, hide }),
                positives: &a,
                places: Places { of_a: n, of_b: 0, moving: n, of_positives: 0 },
                ..linear
            };
            self.pull_linear(&back, &mut outcome);
        }
        if !self.out.is_empty() {
            if !loss.in_batch {
                let pulls = chosen.iter().enumerate();
                let pulls = pulls.map(|(i, chosen)| (i, loss.offset + i, chosen.positive));
                self.pull_pairs((&a, 0), (&k, n), pulls);
            }
            if let Some(own) = own {
                let (of_a, rest) = self.out.split_at_mut(n);
                let of_own = &mut rest[of_keys..];
                own::gradients((&a, own), &choosing, (&chosen, &even), of_a, of_own, self.team);
            }
        }
        let mut segments = vec![(&a, n), (&k, of_keys)];
        segments.extend(explicit.as_ref().map(|explicit| (explicit, explicit.len())));
        self.through_comparison(&segments, &mut outcome, (n, 1.0));
        outcome
    }

    /// Every row chooses among all others.
    fn among_themselves<T: Element<Real = R>>(&mut self, batch: &Batch<'_, T>) -> Outcome {
        let loss = self.loss;
        let z = self.rows(batch.queries, batch.keys);
        let (n, pairs) = (z.len(), batch.queries.rows());
        let of_rows = |of: &[u64]| Small::new().all((0..n).map(|i| of[i % pairs]));
        let labels = batch.labels.map(of_rows);
        let ids = batch.ids.map(of_rows);
        let panels = n.next_multiple_of(R::kernels(loss.instructions).width);
        let same = labels.as_ref().or(ids.as_ref());
        let marks = same.map(|m| Marks::new(m.clone(), m.clone(), panels, ids.is_some()));

        let mut partners = Vec::new();
        let (choosing, partner) = match &labels {
            Some(labels) => {
                let (listed, labelled, negatives) = marks::by_label(labels);
                partners = listed;
                let mut choosing = self.choosing(negatives);
                choosing.labelled = labelled;
                (choosing, Partner::Listed)
            }
            None => {
                let negatives = match &marks {
                    None => Count::Same(n - 2),
                    // Itself and its positive have the row's own id.
                    Some(marks) => Count::Each(marks.others(n)),
                };
                (self.choosing(negatives), Partner::View(pairs))
            }
        };
        let mut choosing = choosing;
        if let Objective::DecoupledWeighted { sigma } = loss.objective() {
            let weights = positive_weights(pairs, sigma, |i| z.similarity(i, &z, i + pairs));
            choosing.positive_weights = [&weights[..], &weights[..]].concat();
        }
        let empty: &[u32] = &[];
        let of_marks = same.map_or((empty, empty), |m| (&m[..], &m[..]));
        let even = Even { a: &z, b: &z, itself: true, marks: of_marks, hide: ids.is_some() };
        let scale = choosing.scale;
        if choosing.rule == Rule::LabelsOutside {
            let sums = even.similarities_of_positives();
            for (labelled, sum) in choosing.labelled.iter_mut().zip(sums) {
                let count = labelled.positives.max(1) as f64;
                labelled.mean = scale * sum / count - choosing.margin;
            }
        }
        let sides = Sides {
            choosing: &choosing,
            partners: &partners,
            positives: None,
            marks: marks.as_ref(),
            guide: None,
            longest_own: 0.0,
        };
        let triangle = Candidates::Triangle { partner };
        let (chosen, _) = self.chosen((&z, 0), (&z, 0), triangle, n, &sides);
        let mut outcome = Outcome::of(&chosen);
        let linear = Linear {
            choosing: &choosing,
            a: &z,
            even: Some(even),
            positive: &|i| {
                let partner = match partner {
                    Partner::View(pairs) => (i + pairs) % n,
                    Partner::Listed => *partners.get(i).filter(|&&j| j != NONE)? as usize,
                };
                Some((partner, scale * z.similarity(i, &z, partner)))
            },
            positives: &z,
            apart: ids.is_some(),
            own: None,
            places: Places { of_a: 0, of_b: 0, moving: 0, of_positives: 0 },
            share: 1.0,
        };
        self.pull_linear(&linear, &mut outcome);
        self.through_comparison(&[(&z, n)], &mut outcome, (n, 0.5));
        outcome
    }

    /// Ids of queries, keys and shared negatives.
    fn marks(&self, ids: &[u64], n: usize, columns: usize, keys: usize) -> Marks {
        let mut small = Small::new();
        let all = small.all(ids.iter().copied());
        let rows = all[self.loss.offset..self.loss.offset + n].to_vec();
        let from = if self.loss.in_batch { 0 } else { keys };
        let mut of_columns = all[from.min(all.len())..].to_vec();
        of_columns.resize(columns, NONE);
        let panels = columns.next_multiple_of(R::kernels(self.loss.instructions).width);
        Marks::new(rows, of_columns, panels, true)
    }

    /// What the choices of rows come to and, both ways, those of columns; gradients are added to what
    /// there is. First with one reference for all; where that is not safe, one way at a time.
    fn chosen<T: Element<Real = R>>(
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
        let choosing = sides.choosing;
        let (power, _) = choosing.rule.terms(choosing.margin).powers();
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
            terms: choosing.rule.terms(choosing.margin),
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

    /// `out_i += weight b_p`, `out_p += weight a_i` for pairs (i, p, weight) of a row of `a` and one of
    /// `b`.
    fn pull_pairs<T: Element<Real = R>>(
        &mut self,
        (a, of_a): Side<'_, T>,
        (b, of_b): Side<'_, T>,
        pairs: impl Iterator<Item = (usize, usize, f64)>,
    ) {
        let (mut row, mut positive) = (vec![R::default(); a.dim()], vec![R::default(); a.dim()]);
        for (i, p, weight) in pairs.filter(|(_, _, weight)| *weight != 0.0) {
            a.read(i, &mut row);
            b.read(p, &mut positive);
            for (at, other) in [(of_a + i, &positive), (of_b + p, &row)] {
                for (out, x) in self.out[at].iter_mut().zip(other) {
                    *out += R::from_f64(weight * x.f64());
                }
            }
        }
    }

    /// What is linear in the logits: label smoothing, `L_i += α (mean_P s − mean_candidates s)`, and
    /// for rows with several positives `−mean_P s`, whose value is in their loss already. Returns what
    /// smoothing weighs each candidate of a row by.
    fn pull_linear<T: Element<Real = R>>(
        &mut self,
        linear: &Linear<'_, '_, T>,
        outcome: &mut Outcome,
    ) -> Vec<f64> {
        let Linear { choosing, a, even, positive, apart, own, places, share, .. } = linear;
        let smoothing = self.loss.label_smoothing;
        let several = choosing.rule == Rule::LabelsOutside;
        if smoothing == 0.0 && !several {
            return Vec::new();
        }
        let labelled = |i: usize| choosing.labelled.get(i).copied();
        let positives = |i: usize| labelled(i).map_or(1, |labelled| labelled.positives);
        let candidates = |i: usize| {
            let negatives = choosing.negatives(i).unwrap_or(0) + choosing.own_count;
            (negatives + positives(i)) as f64
        };
        let weight = |i: usize| {
            let weight = choosing.row_weights.get(i).copied().unwrap_or(1.0);
            if positives(i) == 0 { 0.0 } else { weight }
        };
        let of_all: Vec<f64> =
            (0..a.len()).map(|i| -smoothing * weight(i) / candidates(i).max(1.0)).collect();
        let of_several = |i: usize| match labelled(i) {
            Some(labelled) if labelled.positives > 1 => {
                weight(i) * (smoothing - 1.0) / labelled.positives as f64
            }
            _ => 0.0,
        };
        let of_positives: Vec<f64> = (0..a.len()).map(of_several).collect();

        if smoothing > 0.0 {
            let sums = even.as_ref().map_or_else(Vec::new, Even::similarities);
            for i in (0..a.len()).filter(|&i| positives(i) > 0) {
                let single = positive(i).map(|(_, logit)| logit - choosing.margin);
                let mean = single.or(labelled(i).map(|labelled| labelled.mean)).unwrap_or(0.0);
                let mut sum = choosing.scale * sums.get(i).copied().unwrap_or(0.0);
                sum += match (apart, single) {
                    (true, Some(logit)) => logit,
                    _ => -choosing.margin * positives(i) as f64,
                };
                sum += own.map_or(0.0, |own| own::total(a, own, choosing.scale, i));
                outcome.losses[i] += share * smoothing * (mean - sum / candidates(i));
                let pull = smoothing * weight(i) + of_all[i] * positives(i) as f64;
                outcome.explicit -= choosing.margin * pull;
            }
        }
        if self.out.is_empty() {
            return of_all;
        }
        if let Some(even) = even {
            let coefficients = Coefficients { of_all: &of_all, of_positives: &of_positives };
            let mut out: Vec<&mut [R]> = self.out.iter_mut().map(|row| &mut **row).collect();
            let (low, high) = out.split_at_mut(places.of_a.max(places.of_b));
            let n = a.len();
            if even.itself {
                even.gradients(&coefficients, &mut high[..n], &mut []);
            } else if places.of_a < places.of_b {
                let of_a = &mut low[places.of_a..places.of_a + n];
                even.gradients(&coefficients, of_a, &mut high[..places.moving]);
            } else {
                let of_b = &mut low[places.of_b..places.of_b + places.moving];
                even.gradients(&coefficients, &mut high[..n], of_b);
            }
        }
        let pulls = (0..a.len()).filter_map(|i| {
            let (p, _) = positive(i)?;
            let with_others = if *apart { of_all[i] } else { 0.0 };
            Some((i, p, smoothing * weight(i) + with_others))
        });
        let pulls: Vec<_> = pulls.collect();
        let (a, b) = ((*a, places.of_a), (linear.positives, places.of_positives));
        self.pull_pairs(a, b, pulls.into_iter());
        of_all
    }

    /// Gradients by rows as they are compared become gradients by the rows themselves, of the mean or
    /// of the sum. `segments` are the matrices in the order of the gradients, with their rows; the
    /// derivative by log(1/τ) is `share` times what the first `counted` rows have along themselves,
    /// as stacked views count every pair of rows from both sides.
    fn through_comparison<T: Element<Real = R>>(
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

    fn value(&self, outcome: Outcome, statistics: Statistics) -> Value {
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
struct Sides<'p, 'g, T: Element> {
    choosing: &'p Choosing<'p>,
    partners: &'p [u32],
    positives: Option<(&'p Rows<'p, T>, usize)>,
    marks: Option<&'p Marks>,
    guide: Option<GuideRows<'p, 'g, T>>,
    /// The longest of the negatives that rows have for themselves.
    longest_own: f64,
}

/// A guide's rows and columns, and each row's threshold.
type GuideRows<'p, 'g, T> = (&'p Rows<'p, T>, &'g Rows<'p, T>, &'p [<T as Element>::Real]);

/// What [`Run::pull_linear`] goes through.
#[derive(Clone, Copy)]
struct Linear<'p, 'a, T: Element> {
    choosing: &'p Choosing<'p>,
    a: &'p Rows<'a, T>,
    even: Option<Even<'p, 'a, T>>,
    /// Row i's positive, where it has one alone, and its logit without the margin.
    positive: &'p dyn Fn(usize) -> Option<(usize, f64)>,
    positives: &'p Rows<'a, T>,
    /// The positive is not among what `even` adds up.
    apart: bool,
    own: Option<&'p Rows<'a, T>>,
    places: Places,
    share: f64,
}

/// Where among all gradients those of rows, of columns and of positives begin, and of how many columns
/// they are asked for.
#[derive(Clone, Copy)]
struct Places {
    of_a: usize,
    of_b: usize,
    moving: usize,
    of_positives: usize,
}

/// What the decoupled loss multiplies the positives by: `2 − n·softmax_i(similarity_i / σ)`.
fn positive_weights(n: usize, sigma: f64, similarity: impl Fn(usize) -> f64) -> Vec<f64> {
    let scaled: Vec<f64> = (0..n).map(|i| similarity(i) / sigma).collect();
    let largest = scaled.iter().fold(f64::NEG_INFINITY, |x, &y| x.max(y));
    let sum: f64 = scaled.iter().map(|s| (s - largest).exp()).sum();
    scaled.iter().map(|s| 2.0 - n as f64 * (s - largest).exp() / sum).collect()
}

/// What a guide must find above `similarity` to call a candidate a false negative: rounding alone must
/// not make one of what it finds equal.
fn threshold<R: Real>(similarity: f64) -> R {
    let rounding = if size_of::<R>() == 4 { 2e-6 } else { 4e-15 };
    R::from_f64(similarity + rounding)
}
