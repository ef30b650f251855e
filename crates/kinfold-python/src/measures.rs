//! What embeddings are worth.
//!
//! A measure of `kinfold::measures` is a function here that reads its arrays, one in
//! `python/kinfold/numpy.py` that makes sure of them, and a line in `_native.pyi`.

use crate::memory::{Numbers, Plain, Rows, by_dtype, refused};
use kinfold::diagnosis::{self, Diagnosis, Options, Section};
use kinfold::measures::{self, Labelled};
use kinfold::{Element, Embeddings, Error, Temperature};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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

/// See [`measures::linear_probe_accuracy`].
#[pyfunction]
pub(crate) fn linear_probe_accuracy(
    py: Python<'_>,
    dtype: &str,
    train: Sample,
    test: Sample,
) -> PyResult<f64> {
    let measure = by_labels(&train, &test)?;
    py.detach(|| by_dtype!(dtype, T => measure.of(measures::linear_probe_accuracy::<T>)))
}

/// See [`measures::alignment`].
#[pyfunction]
pub(crate) fn alignment(py: Python<'_>, dtype: &str, queries: Rows, keys: Rows) -> PyResult<f64> {
    py.detach(|| by_dtype!(dtype, T => of_pairs::<T, _>(&queries, &keys, measures::alignment)))
}

/// See [`measures::Retrieval::recall`].
#[pyfunction]
pub(crate) fn recall(
    py: Python<'_>,
    dtype: &str,
    queries: Rows,
    keys: Rows,
    k: usize,
) -> PyResult<f64> {
    py.detach(|| {
        by_dtype!(dtype, T => {
            of_pairs::<T, _>(&queries, &keys, |a, b| Ok(measures::retrieval(a, b)?.recall(k)))
        })
    })
}

/// See [`measures::uniformity`].
#[pyfunction]
pub(crate) fn uniformity(py: Python<'_>, dtype: &str, x: Rows) -> PyResult<f64> {
    py.detach(|| by_dtype!(dtype, T => of_rows::<T>(&x, measures::uniformity)))
}

/// See [`measures::effective_rank`].
#[pyfunction]
pub(crate) fn effective_rank(py: Python<'_>, dtype: &str, x: Rows) -> PyResult<f64> {
    py.detach(|| by_dtype!(dtype, T => of_rows::<T>(&x, measures::effective_rank)))
}

/// See [`diagnosis::diagnose`]: everything, as JSON.
#[pyfunction]
#[allow(clippy::too_many_arguments)] // They are the options by name.
pub(crate) fn diagnose(
    py: Python<'_>,
    dtype: &str,
    queries: Rows,
    keys: Rows,
    temperature: f64,
    labels: Option<Numbers>,
    sample: usize,
    seed: u64,
) -> PyResult<String> {
    let temperature = Temperature::new(temperature).map_err(refused)?;
    let labels = labels.as_ref().map(|labels| labels.read::<i64>()).transpose()?;
    let labels: Option<Vec<u64>> =
        labels.map(|all| all.iter().map(|&label| label as u64).collect());
    let mut options = Options::new(temperature).with_sample(sample).with_seed(seed);
    if let Some(labels) = &labels {
        options = options.with_labels(labels);
    }
    let found = py.detach(|| {
        by_dtype!(dtype, T => {
            of_pairs::<T, _>(&queries, &keys, |a, b| diagnosis::diagnose(a, b, &options))
        })
    })?;
    let whole = Whole { verdict: found.verdict(), sections: found.sections(), diagnosis: found };
    serde_json::to_string(&whole).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// A diagnosis with the words for it.
#[derive(serde::Serialize)]
struct Whole {
    verdict: String,
    sections: Vec<Section>,
    #[serde(flatten)]
    diagnosis: Diagnosis,
}

fn of_pairs<T: Element + Plain, R: Send>(
    queries: &Rows,
    keys: &Rows,
    measure: impl Fn(Embeddings<'_, T>, Embeddings<'_, T>) -> Result<R, Error> + Sync,
) -> PyResult<R> {
    let (queries, keys) = (queries.embeddings()?, keys.embeddings()?);
    among_threads(|| measure(queries, keys)).map_err(refused)
}

fn of_rows<T: Element + Plain>(
    x: &Rows,
    measure: impl Fn(Embeddings<'_, T>) -> Result<f64, Error> + Sync,
) -> PyResult<f64> {
    let x = x.embeddings()?;
    among_threads(|| measure(x)).map_err(refused)
}

/// Embeddings and their labels, which count from 0 without gaps.
type Sample = (Rows, Numbers);

/// A measure of one sample by another.
struct ByLabels<'a> {
    train: (&'a Rows, Vec<u64>),
    test: (&'a Rows, Vec<u64>),
}

fn by_labels<'a>(train: &'a Sample, test: &'a Sample) -> PyResult<ByLabels<'a>> {
    let labels = |numbers: &Numbers| -> PyResult<Vec<u64>> {
        let label = |&label: &i64| {
            u64::try_from(label).map_err(|_| PyValueError::new_err("labels count from 0"))
        };
        numbers.read::<i64>()?.iter().map(label).collect()
    };
    let (train, test) = ((&train.0, labels(&train.1)?), (&test.0, labels(&test.1)?));
    Ok(ByLabels { train, test })
}

impl ByLabels<'_> {
    fn of<T: Element + Plain>(
        &self,
        measure: impl Fn(Labelled<'_, T>, Labelled<'_, T>) -> Result<f64, Error> + Sync,
    ) -> PyResult<f64> {
        let train = Labelled::new(self.train.0.embeddings()?, &self.train.1).map_err(refused)?;
        let test = Labelled::new(self.test.0.embeddings()?, &self.test.1).map_err(refused)?;
        among_threads(|| measure(train, test)).map_err(refused)
    }
}

/// The process that the module was loaded in.
static LOADED_IN: OnceLock<u32> = OnceLock::new();

/// Remembers the process, before there are threads in it.
pub(crate) fn loaded() {
    LOADED_IN.get_or_init(std::process::id);
}

/// What is computed by a pool of threads. A forked child has none of its parent's threads, and would
/// wait for them for ever: it gets a pool of its own.
fn among_threads<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    static CHILD: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);
    let here = std::process::id();
    if LOADED_IN.get().is_none_or(|&first| first == here) {
        return work();
    }
    let pool = {
        let mut child = CHILD.lock().unwrap_or_else(PoisonError::into_inner);
        match &*child {
            Some((process, pool)) if *process == here => Some(Arc::clone(pool)),
            _ => {
                let pool = ThreadPoolBuilder::new().build().ok().map(Arc::new);
                if let Some((_, parents)) = child.take() {
                    // To let go of it is to wait for its threads.
                    std::mem::forget(parents);
                }
                *child = pool.as_ref().map(|pool| (here, Arc::clone(pool)));
                pool
            }
        }
    };
    match pool {
        Some(pool) => pool.install(work),
        None => work(),
    }
}
