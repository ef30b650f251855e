//! The embedded digits; `digits.md` beside this file says whose they are and under which licence.

use super::raw::{Layout, Raw};
use super::source::Listing;
use crate::Error;
use std::io::Read;

const FILE: &[u8] = include_bytes!("digits.csv.gz");
const SIDE: usize = 8;
/// The largest value of a pixel in the file.
const WHITE: u8 = 16;

pub(super) fn load(size: usize, channels: usize) -> Result<Listing, Error> {
    if (size, channels) != (SIDE, 1) {
        return Err(Error::Setting(format!(
            "the digits are {SIDE}×{SIDE} in 1 channel, but {size}×{size} in {channels} were asked \
             for: leave image size and channels at their defaults"
        )));
    }
    let damaged = || Error::Data("the embedded digits are damaged".into());
    let mut text = String::new();
    flate2::read::GzDecoder::new(FILE).read_to_string(&mut text).map_err(|_| damaged())?;
    let (mut labels, mut all) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let numbers: Vec<u8> =
            line.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| damaged())?;
        let Some((label, pixels)) = numbers.split_last() else { return Err(damaged()) };
        if pixels.len() != SIDE * SIDE {
            return Err(damaged());
        }
        labels.push(label.to_string());
        all.extend_from_slice(pixels);
    }
    let mut listing = Listing::default();
    let raw = Raw::in_memory(all, Layout::square(SIDE, 1, WHITE));
    listing.push_records("digits", raw, labels);
    Ok(listing)
}
