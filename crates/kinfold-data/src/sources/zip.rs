//! A zip file of a folder of images, read in place.
//!
//! Comes in: the file. Goes out: its images, in the order and with the names and labels that the
//! folder it holds would have. Entries of `__MACOSX` and hidden ones are not looked at; one that is
//! encrypted, damaged or beyond [`LARGEST`] is skipped. Nothing is written to disk.

use super::source::Skipped;
use super::source::{Listing, Source, is_image};
use crate::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use zip::ZipArchive;
use zip::result::ZipError;

/// The most bytes that an entry may unpack to; what claims or turns out to be larger is refused.
pub(crate) const LARGEST: u64 = 64 << 20;

/// An open zip file. One thread reads from it at a time; images are decoded outside.
pub(crate) struct Archive {
    pub(super) path: PathBuf,
    zip: Mutex<ZipArchive<BufReader<File>>>,
}

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
    let archive = Arc::new(Archive { path: path.to_path_buf(), zip: Mutex::new(zip) });
    for (name, index) in images {
        let label = name.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        listing.push(name, label, Source::Entry { archive: archive.clone(), index });
    }
    Ok(listing)
}

fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|e| Error::data_file(path, format!("it cannot be read as a zip file: {e}")))
}

/// The entries of this name, and their text.
pub(super) fn texts(path: &Path, name: &str) -> Result<Vec<(String, String)>, Error> {
    let zip = open(path)?;
    let mut entries: Vec<(String, usize)> = (0..zip.len())
        .filter_map(|index| Some((entry(&zip, index).ok()??, index)))
        .filter(|(entry, _)| entry.rsplit('/').next() == Some(name))
        .collect();
    entries.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
    let archive = Archive { path: path.to_path_buf(), zip: Mutex::new(zip) };
    let text = |(entry, index): (String, usize)| {
        let text = archive
            .read(index)
            .and_then(|bytes| String::from_utf8(bytes).map_err(|e| format!("it is no text: {e}")));
        let text = text.map_err(|reason| Error::data_file(&path.join(&entry), reason))?;
        Ok((entry, text))
    };
    entries.into_iter().map(text).collect()
}

/// An entry's name where it is a file to look at.
fn entry(zip: &ZipArchive<BufReader<File>>, index: usize) -> Result<Option<String>, ZipError> {
    let entry = zip.by_index_data(index)?;
    let name = plain(&entry.name()?);
    let hidden = name.split('/').any(|part| part == "__MACOSX" || part.starts_with('.'));
    Ok(Some(name).filter(|_| entry.is_file() && !hidden))
}

/// With `/` between folders, without `./` before them.
fn plain(name: &str) -> String {
    let name = name.replace('\\', "/");
    let parts: Vec<&str> =
        name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    parts.join("/")
}

impl Archive {
    fn zip(&self) -> MutexGuard<'_, ZipArchive<BufReader<File>>> {
        // Every read begins with a seek, so a thread that died in one left nothing half done.
        self.zip.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn name(&self, index: usize) -> String {
        let zip = self.zip();
        let entry = zip.by_index_data(index);
        let name = entry.and_then(|entry| entry.name().map(|name| plain(&name)));
        name.unwrap_or_else(|_| format!("entry {index}"))
    }

    /// An entry, unpacked, its checksum checked; or why it cannot be.
    pub(super) fn read(&self, index: usize) -> Result<Vec<u8>, String> {
        let mut zip = self.zip();
        let encrypted = zip.by_index_data(index).is_ok_and(|entry| entry.encrypted());
        if encrypted {
            return Err("it is encrypted".to_owned());
        }
        let mut entry = zip.by_index(index).map_err(|e| e.to_string())?;
        let mut bytes = Vec::new();
        let mut unpacks_to = entry.size();
        if unpacks_to <= LARGEST {
            // What an entry says of its size need not be true.
            let read = entry.by_ref().take(LARGEST + 1).read_to_end(&mut bytes);
            unpacks_to = read.map_err(|e| e.to_string())? as u64;
        }
        if unpacks_to > LARGEST {
            let most = LARGEST >> 20;
            return Err(format!("it unpacks to more than {most} MiB, the most that an entry may"));
        }
        Ok(bytes)
    }
}
