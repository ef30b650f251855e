//! An open zip file, whose entries are read in place. Nothing is written to disk.
//!
//! Input: the file. Output: an entry's name, or its bytes with their checksum checked. An entry that is
//! encrypted, damaged or beyond [`LARGEST`] is refused.

use crate::Error;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use zip::ZipArchive;
use zip::result::ZipError;

/// The most bytes that an entry may unpack to; what claims or turns out to be larger is refused.
pub(crate) const LARGEST: u64 = 64 << 20;

/// An open zip file. One thread reads from it at a time; images are decoded outside.
pub(crate) struct Archive {
    pub(super) path: PathBuf,
    zip: Mutex<ZipArchive<BufReader<File>>>,
}

pub(super) fn open(path: &Path) -> Result<ZipArchive<BufReader<File>>, Error> {
    let file = File::open(path).map_err(Error::read(path))?;
    ZipArchive::new(BufReader::new(file))
        .map_err(|e| Error::data_file(path, format!("it cannot be read as a zip file: {e}")))
}

/// An entry's name where it is a file to look at.
pub(super) fn entry(
    zip: &ZipArchive<BufReader<File>>,
    index: usize,
) -> Result<Option<String>, ZipError> {
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
    pub(super) fn new(path: &Path, zip: ZipArchive<BufReader<File>>) -> Self {
        Self { path: path.to_path_buf(), zip: Mutex::new(zip) }
    }

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
