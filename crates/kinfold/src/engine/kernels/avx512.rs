//! AVX-512 F: 32 registers of 512 bits, of which a tile of 12 by 2 takes 24. (14 by 2 would take
//! 28, but 12 divides into the same blocks of rows as everyone else's tiles.)
#![allow(clippy::undocumented_unsafe_blocks, reason = "documented in the macro that writes them")]

use super::compile::{kernels, work};
use std::arch::x86_64::*;

x86_vector!(
    F32x16(__m512) of 16 f32,
    _mm512_loadu_ps, _mm512_storeu_ps, _mm512_set1_ps, _mm512_add_ps, _mm512_mul_ps,
    _mm512_div_ps, _mm512_max_ps, _mm512_fmadd_ps, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_slli_epi32::<23>, _mm512_add_epi32,
    |value, x, least| _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_GE_OQ>(x, least), value)
);
x86_vector!(
    F64x8(__m512d) of 8 f64,
    _mm512_loadu_pd, _mm512_storeu_pd, _mm512_set1_pd, _mm512_add_pd, _mm512_mul_pd,
    _mm512_div_pd, _mm512_max_pd, _mm512_fmadd_pd, _mm512_castpd_si512, _mm512_castsi512_pd,
    _mm512_slli_epi64::<52>, _mm512_add_epi64,
    |value, x, least| _mm512_maskz_mov_pd(_mm512_cmp_pd_mask::<_CMP_GE_OQ>(x, least), value)
);

work!("avx512f");
kernels!(F32, f32s, f32, F32x16, 12, 2, 32, "avx512f");
kernels!(F64, f64s, f64, F64x8, 12, 2, 16, "avx512f");
