//! How the two views of a pair learn from each other: the methods by the names that settings know them by.
//!
//! Input: `method` and `[loss]` of the settings. Output: the loss that they ask for, or why it cannot be; and how
//! fast a momentum encoder follows.

use crate::Error;
use crate::loss::Named;
use crate::settings::{LossSettings, Method, Settings};
use kinfold::{ContrastiveLoss, Form};
use std::f64::consts::PI;

impl Method {
    /// Every method.
    pub const ALL: [Self; 4] = [Self::Simclr, Self::MocoV3, Self::Byol, Self::Simsiam];

    /// As settings name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Simclr => "simclr",
            Self::MocoV3 => "moco-v3",
            Self::Byol => "byol",
            Self::Simsiam => "simsiam",
        }
    }

    /// Whether a predictor makes one view's projection of another's.
    pub fn predicts(self) -> bool {
        self != Self::Simclr
    }

    /// Whether a momentum encoder makes the keys of both views.
    pub(crate) fn has_momentum_encoder(self) -> bool {
        matches!(self, Self::MocoV3 | Self::Byol)
    }

    /// Whether a row knows its own key alone, and no other.
    pub fn has_no_negatives(self) -> bool {
        matches!(self, Self::Byol | Self::Simsiam)
    }

    /// The width of the predictor's hidden layer, for projections of `dim` numbers: BYOL's is wide, SimSiam's
    /// a bottleneck.
    pub(crate) fn predictor(self, dim: usize) -> Option<usize> {
        match self {
            Self::Simclr => None,
            Self::MocoV3 | Self::Byol => Some(4 * dim),
            Self::Simsiam => Some(dim.div_ceil(4)),
        }
    }

    /// What a momentum encoder keeps of its weights at a step, when `done` of all steps are taken, from 0 to 1.
    /// It begins with `momentum`, and follows more and more slowly; a queue's keeps to it.
    pub(crate) fn momentum(self, momentum: Option<f64>, done: f64) -> f64 {
        match self {
            Self::Simclr | Self::Simsiam => momentum.unwrap_or(0.999),
            Self::MocoV3 | Self::Byol => {
                1.0 - (1.0 - momentum.unwrap_or(0.99)) * ((PI * done).cos() + 1.0) / 2.0
            }
        }
    }

    /// The loss that `settings` ask for.
    ///
    /// # Errors
    /// When there is no such loss, or the method takes another.
    pub(crate) fn named(self, settings: &LossSettings) -> Result<Named, Error> {
        let refused = |text: String| Err(Error::Setting(format!("{} {text}", self.as_str())));
        if self.has_no_negatives()
            && let Some(given) = settings.given()
        {
            return refused(format!(
                "compares each prediction with its own key and nothing else, so {given} has no meaning"
            ));
        }
        let own = match self {
            Self::Simclr => ("nt-xent", None),
            Self::MocoV3 | Self::Byol | Self::Simsiam => ("one-way", Some(0.2)),
        };
        let named = settings.named(own)?;
        let loss = &named.loss;
        let one_way = loss.form() == Form::OneWay && !loss.within_views();
        if self.predicts() && (!one_way || named.labels || named.queue) {
            return refused(format!(
                "has predictions choose among keys, one way, but {} is another loss",
                settings.name.as_deref().unwrap_or(own.0)
            ));
        }
        Ok(named)
    }
}

impl Settings {
    /// The loss, as the method has it.
    ///
    /// # Errors
    /// When there is no such loss, or the method takes another.
    pub(crate) fn named(&self) -> Result<Named, Error> {
        self.method.named(&self.loss)
    }

    /// The loss that these settings ask for; the temperature, where it is learned, is the first one. Of a method
    /// without negatives it is what its views can be compared by all the same.
    ///
    /// # Errors
    /// When there is no such loss, or the method takes another.
    pub fn contrastive_loss(&self) -> Result<ContrastiveLoss, Error> {
        self.named().map(|named| named.loss)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_known_by_their_names() {
        for method in Method::ALL {
            let name = format!("\"{}\"", method.as_str());
            assert_eq!(serde_json::from_str::<Method>(&name).expect("known"), method);
        }
    }

    #[test]
    fn a_momentum_encoder_stands_still_in_the_end() {
        let of = |done| Method::Byol.momentum(Some(0.9), done);
        assert!((of(0.0) - 0.9).abs() < 1e-12 && (of(0.5) - 0.95).abs() < 1e-12);
        assert!((of(1.0) - 1.0).abs() < 1e-12);
        assert_eq!(Method::Simclr.momentum(Some(0.9), 0.7), 0.9);
    }

    #[test]
    fn what_a_method_cannot_use_is_named() {
        let said = |method: Method, settings: LossSettings| {
            method.named(&settings).map(drop).expect_err("refused").to_string()
        };
        let name = |name: &str| LossSettings { name: Some(name.to_owned()), ..Default::default() };
        let temperature = LossSettings { temperature: Some(0.1), ..Default::default() };
        assert!(said(Method::Byol, temperature.clone()).contains("byol"));
        assert!(said(Method::Simsiam, temperature).contains("temperature"));
        assert!(said(Method::Byol, name("nt-xent")).contains("nt-xent"));
        for other in ["nt-xent", "both-ways", "moco", "sup-con"] {
            assert!(said(Method::MocoV3, name(other)).contains(other));
        }
        assert!(Method::MocoV3.named(&name("one-way")).is_ok());
        assert!(Method::MocoV3.named(&name("sentence-transformers-mnrl")).is_ok());
    }
}
