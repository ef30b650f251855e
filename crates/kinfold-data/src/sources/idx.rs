//! IDX files, as MNIST and its relatives come: one of images and one of their labels, each packed
//! with gzip or not.
//!
//! Input: a folder with `train-images-idx3-ubyte` and `train-labels-idx1-ubyte` (and, for the
//! images to judge by, the same two of `t10k` or `test`), or one file of images that has its labels
//! beside it. Output: its images. The format is in the last section of LeCun's MNIST page: a
//! magic number, the sides, each four bytes with the highest first, then bytes.

use super::raw::{Layout, Number, Raw};
use super::source::{Listing, files_in};
use crate::Error;
use crate::budget::Budget;
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

const IMAGES: u32 = 0x0803;
const LABELS: u32 = 0x0801;

/// Whether a file, named in lower case, is one of images.
pub(super) fn is_images(name: &str) -> bool {
    let name = name.strip_suffix(".gz").unwrap_or(name);
    name.ends_with("images-idx3-ubyte") || name.ends_with("images.idx3-ubyte")
}

/// The files of images in a folder.
pub(super) struct Folder {
    train: PathBuf,
    test: Option<PathBuf>,
}

impl Folder {
    /// None where the folder holds no such file.
    pub(super) fn in_folder(folder: &Path) -> Result<Option<Self>, Error> {
        let (mut train, mut test): (Vec<PathBuf>, Vec<PathBuf>) = Default::default();
        let mut any = false;
        for path in files_in(folder)? {
            let name = lower(&path);
            if !is_images(&name) {
                continue;
            }
            any = true;
            let side = if name.contains("train") { &mut train } else { &mut test };
            // Where a file is there both packed and not, once is enough; `.gz` sorts last.
            if side.last().is_none_or(|other| format!("{}.gz", lower(other)) != name) {
                side.push(path);
            }
        }
        if !any {
            return Ok(None);
        }
        if train.len() != 1 || test.len() > 1 {
            return Err(Error::data_file(
                folder,
                format!(
                    "it holds {} files of images to train on and {} to judge by, but 1 and at most \
                     1 are needed; give one file itself as --data to choose it",
                    train.len(),
                    test.len()
                ),
            ));
        }
        Ok(train.pop().map(|train| Self { train, test: test.pop() }))
    }
}

/// The images of a folder, those to judge by last.
pub(super) fn folder(files: &Folder, budget: &Budget) -> Result<Listing, Error> {
    let mut listing = file(&files.train, budget)?;
    if let Some(test) = &files.test {
        let train = listing.names.len();
        add(&mut listing, test, budget)?;
        listing.held_out = train..listing.names.len();
    }
    Ok(listing)
}

/// The images of one file.
pub(super) fn file(path: &Path, budget: &Budget) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    add(&mut listing, path, budget)?;
    Ok(listing)
}

fn add(listing: &mut Listing, path: &Path, budget: &Budget) -> Result<(), Error> {
    let (raw, n) = images(path, budget)?;
    let labels = labels(path, n)?;
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    // `train-images…` has images `train/0`, `train/1`, …
    let stem = name.split("images").next().unwrap_or_default().trim_end_matches(['-', '.', '_']);
    let stem = if stem.is_empty() { "images" } else { stem };
    listing.push_records(stem, raw, labels.iter().map(ToString::to_string).collect());
    Ok(())
}

fn images(path: &Path, budget: &Budget) -> Result<(Raw, usize), Error> {
    let mut file = open(path)?;
    let [magic, n, height, width] = header(path, &mut file)?;
    check_magic(path, magic, IMAGES)?;
    let [n, height, width] = [n, height, width].map(|side| side as usize);
    if n == 0 || height == 0 || width == 0 {
        let reason = format!("it says that it holds {n} images of {height}×{width}");
        return Err(Error::data_file(path, format!("{reason}, but none of these may be 0")));
    }
    let layout = Layout {
        width,
        height,
        channels: 1,
        planar: false,
        number: Number::U8,
        before: 0,
        white: 255,
    };
    let raw = match packed(path) {
        true => Raw::decompress(path, file, layout, n, budget)?,
        false => Raw::open(path, layout, 16, n, budget)?,
    };
    Ok((raw, n))
}

/// The labels beside a file of `n` images.
fn labels(images: &Path, n: usize) -> Result<Vec<u8>, Error> {
    let name = images.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let plain = plain.replace("images-idx3", "labels-idx1").replace("images.idx3", "labels.idx1");
    let beside = [images.with_file_name(&plain), images.with_file_name(format!("{plain}.gz"))];
    let Some(path) = beside.iter().find(|path| path.is_file()) else {
        return Err(Error::data_file(images, format!("it needs its labels beside it, in {plain}")));
    };
    let mut file = open(path)?;
    let [magic, count] = header(path, &mut file)?;
    check_magic(path, magic, LABELS)?;
    if count as usize != n {
        let reason = format!("it has {count} labels, but {} has {n} images", images.display());
        return Err(Error::data_file(path, reason));
    }
    let mut labels = Vec::new();
    file.take(n as u64 + 1).read_to_end(&mut labels).map_err(|e| unpacked(path, &e))?;
    if labels.len() != n {
        let found = if labels.len() > n {
            "more follow".into()
        } else {
            format!("{} are there", labels.len())
        };
        return Err(Error::data_file(path, format!("{n} labels need {n} bytes, but {found}")));
    }
    Ok(labels)
}

fn open(path: &Path) -> Result<Box<dyn Read>, Error> {
    let file = BufReader::new(File::open(path).map_err(Error::read(path))?);
    Ok(if packed(path) { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

fn packed(path: &Path) -> bool {
    lower(path).ends_with(".gz")
}

/// The first numbers of a file.
fn header<const N: usize>(path: &Path, file: &mut dyn Read) -> Result<[u32; N], Error> {
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 4];
        file.read_exact(&mut bytes).map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::data_file(path, format!("it ends within its header of {} bytes", 4 * N))
            }
            _ => unpacked(path, &e),
        })?;
        *number = u32::from_be_bytes(bytes);
    }
    Ok(numbers)
}

fn check_magic(path: &Path, found: u32, needed: u32) -> Result<(), Error> {
    if found == needed {
        return Ok(());
    }
    let what = if needed == IMAGES { "images" } else { "labels" };
    let reason = format!(
        "it begins with {found:#010x}, but a file of {what} as bytes begins with {needed:#010x}"
    );
    Err(Error::data_file(path, reason))
}

fn unpacked(path: &Path, e: &std::io::Error) -> Error {
    Error::data_file(path, format!("it cannot be read: {e}"))
}

fn lower(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default()
}
