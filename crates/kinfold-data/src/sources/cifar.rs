//! The binary files of CIFAR-10 and CIFAR-100.
//!
//! Input: a folder with `data_batch_1.bin` and so on and `test_batch.bin`, or one with
//! `train.bin` and `test.bin`; or one such file. Output: their images, 32×32 in three channels; the test files are
//! the images to judge by. A label is the class, of CIFAR-100 the fine one: its name where
//! `batches.meta.txt` or `fine_label_names.txt` is there, else its number. The format: of each
//! image one byte of label (of CIFAR-100 two, the coarse one first), then red, green and blue.

use super::raw::{Layout, Number, Raw};
use super::source::{Listing, files_in, is_image};
use crate::Error;
use crate::budget::Budget;
use std::path::{Path, PathBuf};

const SIDE: usize = 32;

/// The files of one of the two.
#[derive(Default)]
pub(super) struct Files {
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
    /// How many classes each label byte can name.
    classes: &'static [u8],
    names: &'static str,
}

const TEN: &[u8] = &[10];
const HUNDRED: &[u8] = &[20, 100];

/// Whether a file is one of these by its name in lower case.
pub(super) fn is_file(name: &str) -> bool {
    let ten = name.starts_with("data_batch_") && name.ends_with(".bin");
    ten || ["test_batch.bin", "train.bin", "test.bin"].contains(&name)
}

/// Whether a file is one of those that CIFAR's Python version consists of, by its name in lower case.
fn is_pickle(name: &str) -> bool {
    let ten = name.strip_prefix("data_batch_").is_some_and(|n| n.parse::<u32>().is_ok());
    ten || name == "test_batch"
}

/// The error of files that hold Python's pickles, where some are among these.
pub(super) fn pickles(path: &Path, files: &[PathBuf]) -> Result<(), Error> {
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().to_lowercase());
    let Some(file) = files.iter().find(|path| name(path).is_some_and(|n| is_pickle(&n))) else {
        return Ok(());
    };
    let reason = format!(
        "{} is one of CIFAR's files for Python (a pickle, which may run any code): take the binary version \
         (cifar-10-binary.tar.gz, cifar-100-binary.tar.gz) from the same page, and unpack it",
        file.file_name().unwrap_or_default().to_string_lossy()
    );
    Err(Error::data_file(path, reason))
}

/// The images of one file: of CIFAR-10 by its name, or else of CIFAR-100.
pub(super) fn file(path: &Path, name: &str, budget: &Budget) -> Result<Listing, Error> {
    let (classes, names) = match name.contains("_batch") {
        true => (TEN, "batches.meta.txt"),
        false => (HUNDRED, "fine_label_names.txt"),
    };
    let names = self::names(&path.with_file_name(names), classes)?;
    let mut listing = Listing::default();
    add(&mut listing, path, classes, &names, budget)?;
    Ok(listing)
}

/// None where the folder holds no such file. `train.bin` says less than `data_batch_1.bin`, and
/// counts only where there are no images or folders beside it.
pub(super) fn files(folder: &Path) -> Result<Option<Files>, Error> {
    let here = files_in(folder)?;
    pickles(folder, &here)?;
    let name = |path: &Path| path.file_name().map(|n| n.to_string_lossy().to_lowercase());
    let with = |right: &dyn Fn(&str) -> bool| -> Vec<PathBuf> {
        here.iter().filter(|path| name(path).is_some_and(|n| right(&n))).cloned().collect()
    };
    let batch = |n: &str| n.starts_with("data_batch_") && n.ends_with(".bin");
    let (train, test) = (with(&batch), with(&|n| n == "test_batch.bin"));
    let found = if !train.is_empty() || !test.is_empty() {
        Files { train, test, classes: TEN, names: "batches.meta.txt" }
    } else {
        let (train, test) = (with(&|n| n == "train.bin"), with(&|n| n == "test.bin"));
        let images = here.iter().any(|path| is_image(path)) || holds_folders(folder)?;
        if (train.is_empty() && test.is_empty()) || images {
            return Ok(None);
        }
        Files { train, test, classes: HUNDRED, names: "fine_label_names.txt" }
    };
    if found.train.is_empty() {
        let needed = if found.classes == TEN { "data_batch_1.bin" } else { "train.bin" };
        let reason =
            format!("it holds images to judge by but none to train on: {needed} is needed");
        return Err(Error::data_file(folder, reason));
    }
    Ok(Some(found))
}

fn holds_folders(folder: &Path) -> Result<bool, Error> {
    let mut entries = std::fs::read_dir(folder).map_err(Error::read(folder))?;
    Ok(entries.any(|entry| entry.is_ok_and(|entry| entry.path().is_dir())))
}

/// The images of a folder, those to judge by last.
pub(super) fn load(folder: &Path, files: &Files, budget: &Budget) -> Result<Listing, Error> {
    let names = names(&folder.join(files.names), files.classes)?;
    let mut listing = Listing::default();
    for path in &files.train {
        add(&mut listing, path, files.classes, &names, budget)?;
    }
    let train = listing.names.len();
    for path in &files.test {
        add(&mut listing, path, files.classes, &names, budget)?;
    }
    listing.held_out = train..listing.names.len();
    Ok(listing)
}

/// The classes' names, or their numbers.
fn names(path: &Path, classes: &[u8]) -> Result<Vec<String>, Error> {
    let n = usize::from(classes[classes.len() - 1]);
    if !path.is_file() {
        return Ok((0..n).map(|class| class.to_string()).collect());
    }
    let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
    let names: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if names.len() != n {
        let reason = format!("it names {} classes, but there are {n}", names.len());
        return Err(Error::data_file(path, reason));
    }
    Ok(names)
}

fn add(
    listing: &mut Listing,
    path: &Path,
    classes: &[u8],
    names: &[String],
    budget: &Budget,
) -> Result<(), Error> {
    let layout = Layout {
        width: SIDE,
        height: SIDE,
        channels: 3,
        planar: true,
        number: Number::U8,
        before: classes.len(),
        white: 255,
    };
    let bytes = std::fs::metadata(path).map_err(Error::read(path))?.len();
    let record = layout.record() as u64;
    if bytes == 0 || bytes % record != 0 {
        return Err(Error::data_file(
            path,
            format!(
                "it has {bytes} bytes, but needs a multiple of {record}, the bytes of an image"
            ),
        ));
    }
    let n = (bytes / record) as usize;
    let raw = Raw::open(path, layout, 0, n, budget)?;
    let mut labels = Vec::with_capacity(n);
    for index in 0..n {
        let record = raw.record(index).map_err(|reason| Error::data_file(path, reason))?;
        for (&label, &classes) in record.iter().zip(classes) {
            if label >= classes {
                let reason = format!(
                    "image {index} has label {label}, but labels go from 0 to {}",
                    classes - 1
                );
                return Err(Error::data_file(path, reason));
            }
        }
        labels.push(names[usize::from(record[classes.len() - 1])].clone());
    }
    let stem = path.file_stem().map(|stem| stem.to_string_lossy()).unwrap_or_default();
    listing.push_records(&stem, raw, labels);
    Ok(())
}
