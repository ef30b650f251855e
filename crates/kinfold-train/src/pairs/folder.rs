//! A folder of images, nested as deep as it likes; an image's sub-folder is its label.
//!
//! A file counts as an image by its ending (png, jpg, jpeg, webp, bmp); others are not looked at.
//! One that cannot be read as an image is skipped, with its name and the reason kept. A folder
//! without a single readable image is an error.

use super::source::{Found, Source, is_image, slashed};
use crate::Error;
use std::path::Path;

pub(super) fn load(folder: &Path) -> Result<Found, Error> {
    let mut found = Found::default();
    for entry in walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name() {
        let entry = entry.map_err(|e| {
            let path = e.path().unwrap_or(folder).to_path_buf();
            Error::File { action: "read", path, source: e.into() }
        })?;
        if !entry.file_type().is_file() {
            continue;
        }
        if !is_image(entry.path()) {
            found.others += 1;
            continue;
        }
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let label = slashed(relative.parent().unwrap_or(Path::new("")));
        let name = slashed(relative);
        found.push(name, label, Source::File(entry.into_path()));
    }
    Ok(found)
}
