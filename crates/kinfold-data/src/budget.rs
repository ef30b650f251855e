//! How much memory decoded images may take.
//!
//! Input: bytes. Output: whether so many more still fit. Files of plain pixels and the image cache
//! share one budget.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may still be kept in memory.
pub(crate) struct Budget(AtomicU64);

impl Budget {
    pub(crate) fn new(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// Whether there is room for so many bytes; they are then spent.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let less = |left: u64| left.checked_sub(bytes);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}
