//! A view: a random affine picture of an image.
//!
//! Comes in: an image, and (seed, epoch, image, view). Goes out: its view, a pure function of these.

use crate::pairs::Images;
use crate::random::{Purpose, Random};
use crate::settings::ViewSettings;
use rayon::prelude::*;

/// Two views of each image: `[2n, channels, size, size]`, first every first view, then every second.
pub(crate) fn pairs(
    images: &Images,
    rows: &[usize],
    settings: &ViewSettings,
    seed: u64,
    epoch: usize,
) -> Vec<f32> {
    let stride = images.stride();
    let mut out = vec![0.0; 2 * rows.len() * stride];
    out.par_chunks_mut(stride).enumerate().for_each(|(i, out)| {
        let (view, image) = (i / rows.len(), rows[i % rows.len()]);
        let random = Random::new(seed, Purpose::View { epoch, image, view });
        let map = Affine::random(random, settings, images.size);
        for (from, to) in
            images.image(image).chunks(images.size.pow(2)).zip(out.chunks_mut(images.size.pow(2)))
        {
            map.draw(from, to, images.size);
        }
    });
    out
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

    fn images() -> Images {
        Images {
            names: vec![String::new(); 3],
            labels: vec![String::new(); 3],
            pixels: (0..3 * 16).map(|i| i as f32 / 48.0).collect(),
            channels: 1,
            size: 4,
            skipped: vec![],
        }
    }

    const STILL: ViewSettings = ViewSettings { rotation: 0.0, scale: 0.0, shear: 0.0, shift: 0.0 };

    #[test]
    fn without_motion_a_view_is_the_image() {
        let images = images();
        let views = pairs(&images, &[2, 0], &STILL, 5, 1);
        let expected =
            [images.image(2), images.image(0), images.image(2), images.image(0)].concat();
        assert_eq!(views, expected);
    }

    #[test]
    fn a_view_depends_on_seed_epoch_image_and_view_alone() {
        let (images, settings) = (images(), ViewSettings::default());
        let views = pairs(&images, &[2, 0], &settings, 5, 1);
        let (first, second) = views.split_at(32);
        assert_ne!(first, second, "two views differ");
        let alone = pairs(&images, &[0], &settings, 5, 1);
        assert_eq!(alone, [&first[16..], &second[16..]].concat(), "the batch does not matter");
        assert_ne!(views, pairs(&images, &[2, 0], &settings, 6, 1));
        assert_ne!(views, pairs(&images, &[2, 0], &settings, 5, 2));
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
