//! Compiles the generic kernels for one instruction set.

/// A table of kernels over vectors `$vector`, `$height` by `$vectors` of them a tile, compiled with
/// `$feature`.
macro_rules! kernels {
    ($name:ident, $module:ident, $real:ty, $vector:ty, $height:literal, $vectors:literal,
     $width:literal $(, $feature:literal)?) => {
        pub(super) static $name: crate::engine::kernels::table::Kernels<$real> =
            crate::engine::kernels::table::Kernels {
            height: $height,
            width: $width,
            lanes: $width / $vectors,
            packed: $module::packed,
            as_stored: $module::as_stored,
            exponentials: $module::exponentials,
            exponential_sums: $module::exponential_sums,
            weighted_exponentials: $module::weighted_exponentials,
            sigmoids: $module::sigmoids,
            weights: $module::weights,
            maxima: $module::maxima,
        };

        mod $module {
            use crate::engine::kernels::generic;
            use crate::engine::kernels::table::{Panel, Tile, Weighing};
            #[allow(unused_imports, reason = "the vectors of this instruction set")]
            use super::*;

            /// # Safety
            /// As [`generic::tile`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn packed(tile: &Tile<$real>) {
                // SAFETY: passed on to the caller.
                unsafe { generic::tile::<$vector, $height, $vectors, 1, $height>(tile) }
            }
            /// # Safety
            /// As [`generic::tile`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn as_stored(tile: &Tile<$real>) {
                // SAFETY: passed on to the caller.
                unsafe { generic::tile::<$vector, $height, $vectors, $width, 1>(tile) }
            }
            /// # Safety
            /// As [`generic::exponentials`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn exponentials(panel: &Panel<$real>) {
                // SAFETY: passed on to the caller.
                unsafe { generic::exponentials::<$vector, $vectors, true>(panel) }
            }
            /// # Safety
            /// As [`generic::exponentials`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn exponential_sums(panel: &Panel<$real>) {
                // SAFETY: passed on to the caller.
                unsafe { generic::exponentials::<$vector, $vectors, false>(panel) }
            }
            /// # Safety
            /// As [`generic::weighted_exponentials`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn weighted_exponentials(work: &Weighing<$real>) {
                // SAFETY: passed on to the caller.
                unsafe { generic::weighted_exponentials::<$vector, $vectors>(work) }
            }
            /// # Safety
            /// As [`generic::sigmoids`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn sigmoids(panel: &Panel<$real>, weight_sums: *mut $real) {
                // SAFETY: passed on to the caller.
                unsafe { generic::sigmoids::<$vector, $vectors>(panel, weight_sums) }
            }
            /// # Safety
            /// As [`generic::weights`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn weights(
                panel: *mut $real,
                rows: usize,
                of_rows: *const $real,
                of_columns: *const $real,
            ) {
                // SAFETY: passed on to the caller.
                unsafe { generic::weights::<$vector, $vectors>(panel, rows, of_rows, of_columns) }
            }
            /// # Safety
            /// As [`generic::maxima`]; the instructions of this module must be there.
            $(#[target_feature(enable = $feature)])?
            pub(super) unsafe fn maxima(panel: *const $real, rows: usize, maxima: *mut $real) {
                // SAFETY: passed on to the caller.
                unsafe { generic::maxima::<$vector, $vectors>(panel, rows, maxima) }
            }
        }
    };
}
/// What does work on an item compiled with `$feature`, as far as it is inlined.
#[cfg(target_arch = "x86_64")]
macro_rules! work {
    ($feature:literal) => {
        /// Does `work` on an item, compiled for these instructions as far as it is inlined.
        ///
        /// # Safety
        /// The instructions must be there.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn run<I>(work: &impl crate::engine::kernels::table::Work<I>, item: I) {
            work.run(item);
        }
    };
}

pub(super) use kernels;
#[cfg(target_arch = "x86_64")]
pub(super) use work;
