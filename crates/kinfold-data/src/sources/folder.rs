//! A folder of images, nested as deep as it likes; an image's sub-folder is its label.
//!
//! A file counts as an image by its ending (png, jpg, jpeg, webp, bmp, gif, tif, tiff); others are not
//! looked at. One that cannot be read as an image is skipped, with its name and the reason kept; so is a
//! link that leads nowhere or around in a circle, and a folder that may not be read. A folder without a
//! single readable image is an error.

use super::source::{Listing, Source, is_image, slashed};
use crate::Error;
use crate::items::Skipped;
use std::path::Path;

pub(super) fn load(folder: &Path) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    for entry in files(folder) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(e) => {
                // Of the folder itself there is nothing to go on with.
                let path = e.path().filter(|path| *path != folder).map(Path::to_path_buf);
                let Some(path) = path else { return Err(unread(folder, e)) };
                listing.skipped.push(Skipped { path, reason: reason(&e) });
                continue;
            }
        };
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
        let entry = entry.map_err(|e| unread(folder, e))?;
        if entry.file_name() == name {
            let path = entry.path();
            let text = std::fs::read_to_string(path).map_err(Error::read(path))?;
            texts.push((slashed(path.strip_prefix(folder).unwrap_or(path)), text));
        }
    }
    Ok(texts)
}

/// Every file, by name, a level at a time; an error for what cannot be looked into.
fn files(folder: &Path) -> impl Iterator<Item = walkdir::Result<walkdir::DirEntry>> {
    let entries = walkdir::WalkDir::new(folder).follow_links(true).sort_by_file_name();
    entries.into_iter().filter(|entry| !matches!(entry, Ok(e) if !e.file_type().is_file()))
}

fn unread(folder: &Path, e: walkdir::Error) -> Error {
    let path = e.path().unwrap_or(folder).to_path_buf();
    Error::File { action: "read", path, source: e.into() }
}

fn reason(e: &walkdir::Error) -> String {
    match (e.loop_ancestor(), e.io_error()) {
        (Some(ancestor), _) => format!("it leads around to {}", ancestor.display()),
        (None, Some(e)) => e.to_string(),
        (None, None) => e.to_string(),
    }
}
