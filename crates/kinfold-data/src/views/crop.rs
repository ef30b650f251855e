//! Which part of a picture a view shows.
//!
//! Input: a picture's width and height, and random numbers. Output: a [`Crop`] that lies
//! inside it. Pixels are never touched here. The definition is torchvision's
//! `RandomResizedCrop.get_params`.

use super::{exp, uniform};
use crate::random::Random;

/// Pixels `left..left + width` of the rows `top..top + height`; never empty, always inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Crop {
    pub(super) left: usize,
    pub(super) top: usize,
    pub(super) width: usize,
    pub(super) height: usize,
}

/// Width over height of a crop.
const ASPECT: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// The logarithm of the larger; that of the smaller is its negative.
const LOG_ASPECT: f64 = 0.287_682_072_451_780_9;
/// How often a crop is drawn before the centre is taken.
const ATTEMPTS: usize = 10;

impl Crop {
    /// A share of the area that is uniform in `area..1`, an aspect whose logarithm is uniform, and
    /// a uniform place; after ten that do not fit, [`Crop::centre`].
    pub(super) fn random(random: &mut Random, width: usize, height: usize, area: f64) -> Self {
        let all = (width * height) as f64;
        for _ in 0..ATTEMPTS {
            let area = all * uniform(random, area, 1.0);
            let aspect = exp(uniform(random, -LOG_ASPECT, LOG_ASPECT));
            let w = (area * aspect).sqrt().round_ties_even() as usize;
            let h = (area / aspect).sqrt().round_ties_even() as usize;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let (top, left) = (random.below(height - h + 1), random.below(width - w + 1));
                return Self { left, top, width: w, height: h };
            }
        }
        Self::centre(width, height, ASPECT)
    }

    /// The largest crop about the centre whose aspect is within bounds.
    pub(super) fn centre(width: usize, height: usize, aspect: [f64; 2]) -> Self {
        let (wide, high) = (width as f64, height as f64);
        let (mut w, mut h) = (width, height);
        if wide / high < aspect[0] {
            h = ((wide / aspect[0]).round_ties_even() as usize).clamp(1, height);
        } else if wide / high > aspect[1] {
            w = ((high * aspect[1]).round_ties_even() as usize).clamp(1, width);
        }
        Self { left: (width - w) / 2, top: (height - h) / 2, width: w, height: h }
    }

    /// The largest square about the centre.
    pub(super) fn square(width: usize, height: usize) -> Self {
        Self::centre(width, height, [1.0, 1.0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn random(view: usize) -> Random {
        Random::new(3, Purpose::View { epoch: 0, image: 0, view })
    }

    #[test]
    fn crops_lie_inside_and_have_the_shape_asked_for() {
        let (width, height) = (500, 375);
        let (mut least, mut most, mut sum) = (1.0f64, 0.0f64, 0.0);
        for view in 0..4000 {
            let crop = Crop::random(&mut random(view), width, height, 0.08);
            assert!(crop.left + crop.width <= width && crop.top + crop.height <= height);
            let aspect = crop.width as f64 / crop.height as f64;
            assert!((0.74..1.35).contains(&aspect), "{crop:?}");
            let area = (crop.width * crop.height) as f64 / (width * height) as f64;
            (least, most, sum) = (least.min(area), most.max(area), sum + area);
        }
        assert!((0.079..0.09).contains(&least) && most > 0.9, "{least} to {most}");
        // Torchvision's mean over 20,000 crops is .4348, below (1 + .08) / 2 because large crops
        // often do not fit; this mean has a standard error of .0034.
        assert!((sum / 4000.0 - 0.4348).abs() < 0.015, "mean {}", sum / 4000.0);
    }

    #[test]
    fn the_logarithm_is_that_of_the_aspect() {
        assert!((LOG_ASPECT - ASPECT[1].ln()).abs() < 1e-15);
        assert!((LOG_ASPECT + ASPECT[0].ln()).abs() < 1e-15);
    }

    #[test]
    fn what_is_too_narrow_for_any_crop_shows_its_centre() {
        let crop = Crop::random(&mut random(0), 1000, 10, 1.0);
        assert_eq!(crop, Crop { left: 493, top: 0, width: 13, height: 10 });
        let crop = Crop::random(&mut random(0), 10, 1000, 1.0);
        assert_eq!(crop, Crop { left: 0, top: 493, width: 10, height: 13 });
        let crop = Crop::random(&mut random(0), 1, 1, 0.08);
        assert_eq!(crop, Crop { left: 0, top: 0, width: 1, height: 1 });
        assert_eq!(Crop::square(7, 4), Crop { left: 1, top: 0, width: 4, height: 4 });
    }
}
