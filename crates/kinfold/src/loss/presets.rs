//! Named settings under which the loss is the same number as a known piece of code's.
//!
//! Each is held, value and gradients, against what that code answers: `tests/golden` has its answers
//! and `tests/golden/README.md` its versions. A preset is the loss alone. Whatever the code does
//! beside it, the documentation of the preset says.

use super::{ContrastiveLoss, Form, Objective, Similarity, Temperature};
use crate::Error;

/// A named setting. Each is a test against values made by what it is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// `cross-entropy`: normalise both sides, multiply, cross-entropy against `arange(n)`. That is
    /// InfoNCE one way at τ = 1, which leaves it at most one nat below ln n; see
    /// [`ContrastiveLoss::floor`]. Held against torch 2.15.0, `F.cross_entropy`.
    CrossEntropy,
    /// `info-nce-pytorch`: InfoNCE one way at τ = 0.1. Held against info-nce-pytorch 0.1.4. Its
    /// explicit negatives replace the other keys of the batch: with them, add
    /// [`.with_in_batch_negatives(false)`](ContrastiveLoss::with_in_batch_negatives). Its `unpaired` ones are
    /// [shared](super::Batch::with_negatives), its `paired` ones
    /// [per query](super::Batch::with_negatives_per_query).
    InfoNcePytorch,
    /// `lightly-ntxent`: NT-Xent at τ = 0.5. Held against lightly 1.6.0, `NTXentLoss` without a
    /// memory bank (with one it is [`MoCo`](Self::MoCo)).
    LightlyNtXent,
    /// `simclr-tf`: twice NT-Xent, at τ = 0.1, and the length that rows are divided by is at least
    /// 1e-6. Held against google-research/simclr, `tf2/objective.py`, re-derived in torch 2.15.0;
    /// its two losses are added up, and τ = 0.1 is its training script's.
    SimClrTf,
    /// `pml-ntxent`: NT-Xent at τ = 0.07. Held against pytorch-metric-learning 2.9.0, `NTXentLoss`,
    /// for two views of each thing. With more views, or labels, it gives each pair of positives a
    /// denominator of its own, which this is not.
    PmlNtXent,
    /// `supcon`: SupCon with the mean outside at τ = 0.07, over dot products: normalise first. Held
    /// against HobbitLong/SupContrast, `losses.py`, re-derived in torch 2.15.0. It multiplies by
    /// τ/0.07, which is 1 here; for another temperature take [`Preset::at`], or
    /// `.with_temperature(t).with_factor(t / 0.07)`. A learned temperature has that factor's
    /// derivative, too: take the loss itself off `log_scale`.
    SupCon,
    /// `open-clip`: both ways over dot products, at the scale that training starts with,
    /// 1/τ = 1/0.07. Held against open-clip-torch 3.3.0, `ClipLoss`. The scale is learned, and
    /// clamped after each step: [`Preset::log_scale_bounds`]. The model normalises: do so, or take
    /// the cosine.
    OpenClip,
    /// `siglip`: the sigmoid loss over dot products, at the scale and bias that training starts with,
    /// 1/τ = 10 and −10. Held against open-clip-torch 3.3.0, `SigLipLoss`, in one process. Scale and
    /// bias are learned. The model normalises: do so, or take the cosine.
    SigLip,
    /// `sentence-transformers-mnrl`: one way at scale 20, τ = 0.05. Held against
    /// sentence-transformers 6.2.0, `MultipleNegativesRankingLoss`. Its hard negatives are those of
    /// every anchor: [share](super::Batch::with_negatives) them.
    SentenceTransformersMnrl,
    /// `sentence-transformers-gist`: one way and within views at τ = 0.01; the length that rows are
    /// divided by is at least 1e-8. Held against sentence-transformers 6.2.0, `GISTEmbedLoss`. It
    /// wants a [guide](super::Batch::with_guide), and shares hard negatives as
    /// [`SentenceTransformersMnrl`](Self::SentenceTransformersMnrl) does. Where a guide finds query
    /// and key equal, a row is among its own negatives there, and so it is here.
    SentenceTransformersGist,
    /// `moco`: key i against a queue at τ = 0.07 (0.2 in MoCo v2), without the other keys. Held
    /// against lightly 1.6.0, `NTXentLoss` with a memory bank. The queue is the shared
    /// [negatives](super::Batch::with_negatives). To keep one, of 65536 rows, and to add the keys to
    /// it after the step, is the training loop's business; so is the momentum of 0.999 of the encoder
    /// that keys come from. Keys have no gradient there: drop it.
    MoCo,
    /// `dcl`: NT-Xent without the positive in the denominator, at τ = 0.1. Held against lightly
    /// 1.6.0, `DCLLoss`.
    Dcl,
    /// `dclw`: as [`Dcl`](Self::Dcl), and distant pairs pull more, σ = 0.5. Held against lightly
    /// 1.6.0, `DCLWLoss`.
    DclW,
    /// `hcl`: hard negatives weigh more, β = 1, and are corrected for a share of positives among them
    /// of 0.1; over both views at τ = 0.5. Held against joshr17/HCL, `image/main.py`, re-derived in
    /// torch 2.15.0. It holds the lower bound on the negatives constant where the temperature is
    /// learned; `log_scale` here does not.
    Hcl,
    /// `debiased`: as [`Hcl`](Self::Hcl), all negatives alike. Held against chingyaoc/DCL, `main.py`,
    /// re-derived in torch 2.15.0.
    Debiased,
    /// Robust InfoNCE over both views: τ = 0.5, q = 0.5, λ = 0.025 (chingyaoc/RINCE).
    Rince,
}

/// The temperature that SupCon's values are on the scale of.
const SUP_CON_BASE: f64 = 0.07;

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 16] = [
        Self::CrossEntropy,
        Self::InfoNcePytorch,
        Self::LightlyNtXent,
        Self::SimClrTf,
        Self::PmlNtXent,
        Self::SupCon,
        Self::OpenClip,
        Self::SigLip,
        Self::SentenceTransformersMnrl,
        Self::SentenceTransformersGist,
        Self::MoCo,
        Self::Dcl,
        Self::DclW,
        Self::Hcl,
        Self::Debiased,
        Self::Rince,
    ];

    /// The name it goes by.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
            Self::InfoNcePytorch => "info-nce-pytorch",
            Self::LightlyNtXent => "lightly-ntxent",
            Self::SimClrTf => "simclr-tf",
            Self::PmlNtXent => "pml-ntxent",
            Self::SupCon => "supcon",
            Self::OpenClip => "open-clip",
            Self::SigLip => "siglip",
            Self::SentenceTransformersMnrl => "sentence-transformers-mnrl",
            Self::SentenceTransformersGist => "sentence-transformers-gist",
            Self::MoCo => "moco",
            Self::Dcl => "dcl",
            Self::DclW => "dclw",
            Self::Hcl => "hcl",
            Self::Debiased => "debiased",
            Self::Rince => "rince",
        }
    }

    /// The loss it stands for, at its own temperature.
    pub fn loss(self) -> ContrastiveLoss {
        self.at(Temperature(match self {
            Self::CrossEntropy => 1.0,
            Self::LightlyNtXent | Self::Hcl | Self::Debiased | Self::Rince => 0.5,
            Self::InfoNcePytorch | Self::SimClrTf | Self::SigLip | Self::Dcl | Self::DclW => 0.1,
            Self::PmlNtXent | Self::OpenClip | Self::MoCo => 0.07,
            Self::SupCon => SUP_CON_BASE,
            Self::SentenceTransformersMnrl => 0.05,
            Self::SentenceTransformersGist => 0.01,
        }))
    }

    /// The loss it stands for, at another temperature. That is [`loss`](Self::loss) with that
    /// temperature, but for [`SupCon`](Self::SupCon), whose factor depends on it.
    pub fn at(self, temperature: Temperature) -> ContrastiveLoss {
        let one_way = ContrastiveLoss::info_nce(temperature);
        let views = ContrastiveLoss { form: Form::NtXent, ..one_way };
        match self {
            Self::CrossEntropy | Self::InfoNcePytorch | Self::SentenceTransformersMnrl => one_way,
            Self::LightlyNtXent | Self::PmlNtXent => views,
            Self::SimClrTf => ContrastiveLoss { factor: 2.0, norm_floor: 1e-6, ..views },
            Self::SupCon => ContrastiveLoss {
                similarity: Similarity::Dot,
                factor: temperature.get() / SUP_CON_BASE,
                ..ContrastiveLoss::sup_con(temperature)
            },
            Self::OpenClip => {
                ContrastiveLoss { form: Form::BothWays, similarity: Similarity::Dot, ..one_way }
            }
            Self::SigLip => ContrastiveLoss {
                objective: Objective::Sigmoid { bias: -10.0 },
                similarity: Similarity::Dot,
                ..one_way
            },
            Self::SentenceTransformersGist => {
                ContrastiveLoss { within_views: true, norm_floor: 1e-8, ..one_way }
            }
            Self::MoCo => ContrastiveLoss { in_batch: false, ..one_way },
            Self::Dcl => ContrastiveLoss { objective: Objective::Decoupled, ..views },
            Self::DclW => {
                ContrastiveLoss { objective: Objective::DecoupledWeighted { sigma: 0.5 }, ..views }
            }
            Self::Hcl => {
                let (positive_share, concentration) = (0.1, 1.0);
                let objective = Objective::HardNegatives { positive_share, concentration };
                ContrastiveLoss { objective, ..views }
            }
            Self::Rince => {
                let objective = Objective::Rince { q: 0.5, lambda: 0.025 };
                ContrastiveLoss { objective, ..views }
            }
            Self::Debiased => {
                ContrastiveLoss { objective: Objective::Debiased { positive_share: 0.1 }, ..views }
            }
        }
    }

    /// The least and the greatest log(1/τ) that a learned scale is clamped to after each step, where
    /// it is.
    pub fn log_scale_bounds(self) -> Option<(f64, f64)> {
        match self {
            Self::OpenClip => Some((0.0, 100f64.ln())),
            _ => None,
        }
    }
}

impl std::str::FromStr for Preset {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or_else(|| Error::Preset {
            given: name.to_owned(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}
