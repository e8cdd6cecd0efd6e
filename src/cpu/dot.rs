//! Rows of weights on the CPU: their values, and dot products of stored rows with f32 activations.
//!
//! Dot products use exactly the values of [`crate::formats`], with sums in another order.

#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Level, level};
use crate::formats::{DType, Format, Halves, Selections, dequantize_blocks, padded, with_format};

/// The values of a row of `y.len()` elements.
pub fn dequantize_row(dtype: DType, row: &[u8], y: &mut [f32]) {
    assert_eq!(row.len(), dtype.row_bytes(y.len()), "a {dtype} row of {} elements", y.len());
    with_format!(dtype, F => {
        #[cfg(target_arch = "x86_64")]
        if level() >= Level::Avx2 {
            // SAFETY: the processor has AVX2, FMA and F16C.
            return unsafe { avx2::dequantize_blocks::<F, _, _>(row, y) };
        }
        dequantize_blocks::<F, Selections, _, _>(row, y)
    })
}

/// The dot products of one stored row with ROWS rows of activations of the same length. The row is decoded once.
pub fn dot_rows<const ROWS: usize>(dtype: DType, row: &[u8], x: [&[f32]; ROWS]) -> [f32; ROWS] {
    dot::<512, ROWS>(dtype, row, x)
}

/// The dot product of a stored row with `x`, which has the same length.
pub fn dot_row(dtype: DType, row: &[u8], x: &[f32]) -> f32 {
    dot_rows(dtype, row, [x])[0]
}

/// `WIDEST`: use those of the processor's extensions whose registers have at most so many bits.
fn dot<const WIDEST: usize, const ROWS: usize>(dtype: DType, row: &[u8], x: [&[f32]; ROWS]) -> [f32; ROWS] {
    for x in x {
        assert_eq!(row.len(), dtype.row_bytes(x.len()), "a {dtype} row against {} activations", x.len());
    }
    with_format!(dtype, F => {
        #[cfg(target_arch = "x86_64")]
        if WIDEST >= 512 && level() >= Level::Avx512 {
            // SAFETY: the processor has AVX-512.
            return unsafe { avx512::dot_blocks::<F, _, _, _>(row, x) };
        }
        #[cfg(target_arch = "x86_64")]
        if WIDEST >= 256 && level() >= Level::Avx2 {
            // SAFETY: the processor has AVX2, FMA and F16C.
            return unsafe { avx2::dot_blocks::<F, _, _, _>(row, x) };
        }
        dot_blocks::<F, Selections, { cfg!(any(target_arch = "aarch64", target_feature = "fma")) }, _, _, _>(row, x)
    })
}

/// The same loops compiled for processors with AVX-512.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Format;
    use super::avx2::F16c;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    pub fn dot_blocks<F: Format<BYTES, N>, const ROWS: usize, const BYTES: usize, const N: usize>(
        row: &[u8],
        x: [&[f32]; ROWS],
    ) -> [f32; ROWS] {
        super::dot_blocks::<F, F16c, true, _, _, _>(row, x)
    }
}

#[cfg(target_arch = "x86_64")]
pub use avx2::F16c;

/// The same loops compiled for processors with AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps,
    };

    use super::{Format, Halves};

    /// Converts with one instruction. Only functions that are compiled for F16C may use it.
    pub struct F16c;

    impl Halves for F16c {
        #[inline(always)]
        fn widen(half: u16) -> f32 {
            // SAFETY: the processor has F16C.
            unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half.into()))) }
        }

        #[inline(always)]
        fn widen32(bytes: &[u8; 64]) -> [f32; 32] {
            let mut y = [0.0; 32];
            for (bytes, y) in bytes.chunks_exact(16).zip(y.chunks_exact_mut(8)) {
                // SAFETY: the processor has F16C, and both slices hold 8 elements.
                unsafe { _mm256_storeu_ps(y.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast()))) };
            }
            y
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dequantize_blocks<F: Format<BYTES, N>, const BYTES: usize, const N: usize>(row: &[u8], y: &mut [f32]) {
        super::dequantize_blocks::<F, F16c, _, _>(row, y)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dot_blocks<F: Format<BYTES, N>, const ROWS: usize, const BYTES: usize, const N: usize>(
        row: &[u8],
        x: [&[f32]; ROWS],
    ) -> [f32; ROWS] {
        super::dot_blocks::<F, F16c, true, _, _, _>(row, x)
    }
}

/// `FMA`: whether `mul_add` is one instruction.
#[inline(always)]
fn dot_blocks<
    F: Format<BYTES, N>,
    H: Halves,
    const FMA: bool,
    const ROWS: usize,
    const BYTES: usize,
    const N: usize,
>(
    row: &[u8],
    x: [&[f32]; ROWS],
) -> [f32; ROWS] {
    let (blocks, row_rest) = row.as_chunks();
    let mut sums = [[0.0; LANES]; ROWS];
    for (b, block) in blocks.iter().enumerate() {
        let weights = F::decode::<H>(block);
        for r in 0..ROWS {
            add_products::<FMA>(&mut sums[r], &weights, &x[r][b * N..(b + 1) * N]);
        }
    }
    if !row_rest.is_empty() {
        let weights = F::decode::<H>(&padded(row_rest));
        for r in 0..ROWS {
            let filled: [f32; N] = padded(&x[r][blocks.len() * N..]);
            add_products::<FMA>(&mut sums[r], &weights, &filled);
        }
    }
    let mut totals = [0.0; ROWS];
    for r in 0..ROWS {
        totals[r] = sums[r].iter().sum();
    }
    totals
}

/// Sums have as many lanes as fill the vector registers and hide the latency of an addition.
const LANES: usize = 32;

#[inline(always)]
fn add_products<const FMA: bool>(sums: &mut [f32; LANES], weights: &[f32], x: &[f32]) {
    for (weights, x) in weights.as_chunks::<LANES>().0.iter().zip(x.as_chunks::<LANES>().0) {
        for lane in 0..LANES {
            sums[lane] =
                if FMA { weights[lane].mul_add(x[lane], sums[lane]) } else { weights[lane] * x[lane] + sums[lane] };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{dequantize_row, dot, dot_row, dot_rows};
    use crate::formats::tests::{every_half_decodes_exactly, fixtures_decode};
    use crate::formats::{DType, random_row};

    #[test]
    fn blocks_decode_as_gguf_does() {
        fixtures_decode(dequantize_row);
        every_half_decodes_exactly(dequantize_row);
    }

    #[test]
    fn dots_multiply_what_is_decoded() {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed
        };
        for dtype in DType::ALL {
            let block = dtype.block().0;
            // Plain types have rows of any length.
            for cols in if block == 1 { vec![1, 31, 32, 154] } else { vec![block, 3 * block] } {
                let row = random_row(dtype, cols, 1.0, &mut next);
                let mut weights = vec![0.0; cols];
                dequantize_row(dtype, &row, &mut weights);
                let x: Vec<Vec<f32>> =
                    (0..4).map(|r| (0..cols).map(|i| ((i * 37 + r * 11) % 64) as f32 / 32.0 - 1.0).collect()).collect();
                let x_rows = std::array::from_fn::<_, 4, _>(|r| &x[r][..]);
                let sums = dot_rows(dtype, &row, x_rows);
                let narrower = [dot::<256, 4>(dtype, &row, x_rows), dot::<0, 4>(dtype, &row, x_rows)];
                for (r, sum) in sums.into_iter().chain(narrower.into_iter().flatten()).enumerate() {
                    let products = || weights.iter().zip(&x[r % 4]).map(|(&w, &x)| w as f64 * x as f64);
                    let (wanted, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                    assert!((sum as f64 - wanted).abs() <= 1e-6 * size, "{dtype} × {cols}: {sum}, expected {wanted}");
                }
                assert_eq!(dot_row(dtype, &row, &x[0]), sums[0], "{dtype} × {cols}");
            }
        }
    }
}
