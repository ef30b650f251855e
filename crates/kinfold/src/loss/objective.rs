//! How the logits of a row become its loss: what an objective is, what its numbers may be, and what
//! it goes together with. The formulas are in [`reference`](super::reference).

use crate::Error;

/// How the logits of a row become its loss. Notation: `s_p` the positive's logit, `P` the positives,
/// `neg = Σ exp(s_j)` over the row's N negatives, `pos = exp(s_p)`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Objective {
    /// `ln(1 + neg / pos)`: cross-entropy, InfoNCE (van den Oord et al. 2018).
    Softmax,
    /// `ln neg − s_p`: the positive is left out of the denominator, DCL (Yeh et al. 2022). May be
    /// negative.
    Decoupled,
    /// `ln neg − w_i s_p`, `w_i = 2 − n·softmax_i(cos_ip / σ)` over the pairs: DCLW (Yeh et al.
    /// 2022), which pulls distant pairs more. The weights count as constants.
    DecoupledWeighted {
        /// σ, above 0; 0.5 in the paper.
        sigma: f64,
    },
    /// `ln(1 + g / pos)`, `g = max((neg − τ⁺ N pos) / (1 − τ⁺), N·exp(−1/τ))`: negatives corrected
    /// for the share τ⁺ of them that are positives (Chuang et al. 2020).
    Debiased {
        /// τ⁺, at least 0 and below 1; 0.1 in the paper.
        positive_share: f64,
    },
    /// As [`Debiased`](Self::Debiased), with `N·Σ e^((1+β)s) / Σ e^(βs)` for `neg`: hard negatives
    /// weigh more, HCL (Robinson et al. 2021).
    HardNegatives {
        /// τ⁺, at least 0 and below 1; 0.1 in the paper.
        positive_share: f64,
        /// β, at least 0; 1 in the paper, and 0 is [`Debiased`](Self::Debiased).
        concentration: f64,
    },
    /// `ln Σ_{all others} exp(s_j) − mean_P s`: every row of the same label is a positive, the mean
    /// outside the logarithm (SupCon, Khosla et al. 2020, `L_out`). A row without a positive gives 0.
    SupConOutside,
    /// `ln Σ_{all others} exp(s_j) − ln mean_P exp(s)`: the mean inside (`L_in`). A row without a
    /// positive gives 0.
    SupConInside,
    /// `((λ Z)^q − exp(q s_p)) / q`, `Z = pos + neg`: RINCE, robust to false pairs (Chuang et al. 2022).
    /// As q tends to 0 it tends to cross-entropy, up to the constant ln λ; at q = 1 it is symmetric, and
    /// a false pair pulls no harder than a true one. May be negative.
    Rince {
        /// q, above 0 and at most 1; 0.5 in the paper.
        q: f64,
        /// λ, above 0, the weight of the denominator; 0.01 to 0.05 in the paper.
        lambda: f64,
    },
    /// `ln(1 + exp(−s_p − b)) + Σ ln(1 + exp(s_j + b))`: every pair on its own, SigLIP (Zhai et al.
    /// 2023). The mean is over rows, not over pairs.
    Sigmoid {
        /// b, added to every logit; −10 at the start of training in the paper.
        bias: f64,
    },
}

impl Objective {
    /// Every number is in its range.
    pub(crate) fn check(self) -> Result<(), Error> {
        match self {
            Self::DecoupledWeighted { sigma } => above_0("sigma", sigma),
            Self::Debiased { positive_share } => share(positive_share),
            Self::HardNegatives { positive_share, concentration } => {
                share(positive_share)?;
                let right = concentration >= 0.0 && concentration.is_finite();
                let needed = "a finite number of at least 0";
                in_range("the concentration", concentration, right, needed)
            }
            Self::Rince { q, lambda } => {
                in_range("q", q, q > 0.0 && q <= 1.0, "above 0 and at most 1")?;
                above_0("lambda", lambda)
            }
            Self::Sigmoid { bias } => finite("the bias", bias),
            Self::Softmax | Self::Decoupled | Self::SupConOutside | Self::SupConInside => Ok(()),
        }
    }

    /// Whether labels say which rows are positives.
    pub(crate) fn has_labels(self) -> bool {
        matches!(self, Self::SupConOutside | Self::SupConInside)
    }

    pub(crate) fn is_sigmoid(self) -> bool {
        matches!(self, Self::Sigmoid { .. })
    }

    pub(crate) fn is_decoupled(self) -> bool {
        matches!(self, Self::Decoupled | Self::DecoupledWeighted { .. })
    }

    /// Whether a lower bound on the negatives assumes rows of unit length.
    pub(crate) fn is_corrected(self) -> bool {
        matches!(self, Self::Debiased { .. } | Self::HardNegatives { .. })
    }

    /// Whether it is the cross-entropy of one softmax over all candidates, whose target can be
    /// smoothed.
    pub(crate) fn is_cross_entropy(self) -> bool {
        matches!(self, Self::Softmax | Self::SupConOutside)
    }
}

/// An error that names the setting unless it is `right`.
pub(super) fn in_range(
    name: &'static str,
    given: f64,
    right: bool,
    needed: &'static str,
) -> Result<(), Error> {
    if right { Ok(()) } else { Err(Error::Setting { name, given, needed }) }
}

pub(super) fn above_0(name: &'static str, given: f64) -> Result<(), Error> {
    in_range(name, given, given > 0.0 && given.is_finite(), "a finite number above 0")
}

pub(super) fn finite(name: &'static str, given: f64) -> Result<(), Error> {
    in_range(name, given, given.is_finite(), "a finite number")
}

fn share(given: f64) -> Result<(), Error> {
    let right = (0.0..1.0).contains(&given);
    in_range("the share of positives", given, right, "at least 0 and below 1")
}

/// What becomes of the rows' losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Reduction {
    /// `Σ w_i L_i / Σ w_i`; all weights are 1 unless said otherwise.
    Mean,
    /// `Σ w_i L_i`.
    Sum,
}
