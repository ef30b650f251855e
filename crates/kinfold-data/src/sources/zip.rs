//! A zip file of a folder of images, read in place.
//!
//! Input: the file. Output: its images, in the order and with the names and labels that the folder it
//! holds would have. Entries of `__MACOSX` and hidden ones are not looked at.

use super::archive::{Archive, entry, open};
use super::source::{Listing, Source, is_image};
use crate::Error;
use crate::items::Skipped;
use std::path::Path;
use std::sync::Arc;

/// The images of a zip file.
pub(super) fn load(path: &Path) -> Result<Listing, Error> {
    let zip = open(path)?;
    let mut listing = Listing::default();
    let mut images = Vec::new();
    for index in 0..zip.len() {
        match entry(&zip, index) {
            Ok(None) => {}
            Ok(Some(name)) if is_image(Path::new(&name)) => images.push((name, index)),
            Ok(Some(_)) => listing.others += 1,
            Err(e) => listing
                .skipped
                .push(Skipped { path: path.join(format!("entry {index}")), reason: e.to_string() }),
        }
    }
    // As a folder is walked: by name, a level at a time.
    images.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    let archive = Arc::new(Archive::new(path, zip));
    for (name, index) in images {
        let label = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        listing.push(name, label, Source::Entry { archive: archive.clone(), index });
    }
    Ok(listing)
}

/// The entries of this name, and their text.
pub(super) fn texts(path: &Path, name: &str) -> Result<Vec<(String, String)>, Error> {
    let zip = open(path)?;
    let mut entries: Vec<(String, usize)> = (0..zip.len())
        .filter_map(|index| Some((entry(&zip, index).ok()??, index)))
        .filter(|(entry, _)| entry.rsplit('/').next() == Some(name))
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    let archive = Archive::new(path, zip);
    let text = |(entry, index): (String, usize)| {
        let text = archive
            .read(index)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|e| format!("it is no text: {e}")));
        let text = text.map_err(|reason| Error::data_file(&path.join(&entry), reason))?;
        Ok((entry, text))
    };
    entries.into_iter().map(text).collect()
}
