//! The native half of the Python package `kinfold`: `kinfold._native`.
//!
//! Input: settings by name, and the addresses and shapes of arrays. Output: numbers, and gradients
//! in arrays that the caller has made for them. Whatever is wrong is a `ValueError` or a `TypeError`
//! that says what was given and what was needed. Python's lock is let go of while the engine works.
//! Frameworks are known to `python/kinfold` alone.

mod loss;
mod measures;
mod memory;
mod threads;

use pyo3::prelude::*;

/// What `kinfold.numpy` and `kinfold.torch` are made of; nothing here is meant for others.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    measures::loaded();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("GUIDE_MARGIN", kinfold::GUIDE_MARGIN)?;
    module.add("NotFinite", module.py().get_type::<memory::NotFinite>())?;
    module.add_class::<loss::Loss>()?;
    module.add_function(wrap_pyfunction!(measures::knn_accuracy, module)?)?;
    module.add_function(wrap_pyfunction!(measures::one_shot_accuracy, module)?)?;
    module.add_function(wrap_pyfunction!(measures::linear_probe_accuracy, module)?)?;
    module.add_function(wrap_pyfunction!(measures::alignment, module)?)?;
    module.add_function(wrap_pyfunction!(measures::recall, module)?)?;
    module.add_function(wrap_pyfunction!(measures::uniformity, module)?)?;
    module.add_function(wrap_pyfunction!(measures::effective_rank, module)?)?;
    module.add_function(wrap_pyfunction!(measures::diagnose, module)?)
}
