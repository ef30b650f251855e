//! AVX2 and FMA: 16 registers of 256 bits, of which a tile of 6 by 2 takes 12.
#![allow(clippy::undocumented_unsafe_blocks, reason = "documented in the macro that writes them")]

use super::compile::{kernels, work};
use std::arch::x86_64::*;

x86_vector!(
    F32x8(__m256) of 8 f32,
    _mm256_loadu_ps, _mm256_storeu_ps, _mm256_set1_ps, _mm256_add_ps, _mm256_mul_ps,
    _mm256_div_ps, _mm256_max_ps, _mm256_fmadd_ps, _mm256_castps_si256, _mm256_castsi256_ps,
    _mm256_slli_epi32::<23>, _mm256_add_epi32,
    |value, x, least| _mm256_and_ps(value, _mm256_cmp_ps::<_CMP_GE_OQ>(x, least))
);
x86_vector!(
    F64x4(__m256d) of 4 f64,
    _mm256_loadu_pd, _mm256_storeu_pd, _mm256_set1_pd, _mm256_add_pd, _mm256_mul_pd,
    _mm256_div_pd, _mm256_max_pd, _mm256_fmadd_pd, _mm256_castpd_si256, _mm256_castsi256_pd,
    _mm256_slli_epi64::<52>, _mm256_add_epi64,
    |value, x, least| _mm256_and_pd(value, _mm256_cmp_pd::<_CMP_GE_OQ>(x, least))
);

work!("avx2,fma");
kernels!(F32, f32s, f32, F32x8, 6, 2, 16, "avx2,fma");
kernels!(F64, f64s, f64, F64x4, 6, 2, 8, "avx2,fma");
