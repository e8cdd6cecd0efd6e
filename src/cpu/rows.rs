//! Dot products of stored rows with up to eight rows of activations at a time: a weight is decoded once for all of
//! them.
//!
//! A sum has the same lanes and the same order, whichever rows are computed with it.

use std::ops::Range;

use crate::cpu::dot::dot_rows;
use crate::cpu::rounded::{self, Rounded};
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Level, level};
use crate::ops::Matrix;
#[cfg(target_arch = "x86_64")]
use crate::tensor::DType;

/// Rows of activations as a product with a matrix reads them.
pub enum Activations<'a> {
    Floats(&'a [f32]),
    Rounded(Rounded<'a>),
}

impl<'a> Activations<'a> {
    /// Floats that [`Activations::new`] needs for `m` rows.
    pub fn room(w: &Matrix, rounds: bool, m: usize) -> usize {
        if rounds && w.dtype.group() > 0 { m * rounded::width(w.cols, w.dtype.group()) } else { 0 }
    }

    /// The rows of `x`, rounded if there is room.
    pub fn new(w: &Matrix, x: &'a [f32], room: &'a mut [f32]) -> Self {
        if room.is_empty() {
            return Activations::Floats(x);
        }
        rounded::round(x, w.cols, w.dtype.group(), room);
        Activations::Rounded(Rounded::new(w, room))
    }
}

/// sums[i · m + r] = W[rows.start + i, :] · x[r, :], m = rows of x
pub fn products(w: &Matrix, rows: Range<usize>, x: &Activations, sums: &mut [f32]) {
    match x {
        Activations::Floats(x) => float_products(w, rows, x, sums),
        Activations::Rounded(x) => rounded::products(w, rows, x, sums),
    }
}

fn float_products(w: &Matrix, rows: Range<usize>, x: &[f32], sums: &mut [f32]) {
    let m = x.len() / w.cols;
    assert_eq!((rows.len() * m, m * w.cols), (sums.len(), x.len()), "{m} rows of x with {rows:?} of W");
    #[cfg(target_arch = "x86_64")]
    if level() >= Level::Avx512 {
        use avx512::{Bf16, F16, F32, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, products};
        // SAFETY of all: the processor has AVX-512; a row of W has as many elements as a row of x.
        match w.dtype {
            DType::F32 => return unsafe { products::<F32>(w, rows, x, sums) },
            DType::F16 => return unsafe { products::<F16>(w, rows, x, sums) },
            DType::BF16 => return unsafe { products::<Bf16>(w, rows, x, sums) },
            DType::Q4_0 => return unsafe { products::<Q4_0>(w, rows, x, sums) },
            DType::Q4_1 => return unsafe { products::<Q4_1>(w, rows, x, sums) },
            DType::Q5_0 => return unsafe { products::<Q5_0>(w, rows, x, sums) },
            DType::Q5_1 => return unsafe { products::<Q5_1>(w, rows, x, sums) },
            DType::Q8_0 => return unsafe { products::<Q8_0>(w, rows, x, sums) },
            _ => {}
        }
    }
    for (row, sums) in w.rows_in(rows).zip(sums.chunks_exact_mut(m)) {
        let (mut x, mut sums) = (x, sums);
        while !sums.is_empty() {
            let done = match sums.len() {
                4.. => some::<4>(w, row, x, sums),
                _ => some::<1>(w, row, x, sums),
            };
            (x, sums) = (&x[done * w.cols..], &mut sums[done..]);
        }
    }
}

/// One row of W with the next `ROWS` rows of x.
#[inline(always)]
fn some<const ROWS: usize>(w: &Matrix, row: &[u8], x: &[f32], sums: &mut [f32]) -> usize {
    let rows: [&[f32]; ROWS] = std::array::from_fn(|r| &x[r * w.cols..][..w.cols]);
    sums[..ROWS].copy_from_slice(&dot_rows(w.dtype, row, rows));
    ROWS
}

/// Sixteen lanes and several rows of W at a time: a row of x is loaded once for all of them.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::{
        __m128i, __m512, __m512i, _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_loadl_epi64, _mm_loadu_si128,
        _mm256_loadu_si256, _mm512_broadcastss_ps, _mm512_castsi512_ps, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps,
        _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_mask_add_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_reduce_add_ps,
        _mm512_set1_epi32, _mm512_set1_ps, _mm512_setr_epi32, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32,
        _mm512_sub_epi32,
    };
    use std::ops::Range;

    use crate::cpu::simd::prefetch;
    use crate::ops::Matrix;

    /// Columns of a step.
    const BLOCK: usize = 32;

    /// A format whose rows are steps of 32 columns.
    pub trait Format {
        /// Bytes of a step.
        const BYTES: usize;

        /// The values of a step, exactly those of `dequantize_row`.
        ///
        /// # Safety
        ///
        /// `step` points at the bytes of a step, and the processor has AVX-512.
        unsafe fn decode(step: *const u8) -> [__m512; 2];
    }

    pub struct F32;
    pub struct F16;
    pub struct Bf16;
    pub struct Q4_0;
    pub struct Q4_1;
    pub struct Q5_0;
    pub struct Q5_1;
    pub struct Q8_0;

    impl Format for F32 {
        const BYTES: usize = 128;

        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            // SAFETY: by the caller, as in all of these.
            unsafe { [_mm512_loadu_ps(step.cast()), _mm512_loadu_ps(step.add(64).cast())] }
        }
    }

    impl Format for F16 {
        const BYTES: usize = 64;

        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            [0, 32].map(|at| _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(step.add(at).cast()) }))
        }
    }

    impl Format for Bf16 {
        const BYTES: usize = 64;

        #[target_feature(enable = "avx512f")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            [0, 32].map(|at| {
                let half = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(step.add(at).cast()) });
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(half))
            })
        }
    }

    /// 0, 1, … 15
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn count() -> __m512i {
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    }

    /// An f16, in all lanes.
    #[target_feature(enable = "avx512f,f16c")]
    #[inline]
    unsafe fn half(at: *const u8) -> __m512 {
        let bits: u16 = unsafe { at.cast::<u16>().read_unaligned() };
        _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(bits.into())))
    }

    /// Two f16, each in all lanes.
    #[target_feature(enable = "avx512f,f16c")]
    #[inline]
    unsafe fn halves(at: *const u8) -> [__m512; 2] {
        let both = _mm_cvtph_ps(unsafe { _mm_loadl_epi64(at.cast()) });
        let wide = std::arch::x86_64::_mm512_castps128_ps512(both);
        [_mm512_broadcastss_ps(both), _mm512_permutexvar_ps(_mm512_set1_epi32(1), wide)]
    }

    /// The table's values for the nibbles of 16 bytes: the low nibbles, then the high ones.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn nibbles(at: *const u8, table: __m512) -> [__m512; 2] {
        let codes = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(at.cast()) });
        // Only the low four bits of an index are used.
        [_mm512_permutexvar_ps(codes, table), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(codes), table)]
    }

    impl Format for Q4_0 {
        const BYTES: usize = 18;

        #[target_feature(enable = "avx512f,f16c")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            let q = _mm512_cvtepi32_ps(_mm512_sub_epi32(count(), _mm512_set1_epi32(8)));
            unsafe { nibbles(step.add(2), _mm512_mul_ps(q, half(step))) }
        }
    }

    impl Format for Q4_1 {
        const BYTES: usize = 20;

        #[target_feature(enable = "avx512f,f16c")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            // d · q is exact: 11 and 4 bits.
            let [d, m] = unsafe { halves(step) };
            unsafe { nibbles(step.add(4), _mm512_fmadd_ps(_mm512_cvtepi32_ps(count()), d, m)) }
        }
    }

    /// 16 if the fifth bit of an element is set, to be added to the value of its nibble: elements 0 to 15, then the
    /// others.
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn fifth(values: [__m512; 2], bits: *const u8, sixteen: __m512) -> [__m512; 2] {
        let bits: u32 = unsafe { bits.cast::<u32>().read_unaligned() };
        let [low, high] = values;
        [
            _mm512_mask_add_ps(low, bits as u16, low, sixteen),
            _mm512_mask_add_ps(high, (bits >> 16) as u16, high, sixteen),
        ]
    }

    impl Format for Q5_0 {
        const BYTES: usize = 22;

        #[target_feature(enable = "avx512f,f16c")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            let d = unsafe { half(step) };
            let q = _mm512_cvtepi32_ps(_mm512_sub_epi32(count(), _mm512_set1_epi32(16)));
            // All of these are exact multiples of d.
            let values = unsafe { nibbles(step.add(6), _mm512_mul_ps(q, d)) };
            unsafe { fifth(values, step.add(2), _mm512_mul_ps(_mm512_set1_ps(16.0), d)) }
        }
    }

    impl Format for Q5_1 {
        const BYTES: usize = 24;

        #[target_feature(enable = "avx512f,f16c")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            let [d, m] = unsafe { halves(step) };
            let values = unsafe { nibbles(step.add(8), _mm512_mul_ps(_mm512_cvtepi32_ps(count()), d)) };
            let values = unsafe { fifth(values, step.add(4), _mm512_mul_ps(_mm512_set1_ps(16.0), d)) };
            values.map(|value| std::arch::x86_64::_mm512_add_ps(value, m))
        }
    }

    impl Format for Q8_0 {
        const BYTES: usize = 34;

        #[target_feature(enable = "avx512f,f16c")]
        #[inline]
        unsafe fn decode(step: *const u8) -> [__m512; 2] {
            let d = unsafe { half(step) };
            [2, 18].map(|at| {
                let q: __m128i = unsafe { _mm_loadu_si128(step.add(at).cast()) };
                _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q)), d)
            })
        }
    }

    /// # Safety
    ///
    /// The processor has AVX-512, `W` has the format, and `sums` has a sum for each row of it and of x.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    pub unsafe fn products<F: Format>(w: &Matrix, rows: Range<usize>, x: &[f32], sums: &mut [f32]) {
        let m = x.len() / w.cols;
        let mut stored = w.rows_in(rows);
        let (groups, rest) = sums.split_at_mut(sums.len() / (4 * m) * 4 * m);
        for sums in groups.chunks_exact_mut(4 * m) {
            let rows: [&[u8]; 4] = std::array::from_fn(|_| stored.next().expect("a row for each sum"));
            let mut r = 0;
            while r < m {
                // SAFETY: x has rows r .., and all rows of W are as long as those of x.
                unsafe {
                    r += match m - r {
                        8.. => {
                            let ([a, b, c, d], x) = (rows, &x[r * w.cols..]);
                            tile::<F, 2, 8>([a, b], x, w.cols, &mut sums[r..], m);
                            tile::<F, 2, 8>([c, d], x, w.cols, &mut sums[2 * m + r..], m)
                        }
                        4.. => tile::<F, 4, 4>(rows, &x[r * w.cols..], w.cols, &mut sums[r..], m),
                        2.. => tile::<F, 4, 2>(rows, &x[r * w.cols..], w.cols, &mut sums[r..], m),
                        _ => tile::<F, 4, 1>(rows, &x[r * w.cols..], w.cols, &mut sums[r..], m),
                    };
                }
            }
        }
        for (row, sums) in stored.zip(rest.chunks_exact_mut(m)) {
            for (x, sum) in x.chunks_exact(w.cols).zip(sums) {
                // SAFETY: the row is as long as x.
                unsafe { tile::<F, 1, 1>([row], x, w.cols, std::array::from_mut(sum), m) };
            }
        }
    }

    /// Computes `W` rows of W with `X` rows of x, each `k` long. `m` is the number of rows of x.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")]
    #[inline]
    unsafe fn tile<F: Format, const W: usize, const X: usize>(
        w: [&[u8]; W],
        x: &[f32],
        k: usize,
        sums: &mut [f32],
        m: usize,
    ) -> usize {
        let blocks = k / BLOCK;
        assert!(x.len() >= X * k && w.iter().all(|w| w.len() >= blocks * F::BYTES), "rows of {k} columns");
        let mut lanes = [[_mm512_setzero_ps(); X]; W];
        let x = x.as_ptr();
        for b in 0..blocks {
            // SAFETY of all: within the rows.
            let mut values = [[_mm512_setzero_ps(); 2]; W];
            for (values, w) in values.iter_mut().zip(w) {
                prefetch(w, b * F::BYTES, F::BYTES);
                *values = unsafe { F::decode(w.as_ptr().add(b * F::BYTES)) };
            }
            for r in 0..X {
                let x = unsafe { x.add(r * k + b * BLOCK) };
                let (low, high) = unsafe { (_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))) };
                for i in 0..W {
                    lanes[i][r] = _mm512_fmadd_ps(values[i][0], low, lanes[i][r]);
                    lanes[i][r] = _mm512_fmadd_ps(values[i][1], high, lanes[i][r]);
                }
            }
        }
        let rest = k - blocks * BLOCK;
        if rest > 0 {
            // Only plain types have a rest, and their zeros are zero bytes.
            let masks = [0, 16].map(|first| ((1u32 << rest.saturating_sub(first).min(16)) - 1) as u16);
            for i in 0..W {
                let bytes = &w[i][blocks * F::BYTES..];
                let mut step = [0; 128];
                step[..bytes.len()].copy_from_slice(bytes);
                let values = unsafe { F::decode(step.as_ptr()) };
                for r in 0..X {
                    let x = unsafe { x.add(r * k + blocks * BLOCK) };
                    for (half, mask) in masks.into_iter().enumerate() {
                        let x = unsafe { _mm512_maskz_loadu_ps(mask, x.wrapping_add(16 * half)) };
                        lanes[i][r] = _mm512_fmadd_ps(values[half], x, lanes[i][r]);
                    }
                }
            }
        }
        for i in 0..W {
            for r in 0..X {
                sums[i * m + r] = _mm512_reduce_add_ps(lanes[i][r]);
            }
        }
        X
    }
}
