//! Memory that Python holds.
//!
//! Input: an address and a shape, as NumPy and PyTorch give them for arrays that the caller keeps
//! alive during the call. Output: slices. It never copies, and it believes what it is told of
//! lengths: `python/kinfold/{numpy,torch}` take them from the arrays themselves and let nobody else
//! have a say.
#![allow(unsafe_code, reason = "arrays of Python's come as addresses")]

use kinfold::{Element, Embeddings, bf16, f16};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// A number that can be told from its bits, whatever they are.
pub(crate) trait Plain: Copy {}
impl Plain for f32 {}
impl Plain for f64 {}
impl Plain for f16 {}
impl Plain for bf16 {}
impl Plain for i64 {}
impl Plain for u64 {}

/// So many numbers at an address.
#[derive(FromPyObject)]
pub(crate) struct Numbers(usize, usize);

/// Rows of numbers at an address: (address, rows, numbers in a row, numbers between starts of rows).
#[derive(FromPyObject)]
pub(crate) struct Rows(usize, usize, usize, usize);

impl Numbers {
    /// The numbers, to read.
    pub(crate) fn read<T: Plain>(&self) -> PyResult<&[T]> {
        let Some(first) = first_of::<T>(self.0, self.1)? else { return Ok(&[]) };
        // SAFETY: so many numbers lie there, in memory that Python keeps during the call (see above),
        // in which `self` lives and dies; any bits are a number, and the address is aligned.
        Ok(unsafe { std::slice::from_raw_parts(first, self.1) })
    }

    /// The numbers, to write.
    pub(crate) fn write<T: Plain>(&mut self) -> PyResult<&mut [T]> {
        let Some(first) = first_of::<T>(self.0, self.1)? else { return Ok(&mut []) };
        // SAFETY: as above; and arrays to write into have just been made for this call, so nothing
        // else refers to their memory.
        Ok(unsafe { std::slice::from_raw_parts_mut(first, self.1) })
    }
}

impl Rows {
    /// Whether there is more to do with so many rows than threads take to wake up.
    pub(crate) fn are_worth_threads(&self) -> bool {
        let Self(_, rows, dim, _) = *self;
        rows.saturating_mul(rows).saturating_mul(dim) >= kinfold::runtime::WORTH_THREADS
    }

    /// The rows as embeddings.
    pub(crate) fn embeddings<T: Element + Plain>(&self) -> PyResult<Embeddings<'_, T>> {
        let Self(address, rows, dim, stride) = *self;
        let before_last = rows.saturating_sub(1).saturating_mul(stride);
        let count = if rows == 0 || dim == 0 { 0 } else { before_last.saturating_add(dim) };
        let data = match first_of::<T>(address, count)? {
            None => &[][..],
            // SAFETY: as in `Numbers::read`.
            Some(first) => unsafe { std::slice::from_raw_parts(first.cast_const(), count) },
        };
        Embeddings::strided(data, rows, dim, stride).map_err(refused)
    }
}

/// Where the first of `count` numbers lies; none where there are none, and the address is anything.
fn first_of<T>(address: usize, count: usize) -> PyResult<Option<*mut T>> {
    if count == 0 {
        return Ok(None);
    }
    let bytes = count.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
    if address == 0 || !address.is_multiple_of(align_of::<T>()) || bytes.is_none() {
        return Err(PyValueError::new_err(format!(
            "{count} numbers of {} bytes cannot lie at address {address}",
            size_of::<T>()
        )));
    }
    Ok(Some(std::ptr::with_exposed_provenance_mut(address)))
}

pyo3::create_exception!(
    kinfold._native,
    NotFinite,
    PyValueError,
    "A NaN or an infinity among what a loss is computed of."
);

/// An error as Python knows it.
pub(crate) fn refused(error: kinfold::Error) -> PyErr {
    let says = error.to_string();
    match error {
        kinfold::Error::NotFinite { .. } => NotFinite::new_err(says),
        kinfold::Error::RowWeight { given, .. } if !given.is_finite() => NotFinite::new_err(says),
        _ => PyValueError::new_err(says),
    }
}

/// `$body` with `$T` the numbers that `$dtype` names.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            "float32" => {
                type $T = f32;
                $body
            }
            "float64" => {
                type $T = f64;
                $body
            }
            "float16" => {
                type $T = kinfold::f16;
                $body
            }
            "bfloat16" => {
                type $T = kinfold::bf16;
                $body
            }
            other => Err(pyo3::exceptions::PyTypeError::new_err(format!(
                "embeddings are {other}, but must be float16, bfloat16, float32 or float64"
            ))),
        }
    };
}
pub(crate) use by_dtype;
