//! A folder of images, nested as deep as it likes; an image's sub-folder is its label.
//!
//! A file counts as an image by its ending (png, jpg, jpeg, webp, bmp); others are not looked at.
//! One that cannot be read as an image is skipped, with its name and the reason kept. A folder
//! without a single readable image is an error.

use super::source::{Listing, Source, is_image, slashed};
use crate::Error;
use std::path::Path;

pub(super) fn load(folder: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for entry in files(folder) {
        let entry = entry?;
        if !is_image(entry.path()) {
            listing.others += 1;
            continue;
        }
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let label = slashed(relative.parent().unwrap_or(Path::new("")));
        let name = slashed(relative);
        listing.push(name, label, Source::File(entry.into_path()));
    }
    Ok(listing)
}

/// The files of this name, and their text.
pub(super) fn texts(folder: &Path, name: &str) -> Result<Vec<(String, String)>, Error> {
    let mut texts = Vec::new();
    for entry in files(folder) {
        let entry = entry?;
        if entry.file_name() == name {
            let path = entry.path();
            let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
            texts.push((slashed(path.strip_prefix(folder).unwrap_or(path)), text));
        }
    }
    Ok(texts)
}

/// Every file, by name, a level at a time.
fn files(folder: &Path) -> impl Iterator<Item = Result<walkdir::DirEntry, Error>> {
    let entries = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name();
    entries.into_iter().filter(|entry| !matches!(entry, Ok(e) if !e.file_type().is_file())).map(
        |entry| {
            entry.map_err(|e| {
                let path = e.path().unwrap_or(folder).to_path_buf();
                Error::File { action: "read", path, source: e.into() }
            })
        },
    )
}
