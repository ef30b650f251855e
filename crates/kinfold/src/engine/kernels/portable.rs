//! No instruction set in particular: arrays that compilers turn into whatever vectors there are.

use super::compile::kernels;
use super::generic::Vector;

/// Four numbers.
#[derive(Clone, Copy)]
struct Four<R>([R; 4]);

macro_rules! portable_vector {
    ($real:ty, $shift:literal) => {
        impl Vector for Four<$real> {
            type Real = $real;
            const LANES: usize = 4;
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self {
                // SAFETY: the trait's promise: `from` points to four numbers.
                Self(unsafe { from.cast::<[$real; 4]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real) {
                // SAFETY: the trait's promise: `to` points to four numbers.
                unsafe { to.cast::<[$real; 4]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            unsafe fn splat(x: $real) -> Self {
                Self([x; 4])
            }
            #[inline(always)]
            unsafe fn add(mut self, other: Self) -> Self {
                for lane in 0..4 {
                    self.0[lane] += other.0[lane];
                }
                self
            }
            #[inline(always)]
            unsafe fn mul(mut self, other: Self) -> Self {
                for lane in 0..4 {
                    self.0[lane] *= other.0[lane];
                }
                self
            }
            #[inline(always)]
            unsafe fn div(mut self, other: Self) -> Self {
                for lane in 0..4 {
                    self.0[lane] /= other.0[lane];
                }
                self
            }
            #[inline(always)]
            unsafe fn max(mut self, other: Self) -> Self {
                for lane in 0..4 {
                    self.0[lane] = self.0[lane].max(other.0[lane]);
                }
                self
            }
            // Not fused: without the instruction that would be a call for each number.
            #[inline(always)]
            unsafe fn mul_add(mut self, factor: Self, addend: Self) -> Self {
                for lane in 0..4 {
                    self.0[lane] = self.0[lane] * factor.0[lane] + addend.0[lane];
                }
                self
            }
            #[inline(always)]
            unsafe fn times_two_to(mut self, rounded: Self) -> Self {
                for lane in 0..4 {
                    let power = rounded.0[lane].to_bits() << $shift;
                    self.0[lane] = <$real>::from_bits(self.0[lane].to_bits().wrapping_add(power));
                }
                self
            }
            #[inline(always)]
            unsafe fn zero_below(mut self, x: Self, least: Self) -> Self {
                for lane in 0..4 {
                    self.0[lane] = if x.0[lane] >= least.0[lane] { self.0[lane] } else { 0.0 };
                }
                self
            }
        }
    };
}
portable_vector!(f32, 23);
portable_vector!(f64, 52);

kernels!(F32, f32s, f32, Four<f32>, 4, 2, 8);
kernels!(F64, f64s, f64, Four<f64>, 2, 2, 8);
