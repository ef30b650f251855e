//! A run as one page that anyone can open: `report.html` in the run folder.
//!
//! Input: a run folder, and the images that it was trained on where they are still there. Output:
//! one self-contained file that asks for nothing from the network and runs no script. It never changes
//! anything else, and can be made anew at any time, also for a run that was interrupted.
//!
//! `facts` reads the folder, `crate::snapshots` is what training leaves for it, `sample` embeds some images;
//! `curves`, `identity` and `neighbours` draw; `page` is the order in which it is told.

mod curves;
mod facts;
mod identity;
mod map;
mod neighbours;
mod order;
mod page;
mod sample;
#[cfg(test)]
mod tests;

use crate::diagnose::{Trained, diagnose_model};
use burn::tensor::Device;
use facts::Facts;
use kinfold_data::{Images, Split};
use kinfold_train::Error;
use kinfold_train::run::{SavedModel, Summary, write_whole};
use page::Page;
use sample::Sample;
use std::io::Write;
use std::path::{Path, PathBuf};

const FILE: &str = "report.html";

/// Writes the report of a run into its folder, and says where it is.
///
/// Where the images that it was trained on cannot be read any more, or no model was saved, the page
/// says so and has what there is.
///
/// # Errors
/// When the folder is no run, or the page cannot be written.
pub fn report(run: &Path) -> Result<PathBuf, Error> {
    write(run, None, None)
}

/// The same with images that have been read and a summary that has not been written already.
pub(crate) fn write(
    run: &Path,
    images: Option<(&Images, &Split)>,
    summary: Option<&Summary>,
) -> Result<PathBuf, Error> {
    let page = html(run, images, summary)?;
    let path = run.join(FILE);
    write_whole(&path, |file| {
        file.write_all(page.as_bytes()).map_err(Error::file("write", &path))
    })?;
    Ok(path)
}

fn html(
    run: &Path,
    images: Option<(&Images, &Split)>,
    summary: Option<&Summary>,
) -> Result<String, Error> {
    let facts = Facts::read(run, summary)?;
    let read;
    let (images, missing) = match images {
        Some(images) => (Some(images), None),
        None => match facts.settings.images() {
            Ok(images) => {
                let split = Split::new(&images, facts.settings.hold_out);
                read = (images, split);
                (Some((&read.0, &read.1)), None)
            }
            Err(error) => (None, Some(error.to_string())),
        },
    };
    let model = SavedModel::open(run).and_then(|saved| saved.trained(run, &Device::flex()));
    let mut diagnosis = None;
    let (sample, missing) = match (images, model) {
        (Some((images, split)), Ok(model)) => {
            // Fewer than two images have no diagnosis, and that is no reason to have no report.
            let trained = Trained::new(&facts.steps, facts.ceiling, &facts.settings);
            let told = diagnose_model(run, &facts.settings, images, split, &model, trained);
            diagnosis = told.ok();
            (Some(Sample::new(images, split, &model)?), None)
        }
        (_, Err(error)) => (None, Some(error.to_string())),
        _ => (None, missing),
    };
    Page { facts: &facts, sample: sample.as_ref(), missing, diagnosis }.html()
}
