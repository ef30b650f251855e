//! Views: what the encoder sees of an image.
//!
//! Input: images, a recipe, and (seed, epoch, image, view). Output: views, each a pure
//! function of these: neither the batch nor the number of threads matters. A recipe never looks at
//! another image, and nothing here reads files.
//!
//! Two recipes: [`affine`] for drawings (turned, scaled, sheared, shifted, deformed), and [`simclr`] for
//! photographs (a random part, mirrored, recoloured, blurred).

mod affine;
mod blur;
mod colour;
mod crop;
mod elastic;
#[cfg(test)]
mod golden;
mod resize;
mod sheet;
mod simclr;
mod thickness;

pub use affine::ViewSettings;
pub use sheet::{Sheet, contact_sheet, pair_sheet};
pub use simclr::SimclrSettings;

use crate::Error;
use crate::images::Images;
use crate::pairs::Pair;
use crate::picture::Picture;
use crate::random::{Purpose, Random};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// How a view is made; settings that name no recipe are the affine one's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub enum Recipe {
    /// A random affine picture: for drawings.
    Affine(ViewSettings),
    /// SimCLR's: for photographs.
    Simclr(SimclrSettings),
}

/// What an encoder sees of each image when it is used rather than trained: the image itself, or several views of
/// it, whose embeddings are averaged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AveragedViews {
    /// How views were made in training.
    pub recipe: Recipe,
    /// Of each image. 1 is the image itself. Of drawings, as many poses, the same for all images; photographs
    /// have themselves and their mirror image, 2.
    pub count: usize,
    /// Poses follow from it.
    pub seed: u64,
}

impl AveragedViews {
    /// # Errors
    /// When there cannot be so many.
    pub fn check(&self) -> Result<(), String> {
        let most = match self.recipe {
            Recipe::Affine(_) => 1024,
            Recipe::Simclr(_) => 2,
        };
        if (1..=most).contains(&self.count) {
            return Ok(());
        }
        let why = if most == 2 { ": a photograph and its mirror image" } else { "" };
        Err(format!("average is {} views, but it must be 1 to {most}{why}", self.count))
    }
}

/// What the random numbers of a view follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Of the run.
    pub seed: u64,
    /// Counted from 0.
    pub epoch: usize,
    /// What stands for the image, [`Pair::key`]: its row where a pair is two views of it.
    pub image: usize,
    /// Which of the image's views.
    pub view: usize,
}

impl Recipe {
    /// What can be said of the settings before a picture is seen.
    ///
    /// # Errors
    /// The setting that cannot be, what it is, and what it must be.
    pub fn check(&self) -> Result<(), String> {
        match self {
            Self::Affine(settings) => affine::check(settings),
            Self::Simclr(settings) => settings.check(),
        }
    }

    /// Whether views are made of pictures at their original size.
    pub fn wants_originals(&self) -> bool {
        matches!(self, Self::Simclr(_))
    }

    /// The picture that views of an image are made of.
    pub fn picture<'i>(&self, images: &'i Images, row: usize) -> Result<Picture<'i>, Error> {
        if self.wants_originals() { images.original(row) } else { images.scaled(row) }
    }

    /// One view of a picture, into `out`: `[channels, size, size]` of [0, 1].
    ///
    /// Affine views are of the largest square about the picture's centre; SimCLR's are of any part.
    ///
    /// # Errors
    /// When `size` is 0, or `out` has another length.
    pub fn draw(
        &self,
        picture: &Picture<'_>,
        size: usize,
        key: Key,
        out: &mut [f32],
    ) -> Result<(), String> {
        let needed = picture.channels * size * size;
        if size == 0 || out.len() != needed {
            return Err(format!(
                "room for {} numbers was given, but a view of {} × {size} × {size} needs {needed} \
                 and at least 1",
                out.len(),
                picture.channels,
            ));
        }
        match self {
            Self::Affine(settings) => {
                let mut square = vec![0.0; needed];
                centre(picture, size, &mut square);
                affine::draw(&square, size, settings, key, out);
            }
            Self::Simclr(settings) => {
                let Key { seed, epoch, image, view } = key;
                let mut random = Random::new(seed, Purpose::View { epoch, image, view });
                let (width, height) = (picture.width, picture.height);
                simclr::Plan::random(&mut random, settings, width, height).draw(picture, size, out);
            }
        }
        Ok(())
    }
}

/// A view of each member of each pair: `[2n, channels, size, size]`, first every first view, then
/// every second.
///
/// # Errors
/// When an image cannot be read any more.
pub fn draw_pairs(
    images: &Images,
    pairs: &[Pair],
    recipe: &Recipe,
    seed: u64,
    epoch: usize,
) -> Result<Vec<f32>, Error> {
    draw_each(images, 2 * pairs.len(), recipe, |i| {
        let (view, pair) = (i / pairs.len(), pairs[i % pairs.len()]);
        let row = if view == 0 { pair.a } else { pair.b };
        (row, pair.pose, Key { seed, epoch, image: pair.key, view })
    })
}

/// A view of each of these images, `[rows, channels, size, size]`: `number` says which of its views, and
/// [`draw_pairs`] of two views of an image draws the first two.
///
/// # Errors
/// When an image cannot be read any more.
pub fn draw_views(
    images: &Images,
    rows: &[usize],
    recipe: &Recipe,
    (seed, epoch): (u64, usize),
    number: usize,
) -> Result<Vec<f32>, Error> {
    draw_each(images, rows.len(), recipe, |i| {
        (rows[i], 0, Key { seed, epoch, image: rows[i], view: number })
    })
}

/// View `number` of each of these images, of those that are averaged: `[rows, channels, size, size]`.
///
/// # Errors
/// When an image cannot be read any more.
pub fn draw_averaged(
    images: &Images,
    rows: &[usize],
    views: &AveragedViews,
    number: usize,
) -> Result<Vec<f32>, Error> {
    match views.recipe {
        _ if views.count == 1 => images.pixels(rows),
        Recipe::Affine(settings) => {
            // There is no pair whose views would share a part, image 0 stands for all, and training has no third
            // view.
            let key = Key { seed: views.seed, epoch: 0, image: 0, view: 2 + number };
            draw_each(images, rows.len(), &Recipe::Affine(settings.own()), |i| (rows[i], 0, key))
        }
        Recipe::Simclr(_) => {
            let mut pixels = images.pixels(rows)?;
            if number % 2 == 1 {
                pixels.chunks_exact_mut(images.size).for_each(<[f32]>::reverse);
            }
            Ok(pixels)
        }
    }
}

/// So many views, each of the row, in the pose and by the key that `which` says.
fn draw_each(
    images: &Images,
    count: usize,
    recipe: &Recipe,
    which: impl Fn(usize) -> (usize, usize, Key) + Sync,
) -> Result<Vec<f32>, Error> {
    let stride = images.stride();
    let mut out = vec![0.0; count * stride];
    out.par_chunks_mut(stride).enumerate().try_for_each(|(i, out)| {
        let (row, pose, key) = which(i);
        let picture = recipe.picture(images, row)?.posed(pose);
        recipe.draw(&picture, images.size, key, out).map_err(Error::Setting)
    })?;
    Ok(out)
}

/// The largest square about a picture's centre, as planes of [0, 1]. Bytes that need no scaling are
/// divided by 255 exactly, as where images are loaded.
fn centre(picture: &Picture<'_>, size: usize, out: &mut [f32]) {
    let (width, height) = (picture.width, picture.height);
    if (width, height) == (size, size) {
        out.copy_from_slice(&picture.floats());
    } else {
        resize::resize(picture, crop::Crop::square(width, height), size, false, out);
    }
}

/// Uniform in [least, most), in 2³⁰ steps.
fn uniform(random: &mut Random, least: f64, most: f64) -> f64 {
    const STEPS: usize = 1 << 30;
    least + (most - least) * (random.below(STEPS) as f64 / STEPS as f64)
}

/// eˣ for x up to 1, from sums and products only: a system's own differs between systems in the
/// last bit, and views must not.
fn exp(x: f64) -> f64 {
    // Below is no number that a picture could show.
    if x < -40.0 {
        return 0.0;
    }
    let part = x / 1024.0;
    let series = (1..=8).rev().fold(1.0, |sum, k| 1.0 + part / f64::from(k) * sum);
    (0..10).fold(series, |power, _| power * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPES: [Recipe; 4] = [
        Recipe::Affine(ViewSettings {
            rotation: 15.0,
            scale: 0.2,
            shear: 0.2,
            shift: 0.1,
            ..ViewSettings::STILL
        }),
        Recipe::Affine(ViewSettings {
            rotation: 15.0,
            scale: 0.2,
            shear: 0.2,
            shift: 0.1,
            elastic: 0.03,
            smoothness: 0.1,
            thickness: 0.05,
            shared: 0.5,
        }),
        Recipe::Simclr(SimclrSettings { strength: 1.0, blur: 1.0, area: 0.08 }),
        Recipe::Simclr(SimclrSettings::CIFAR),
    ];

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * i % 239) as u8).collect()
    }

    fn images(channels: usize) -> Images {
        let (n, size) = (3, 24);
        let names = vec![String::new(); n];
        let pixels = bytes(n * size * size * channels);
        Images::of_pixels(names.clone(), names, pixels, size, channels).expect("fits")
    }

    fn two_views(rows: &[usize]) -> Vec<Pair> {
        let pair = |&row: &usize| Pair { a: row, b: row, pose: 0, group: row, key: row, place: 0 };
        rows.iter().map(pair).collect()
    }

    #[test]
    fn a_view_depends_on_seed_epoch_image_and_view_alone() {
        for (recipe, channels) in RECIPES.into_iter().flat_map(|r| [(r, 1), (r, 3)]) {
            let images = images(channels);
            let pairs = |rows: &[usize], seed, epoch| {
                draw_pairs(&images, &two_views(rows), &recipe, seed, epoch).expect("drawn")
            };
            let stride = channels * 24 * 24;
            let views = pairs(&[2, 0, 1], 5, 1);
            assert!(views.iter().all(|p| (0.0..=1.0).contains(p)));
            let alone = pairs(&[0], 5, 1);
            assert_eq!(alone[..stride], views[stride..2 * stride], "the batch does not matter");
            assert_eq!(alone[stride..], views[4 * stride..5 * stride]);
            assert_ne!(alone[..stride], alone[stride..], "two views differ");
            assert_ne!(alone, pairs(&[0], 6, 1));
            assert_ne!(alone, pairs(&[0], 5, 2));
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
            let three = rayon::ThreadPoolBuilder::new().num_threads(3).build().expect("a pool");
            let rows = [0, 1, 2, 1, 0];
            let (one, three) =
                (one.install(|| pairs(&rows, 5, 1)), three.install(|| pairs(&rows, 5, 1)));
            assert_eq!(one, three, "threads do not matter");
        }
    }

    /// Without motion a view is its image: the second member's, and turned if the pair is.
    #[test]
    fn each_view_is_of_its_member() {
        let images = images(1);
        let still = ViewSettings::STILL;
        let pair = Pair { a: 2, b: 0, pose: 1, group: 0, key: 7, place: 0 };
        let views = draw_pairs(&images, &[pair], &Recipe::Affine(still), 5, 1).expect("drawn");
        let posed = |row| images.scaled(row).expect("there").posed(1).floats();
        assert_eq!(views, [posed(2), posed(0)].concat());
    }

    #[test]
    fn all_that_views_share_makes_them_alike() {
        let images = images(1);
        let Recipe::Affine(settings) = RECIPES[1] else { unreachable!("drawings") };
        let views = |shared| {
            let settings = ViewSettings { shared, shift: 0.0, ..settings };
            let pairs = two_views(&[0, 1]);
            draw_pairs(&images, &pairs, &Recipe::Affine(settings), 5, 1).expect("drawn")
        };
        let (all, none) = (views(1.0), views(0.0));
        let (first, second) = all.split_at(all.len() / 2);
        assert_eq!(first, second);
        assert_ne!(first, &none[..none.len() / 2]);
        // But not alike in another pair, nor the image as it is.
        let alone =
            draw_pairs(&images, &two_views(&[0]), &Recipe::Affine(ViewSettings::STILL), 5, 1);
        assert_ne!(first[..24 * 24], alone.expect("drawn")[..24 * 24]);
    }

    #[test]
    fn averaged_views_are_the_same_poses_of_every_image() {
        let bytes: Vec<u8> = bytes(24 * 24).repeat(2);
        let names = vec![String::new(); 2];
        let images = Images::of_pixels(names.clone(), names, bytes, 24, 1).expect("fits");
        let of = |recipe, count, number| {
            let views = AveragedViews { recipe, count, seed: 3 };
            assert_eq!(views.check(), Ok(()));
            draw_averaged(&images, &[0, 1], &views, number).expect("drawn")
        };
        let plain = images.pixels(&[0, 1]).expect("there");
        for recipe in RECIPES {
            assert_eq!(of(recipe, 1, 0), plain);
        }
        let [first, second] = [0, 1].map(|number| of(RECIPES[1], 4, number));
        assert_eq!(first[..24 * 24], first[24 * 24..]);
        assert!(first != second && first != plain);
        // A photograph and its mirror image.
        assert_eq!(of(RECIPES[2], 2, 0), plain);
        let mirrored: Vec<f32> =
            plain.chunks(24).flat_map(|row| row.iter().rev().copied()).collect();
        assert_eq!(of(RECIPES[2], 2, 1), mirrored);
        let said = |recipe, count| AveragedViews { recipe, count, seed: 0 }.check();
        assert!(said(RECIPES[2], 3).is_err_and(|text| text.contains("1 to 2: a photograph")));
        assert!(said(RECIPES[0], 0).is_err_and(|text| text.contains("average is 0 views")));
    }

    /// SimCLR's views are sums, products and roots in a fixed order, so they have the same bits on
    /// every machine. A change of these numbers is a change of every run's results.
    #[test]
    fn simclr_views_are_the_same_bits_everywhere() {
        let bytes = bytes(61 * 47 * 3);
        let picture = Picture::new(&bytes, 61, 47, 3).expect("fits");
        let mut hashes = Vec::new();
        for image in 0..2 {
            let mut out = vec![0.0f32; 3 * 40 * 40];
            RECIPES[2].draw(&picture, 40, Key { image, ..KEY }, &mut out).expect("drawn");
            // Fowler, Noll and Vo's hash.
            hashes.push(
                out.iter()
                    .flat_map(|p| p.to_bits().to_le_bytes())
                    .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
                    }),
            );
        }
        assert_eq!(hashes, [16_780_104_168_596_210_982, 7_784_243_794_344_189_876]);
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let bytes = bytes(3 * 4);
        let picture = Picture::new(&bytes, 2, 2, 3).expect("fits");
        let error = RECIPES[2].draw(&picture, 4, KEY, &mut [0.0; 16]).expect_err("no room");
        assert!(error.contains("16 numbers") && error.contains("needs 48"), "{error}");
        assert!(RECIPES[2].draw(&picture, 0, KEY, &mut []).is_err());
    }

    #[test]
    fn exp_is_near_enough() {
        for i in -4000..100 {
            let x = f64::from(i) / 100.0;
            assert!((exp(x) / x.exp() - 1.0).abs() < 1e-12, "{x}");
        }
        assert_eq!(exp(-1e9), 0.0);
    }

    const KEY: Key = Key { seed: 0, epoch: 0, image: 0, view: 0 };

    #[test]
    fn recipes_are_written_and_read() {
        for recipe in RECIPES {
            let text = serde_json::to_string(&recipe).expect("written");
            assert_eq!(serde_json::from_str::<Recipe>(&text).expect("read"), recipe);
            assert_eq!(recipe.check(), Ok(()));
        }
        let read = serde_json::from_str::<Recipe>;
        assert_eq!(
            read(r#"{"recipe":"simclr"}"#).expect("defaults"),
            Recipe::Simclr(Default::default())
        );
        assert!(read(r#"{"recipe":"simclr","rotation":1}"#).is_err());
        assert!(read(r#"{"recipe":"simclr2"}"#).is_err());
    }
}
