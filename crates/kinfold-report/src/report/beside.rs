//! Another run, to be drawn beside the one that a page is of.
//!
//! Input: two runs, of which one has measures by dimension. Output: the other's at the same dimensions, on
//! the same data.

use kinfold_train::run::{CONFIG, Summary};
use kinfold_train::{ByDimension, DataSource, Error, Settings, evaluate, relative_path};
use std::path::Path;

/// Another run, whose embeddings are cut as this one's are.
pub(super) struct Beside {
    pub(super) name: String,
    /// Its measures, in the order in which the run has its own.
    pub(super) cuts: Vec<ByDimension>,
}

impl Beside {
    /// `other` on the data of `run`, at the dimensions that `run` was measured at.
    pub(super) fn measure(other: &Path, run: &Path) -> Result<Self, Error> {
        let evaluation = Summary::read(run).and_then(|summary| summary.evaluation);
        let dims: Vec<usize> =
            evaluation.iter().flat_map(|x| &x.by_dimension).map(|cut| cut.dim).collect();
        if dims.is_empty() {
            let text = "has no measures by dimension to set another run beside: it was trained without \
                        --matryoshka, or on data without labels";
            return Err(Error::Setting(format!("{} {text}", run.display())));
        }
        let Settings { data, vector, .. } = Settings::from_file(&run.join(CONFIG))?;
        let data = DataSource { data, vector };
        let measured = evaluate(other, Some(&data), &dims, None, &mut |_| Ok(()))?.evaluation;
        let cuts = measured.map_or(Vec::new(), |measured| measured.by_dimension);
        Ok(Self { name: relative_path(other).display().to_string(), cuts })
    }
}
