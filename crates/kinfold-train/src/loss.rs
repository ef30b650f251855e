//! The losses by the names that settings know them by.
//!
//! Input: `[loss]` of the settings. Output: a validated [`ContrastiveLoss`], and what training with it
//! needs beside pairs of views; or why it cannot be.

use crate::Error;
use crate::settings::{LossSettings, is_default};
use kinfold::{ContrastiveLoss, Objective, Prefix, Preset, Similarity, Temperature};

/// The names that are no preset's.
const OURS: [&str; 5] = ["one-way", "both-ways", "nt-xent", "sup-con", "sup-con-inside"];

/// The bounds of a learned log(1/τ), unless the loss has its own or none: open-clip's, which keep τ
/// between 0.01 and 1.
const BOUNDS: (f64, f64) = (0.0, 4.605_170_185_988_092);

/// Every name that [`LossSettings::name`] can be.
pub fn loss_names() -> Vec<&'static str> {
    let mut names = OURS.to_vec();
    names.extend(Preset::ALL.into_iter().filter(|&preset| !needs_guide(preset)).map(Preset::name));
    names
}

fn needs_guide(preset: Preset) -> bool {
    preset == Preset::SentenceTransformersGist
}

/// A loss by its name, with everything decided.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) loss: ContrastiveLoss,
    /// Whether its temperature is learned and, for the sigmoid, its bias.
    pub(crate) learned: bool,
    /// The least and the greatest log(1/τ) that a learned one is kept between.
    pub(crate) bounds: (f64, f64),
    /// Whether labels say which rows are positives.
    pub(crate) labels: bool,
    /// Whether negatives are a queue of earlier keys, from an encoder that follows the trained one.
    pub(crate) queue: bool,
}

impl LossSettings {
    /// The loss that these settings ask for; `own` is the name where none is given, and its temperature, if
    /// that is not the loss's own.
    ///
    /// # Errors
    /// When there is no loss of that name, or it cannot be trained with these settings.
    pub(crate) fn named(&self, own: (&str, Option<f64>)) -> Result<Named, Error> {
        let name = self.name.as_deref().unwrap_or(own.0);
        let plain = self.plain(name, own.1.filter(|_| name == own.0))?;
        let preset = name.parse::<Preset>().ok();
        let refused = |error: kinfold::Error| Error::Setting(error.to_string());
        let loss = plain.with_margin(self.margin).map_err(refused)?;
        let loss = loss.with_label_smoothing(self.label_smoothing).map_err(refused)?;
        let prefixes: Vec<_> = self.matryoshka.iter().map(|&dim| Prefix::new(dim)).collect();
        let loss = loss.with_matryoshka(&prefixes).map_err(refused)?;
        // Scale and bias at the start of these are not meant to stay.
        let both_learn = matches!(preset, Some(Preset::OpenClip | Preset::SigLip));
        let sigmoid = matches!(loss.objective(), Objective::Sigmoid { .. });
        let own = preset.and_then(Preset::log_scale_bounds);
        let named = Named {
            name: name.to_owned(),
            loss,
            learned: self.learned_temperature.unwrap_or(both_learn),
            bounds: match own {
                Some(bounds) => bounds,
                None if sigmoid => (f64::NEG_INFINITY, f64::INFINITY),
                None => BOUNDS,
            },
            labels: matches!(loss.objective(), Objective::SupConOutside | Objective::SupConInside),
            queue: preset == Some(Preset::MoCo),
        };
        self.check(name, &named)?;
        Ok(named)
    }

    /// The first of these settings that is not as it is by default.
    pub(crate) fn given(&self) -> Option<String> {
        let Self { name, temperature, learned_temperature, matryoshka, .. } = self;
        let rest = Self::default();
        let given = [
            name.as_ref().map(|name| format!("the loss {name}")),
            temperature.map(|x| format!("a temperature of {x}")),
            learned_temperature.map(|_| "learned_temperature".to_owned()),
            (self.margin != rest.margin).then(|| "a margin".to_owned()),
            (self.label_smoothing != rest.label_smoothing).then(|| "label_smoothing".to_owned()),
            (!is_default(matryoshka)).then(|| "matryoshka".to_owned()),
            self.mask_labels.then(|| "mask_labels".to_owned()),
        ];
        given.into_iter().flatten().next()
    }

    /// The loss of that name at its temperature.
    fn plain(&self, name: &str, of_method: Option<f64>) -> Result<ContrastiveLoss, Error> {
        let temperature = |own: f64| {
            Temperature::new(self.temperature.or(of_method).unwrap_or(own))
                .map_err(|error| Error::Setting(error.to_string()))
        };
        let inside = |loss: ContrastiveLoss| loss.with_objective(Objective::SupConInside);
        Ok(match name {
            "one-way" => ContrastiveLoss::info_nce(temperature(0.5)?),
            "both-ways" => ContrastiveLoss::clip(temperature(0.5)?),
            "nt-xent" => ContrastiveLoss::nt_xent(temperature(0.5)?),
            "sup-con" => ContrastiveLoss::sup_con(temperature(0.1)?),
            "sup-con-inside" => inside(ContrastiveLoss::sup_con(temperature(0.1)?))?,
            name => match name.parse::<Preset>() {
                Ok(preset) if needs_guide(preset) => {
                    return Err(Error::Setting(format!(
                        "the loss {name} needs another model as a guide, and there is none here: \
                         take sentence-transformers-mnrl, or nt-xent with mask_labels"
                    )));
                }
                // What a preset leaves to its model, unit length, is the cosine's business here.
                Ok(preset) => {
                    let own = preset.loss().temperature().get();
                    preset.at(temperature(own)?).with_similarity(Similarity::Cosine)
                }
                Err(_) => {
                    return Err(Error::Setting(format!(
                        "there is no loss `{name}`; there are: {}",
                        loss_names().join(", ")
                    )));
                }
            },
        })
    }

    fn check(&self, name: &str, named: &Named) -> Result<(), Error> {
        let needs = |right: bool, text: String| match right {
            true => Ok(()),
            false => Err(Error::Setting(text)),
        };
        needs(
            !(self.mask_labels && named.labels),
            format!("mask_labels has no meaning for {name}: rows of one label are its positives"),
        )?;
        needs(self.queue > 0, "queue is 0 rows, but at least 1 is needed".to_owned())?;
        let momentum = self.momentum.unwrap_or_default();
        needs(
            (0.0..1.0).contains(&momentum),
            format!("momentum is {momentum}, but it must be at least 0 and below 1"),
        )?;
        let start = named.loss.temperature().scale().ln();
        let (least, most) = named.bounds;
        // The start is rounded to f32 on its way into a parameter.
        let within = (least - 1e-6..=most + 1e-6).contains(&start);
        needs(
            !named.learned || within,
            format!(
                "a learned temperature is kept between {:.3} and {:.3} for {name}, but it would \
                 start at {}",
                (-most).exp(),
                (-least).exp(),
                named.loss.temperature().get()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kinfold::Form;

    fn settings(name: &str) -> LossSettings {
        LossSettings { name: Some(name.to_owned()), ..LossSettings::default() }
    }

    fn named(settings: &LossSettings) -> Result<Named, Error> {
        settings.named(("nt-xent", None))
    }

    #[test]
    fn every_name_is_a_loss_and_no_other_is() -> Result<(), Error> {
        for name in loss_names() {
            named(&settings(name))?;
        }
        assert_eq!(loss_names().len(), OURS.len() + Preset::ALL.len() - 1);
        let said = named(&settings("ntxent")).map(drop).expect_err("no such loss").to_string();
        assert!(loss_names().iter().all(|name| said.contains(name)), "{said}");
        let said = named(&settings("sentence-transformers-gist")).map(drop);
        assert!(said.expect_err("no guide").to_string().contains("as a guide"));
        Ok(())
    }

    #[test]
    fn a_name_has_its_own_temperature_until_another_is_given() -> Result<(), Error> {
        let default = named(&LossSettings::default())?;
        let (form, t) = (default.loss.form(), default.loss.temperature().get());
        assert_eq!((form, t, default.learned), (Form::NtXent, 0.5, false));
        let temperature =
            |settings: &LossSettings| named(settings).map(|x| x.loss.temperature().get());
        assert_eq!(temperature(&settings("pml-ntxent"))?, 0.07);
        let other = LossSettings { temperature: Some(0.25), ..settings("pml-ntxent") };
        assert_eq!(temperature(&other)?, 0.25);
        assert!(named(&settings("siglip"))?.learned && named(&settings("open-clip"))?.learned);
        Ok(())
    }

    #[test]
    fn what_cannot_be_learned_is_refused() {
        let learned = |name: &str, temperature| LossSettings {
            temperature: Some(temperature),
            learned_temperature: Some(true),
            ..settings(name)
        };
        assert!(named(&learned("nt-xent", 1.0)).is_ok() && named(&learned("siglip", 2.0)).is_ok());
        for outside in [0.009, 2.0] {
            let said = named(&learned("nt-xent", outside)).map(drop).expect_err("outside");
            assert!(said.to_string().contains("between 0.010 and 1.000"), "{said}");
        }
        let masked = LossSettings { mask_labels: true, ..settings("sup-con") };
        assert!(named(&masked).is_err());
        let smoothed = LossSettings { label_smoothing: 0.1, ..settings("siglip") };
        assert!(named(&smoothed).is_err());
    }
}
