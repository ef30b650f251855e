//! SIMD: registers of `f32`, and code compiled for the best instructions of this machine. The only file
//! of the operations that knows about hardware.
//!
//! Input: a [`Kernel`], written once over any [`Vector`], or plain loops for [`vectorized`]. Both are
//! compiled for every instruction set, and the best that the machine has is chosen at run time, so a
//! plain `cargo build` reaches full speed.
//!
//! The engine of kinfold has a trait of its own, over `f32` and `f64` and with what exponentials in
//! registers need: one for both would have to be public there.
#![allow(unsafe_code, reason = "vector instructions, and pointers to what they load and store")]

/// A register of numbers.
///
/// # Safety
/// Every method needs the instructions that the vector belongs to; `load` and `store` take
/// pointers to `LANES` numbers.
pub(crate) trait Vector: Copy {
    /// Numbers of a register.
    const LANES: usize;
    /// Registers of the machine.
    const REGISTERS: usize;
    /// # Safety
    /// See the trait.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// See the trait.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// See the trait.
    unsafe fn splat(x: f32) -> Self;
    /// `self · factor + addend`.
    ///
    /// # Safety
    /// See the trait.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
}

/// Work over vectors. What it calls must be `#[inline(always)]`, to be compiled for them.
pub(crate) trait Kernel {
    /// # Safety
    /// The machine must have the instructions of `V`.
    unsafe fn run<V: Vector>(self);
}

/// Runs plain loops, which the compiler turns into vectors, compiled for the best of this machine. The
/// closure, and what it calls, must be `#[inline(always)]`.
pub(crate) fn vectorized(loops: impl FnOnce()) {
    struct Loops<L>(L);
    impl<L: FnOnce()> Kernel for Loops<L> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            (self.0)();
        }
    }
    run(Loops(loops));
}

/// Tests set it, to run the narrower vectors too.
#[cfg(test)]
pub(crate) static MOST_LANES: std::sync::atomic::AtomicUsize =
    std::sync::atomic::AtomicUsize::new(usize::MAX);

#[cfg(target_arch = "x86_64")]
fn allowed(_lanes: usize) -> bool {
    #[cfg(test)]
    return _lanes <= MOST_LANES.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(test))]
    true
}

/// Runs `kernel` over the best vectors of this machine.
pub(crate) fn run(kernel: impl Kernel) {
    #[cfg(target_arch = "x86_64")]
    {
        if allowed(16) && is_x86_feature_detected!("avx512f") {
            // SAFETY: the instructions have just been detected, here and below.
            return unsafe { x86::avx512(kernel) };
        }
        if allowed(8) && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: see above.
            return unsafe { x86::avx2(kernel) };
        }
    }
    #[cfg(target_arch = "aarch64")]
    if std::arch::is_aarch64_feature_detected!("neon") {
        // SAFETY: the instructions have just been detected.
        return unsafe { neon::neon(kernel) };
    }
    portable(kernel);
}

/// The shape of the vectors that [`run`] chooses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) lanes: usize,
    pub(crate) registers: usize,
}

/// The shape of the vectors that [`run`] chooses on this machine.
pub(crate) fn shape() -> Shape {
    struct Look<'a>(&'a mut Shape);
    impl Kernel for Look<'_> {
        #[inline(always)]
        unsafe fn run<V: Vector>(self) {
            *self.0 = Shape { lanes: V::LANES, registers: V::REGISTERS };
        }
    }
    let mut shape = Shape { lanes: 0, registers: 0 };
    run(Look(&mut shape));
    shape
}

/// Runs `kernel` over vectors that every machine has.
fn portable(kernel: impl Kernel) {
    // SAFETY: arrays need no instructions.
    unsafe { kernel.run::<[f32; 4]>() }
}

/// No instruction set in particular: arrays that compilers turn into whatever vectors there are.
impl Vector for [f32; 4] {
    const LANES: usize = 4;
    const REGISTERS: usize = 16;
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's promise: `from` points to four numbers.
        unsafe { from.cast::<[f32; 4]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's promise: `to` points to four numbers.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; 4]
    }
    // Not fused: without the instruction that would be a call for each number.
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, mut addend: Self) -> Self {
        for lane in 0..4 {
            addend[lane] += self[lane] * factor[lane];
        }
        addend
    }
}

#[allow(unused_macros, reason = "other architectures have only arrays")]
macro_rules! vector {
    ($name:ident($register:ty) of $lanes:literal, $registers:literal registers,
     $load:ident, $store:ident, $splat:ident, |$x:ident, $factor:ident, $addend:ident| $fma:expr,
     $run:ident with $feature:literal) => {
        #[derive(Clone, Copy)]
        pub(super) struct $name($register);

        impl super::Vector for $name {
            const LANES: usize = $lanes;
            const REGISTERS: usize = $registers;
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the trait's promise, here and below.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: see above.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            unsafe fn splat(x: f32) -> Self {
                // SAFETY: see above.
                Self(unsafe { $splat(x) })
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                let ($x, $factor, $addend) = (self.0, factor.0, addend.0);
                // SAFETY: see above.
                Self(unsafe { $fma })
            }
        }

        /// # Safety
        /// The instructions must be there.
        #[target_feature(enable = $feature)]
        pub(super) unsafe fn $run(kernel: impl super::Kernel) {
            // SAFETY: passed on to the caller.
            unsafe { kernel.run::<$name>() }
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    vector!(
        F32x16(__m512) of 16, 32 registers,
        _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps,
        |x, factor, addend| _mm512_fmadd_ps(x, factor, addend),
        avx512 with "avx512f,avx2,fma"
    );
    vector!(
        F32x8(__m256) of 8, 16 registers,
        _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps,
        |x, factor, addend| _mm256_fmadd_ps(x, factor, addend),
        avx2 with "avx2,fma"
    );
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    vector!(
        F32x4(float32x4_t) of 4, 32 registers,
        vld1q_f32, vst1q_f32, vdupq_n_f32,
        |x, factor, addend| vfmaq_f32(addend, x, factor),
        neon with "neon"
    );
}
