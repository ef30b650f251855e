//! What the two x86 instruction sets share: their intrinsics differ by a prefix and a suffix.

/// A [`Vector`](super::generic::Vector) over intrinsics named here. `$above` keeps `$value` where
/// `$x ≥ $least`.
macro_rules! x86_vector {
    ($name:ident($register:ty) of $lanes:literal $real:ty,
     $load:ident, $store:ident, $splat:ident, $add:ident, $mul:ident, $div:ident, $max:ident,
     $fma:ident,
     $bits:ident, $numbers:ident, $shift:ident::<$by:literal>, $add_integers:ident,
     |$value:ident, $x:ident, $least:ident| $above:expr) => {
        #[derive(Clone, Copy)]
        struct $name($register);

        impl super::generic::Vector for $name {
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
                Self(unsafe { $fma(self.0, factor.0, addend.0) })
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
                let ($value, $x, $least) = (self.0, x.0, least.0);
                // SAFETY: the trait's promise.
                Self(unsafe { $above })
            }
            #[inline(always)]
            unsafe fn prefetch(at: *const $real) {
                // SAFETY: a prefetch reads nothing, wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
            }
            #[inline(always)]
            unsafe fn prefetch_far(at: *const $real) {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
            }
        }
    };
}
