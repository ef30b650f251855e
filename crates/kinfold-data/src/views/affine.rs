//! The recipe for drawings: turned, scaled, sheared, shifted, deformed and drawn with another pen at random.
//!
//! Input: an image as planes of [0, 1], and (seed, epoch, image, view). Output: its view, a
//! pure function of these. It never changes the size of the image nor its colours; beyond its edges
//! is 0.

use super::Key;
use super::elastic::{Field, Noise};
use super::thickness::thicken;
use crate::random::{Purpose, Random};
use serde::{Deserialize, Serialize};

/// A random view of a drawing: each of these is the largest amount either way, unless it says otherwise.
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
    /// Elastic deformation (Simard et al. 2003): the standard deviation of how far a pixel moves, as a share of
    /// the side; 0 for none.
    pub elastic: f32,
    /// How far apart pixels move alike: the standard deviation of the Gaussian that smooths how they move, as a
    /// share of the side.
    pub smoothness: f32,
    /// How far the edges of light strokes move outwards or inwards, as a share of the side.
    pub thickness: f32,
    /// The part of all that, but for the shift, that both views of a pair have in common, from 0 to 1: what is
    /// alike in them then says less about which pair they are of.
    pub shared: f32,
}

impl Default for ViewSettings {
    fn default() -> Self {
        Self { rotation: 15.0, scale: 0.2, shear: 0.2, shift: 0.1, ..Self::STILL }
    }
}

impl ViewSettings {
    /// A view that is its image.
    pub const STILL: Self = Self {
        rotation: 0.0,
        scale: 0.0,
        shear: 0.0,
        shift: 0.0,
        elastic: 0.0,
        smoothness: 0.15,
        thickness: 0.0,
        shared: 0.0,
    };

    /// What two views of a pair differ by: nothing is shared any more.
    pub(super) fn own(self) -> Self {
        let own = 1.0 - self.shared;
        Self {
            rotation: own * self.rotation,
            scale: own * self.scale,
            shear: own * self.shear,
            elastic: own * self.elastic,
            thickness: own * self.thickness,
            shared: 0.0,
            ..self
        }
    }
}

/// One view of an image `[channels, size, size]`, into `out` of the same shape.
pub(super) fn draw(image: &[f32], size: usize, settings: &ViewSettings, key: Key, out: &mut [f32]) {
    let Key { seed, epoch, image: of, view } = key;
    let mut own = Random::new(seed, Purpose::View { epoch, image: of, view });
    let mut pose = Pose::random(&mut own, settings, size);
    if settings.shared > 0.0 {
        let mut random = Random::new(seed, Purpose::Shared { epoch, image: of });
        pose = pose.sharing(settings.shared, Pose::random(&mut random, settings, size));
    }
    let map = Map::new(pose, settings, size);
    for (from, to) in image.chunks(size.pow(2)).zip(out.chunks_mut(size.pow(2))) {
        map.draw(from, to);
    }
}

/// # Errors
/// The setting that cannot be, what it is, and what it must be.
pub(super) fn check(settings: &ViewSettings) -> Result<(), String> {
    let ViewSettings { rotation, scale, shear, shift, elastic, smoothness, thickness, shared } =
        *settings;
    for (name, value) in [
        ("rotation", rotation),
        ("scale", scale),
        ("shear", shear),
        ("shift", shift),
        ("elastic", elastic),
        ("thickness", thickness),
    ] {
        let right = value >= 0.0 && value.is_finite() && (name != "scale" || value < 1.0);
        if !right {
            let most = if name == "scale" { " and below 1" } else { "" };
            return Err(format!("view {name} is {value}, but it must be at least 0{most}"));
        }
    }
    if !(0.0..=1.0).contains(&shared) {
        return Err(format!("view shared is {shared}, but it must be from 0 to 1"));
    }
    // Below, each pixel would move on its own; above, all would move as one.
    if !(0.02..=1.0).contains(&smoothness) {
        return Err(format!("view smoothness is {smoothness}, but it must be from 0.02 to 1"));
    }
    Ok(())
}

/// What was drawn at random: each of `amounts` in [−1, 1) of the largest.
struct Pose {
    angle: f32,
    scale: [f32; 2],
    shear: f32,
    shift: [f32; 2],
    thickness: f32,
    noise: Option<Noise>,
}

impl Pose {
    fn random(random: &mut Random, settings: &ViewSettings, size: usize) -> Self {
        let mut up_to = |most: f32| random.symmetric() * most;
        let angle = up_to(settings.rotation).to_radians();
        let scale = [up_to(settings.scale), up_to(settings.scale)];
        let shear = up_to(settings.shear);
        let shift = [up_to(settings.shift), up_to(settings.shift)];
        let thickness = up_to(settings.thickness);
        let smoothness = settings.smoothness * size as f32;
        let noise = (settings.elastic > 0.0).then(|| Noise::new(random, size, smoothness));
        Self { angle, scale, shear, shift, thickness, noise }
    }

    /// This pose, but a part of it another's.
    fn sharing(self, part: f32, other: Self) -> Self {
        let own = 1.0 - part;
        let mix = |own_amount: f32, other: f32| own * own_amount + part * other;
        Self {
            angle: mix(self.angle, other.angle),
            scale: [0, 1].map(|i| mix(self.scale[i], other.scale[i])),
            shear: mix(self.shear, other.shear),
            shift: self.shift,
            thickness: mix(self.thickness, other.thickness),
            noise: self.noise.zip(other.noise).map(|(noise, other)| noise.mixed(own, &other, part)),
        }
    }
}

/// From a pixel of the view to a place in the image: `p = A (x, y) + b`, in pixels from the centre, and from
/// there on by how far the image is deformed at p.
struct Map {
    size: usize,
    a: [[f32; 2]; 2],
    b: [f32; 2],
    field: Option<Field>,
    /// In pixels.
    thicker: f32,
}

/// Zeros about an image on each side, so that four neighbours of every place are there.
const EDGE: usize = 2;

impl Map {
    fn new(pose: Pose, settings: &ViewSettings, size: usize) -> Self {
        let side = size as f32;
        let (sin, cos) = pose.angle.sin_cos();
        let [wide, high] = pose.scale.map(|by| 1.0 + by);
        let shear = pose.shear;
        // Rotation · shear · scaling.
        let a =
            [[cos * wide, (cos * shear - sin) * high], [sin * wide, (sin * shear + cos) * high]];
        let (smoothness, amplitude) = (settings.smoothness * side, settings.elastic * side);
        let field = pose.noise.map(|noise| Field::new(&noise, size, smoothness, amplitude));
        Self { size, a, b: pose.shift.map(|by| by * side), field, thicker: pose.thickness * side }
    }

    /// One channel, bilinear, 0 outside.
    fn draw(&self, from: &[f32], to: &mut [f32]) {
        let size = self.size;
        let across = size + 2 * EDGE;
        let mut framed = vec![0.0; across * across];
        for (row, from) in framed.chunks_exact_mut(across).skip(EDGE).zip(from.chunks_exact(size)) {
            row[EDGE..][..size].copy_from_slice(from);
        }
        let centre = (size as f32 - 1.0) / 2.0;
        for (row, to) in to.chunks_exact_mut(size).enumerate() {
            let v = row as f32 - centre;
            for (column, out) in to.iter_mut().enumerate() {
                let u = column as f32 - centre;
                let mut x = self.a[0][0] * u + self.a[0][1] * v + self.b[0] + centre;
                let mut y = self.a[1][0] * u + self.a[1][1] * v + self.b[1] + centre;
                if let Some(field) = &self.field {
                    let [right, down] = field.at(x, y);
                    (x, y) = (x + right, y + down);
                }
                let ((left, dx), (top, dy)) = (whole(x, size), whole(y, size));
                let near = &framed[top * across + left..][..across + 2];
                *out = (1.0 - dy) * ((1.0 - dx) * near[0] + dx * near[1])
                    + dy * ((1.0 - dx) * near[across] + dx * near[across + 1]);
            }
        }
        if self.thicker != 0.0 {
            thicken(to, size, self.thicker);
        }
    }
}

/// The pixel at or before a place, counted with the edge, and how far beyond it the place is. All places
/// outside are as good as the nearest of the edge.
fn whole(x: f32, size: usize) -> (usize, f32) {
    let x = x.clamp(-1.0, size as f32);
    // Rounds towards 0.
    let towards = x as isize;
    let before = towards - isize::from((towards as f32) > x);
    ((before + EDGE as isize) as usize, x - before as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STILL: ViewSettings = ViewSettings::STILL;

    fn affine(size: usize, a: [[f32; 2]; 2], b: [f32; 2]) -> Map {
        Map { size, a, b, field: None, thicker: 0.0 }
    }

    #[test]
    fn settings_that_cannot_be_are_named() {
        assert_eq!(check(&ViewSettings::default()), Ok(()));
        let error = check(&ViewSettings { scale: 1.0, ..STILL }).expect_err("too much");
        assert_eq!(error, "view scale is 1, but it must be at least 0 and below 1");
        assert!(check(&ViewSettings { shear: -0.5, ..STILL }).is_err_and(|e| e.contains("-0.5")));
    }

    #[test]
    fn a_quarter_turn_turns() {
        let map = affine(3, [[0.0, -1.0], [1.0, 0.0]], [0.0, 0.0]);
        let from: Vec<f32> = (0..9).map(|i| i as f32).collect();
        let mut to = vec![0.0; 9];
        map.draw(&from, &mut to);
        assert_eq!(to, [2.0, 5.0, 8.0, 1.0, 4.0, 7.0, 0.0, 3.0, 6.0]);
    }

    #[test]
    fn outside_is_zero() {
        let map = affine(2, [[1.0, 0.0], [0.0, 1.0]], [1.5, 0.0]);
        let mut to = vec![9.0; 4];
        map.draw(&[1.0, 1.0, 1.0, 1.0], &mut to);
        assert_eq!(to, [0.5, 0.0, 0.5, 0.0]);
    }
}
