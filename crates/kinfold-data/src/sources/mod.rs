//! Where images are: a file a format.
//!
//! Input: a path, or `digits`. Output: a `Listing` of what is there, each image with its name, its
//! label and its `Source`, which decodes it. Nothing is decoded here before it is asked for, except
//! what a format's checks need.
//!
//! Formats: the embedded digits; a folder of images, a zip file of one, or a list of pairs of files;
//! MNIST's IDX files; CIFAR's binary files; an array of NumPy.

mod archive;
mod cifar;
mod digits;
mod folder;
mod idx;
mod list;
pub(crate) mod matrix;
pub mod npy;
mod raw;
mod source;
pub(crate) mod table;
mod zip;

#[cfg(test)]
pub(crate) use archive::LARGEST;
pub(crate) use list::without;
pub(crate) use raw::{Layout, Raw};
pub(crate) use source::{Listing, Source, no_images};

use crate::Error;
use crate::budget::Budget;
use crate::settings::{DIGITS, Reading};
use std::path::Path;

/// The embedded digits, or what lies at a path, told by its name.
pub(crate) fn find(data: &str, reading: &Reading, budget: &Budget) -> Result<Listing, Error> {
    if data == DIGITS {
        return digits::load(reading.size, reading.channels);
    }
    let path = Path::new(data);
    if path.is_dir() {
        if let Some(files) = idx::Folder::in_folder(path)? {
            return idx::folder(&files, budget);
        }
        return match cifar::files(path)? {
            Some(files) => cifar::load(path, &files, budget),
            None => folder::load(path),
        };
    }
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let ending = Path::new(&name).extension().map(|e| e.to_string_lossy().into_owned());
    if !path.exists() {
        return Err(Error::Data(format!("{} does not exist; {}", path.display(), takes())));
    }
    match ending.as_deref() {
        _ if idx::is_images(&name) => idx::file(path, budget),
        Some("zip") => zip::load(path),
        Some("bin") if cifar::is_file(&name) => cifar::file(path, &name, budget),
        Some("npy") => npy::load(path, budget),
        Some("csv") => list::load(path, list::Written::Csv),
        Some("jsonl") => list::load(path, list::Written::JsonLines),
        _ => {
            cifar::pickles(path, &[path.to_path_buf()])?;
            Err(Error::Data(format!("{} is no folder; {}", path.display(), takes())))
        }
    }
}

/// The files of this name in a folder of images or a zip file of one: each one's path in it, and its
/// text. Other data has none.
pub fn texts(data: &Path, name: &str) -> Result<Vec<(String, String)>, Error> {
    let is_zip = data.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("zip"));
    match data.is_dir() {
        true => folder::texts(data, name),
        false if is_zip => zip::texts(data, name),
        false => Ok(Vec::new()),
    }
}

fn takes() -> String {
    format!(
        "--data takes `{DIGITS}`, a folder of images, a .zip of one, a folder of MNIST's or CIFAR's \
         files, one …images-idx3-ubyte[.gz] or data_batch_1.bin, a .npy array, or a list of pairs as .csv or .jsonl"
    )
}
