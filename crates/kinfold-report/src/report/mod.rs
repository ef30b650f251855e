//! A run as one page that anyone can open: `report.html` in the run folder.
//!
//! Input: a run folder, and the data that it was trained on where that is still there. Output:
//! one self-contained file that asks for nothing from the network and runs no script. It never changes
//! anything else, and can be made anew at any time, also for a run that was interrupted.
//!
//! `facts` reads the folder, `crate::snapshots` is what training leaves for it, `sample` embeds some images;
//! `beside` measures another run; `curves`, `identity`, `neighbours` and `retrieval` draw; `page` is the order in which it is told.

mod beside;
mod curves;
mod facts;
mod identity;
mod map;
mod neighbours;
mod order;
mod page;
mod retrieval;
mod sample;
#[cfg(test)]
mod tests;

use crate::diagnose::{Trained, diagnose_model};
use beside::Beside;
use burn::tensor::Device;
use facts::Facts;
use kinfold_data::{Data, Split};
use kinfold_train::Error;
use kinfold_train::run::{SavedModel, Summary, write_whole};
use page::Page;
use sample::Sample;
use std::io::Write;
use std::path::{Path, PathBuf};

const FILE: &str = "report.html";

/// Writes the report of a run into its folder, and says where it is. Measures by dimension have those of
/// the run `beside` it with them.
///
/// Where the data that it was trained on cannot be read any more, or no model was saved, the page
/// says so and has what there is.
///
/// # Errors
/// When the folder is no run, or the page cannot be written; when another run cannot be measured, or this
/// one has no dimensions to measure it at.
pub fn report(run: &Path, beside: Option<&Path>) -> Result<PathBuf, Error> {
    let beside = beside.map(|other| Beside::measure(other, run)).transpose()?;
    write_page(run, &html(run, None, None, beside)?)
}

/// The same with data that has been read and a summary that has not been written already.
pub(crate) fn write(
    run: &Path,
    data: Option<(&Data, &Split)>,
    summary: Option<&Summary>,
) -> Result<PathBuf, Error> {
    write_page(run, &html(run, data, summary, None)?)
}

fn write_page(run: &Path, page: &str) -> Result<PathBuf, Error> {
    let path = run.join(FILE);
    write_whole(&path, |file| {
        file.write_all(page.as_bytes()).map_err(Error::file("write", &path))
    })?;
    Ok(path)
}

fn html(
    run: &Path,
    data: Option<(&Data, &Split)>,
    summary: Option<&Summary>,
    beside: Option<Beside>,
) -> Result<String, Error> {
    let facts = Facts::read(run, summary)?;
    let read;
    let (data, missing) = match data {
        Some(data) => (Some(data), None),
        None => match facts.settings.read() {
            Ok(data) => {
                let split = data.split(facts.settings.hold_out);
                read = (data, split);
                (Some((&read.0, &read.1)), None)
            }
            Err(error) => (None, Some(error.to_string())),
        },
    };
    let model = SavedModel::open(run).and_then(|saved| saved.trained(run, &Device::flex()));
    let mut diagnosis = None;
    let (sample, missing) = match (data, model) {
        (Some((data, split)), Ok(model)) => {
            // Fewer than two things have no diagnosis, and that is no reason to have no report.
            let trained = Trained::new(&facts.steps, facts.ceiling, &facts.settings);
            let told = diagnose_model(run, &facts.settings, data, split, &model, trained);
            diagnosis = told.ok();
            (Some(Sample::new(data, split, &model)?), None)
        }
        (_, Err(error)) => (None, Some(error.to_string())),
        _ => (None, missing),
    };
    Page { facts: &facts, sample: sample.as_ref(), missing, diagnosis, beside }.html()
}
