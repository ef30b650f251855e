//! Neon: 32 registers of 128 bits, of which a tile of 8 by 3 takes 24.

use super::compile::kernels;
use super::generic::Vector;
use std::arch::aarch64::*;

macro_rules! neon_vector {
    ($name:ident($register:ty) of $lanes:literal $real:ty,
     $load:ident, $store:ident, $splat:ident, $add:ident, $mul:ident, $div:ident, $max:ident, $fma:ident,
     $bits:ident, $numbers:ident, $shift:ident::<$by:literal>, $add_integers:ident, $and:ident,
     $at_least:ident) => {
        #[derive(Clone, Copy)]
        struct $name($register);

        impl Vector for $name {
            type Real = $real;
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn load(from: *const $real) -> Self {
                // SAFETY: the trait's promise, here and below.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $real) {
                // SAFETY: the trait's promise.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            unsafe fn splat(x: $real) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul(self, other: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn div(self, other: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $div(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $max(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $fma(addend.0, self.0, factor.0) })
            }
            #[inline(always)]
            unsafe fn times_two_to(self, rounded: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe {
                    $numbers($add_integers($bits(self.0), $shift::<$by>($bits(rounded.0))))
                })
            }
            #[inline(always)]
            unsafe fn zero_below(self, x: Self, least: Self) -> Self {
                // SAFETY: the trait's promise.
                Self(unsafe { $numbers($and($bits(self.0), $at_least(x.0, least.0))) })
            }
        }
    };
}

neon_vector!(
    F32x4(float32x4_t) of 4 f32,
    vld1q_f32, vst1q_f32, vdupq_n_f32, vaddq_f32, vmulq_f32, vdivq_f32, vmaxq_f32, vfmaq_f32,
    vreinterpretq_u32_f32, vreinterpretq_f32_u32, vshlq_n_u32::<23>, vaddq_u32, vandq_u32, vcgeq_f32
);
neon_vector!(
    F64x2(float64x2_t) of 2 f64,
    vld1q_f64, vst1q_f64, vdupq_n_f64, vaddq_f64, vmulq_f64, vdivq_f64, vmaxq_f64, vfmaq_f64,
    vreinterpretq_u64_f64, vreinterpretq_f64_u64, vshlq_n_u64::<52>, vaddq_u64, vandq_u64, vcgeq_f64
);

kernels!(F32, f32s, f32, F32x4, 8, 3, 12, "neon");
kernels!(F64, f64s, f64, F64x2, 8, 3, 6, "neon");
