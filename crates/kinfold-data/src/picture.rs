//! An image as decoded.
//!
//! Input: bytes of a decoder, interleaved. Output: the same, turned by pose, or numbers
//! between 0 and 1, channel by channel.

use image::DynamicImage;
use image::imageops::FilterType;
use std::borrow::Cow;

/// An image as decoded, `[height, width, channels]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture<'a> {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// Row by row, the channels of a pixel side by side.
    pub pixels: Cow<'a, [u8]>,
    /// The value of a pixel that is as bright as can be: 255, but 16 for the embedded digits.
    pub white: u8,
}

impl<'a> Picture<'a> {
    /// Bytes `[height, width, channels]`, 255 for white.
    ///
    /// # Errors
    /// When there is no pixel, a number of channels other than 1 and 3, or another number of bytes
    /// than the shape says.
    pub fn new(
        pixels: &'a [u8],
        width: usize,
        height: usize,
        channels: usize,
    ) -> Result<Self, String> {
        if channels != 1 && channels != 3 {
            return Err(format!(
                "a picture has {channels} channels, but it must have 1 (grey) or 3 (colour)"
            ));
        }
        if width == 0 || height == 0 {
            return Err(format!("a picture is {width} × {height}, but it must have a pixel"));
        }
        let bytes = height.checked_mul(width).and_then(|n| n.checked_mul(channels));
        if bytes != Some(pixels.len()) {
            return Err(format!(
                "a picture of {width} × {height} pixels and {channels} channels has {} bytes, but \
                 needs {}",
                pixels.len(),
                bytes.map_or("more than there can be".to_owned(), |bytes| bytes.to_string())
            ));
        }
        Ok(Self { width, height, channels, pixels: pixels.into(), white: 255 })
    }
}

impl Picture<'static> {
    /// In `channels`, at the size it has.
    pub(crate) fn of(image: DynamicImage, channels: usize, white: u8) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let pixels = match channels {
            1 => image.into_luma8().into_raw(),
            _ => image.into_rgb8().into_raw(),
        };
        Self { width, height, channels, pixels: pixels.into(), white }
    }

    /// Cut to a square about its centre and scaled, then brought to `channels`.
    pub(crate) fn scaled(image: &DynamicImage, size: usize, channels: usize, white: u8) -> Self {
        let side = size as u32;
        Self::of(image.resize_to_fill(side, side, FilterType::Triangle), channels, white)
    }
}

impl Picture<'_> {
    /// `[channels, height, width]`, each between 0 and 1.
    pub fn floats(&self) -> Vec<f32> {
        let white = f32::from(self.white);
        let plane = |c| self.pixels.iter().skip(c).step_by(self.channels);
        (0..self.channels).flat_map(plane).map(|&p| f32::from(p) / white).collect()
    }

    /// Dark where it was light.
    pub fn inverted(self) -> Self {
        let pixels: Vec<u8> = self.pixels.iter().map(|p| self.white.saturating_sub(*p)).collect();
        Self { pixels: pixels.into(), ..self }
    }

    /// In one of a square's eight poses: turned clockwise by `pose` quarters, and from 4 on mirrored
    /// before that, left for right.
    pub fn posed(self, pose: usize) -> Self {
        let (pose, quarters) = (pose % 8, pose % 4);
        if pose == 0 {
            return self;
        }
        let (width, height) = match quarters % 2 {
            0 => (self.width, self.height),
            _ => (self.height, self.width),
        };
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for y in 0..height {
            for x in 0..width {
                // Where the pixel that comes to (x, y) was before.
                let (u, v) = match quarters {
                    0 => (x, y),
                    1 => (y, self.height - 1 - x),
                    2 => (self.width - 1 - x, self.height - 1 - y),
                    _ => (self.width - 1 - y, x),
                };
                let u = if pose < 4 { u } else { self.width - 1 - u };
                let at = (v * self.width + u) * self.channels;
                pixels.extend_from_slice(&self.pixels[at..at + self.channels]);
            }
        }
        Self { width, height, pixels: pixels.into(), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverted_ink_is_light() {
        let picture = Picture::new(&[0, 255, 100], 3, 1, 1).expect("fits");
        assert_eq!(*picture.clone().inverted().pixels, [255, 0, 155]);
        let digit = Picture { white: 16, pixels: vec![0, 16, 6].into(), ..picture };
        assert_eq!(digit.inverted().floats(), [1.0, 0.0, 0.625]);
    }

    #[test]
    fn a_picture_says_what_does_not_fit() {
        let bytes = [0; 12];
        let wrong = |w, h, c| Picture::new(&bytes, w, h, c).expect_err("refused");
        assert!(Picture::new(&bytes, 2, 2, 3).is_ok() && Picture::new(&bytes, 4, 3, 1).is_ok());
        assert!(wrong(2, 3, 2).contains("2 channels"));
        assert!(wrong(0, 3, 1).contains("0 × 3"));
        assert!(wrong(2, 3, 1).contains("has 12 bytes, but needs 6"));
        assert!(wrong(usize::MAX, 3, 1).contains("more than"));
    }
}
