//! The SimCLR recipe: a random part of the picture, mirrored, recoloured and blurred at random.
//!
//! Input: a picture of any size and a stream of random numbers. Output: a view, planes
//! `[channels, size, size]` of [0, 1]. All that is random is drawn first, into a [`Plan`]; drawing
//! the view from it is sums, products and roots only, the same bits on every machine.
//!
//! The recipe is that of Chen et al. 2020, "A Simple Framework for Contrastive Learning of Visual
//! Representations", appendix A, with each operation as torchvision defines it.

use super::colour::{self, Step};
use super::crop::Crop;
use super::resize::resize;
use super::{Picture, uniform};
use crate::random::Random;
use serde::{Deserialize, Serialize};

/// SimCLR's views: random resized crop, mirroring, colour jitter, loss of colour, Gaussian blur.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SimclrSettings {
    /// Strength s of the colour jitter, 0 to 2.5: brightness, contrast and saturation change by up
    /// to .8 s, the hue by up to .2 s of a turn. 1 in the paper, .5 for CIFAR.
    pub strength: f32,
    /// How often a view is blurred, 0 to 1. .5 in the paper, 0 for CIFAR.
    pub blur: f32,
    /// The smallest share of the picture's area that a view shows, above 0 and up to 1. .08 in the
    /// paper.
    pub area: f32,
}

impl Default for SimclrSettings {
    fn default() -> Self {
        Self { strength: 1.0, blur: 0.5, area: 0.08 }
    }
}

/// How often a view is mirrored, its colours are jittered, and it loses its colours.
const FLIP: f64 = 0.5;
const JITTER: f64 = 0.8;
const GREY: f64 = 0.2;
/// What blurs: σ in pixels.
const SIGMA: [f64; 2] = [0.1, 2.0];

impl SimclrSettings {
    /// The paper's settings for CIFAR: half the strength, and no blur.
    pub const CIFAR: Self = Self { strength: 0.5, blur: 0.0, area: 0.08 };

    /// # Errors
    /// The setting that cannot be, what it is, and what it must be.
    pub fn check(&self) -> Result<(), String> {
        let Self { strength, blur, area } = *self;
        if !(0.0..=2.5).contains(&strength) {
            return Err(format!(
                "view strength is {strength}, but it must be 0 to 2.5 (at 2.5 every hue is reached)"
            ));
        }
        if !(0.0..=1.0).contains(&blur) {
            return Err(format!(
                "view blur is {blur}, but it must be 0 to 1, a share of the views"
            ));
        }
        if !(area > 0.0 && area <= 1.0) {
            return Err(format!(
                "view area is {area}, but it must be above 0 and at most 1, a share of the picture"
            ));
        }
        Ok(())
    }
}

/// All that is random about a view.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    pub(super) crop: Crop,
    pub(super) flip: bool,
    pub(super) steps: Vec<Step>,
    /// σ in pixels.
    pub(super) blur: Option<f64>,
}

impl Plan {
    /// The plan for a picture. As many numbers are drawn whatever the settings, so that a setting
    /// changes only what it is about.
    pub(super) fn random(
        random: &mut Random,
        settings: &SimclrSettings,
        width: usize,
        height: usize,
    ) -> Self {
        let crop = Crop::random(random, width, height, f64::from(settings.area));
        let mut happens = |often: f64| uniform(random, 0.0, 1.0) < often;
        let (flip, jitter, grey) = (happens(FLIP), happens(JITTER), happens(GREY));
        let blur = happens(f64::from(settings.blur));
        let sigma = uniform(random, SIGMA[0], SIGMA[1]);
        let strength = f64::from(settings.strength);
        let mut factor = || {
            let most = 0.8 * strength;
            uniform(random, (1.0 - most).max(0.0), 1.0 + most) as f32
        };
        let (brightness, contrast, saturation) = (factor(), factor(), factor());
        let hue = uniform(random, -0.2 * strength, 0.2 * strength) as f32;
        let four = [
            Step::Brightness(brightness),
            Step::Contrast(contrast),
            Step::Saturation(saturation),
            Step::Hue(hue),
        ];
        let order = random.order(four.len());
        let mut steps = Vec::new();
        if jitter && strength > 0.0 {
            steps.extend(order.into_iter().map(|i| four[i]));
        }
        if grey {
            steps.push(Step::Grey);
        }
        Self { crop, flip, steps, blur: blur.then_some(sigma) }
    }

    /// The view that this plan makes of a picture.
    pub(super) fn draw(&self, picture: &Picture<'_>, size: usize, out: &mut [f32]) {
        resize(picture, self.crop, size, self.flip, out);
        colour::apply(&self.steps, picture.channels, out);
        if let Some(sigma) = self.blur {
            super::blur::blur(out, size, radius(size), sigma);
        }
    }
}

/// Half of a kernel of a tenth of the height, rounded down as in the paper's code: 11 (a kernel of
/// 23) for 224 pixels, 1 (of 3) for 32, and 0, which is no blur, below 20.
fn radius(size: usize) -> usize {
    size / 10 / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn plan(settings: &SimclrSettings, image: usize) -> Plan {
        let mut random = Random::new(1, Purpose::View { epoch: 2, image, view: 0 });
        Plan::random(&mut random, settings, 500, 375)
    }

    #[test]
    fn things_happen_as_often_and_as_strongly_as_the_paper_says() {
        let settings = SimclrSettings::default();
        let plans: Vec<Plan> = (0..4000).map(|image| plan(&settings, image)).collect();
        let share =
            |of: &dyn Fn(&Plan) -> bool| plans.iter().filter(|p| of(p)).count() as f64 / 4e3;
        let near =
            |share: f64, often: f64| assert!((share - often).abs() < 0.03, "{share} {often}");
        near(share(&|p| p.flip), 0.5);
        near(share(&|p| p.blur.is_some()), 0.5);
        near(share(&|p| p.steps.len() >= 4), 0.8);
        near(share(&|p| p.steps.last() == Some(&Step::Grey)), 0.2);
        near(share(&|p| matches!(p.steps.first(), Some(Step::Hue(_)))), 0.2);
        near(share(&|p| p.blur.is_some_and(|sigma| sigma < 1.05)), 0.25);
        for step in plans.iter().flat_map(|p| &p.steps) {
            assert!(match *step {
                Step::Brightness(f) | Step::Contrast(f) | Step::Saturation(f) =>
                    (0.2..=1.8).contains(&f),
                Step::Hue(turn) => turn.abs() <= 0.2,
                Step::Grey => true,
            });
        }
        assert!(plans.iter().filter_map(|p| p.blur).all(|sigma| (0.1..2.0).contains(&sigma)));
    }

    #[test]
    fn a_setting_changes_only_what_it_is_about() {
        for image in 0..50 {
            let (paper, cifar) =
                (plan(&SimclrSettings::default(), image), plan(&SimclrSettings::CIFAR, image));
            assert_eq!((paper.crop, paper.flip), (cifar.crop, cifar.flip));
            assert_eq!(paper.steps.len(), cifar.steps.len());
            assert_eq!(cifar.blur, None);
            let none = plan(&SimclrSettings { strength: 0.0, ..Default::default() }, image);
            assert!(none.steps.iter().all(|step| *step == Step::Grey));
        }
    }

    #[test]
    fn the_kernel_is_a_tenth_of_the_height() {
        assert_eq!([224, 32, 96, 20, 19, 1].map(radius), [11, 1, 4, 1, 0, 0]);
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert_eq!(SimclrSettings::default().check(), Ok(()));
        assert_eq!(SimclrSettings::CIFAR.check(), Ok(()));
        let good = SimclrSettings::default();
        for (settings, says) in [
            (SimclrSettings { strength: -0.1, ..good }, "strength is -0.1"),
            (SimclrSettings { strength: f32::NAN, ..good }, "strength is NaN"),
            (SimclrSettings { blur: 1.5, ..good }, "blur is 1.5"),
            (SimclrSettings { area: 0.0, ..good }, "area is 0"),
        ] {
            let error = settings.check().expect_err(says);
            assert!(error.contains(says) && error.contains("must be"), "{error}");
        }
    }
}
