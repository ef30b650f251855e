//! Files of plain pixels, one record after the other: MNIST's, CIFAR's, NumPy's.
//!
//! Input: a file whose length was checked, and how its records are laid out. Output: images. A
//! file that the memory budget has no room for stays on disk, and records are read from there.

use crate::Error;
use crate::budget::Budget;
use image::{DynamicImage, GrayImage, RgbImage};
use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// How a record is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) width: usize,
    pub(crate) height: usize,
    /// 1 or 3.
    pub(crate) channels: usize,
    /// Whether channel follows channel, rather than pixel pixel.
    pub(crate) planar: bool,
    pub(crate) number: Number,
    /// Bytes before the pixels, such as labels.
    pub(crate) before: usize,
    /// The value of the brightest pixels.
    pub(crate) white: u8,
}

/// What a pixel is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Number {
    /// A byte.
    U8,
    /// Between 0 and 1, the lowest byte first.
    F32,
    /// The same.
    F64,
}

impl Layout {
    /// Bytes, pixel after pixel.
    pub(crate) fn square(size: usize, channels: usize, white: u8) -> Self {
        let (width, height) = (size, size);
        Self { width, height, channels, planar: false, number: Number::U8, before: 0, white }
    }

    /// Bytes of a record; u128 because sides come from files and may be anything.
    pub(crate) fn record(&self) -> u128 {
        let number = match self.number {
            Number::U8 => 1,
            Number::F32 => 4,
            Number::F64 => 8,
        };
        [self.height, self.channels, number]
            .iter()
            .fold(self.width as u128, |product, &side| product.saturating_mul(side as u128))
            + self.before as u128
    }
}

/// A file of records.
pub(crate) struct Raw {
    pub(crate) path: PathBuf,
    pub(crate) layout: Layout,
    records: Records,
}

enum Records {
    Memory(Vec<u8>),
    Disk { file: Mutex<File>, start: u64 },
}

impl Raw {
    /// Records that are in memory already.
    pub(crate) fn in_memory(records: Vec<u8>, layout: Layout) -> Self {
        Self { path: PathBuf::new(), layout, records: Records::Memory(records) }
    }

    /// The `n` records of a file that begin at byte `start` and go to its end.
    pub(crate) fn open(
        path: &Path,
        layout: Layout,
        start: u64,
        n: usize,
        budget: &Budget,
    ) -> Result<Self, Error> {
        let read = |e| Error::read(path)(e);
        let mut file = File::open(path).map_err(read)?;
        let length = u128::from(file.metadata().map_err(read)?.len());
        let needed = (n as u128).saturating_mul(layout.record());
        let found = length.saturating_sub(start.into());
        if found != needed {
            return Err(wrong_length(path, n, layout, found, needed));
        }
        let records = if u64::try_from(needed).is_ok_and(|bytes| budget.take(bytes)) {
            let mut bytes = Vec::with_capacity(needed as usize);
            file.seek(SeekFrom::Start(start)).map_err(read)?;
            file.read_to_end(&mut bytes).map_err(read)?;
            if bytes.len() as u128 != needed {
                return Err(wrong_length(path, n, layout, bytes.len() as u128, needed));
            }
            Records::Memory(bytes)
        } else {
            Records::Disk { file: Mutex::new(file), start }
        };
        Ok(Self { path: path.to_path_buf(), layout, records })
    }

    /// The `n` records that a decompressor has still to give, and nothing after them. They have to
    /// fit the budget, since a compressed file cannot be read from its middle.
    pub(crate) fn decompress(
        path: &Path,
        from: impl Read,
        layout: Layout,
        n: usize,
        budget: &Budget,
    ) -> Result<Self, Error> {
        let needed = (n as u128).saturating_mul(layout.record());
        let room =
            u64::try_from(needed).ok().filter(|&bytes| budget.take(bytes)).ok_or_else(|| {
                let reason = format!(
                    "it unpacks to {needed} bytes, which is more than there is room for in memory: \
                 unpack it, so that images can be read from it one by one"
                );
                Error::data_file(path, reason)
            })?;
        let mut bytes = Vec::new();
        from.take(room + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::data_file(path, format!("it cannot be unpacked: {e}")))?;
        if bytes.len() as u128 != needed {
            return Err(wrong_length(path, n, layout, bytes.len() as u128, needed));
        }
        Ok(Self { path: path.to_path_buf(), layout, records: Records::Memory(bytes) })
    }

    /// The bytes of a record.
    pub(crate) fn record(&self, i: usize) -> Result<Cow<'_, [u8]>, String> {
        let length = self.layout.record() as usize;
        match &self.records {
            Records::Memory(bytes) => {
                bytes.get(i * length..(i + 1) * length).map(Cow::Borrowed).ok_or_else(|| {
                    format!("record {i} was asked for, but there are {}", bytes.len() / length)
                })
            }
            Records::Disk { file, start } => {
                let mut bytes = vec![0; length];
                // A thread that died while it held the file left nothing half done.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(start + (i * length) as u64))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|e| format!("record {i}: {e}"))?;
                Ok(bytes.into())
            }
        }
    }

    /// The pixels of a record, where they are in memory and just as they are needed.
    pub(crate) fn as_needed(&self, i: usize, size: usize, channels: usize) -> Option<&[u8]> {
        let Layout { before, white, planar, .. } = self.layout;
        let layout = Layout { before, ..Layout::square(size, channels, white) };
        let same = layout == Layout { planar: planar && channels > 1, ..self.layout };
        match &self.records {
            Records::Memory(bytes) if same => {
                let length = before + size * size * channels;
                bytes.get(i * length + before..(i + 1) * length)
            }
            _ => None,
        }
    }

    /// A record's bytes as an image. Numbers between 0 and 1 become bytes, the nearest.
    pub(crate) fn image(&self, record: &[u8]) -> Result<DynamicImage, String> {
        let Layout { width, height, channels, planar, number, before, .. } = self.layout;
        let record = record.get(before..).unwrap_or_default();
        let mut pixels: Vec<u8> = match number {
            Number::U8 => record.to_vec(),
            _ => floats(record, number).map(|x| (x * 255.0).round() as u8).collect(),
        };
        if planar {
            let area = width * height;
            let at = |i: usize| pixels[i % channels * area + i / channels];
            pixels = (0..pixels.len()).map(at).collect();
        }
        let (width, height) = (width as u32, height as u32);
        let image = match channels {
            1 => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
            _ => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
        };
        image.ok_or_else(|| "its record is too short".to_owned())
    }
}

/// The numbers of a record that are no bytes.
pub(crate) fn floats(bytes: &[u8], number: Number) -> impl Iterator<Item = f64> {
    let width = if number == Number::F64 { 8 } else { 4 };
    bytes.chunks_exact(width).map(|bytes| match *bytes {
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0.0,
    })
}

/// The error of a file that does not hold what its header says.
fn wrong_length(path: &Path, n: usize, layout: Layout, found: u128, needed: u128) -> Error {
    let Layout { width, height, channels, .. } = layout;
    let found = match found > needed {
        true => "more follow".to_owned(),
        false => format!("{found} are there"),
    };
    Error::data_file(
        path,
        format!(
            "{n} images of {height}×{width} in {channels} channels need {needed} bytes after the \
             header, but {found}"
        ),
    )
}
