//! The affine recipe: turned, scaled, sheared and shifted at random.
//!
//! Input: an image as planes of [0, 1], and (seed, epoch, image, view). Output: its view, a
//! pure function of these. It never changes the size of the image nor its colours; beyond its edges
//! is 0.

use crate::random::Random;
use serde::{Deserialize, Serialize};

/// A random affine view: each of these is the largest amount either way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ViewSettings {
    /// Rotation, in degrees.
    pub rotation: f32,
    /// Scaling, as a share of the size, in each direction on its own.
    pub scale: f32,
    /// Shear, as a share of the height.
    pub shear: f32,
    /// Shift, as a share of the side.
    pub shift: f32,
}

impl Default for ViewSettings {
    fn default() -> Self {
        Self { rotation: 15.0, scale: 0.2, shear: 0.2, shift: 0.1 }
    }
}

/// One view of an image `[channels, size, size]`, into `out` of the same shape.
pub(super) fn draw(
    image: &[f32],
    size: usize,
    settings: &ViewSettings,
    random: Random,
    out: &mut [f32],
) {
    let map = Affine::random(random, settings, size);
    for (from, to) in image.chunks(size.pow(2)).zip(out.chunks_mut(size.pow(2))) {
        map.draw(from, to, size);
    }
}

/// # Errors
/// The setting that cannot be, what it is, and what it must be.
pub(super) fn check(settings: &ViewSettings) -> Result<(), String> {
    let ViewSettings { rotation, scale, shear, shift } = *settings;
    for (name, value) in
        [("rotation", rotation), ("scale", scale), ("shear", shear), ("shift", shift)]
    {
        let right = value >= 0.0 && value.is_finite() && (name != "scale" || value < 1.0);
        if !right {
            let most = if name == "scale" { " and below 1" } else { "" };
            return Err(format!("view {name} is {value}, but it must be at least 0{most}"));
        }
    }
    Ok(())
}

/// From a pixel of the view to a place in the image: `(x, y) ↦ A (x, y) + b`, in pixels from the
/// centre.
struct Affine {
    a: [[f32; 2]; 2],
    b: [f32; 2],
}

impl Affine {
    fn random(mut random: Random, settings: &ViewSettings, size: usize) -> Self {
        let mut up_to = |most: f32| random.symmetric() * most;
        let angle = up_to(settings.rotation).to_radians();
        let (wide, high) = (1.0 + up_to(settings.scale), 1.0 + up_to(settings.scale));
        let shear = up_to(settings.shear);
        let shift = [up_to(settings.shift), up_to(settings.shift)].map(|s| s * size as f32);
        let (sin, cos) = angle.sin_cos();
        // Rotation · shear · scaling.
        let a =
            [[cos * wide, (cos * shear - sin) * high], [sin * wide, (sin * shear + cos) * high]];
        Self { a, b: shift }
    }

    /// One channel, bilinear, 0 outside.
    fn draw(&self, from: &[f32], to: &mut [f32], size: usize) {
        let centre = (size as f32 - 1.0) / 2.0;
        let at = |x: isize, y: isize| {
            let inside = 0..size as isize;
            if inside.contains(&x) && inside.contains(&y) {
                from[y as usize * size + x as usize]
            } else {
                0.0
            }
        };
        for (i, out) in to.iter_mut().enumerate() {
            let (u, v) = ((i % size) as f32 - centre, (i / size) as f32 - centre);
            let x = self.a[0][0] * u + self.a[0][1] * v + self.b[0] + centre;
            let y = self.a[1][0] * u + self.a[1][1] * v + self.b[1] + centre;
            let (left, top) = (x.floor(), y.floor());
            let (dx, dy) = (x - left, y - top);
            let (left, top) = (left as isize, top as isize);
            *out = (1.0 - dy) * ((1.0 - dx) * at(left, top) + dx * at(left + 1, top))
                + dy * ((1.0 - dx) * at(left, top + 1) + dx * at(left + 1, top + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: ViewSettings = ViewSettings { rotation: 0.0, scale: 0.0, shear: 0.0, shift: 0.0 };

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert_eq!(check(&ViewSettings::default()), Ok(()));
        let error = check(&ViewSettings { scale: 1.0, ..STILL }).expect_err("too much");
        assert_eq!(error, "view scale is 1, but it must be at least 0 and below 1");
        assert!(check(&ViewSettings { shear: -0.5, ..STILL }).is_err_and(|e| e.contains("-0.5")));
    }

    #[test]
    fn a_quarter_turn_turns() {
        let map = Affine { a: [[0.0, -1.0], [1.0, 0.0]], b: [0.0, 0.0] };
        let from: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let mut to = vec![0.0; 9];
        map.draw(&from, &mut to, 3);
        assert_eq!(to, [2.0, 5.0, 8.0, 1.0, 4.0, 7.0, 0.0, 3.0, 6.0]);
    }

    #[test]
    fn outside_is_zero() {
        let map = Affine { a: [[1.0, 0.0], [0.0, 1.0]], b: [1.5, 0.0] };
        let mut to = vec![9.0; 4];
        map.draw(&[1.0, 1.0, 1.0, 1.0], &mut to, 2);
        assert_eq!(to, [0.5, 0.0, 0.5, 0.0]);
    }
}
