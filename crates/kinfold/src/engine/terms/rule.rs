//! From a row's sums to its loss, and to the factors that make weights of its exponentials.
//!
//! Comes in: what a row's logits add up to, and its positive's logit, in f64. Goes out: a loss and
//! derivatives. This is where one loss differs from another; the strips see sums and factors alone.
//!
//! With `lnN = ln(first) + reference`, s the positive's logit less its margin, `σ(t) = 1/(1 + e^−t)`:
//!
//! ```text
//! softmax      L = ln(1 + e^t),  t = lnN − s         ∂L/∂lnN = σ(t)           ∂L/∂s = −σ(t)
//! decoupled    L = lnN − w s                         ∂L/∂lnN = 1              ∂L/∂s = −w
//! corrected    L = ln(1 + e^t),  t = ln g − s        through g, see `corrected`
//! labels, out  L = ln(N + Q) − mean_P s              ∂L/∂lnN = N/(N+Q)        ∂L/∂lnQ = Q/(N+Q)
//! labels, in   L = ln(1 + e^t) + ln|P|,  t = lnN − lnQ      ∂L/∂lnN = σ(t) = −∂L/∂lnQ
//! sigmoid      L = first + ln(1 + e^−x),  x = s + b  ∂L/∂first = 1            ∂L/∂s = −σ(−x)
//! ```
//!
//! Q is the sum over the row's own label. Nothing here takes the difference of two numbers that are
//! nearly the same where the loss is small.

use crate::loss::{ContrastiveLoss, Objective};

/// What the strips add up for each element of the matrix of logits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Terms {
    /// `exp(s)`.
    One,
    /// `exp(s)`, columns of another label and those of the row's own apart: N and Q.
    ByLabel,
    /// `exp((1 + β) s)` and `exp(β s)`.
    Powers(f64),
    /// `ln(1 + exp(s + b))`, whose derivative `σ(s + b)` is added up, too.
    Sigmoid(f64),
}

/// How a row's sums become its loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    Softmax,
    Decoupled,
    /// τ⁺ and β; without β, `first` are the negatives themselves.
    Corrected {
        share: f64,
        tilt: Option<f64>,
    },
    LabelsOutside,
    LabelsInside,
    Sigmoid {
        bias: f64,
    },
}

impl Rule {
    pub(crate) fn new(objective: Objective) -> Self {
        match objective {
            Objective::Softmax => Self::Softmax,
            Objective::Decoupled | Objective::DecoupledWeighted { .. } => Self::Decoupled,
            Objective::Debiased { positive_share: share } => Self::Corrected { share, tilt: None },
            Objective::HardNegatives { positive_share: share, concentration } => {
                Self::Corrected { share, tilt: (concentration > 0.0).then_some(concentration) }
            }
            Objective::SupConOutside => Self::LabelsOutside,
            Objective::SupConInside => Self::LabelsInside,
            Objective::Sigmoid { bias } => Self::Sigmoid { bias },
        }
    }

    /// What it needs added up, given that the positives have a `margin`.
    pub(crate) fn terms(self, margin: f64) -> Terms {
        match self {
            Self::Softmax | Self::Decoupled | Self::Corrected { tilt: None, .. } => Terms::One,
            Self::Corrected { tilt: Some(tilt), .. } => Terms::Powers(tilt),
            Self::LabelsOutside if margin == 0.0 => Terms::One,
            Self::LabelsOutside | Self::LabelsInside => Terms::ByLabel,
            Self::Sigmoid { bias } => Terms::Sigmoid(bias),
        }
    }
}

impl Terms {
    /// What the logits of the sums are multiplied by beforehand.
    pub(crate) fn powers(self) -> (f64, f64) {
        match self {
            Self::Powers(tilt) => (1.0 + tilt, tilt),
            Self::One | Self::ByLabel | Self::Sigmoid(_) => (1.0, 1.0),
        }
    }

    /// Whether there are two sums.
    pub(crate) fn two(self) -> bool {
        self != Self::One
    }

    /// Whether weights are the terms themselves times a factor of the row, so that they can be
    /// multiplied with the columns before the factor is known.
    pub(crate) fn single_pass(self) -> bool {
        matches!(self, Self::One | Self::Sigmoid(_))
    }
}

/// What a row's logits add up to: `Σ exp(κ₁ (s − reference))` and `Σ exp(κ₂ (s − other))`.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sums {
    pub(crate) reference: f64,
    pub(crate) first: f64,
    pub(crate) other: f64,
    pub(crate) second: f64,
}

/// Negatives that a row has for itself: their largest logit, and the logarithms of both sums.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own {
    pub(crate) largest: f64,
    pub(crate) first: f64,
    pub(crate) second: f64,
}

/// What one row's, or one column's, choice comes to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chosen {
    pub(crate) loss: f64,
    /// What terms are multiplied by to become weights.
    pub(crate) first: f64,
    pub(crate) second: f64,
    /// The positive's weight.
    pub(crate) positive: f64,
    /// The derivative by log(1/τ) beyond what logits without a margin account for.
    pub(crate) explicit: f64,
    /// The derivative by the sigmoid's bias.
    pub(crate) bias: f64,
    pub(crate) reference: f64,
}

/// Everything about rows that choose but their logits.
#[derive(Debug)]
pub(crate) struct Choosing<'p> {
    pub(crate) rule: Rule,
    /// 1/τ.
    pub(crate) scale: f64,
    /// The margin, in logits.
    pub(crate) margin: f64,
    /// Negatives among the columns, of every row, or of each.
    pub(crate) negatives: Count,
    /// Negatives of a row alone, beyond the columns; empty without.
    pub(crate) own: Vec<Own>,
    /// How many those are, of each row.
    pub(crate) own_count: usize,
    /// What the decoupled loss multiplies positives by; empty for 1.
    pub(crate) positive_weights: Vec<f64>,
    /// Several positives of each row; empty where a row has one.
    pub(crate) labelled: Vec<Labelled>,
    /// Empty for 1.
    pub(crate) row_weights: &'p [f64],
}

/// A row's positives by label.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Labelled {
    pub(crate) positives: usize,
    /// The mean of their logits, margin taken off; asked for where there are several.
    pub(crate) mean: f64,
}

/// A number for each row.
#[derive(Debug)]
pub(crate) enum Count {
    Same(usize),
    Each(Vec<usize>),
    /// A guide decides.
    Unknown,
}

impl<'p> Choosing<'p> {
    /// Rows that choose as `loss` says, each with one positive.
    pub(crate) fn new(loss: &ContrastiveLoss, negatives: Count, row_weights: &'p [f64]) -> Self {
        let scale = loss.temperature().scale();
        Self {
            rule: Rule::new(loss.objective()),
            scale,
            margin: loss.margin * scale,
            negatives,
            own: Vec::new(),
            own_count: 0,
            positive_weights: Vec::new(),
            labelled: Vec::new(),
            row_weights,
        }
    }

    /// What is to be added up for each row.
    pub(crate) fn terms(&self) -> Terms {
        self.rule.terms(self.margin)
    }

    /// Negatives of row i among the columns, where that is known.
    pub(crate) fn negatives(&self, i: usize) -> Option<usize> {
        match &self.negatives {
            Count::Same(count) => Some(*count),
            Count::Each(counts) => Some(counts[i]),
            Count::Unknown => None,
        }
    }

    /// Whether row i's sums have lost too much to underflow, which a row's own negatives may, too.
    pub(crate) fn lost(&self, i: usize, first: f64, second: Option<f64>, least: f64) -> bool {
        let several = self.labelled.get(i).is_some_and(|labelled| labelled.positives > 1);
        let by_label = !self.labelled.is_empty();
        // In one sum over all other rows, several positives are among them.
        let has_some = self.negatives(i) != Some(0)
            || self.own_count > 0
            || (several && second.is_none() && self.rule == Rule::LabelsOutside);
        (has_some && first < least)
            || second
                .is_some_and(|second| second < least && if by_label { several } else { has_some })
    }

    /// What row i's choice comes to, given its sums over columns and its positive's logit, if it has
    /// one of its own.
    pub(crate) fn choose(&self, i: usize, mut sums: Sums, positive: Option<f64>) -> Chosen {
        let terms = self.terms();
        if let Some(own) = self.own.get(i) {
            let (first, second) = terms.powers();
            sums.first += (own.first - first * sums.reference).exp();
            if terms.two() {
                sums.second += (own.second - second * sums.other).exp();
            }
        }
        let positive = positive.map(|logit| logit - self.margin);
        let labelled = self.labelled.get(i).copied();
        let chosen = match (self.rule, labelled) {
            (Rule::LabelsOutside | Rule::LabelsInside, Some(Labelled { positives: 0, .. })) => None,
            (Rule::LabelsOutside, Some(labelled)) if labelled.positives > 1 => {
                Some(self.outside(&sums, labelled))
            }
            (Rule::LabelsInside, Some(labelled)) if labelled.positives > 1 => {
                Some(self.inside(&sums, labelled))
            }
            (Rule::Softmax | Rule::LabelsOutside | Rule::LabelsInside, _) => {
                positive.and_then(|s| self.softmax(&sums, s))
            }
            (Rule::Decoupled, _) => {
                let weight = self.positive_weights.get(i).copied().unwrap_or(1.0);
                positive.and_then(|s| self.decoupled(&sums, s, weight))
            }
            (Rule::Corrected { share, tilt }, _) => {
                let negatives = self.negatives(i).unwrap_or(0) + self.own_count;
                positive.and_then(|s| self.corrected(&sums, s, negatives, share, tilt))
            }
            (Rule::Sigmoid { bias }, _) => positive.map(|s| sigmoid(&sums, s + bias)),
        };
        let mut chosen = chosen.unwrap_or_default();
        chosen.reference = sums.reference;
        if let Some(&weight) = self.row_weights.get(i) {
            for x in [
                &mut chosen.first,
                &mut chosen.second,
                &mut chosen.positive,
                &mut chosen.explicit,
                &mut chosen.bias,
            ] {
                *x *= weight;
            }
        }
        chosen
    }

    /// [`choose`](Self::choose) where there are no columns, and row i has but negatives of its own.
    pub(crate) fn choose_alone(&self, i: usize, positive: f64) -> Chosen {
        let largest = self.own.get(i).map_or(0.0, |own| own.largest);
        let reference = if largest.is_finite() { largest } else { 0.0 };
        let sums = Sums { reference, other: reference, ..Sums::default() };
        self.choose(i, sums, Some(positive))
    }

    fn softmax(&self, sums: &Sums, s: f64) -> Option<Chosen> {
        if sums.first == 0.0 {
            return None; // No negatives, nothing to choose among.
        }
        let t = sums.first.ln() + sums.reference - s;
        let share = logistic(t);
        Some(Chosen {
            loss: softplus(t),
            first: share / sums.first,
            positive: -share,
            explicit: share * self.margin,
            ..Chosen::default()
        })
    }

    fn decoupled(&self, sums: &Sums, s: f64, weight: f64) -> Option<Chosen> {
        if sums.first == 0.0 {
            return None;
        }
        Some(Chosen {
            loss: sums.first.ln() + sums.reference - weight * s,
            first: sums.first.recip(),
            positive: -weight,
            explicit: weight * self.margin,
            ..Chosen::default()
        })
    }

    /// `g = max((R − τ⁺ N pos) / (1 − τ⁺), N exp(−1/τ))` for the negatives, R their sum or, tilted,
    /// `N Σ exp((1+β)s) / Σ exp(βs)`; all of it relative to pos, the positive's exponential.
    fn corrected(
        &self,
        sums: &Sums,
        s: f64,
        negatives: usize,
        share: f64,
        tilt: Option<f64>,
    ) -> Option<Chosen> {
        if sums.first == 0.0 || negatives == 0 {
            return None;
        }
        let n = negatives as f64;
        let ln_r =
            sums.first.ln() + sums.reference - s + tilt.map_or(0.0, |_| n.ln() - sums.second.ln());
        // r − τ⁺N, and r over it; far up the second term is nothing beside the first.
        let (ln_left, ratio) = if ln_r > 600.0 {
            (ln_r, 1.0)
        } else {
            let (r, left) = (ln_r.exp(), ln_r.exp() - share * n);
            if left > 0.0 { (left.ln(), r / left) } else { (f64::NEG_INFINITY, 0.0) }
        };
        let free = ln_left - (1.0 - share).ln();
        let bound = n.ln() - self.scale - s;
        if free <= bound {
            let pull = logistic(bound);
            return Some(Chosen {
                loss: softplus(bound),
                positive: -pull,
                explicit: pull * (self.margin - self.scale),
                ..Chosen::default()
            });
        }
        let pull = logistic(free) * ratio;
        let tilted = tilt.unwrap_or(0.0);
        Some(Chosen {
            loss: softplus(free),
            first: (1.0 + tilted) * pull / sums.first,
            second: tilt.map_or(0.0, |tilt| -tilt * pull / sums.second),
            positive: -pull,
            explicit: pull * self.margin,
            ..Chosen::default()
        })
    }

    fn outside(&self, sums: &Sums, labelled: Labelled) -> Chosen {
        let of_others = sums.first.ln() + sums.reference;
        if self.terms() == Terms::One {
            let loss = of_others - labelled.mean;
            return Chosen { loss, first: sums.first.recip(), ..Chosen::default() };
        }
        let of_own = sums.second.ln() + sums.other - self.margin;
        let top = of_others.max(of_own);
        let all = top + ((of_others - top).exp() + (of_own - top).exp()).ln();
        let shares = ((of_others - all).exp(), (of_own - all).exp());
        Chosen {
            loss: all - labelled.mean,
            first: over(shares.0, sums.first),
            second: over(shares.1, sums.second),
            // The positives' weights together are their share less 1.
            explicit: -self.margin * (shares.1 - 1.0),
            ..Chosen::default()
        }
    }

    fn inside(&self, sums: &Sums, labelled: Labelled) -> Chosen {
        let t = (sums.first.ln() + sums.reference) - (sums.second.ln() + sums.other - self.margin);
        let share = logistic(t);
        Chosen {
            loss: softplus(t) + (labelled.positives as f64).ln(),
            first: over(share, sums.first),
            second: over(-share, sums.second),
            explicit: self.margin * share,
            ..Chosen::default()
        }
    }
}

fn sigmoid(sums: &Sums, x: f64) -> Chosen {
    let pull = logistic(-x);
    Chosen {
        loss: sums.first + softplus(-x),
        first: 1.0,
        positive: -pull,
        bias: sums.second - pull,
        ..Chosen::default()
    }
}

/// `ln(1 + e^t)`, to the last digits where it is small.
pub(crate) fn softplus(t: f64) -> f64 {
    if t > 0.0 { t + (-t).exp().ln_1p() } else { t.exp().ln_1p() }
}

/// `1 / (1 + e^−t)`.
fn logistic(t: f64) -> f64 {
    (1.0 + (-t).exp()).recip()
}

/// x / y, and nothing where there is nothing to divide among.
fn over(x: f64, y: f64) -> f64 {
    if y == 0.0 { 0.0 } else { x / y }
}
