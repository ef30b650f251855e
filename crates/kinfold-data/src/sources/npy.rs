//! An array of NumPy: `[n, height, width]`, `[n, height, width, c]` or `[n, c, height, width]`, with
//! c 1 or 3, or `[n, pixels]` of grey squares, of u8, or of f32 or f64 between 0 and 1.
//!
//! Input: the file, and `labels.npy` beside it where there is one, `[n]` of integers. Output: its
//! images.
//!
//! The header is read here, as NumPy's `numpy.lib.format` defines it, and by no crate. ndarray-npy reads
//! whole files only. npyz 0.9 trusts the header: it allocates as many bytes as the header says that it
//! has, up to 4 GiB; the product of the sides overflows; and its parser of Python literals takes twice
//! as long for every nested bracket, so that a header of 100 bytes keeps it busy for years.

use super::raw::{Layout, Number, Raw, floats};
use super::source::Listing;
use crate::Error;
use crate::budget::Budget;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longer than any header of an array of plain numbers.
const LONGEST_HEADER: usize = 1 << 16;

/// What a .npy file says of its array.
pub struct Header {
    /// As NumPy writes it, such as `|u1` and `<f4`.
    pub number: String,
    /// The sides of the array.
    pub shape: Vec<usize>,
    /// Where the numbers begin.
    pub start: u64,
}

pub(super) fn load(path: &Path, budget: &Budget) -> Result<Listing, Error> {
    let Header { number, shape, start } = header(path)?;
    let number = match number.as_str() {
        "|u1" | "u1" => Number::U8,
        "<f4" => Number::F32,
        "<f8" => Number::F64,
        other => {
            let reason = format!(
                "its numbers are `{other}`, but u8 (`|u1`), or f32 or f64 between 0 and 1 (`<f4`, `<f8`) is \
                 needed: save x.astype(numpy.uint8) where they are from 0 to 255"
            );
            return Err(Error::data_file(path, reason));
        }
    };
    let (n, layout) = layout(path, &shape, number)?;
    let raw = Raw::open(path, layout, start, n, budget)?;
    if number != Number::U8 {
        check_range(path, &raw, n)?;
    }
    let labels = labels_beside(path, n)?.unwrap_or_else(|| vec![String::new(); n]);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    let mut listing = Listing::default();
    listing.push_records(&stem, raw, labels);
    Ok(listing)
}

/// How many images an array of such a shape holds, and how.
fn layout(path: &Path, shape: &[usize], number: Number) -> Result<(usize, Layout), Error> {
    let wrong = |why: &str| {
        let reason = format!(
            "its shape is {shape:?}, {why}; [n, height, width], [n, height, width, c] or \
             [n, c, height, width] is needed, with c 1 or 3, or [n, pixels] of grey squares"
        );
        Err(Error::data_file(path, reason))
    };
    if shape.contains(&0) {
        return wrong("which holds no number");
    }
    let colour = |side: usize| side == 1 || side == 3;
    let (height, width, channels, planar) = match *shape {
        [_, _, width] if colour(width) => {
            return wrong("which may be one image as well as many of that width");
        }
        [_, height, width] => (height, width, 1, false),
        [_, pixels] => {
            let side = pixels.isqrt();
            let of_colour = (pixels / 3).isqrt();
            if pixels == 3 * of_colour * of_colour {
                let side = of_colour;
                return wrong(&format!(
                    "which may be colour images of {side}×{side}, but not which way: save \
                     x.reshape(-1, 3, {side}, {side}) where red comes before green and blue, or \
                     x.reshape(-1, {side}, {side}, 3) where it goes pixel by pixel"
                ));
            }
            if side * side != pixels {
                return wrong("whose rows are no square of pixels");
            }
            (side, side, 1, false)
        }
        [_, first, .., last] if shape.len() == 4 && colour(first) && colour(last) => {
            return wrong("in which either side may be the channels");
        }
        [_, height, width, channels] if colour(channels) => (height, width, channels, false),
        [_, channels, height, width] if colour(channels) => (height, width, channels, true),
        _ => return wrong("which is not that of images"),
    };
    Ok((shape[0], Layout { width, height, channels, planar, number, before: 0, white: 255 }))
}

fn check_range(path: &Path, raw: &Raw, n: usize) -> Result<(), Error> {
    for i in 0..n {
        let record = raw.record(i).map_err(|reason| Error::data_file(path, reason))?;
        if let Some(x) = floats(&record, raw.layout.number).find(|x| !(0.0..=1.0).contains(x)) {
            let save = match x {
                _ if (-1.0..0.0).contains(&x) => ": save (x + 1) / 2 where they are from −1 to 1",
                _ if (1.0..=255.0).contains(&x) => {
                    ": save x.astype(numpy.uint8) where they are from 0 to 255"
                }
                _ => "",
            };
            let reason = format!(
                "image {i} has a pixel of {x}, but floats have to be between 0 and 1{save}"
            );
            return Err(Error::data_file(path, reason));
        }
    }
    Ok(())
}

/// A label for each of the `n` rows of an array, out of `labels.npy` beside it where there is one.
pub(crate) fn labels_beside(array: &Path, n: usize) -> Result<Option<Vec<String>>, Error> {
    let path = &array.with_file_name("labels.npy");
    if !path.is_file() || path == array {
        return Ok(None);
    }
    let shape = header(path)?.shape;
    if shape != [n] {
        let reason = format!(
            "its shape is {shape:?}, but {} has {n} rows: [{n}] is needed",
            array.display()
        );
        return Err(Error::data_file(path, reason));
    }
    integers(path).map(Some)
}

/// A list of whole numbers, as text.
///
/// # Errors
/// As [`header`], and when it is no list of integers or its bytes are not those it says.
pub fn integers(path: &Path) -> Result<Vec<String>, Error> {
    let Header { number, shape, start } = header(path)?;
    let [n] = shape[..] else {
        let reason = format!("its shape is {shape:?}, but labels are a list [n]");
        return Err(Error::data_file(path, reason));
    };
    let (signed, width) = match number.trim_start_matches(['|', '<']) {
        "u1" => (false, 1),
        "u2" => (false, 2),
        "u4" => (false, 4),
        "u8" => (false, 8),
        "i1" => (true, 1),
        "i2" => (true, 2),
        "i4" => (true, 4),
        "i8" => (true, 8),
        _ => {
            let reason = format!("its numbers are `{number}`, but integers are needed as labels");
            return Err(Error::data_file(path, reason));
        }
    };
    let bytes = std::fs::read(path).map_err(Error::read(path))?;
    let bytes = &bytes[(start as usize).min(bytes.len())..];
    if bytes.len() != n * width {
        let reason = format!("{n} labels need {} bytes, but {} are there", n * width, bytes.len());
        return Err(Error::data_file(path, reason));
    }
    let label = |bytes: &[u8]| {
        let negative = signed && bytes[width - 1] >= 0x80;
        let mut all = [if negative { 0xff } else { 0 }; 16];
        all[..width].copy_from_slice(bytes);
        i128::from_le_bytes(all).to_string()
    };
    Ok(bytes.chunks(width).map(label).collect())
}

/// Reads the header of a .npy file.
///
/// # Errors
/// When the file cannot be read, is no .npy file, or holds more than one dimension in Fortran's order.
pub fn header(path: &Path) -> Result<Header, Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    let wrong = |reason: String| Error::data_file(path, reason);
    let (text, start) = header_text(BufReader::new(file)).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => wrong("it ends within its header".into()),
        io::ErrorKind::InvalidData => wrong(e.to_string()),
        _ => Error::read(path)(e),
    })?;
    let broken = || wrong(format!("its header is not NumPy's: {text}"));
    let value = |key: &str| -> Option<&str> {
        let after = text.split_once(&format!("'{key}'"))?.1;
        Some(after.trim_start().strip_prefix(':')?.trim_start())
    };
    let number = value("descr")
        .and_then(|v| v.strip_prefix('\'')?.split_once('\''))
        .map(|(number, _)| number.to_owned())
        .ok_or_else(broken)?;
    let sides =
        value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or_else(broken)?.0;
    let sides = sides.split(',').map(str::trim).filter(|side| !side.is_empty());
    let shape: Vec<usize> =
        sides.map(str::parse).collect::<Result<_, _>>().map_err(|_| broken())?;
    let fortran = value("fortran_order").ok_or_else(broken)?.starts_with("True");
    // In an array of one dimension the two orders are one.
    if fortran && shape.len() > 1 {
        return Err(wrong(
            "it is in Fortran's order, but C's is needed: save numpy.ascontiguousarray(x)".into(),
        ));
    }
    Ok(Header { number, shape, start })
}

/// The header's text, and where the numbers begin.
fn header_text(mut file: impl Read) -> io::Result<(String, u64)> {
    let wrong = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    let mut start = [0; 8];
    file.read_exact(&mut start)?;
    if !start.starts_with(MAGIC) {
        return Err(wrong("it does not begin with `\\x93NUMPY`, so it is no .npy file".into()));
    }
    let mut length = [0; 4];
    let width = if start[6] == 1 { 2 } else { 4 };
    file.read_exact(&mut length[..width])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST_HEADER {
        let reason =
            format!("its header is {length} bytes long, but {LONGEST_HEADER} at most are read");
        return Err(wrong(reason));
    }
    let mut text = vec![0; length];
    file.read_exact(&mut text)?;
    Ok((String::from_utf8_lossy(&text).trim_end().to_owned(), (8 + width + length) as u64))
}
