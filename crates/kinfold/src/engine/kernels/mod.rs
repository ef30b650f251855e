//! The only room that knows about hardware: one small matrix product and one exponential.
//!
//! [`generic`] writes both once, over a [`Vector`]. A file for each instruction set says what its
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

mod generic;
mod portable;
#[cfg(target_arch = "x86_64")]
#[macro_use]
mod x86;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

use super::aligned::Spare;

/// Instruction sets that the engine is written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Instructions {
    /// None in particular: runs everywhere.
    Portable,
    /// AVX2 and FMA, on x86-64.
    Avx2,
    /// AVX-512 F, on x86-64.
    Avx512,
    /// Neon, on 64-bit ARM.
    Neon,
}

impl Instructions {
    /// Every instruction set, the best last.
    const ALL: [Self; 4] = [Self::Portable, Self::Neon, Self::Avx2, Self::Avx512];

    /// Those that this machine can run, the best last.
    pub fn available() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_available())
    }

    /// The best that this machine can run.
    pub fn best() -> Self {
        Self::available().next_back().unwrap_or(Self::Portable)
    }

    /// Does `work` on an item, compiled for these instructions.
    #[inline(always)]
    pub(super) fn run<I>(self, work: &impl Work<I>, item: I) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the instructions have just been detected.
            Self::Avx2 | Self::Avx512 if Self::Avx2.is_available() => unsafe {
                avx2::run(work, item);
            },
            _ => work.run(item),
        }
    }

    fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "those of other architectures")]
            _ => false,
        }
    }
}

/// Work on items that is compiled for an instruction set, if it is `#[inline(always)]`. A closure is
/// work, too, but the compiler decides how much of a long one is inlined.
pub(super) trait Work<I>: Sync {
    fn run(&self, item: I);
}

impl<I, F: Fn(I) + Sync> Work<I> for F {
    #[inline(always)]
    fn run(&self, item: I) {
        self(item);
    }
}

/// A number that there are kernels for.
pub trait Arithmetic: Copy + 'static {
    /// Buffers of such numbers that are kept for the next call.
    #[doc(hidden)]
    fn spare() -> &'static Spare<Self>;
    /// The kernels of `instructions`, or of the best set there is where that cannot run here.
    #[doc(hidden)]
    fn kernels(instructions: Instructions) -> &'static Kernels<Self>;
}

macro_rules! arithmetic {
    ($t:ty, $name:ident) => {
        impl Arithmetic for $t {
            fn spare() -> &'static Spare<Self> {
                static SPARE: Spare<$t> = Spare::new();
                &SPARE
            }
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

/// What an instruction set brings to one type of number. Only [`Arithmetic::kernels`] hands it out,
/// for instructions that this machine has been found to have.
#[derive(Debug)]
pub struct Kernels<R: 'static> {
    /// Rows of a tile.
    pub(super) height: usize,
    /// Columns of a tile.
    pub(super) width: usize,
    /// Numbers in a vector; divides `width`.
    pub(super) lanes: usize,
    packed: unsafe fn(&Tile<R>),
    as_stored: unsafe fn(&Tile<R>),
    exponentials: unsafe fn(&Panel<R>),
    sigmoids: unsafe fn(&Panel<R>, *mut R),
    weights: unsafe fn(*mut R, usize, *const R, *const R),
    maxima: unsafe fn(*const R, usize, *mut R),
}

/// One tile of a product: `out (+)= Σ_segment Σ_k left · right`.
#[derive(Debug)]
struct Tile<R> {
    segments: usize,
    depth: usize,
    left: *const R,
    left_segment: usize,
    right: *const R,
    right_segment: usize,
    out: *mut R,
    add: bool,
}

/// A panel of logits that become exponentials, and where their sums go.
#[derive(Debug)]
struct Panel<R> {
    /// `[rows, width]`.
    numbers: *mut R,
    rows: usize,
    scale: R,
    /// `[rows]`.
    references: *const R,
    /// `[rows, lanes]`.
    row_sums: *mut R,
    /// `[width]`.
    column_sums: *mut f64,
}

/// How the left operand of a product lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// Panels of `height` rows, `height` numbers for each inner index.
    Packed,
    /// A panel of `width` columns as another product left it: rows of `width` inner indices.
    AsStored,
}

/// The operands of a product. Strides are in numbers; a segment is a run of the inner index without
/// a gap, `depth` long.
#[derive(Debug)]
pub(super) struct Product<'a, R> {
    pub(super) kind: Left,
    pub(super) left: &'a [R],
    pub(super) left_panels: usize,
    pub(super) left_panel: usize,
    pub(super) left_segment: usize,
    pub(super) right: &'a [R],
    pub(super) right_panels: usize,
    pub(super) right_panel: usize,
    pub(super) right_segment: usize,
    pub(super) segments: usize,
    pub(super) depth: usize,
    /// Add to `out` rather than overwrite it.
    pub(super) add: bool,
}

impl<R: Copy> Kernels<R> {
    /// `out[right panel][left panel] (+)= left · right`, where an out panel is `out_panel` numbers
    /// and holds the tiles of all left panels, one below the other.
    pub(super) fn product(&self, p: &Product<'_, R>, out: &mut [R], out_panel: usize) {
        let (height, width) = (self.height, self.width);
        if p.left_panels == 0 || p.right_panels == 0 {
            return;
        }
        assert!(p.segments > 0 && p.depth > 0);
        let (left_tile, kernel) = match p.kind {
            Left::Packed => (p.depth * height, self.packed),
            Left::AsStored => {
                assert!(p.depth <= width);
                ((height - 1) * width + p.depth, self.as_stored)
            }
        };
        let reach = |panels: usize, panel: usize, segment: usize, tile: usize| {
            (panels - 1) * panel + (p.segments - 1) * segment + tile
        };
        assert!(reach(p.left_panels, p.left_panel, p.left_segment, left_tile) <= p.left.len());
        let right_tile = p.depth * width;
        assert!(reach(p.right_panels, p.right_panel, p.right_segment, right_tile) <= p.right.len());
        let column = p.left_panels * height * width;
        assert!((p.right_panels - 1) * out_panel + column <= out.len() && column <= out_panel);
        for j in 0..p.right_panels {
            for i in 0..p.left_panels {
                // SAFETY: by the assertions above, the last number that this tile reads of either
                // operand, and the last of the height · width that it writes, lie within their
                // slices. The kernel's instructions were detected before the table was handed out.
                unsafe {
                    kernel(&Tile {
                        segments: p.segments,
                        depth: p.depth,
                        left: p.left.as_ptr().add(i * p.left_panel),
                        left_segment: p.left_segment,
                        right: p.right.as_ptr().add(j * p.right_panel),
                        right_segment: p.right_segment,
                        out: out.as_mut_ptr().add(j * out_panel + i * height * width),
                        add: p.add,
                    });
                }
            }
        }
    }

    /// Every `s` of a panel becomes `exp(scale · s − reference of its row)`, with at most 2 ulp of
    /// error and 0 where that is below the least normal number; sums over rows are added, lane by
    /// lane, to `row_sums` `[rows, lanes]`, and sums over columns to `column_sums` `[width]`.
    pub(super) fn exponentials(
        &self,
        panel: &mut [R],
        scale: R,
        references: &[R],
        row_sums: &mut [R],
        column_sums: &mut [f64],
    ) {
        let rows = references.len();
        assert!(panel.len() == rows * self.width && row_sums.len() == rows * self.lanes);
        assert!(column_sums.len() == self.width);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe {
            (self.exponentials)(&Panel {
                numbers: panel.as_mut_ptr(),
                rows,
                scale,
                references: references.as_ptr(),
                row_sums: row_sums.as_mut_ptr(),
                column_sums: column_sums.as_mut_ptr(),
            });
        }
    }

    /// Every `s` of a panel becomes `σ(x)`, `x = scale · s − reference of its row`; over rows the sums
    /// of `ln(1 + exp(x))` are added, lane by lane, to `row_sums` `[rows, lanes]`, and those of `σ(x)`
    /// to `weight_sums` `[rows, lanes]`.
    pub(super) fn sigmoids(
        &self,
        panel: &mut [R],
        scale: R,
        references: &[R],
        row_sums: &mut [R],
        weight_sums: &mut [R],
    ) {
        let rows = references.len();
        assert!(panel.len() == rows * self.width && row_sums.len() == rows * self.lanes);
        assert!(weight_sums.len() == row_sums.len());
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out. Nobody adds up columns.
        unsafe {
            let panel = Panel {
                numbers: panel.as_mut_ptr(),
                rows,
                scale,
                references: references.as_ptr(),
                row_sums: row_sums.as_mut_ptr(),
                column_sums: std::ptr::null_mut(),
            };
            (self.sigmoids)(&panel, weight_sums.as_mut_ptr());
        }
    }

    /// `panel[i][j] *= of_rows[i] + of_columns[j]`.
    pub(super) fn weights(&self, panel: &mut [R], of_rows: &[R], of_columns: &[R]) {
        let rows = of_rows.len();
        assert!(panel.len() == rows * self.width && of_columns.len() == self.width);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe {
            (self.weights)(panel.as_mut_ptr(), rows, of_rows.as_ptr(), of_columns.as_ptr());
        }
    }

    /// `maxima[i][lane]` becomes the larger of itself and the panel's row i, lane by lane.
    pub(super) fn maxima(&self, panel: &[R], maxima: &mut [R]) {
        let rows = maxima.len() / self.lanes;
        assert!(panel.len() == rows * self.width && maxima.len() == rows * self.lanes);
        // SAFETY: the lengths are those that the kernel reads and writes, and its instructions were
        // detected before the table was handed out.
        unsafe { (self.maxima)(panel.as_ptr(), rows, maxima.as_mut_ptr()) }
    }
}

/// A table of kernels over vectors `$vector`, `$height` by `$vectors` of them a tile, compiled with
/// `$feature`.
macro_rules! kernels {
    ($name:ident, $module:ident, $real:ty, $vector:ty, $height:literal, $vectors:literal,
     $width:literal $(, $feature:literal)?) => {
        pub(super) static $name: super::Kernels<$real> = super::Kernels {
            height: $height,
            width: $width,
            lanes: $width / $vectors,
            packed: $module::packed,
            as_stored: $module::as_stored,
            exponentials: $module::exponentials,
            sigmoids: $module::sigmoids,
            weights: $module::weights,
            maxima: $module::maxima,
        };

        mod $module {
            use super::super::{Panel, Tile, generic};
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
                unsafe { generic::exponentials::<$vector, $vectors>(panel) }
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
use kernels;

#[cfg(test)]
mod tests;
