//! What embeddings are worth.
//!
//! A measure of `kinfold::measures` is a function here that reads its arrays, one in
//! `python/kinfold/numpy.py` that makes sure of them, and a line in `_native.pyi`.

use crate::memory::{Numbers, Plain, Rows, by_dtype, refused};
use kinfold::measures::{self, Labelled};
use kinfold::{Element, Error};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// See [`measures::knn_accuracy`].
#[pyfunction]
pub(crate) fn knn_accuracy(
    py: Python<'_>,
    dtype: &str,
    train: Sample,
    test: Sample,
    k: usize,
) -> PyResult<f64> {
    let measure = by_labels(&train, &test)?;
    py.detach(|| by_dtype!(dtype, T => measure.of(|a, b| measures::knn_accuracy::<T>(a, b, k))))
}

/// See [`measures::one_shot_accuracy`].
#[pyfunction]
pub(crate) fn one_shot_accuracy(
    py: Python<'_>,
    dtype: &str,
    train: Sample,
    test: Sample,
    draws: usize,
    seed: u64,
) -> PyResult<f64> {
    let measure = by_labels(&train, &test)?;
    py.detach(|| {
        by_dtype!(dtype, T => {
            measure.of(|a, b| measures::one_shot_accuracy::<T>(a, b, draws, seed))
        })
    })
}

/// Embeddings and their labels, which count from 0 without gaps.
type Sample = (Rows, Numbers);

/// A measure of one sample by another.
struct ByLabels<'a> {
    train: (&'a Rows, Vec<usize>),
    test: (&'a Rows, Vec<usize>),
}

fn by_labels<'a>(train: &'a Sample, test: &'a Sample) -> PyResult<ByLabels<'a>> {
    let labels = |numbers: &Numbers| -> PyResult<Vec<usize>> {
        let label = |&label: &i64| {
            usize::try_from(label).map_err(|_| PyValueError::new_err("labels count from 0"))
        };
        numbers.read::<i64>()?.iter().map(label).collect()
    };
    let (train, test) = ((&train.0, labels(&train.1)?), (&test.0, labels(&test.1)?));
    Ok(ByLabels { train, test })
}

impl ByLabels<'_> {
    fn of<T: Element + Plain>(
        &self,
        measure: impl Fn(Labelled<'_, T>, Labelled<'_, T>) -> Result<f64, Error>,
    ) -> PyResult<f64> {
        let train = Labelled::new(self.train.0.embeddings()?, &self.train.1).map_err(refused)?;
        let test = Labelled::new(self.test.0.embeddings()?, &self.test.1).map_err(refused)?;
        measure(train, test).map_err(refused)
    }
}
