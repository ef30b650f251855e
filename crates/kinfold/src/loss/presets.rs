//! Named settings under which the loss is the same number as a known piece of code's.

use super::{InfoNce, Temperature};
use crate::Error;

/// A named setting. Each is a test against values made by what it is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// `cross-entropy`: normalise both sides, multiply, cross-entropy against `arange(n)`. That is
    /// InfoNCE one way at τ = 1, which leaves it at most one nat below ln n; see
    /// [`InfoNce::floor`].
    CrossEntropy,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 1] = [Self::CrossEntropy];

    /// The name it goes by.
    pub fn name(self) -> &'static str {
        match self {
            Self::CrossEntropy => "cross-entropy",
        }
    }

    /// The loss it stands for.
    pub fn loss(self) -> InfoNce {
        match self {
            Self::CrossEntropy => InfoNce::new(Temperature(1.0)),
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
