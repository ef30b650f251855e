//! The only room that knows about hardware: one small matrix product and one exponential.
//!
//! [`generic`] writes both once, over a [`Vector`](generic::Vector). A file for each instruction set says what its
//! vectors are and how many of them a tile has. Which set runs is found out when a loss is called,
//! so a plain `cargo build` reaches full speed on whatever machine it comes to.
//!
//! A tile is `height` rows by `width` columns of a product, held in registers while the sum over the
//! inner index runs. All operands are laid out for it beforehand:
//!
//! ```text
//! left    panels of `height` rows:     element (row, k)    at  k · height + row        "packed"
//!         or rows of exponentials:     element (row, k)    at  row · width + k         "as stored"
//! right   panels of `width` columns:   element (k, column) at  k · width + column
//! out     panels of `width` columns:   element (row, column) at  row · width + column
//! ```
//!
//! So what one product writes the next can read, from either side, without moving a number.
#![allow(
    unsafe_code,
    reason = "vector instructions and raw pointers; every length is checked here"
)]

mod compile;
mod generic;
mod portable;
mod table;
#[cfg(target_arch = "x86_64")]
#[macro_use]
mod x86;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::engine::aligned::Pooled;
use crate::execution::Instructions;
pub(crate) use table::{Kernels, Layout, Operand, Product, SumsOf, WIDEST_TILE, WeightsOf, Work};

impl Instructions {
    /// Does `work` on an item, compiled for these instructions.
    #[inline(always)]
    pub(crate) fn run<I>(self, work: &impl Work<I>, item: I) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instructions have just been detected.
            Self::Avx512 if Self::Avx512.is_available() => unsafe { avx512::run(work, item) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Self::Avx2 if Self::Avx2.is_available() => unsafe { avx2::run(work, item) },
            _ => work.run(item),
        }
    }
}

/// A number that there are kernels for.
pub trait Arithmetic: Pooled {
    /// The kernels of `instructions`, or of the best available set where those cannot run here.
    #[doc(hidden)]
    fn kernels(instructions: Instructions) -> &'static Kernels<Self>;
}

macro_rules! arithmetic {
    ($t:ty, $name:ident) => {
        impl Arithmetic for $t {
            fn kernels(instructions: Instructions) -> &'static Kernels<Self> {
                let runs = instructions.is_available();
                match if runs { instructions } else { Instructions::best() } {
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx2 => &avx2::$name,
                    #[cfg(target_arch = "x86_64")]
                    Instructions::Avx512 => &avx512::$name,
                    #[cfg(target_arch = "aarch64")]
                    Instructions::Neon => &neon::$name,
                    _ => &portable::$name,
                }
            }
        }
    };
}
arithmetic!(f32, F32);
arithmetic!(f64, F64);

#[cfg(test)]
mod tests;
