//! Block formats: bytes → f32, and dot products of stored rows with f32 activations.
//!
//! All little endian; d, m and dmin are f16. One function a format says what its bytes mean, and everything else goes
//! through it: dot products multiply exactly the values that [`dequantize_row`] gives.

#![expect(
    clippy::needless_range_loop,
    reason = "a counted loop over two arrays vectorises, and reads like the formula"
)]

use crate::tensor::{DType, Tensor};

// Formats. Plain types are read in groups of 32; what is left of a row is padded with zeros, which all decode to zero.

#[inline(always)]
fn f32_group<const F16C: bool>(bytes: &[u8; 128]) -> [f32; 32] {
    std::array::from_fn(|i| f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]]))
}

#[inline(always)]
fn f16_group<const F16C: bool>(bytes: &[u8; 64]) -> [f32; 32] {
    let mut y = [0.0; 32];
    #[cfg(target_arch = "x86_64")]
    if F16C {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
        for (bytes, y) in bytes.chunks_exact(16).zip(y.chunks_exact_mut(8)) {
            // SAFETY: the processor has F16C, and both slices hold 8 elements.
            unsafe { _mm256_storeu_ps(y.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast()))) };
        }
        return y;
    }
    for i in 0..32 {
        y[i] = f16_at::<false>(bytes, 2 * i);
    }
    y
}

/// The upper half of an f32.
#[inline(always)]
fn bf16_group<const F16C: bool>(bytes: &[u8; 64]) -> [f32; 32] {
    std::array::from_fn(|i| f32::from_bits((bytes[2 * i] as u32) << 16 | (bytes[2 * i + 1] as u32) << 24))
}

/// d · (q − 8), d(2) qs(16); element j < 16 is the low half of byte j, j + 16 the high half.
#[inline(always)]
fn q4_0<const F16C: bool>(block: &[u8; 18]) -> [f32; 32] {
    let d = f16_at::<F16C>(block, 0);
    nibbles(block, 2, |_, q| (q as f32 - 8.0) * d)
}

/// d · q + m, d(2) m(2) qs(16).
#[inline(always)]
fn q4_1<const F16C: bool>(block: &[u8; 20]) -> [f32; 32] {
    let (d, m) = (f16_at::<F16C>(block, 0), f16_at::<F16C>(block, 2));
    nibbles(block, 4, |_, q| q as f32 * d + m)
}

/// d · (q − 16), d(2) qh(4) qs(16); bit j of qh is the fifth of element j.
#[inline(always)]
fn q5_0<const F16C: bool>(block: &[u8; 22]) -> [f32; 32] {
    let d = f16_at::<F16C>(block, 0);
    let high = i32::from_le_bytes([block[2], block[3], block[4], block[5]]);
    nibbles(block, 6, |j, q| ((q | (high >> j & 1) << 4) - 16) as f32 * d)
}

/// d · q + m, d(2) m(2) qh(4) qs(16).
#[inline(always)]
fn q5_1<const F16C: bool>(block: &[u8; 24]) -> [f32; 32] {
    let (d, m) = (f16_at::<F16C>(block, 0), f16_at::<F16C>(block, 2));
    let high = i32::from_le_bytes([block[4], block[5], block[6], block[7]]);
    nibbles(block, 8, |j, q| (q | (high >> j & 1) << 4) as f32 * d + m)
}

/// d · q, d(2) qs(32 × i8).
#[inline(always)]
fn q8_0<const F16C: bool>(block: &[u8; 34]) -> [f32; 32] {
    // By selections: the compiler makes less of the loop behind the instruction.
    let d = f16_at::<false>(block, 0);
    let mut y = [0.0; 32];
    for i in 0..32 {
        y[i] = block[2 + i] as i8 as f32 * d;
    }
    y
}

/// d · sc · q − dmin · min, d(2) dmin(2) scales(12) qs(128). Chunk c of 64 elements has 32 bytes: low halves, then high.
#[inline(always)]
fn q4_k<const F16C: bool>(block: &[u8; 144]) -> [f32; 256] {
    let scales = k_scales::<F16C>(block);
    let mut y = [0.0; 256];
    for c in 0..4 {
        let q: [u8; 64] = halves::<32, 64>(&block[16 + 32 * c..]);
        for high in 0..2 {
            let (scale, min) = scales[2 * c + high];
            for l in 32 * high..32 * high + 32 {
                y[64 * c + l] = scale * q[l] as i32 as f32 - min;
            }
        }
    }
    y
}

/// As q4_k with a fifth bit: d(2) dmin(2) scales(12) qh(32) qs(128); bit 2c + high of qh[l].
#[inline(always)]
fn q5_k<const F16C: bool>(block: &[u8; 176]) -> [f32; 256] {
    let scales = k_scales::<F16C>(block);
    let mut y = [0.0; 256];
    for c in 0..4 {
        for high in 0..2 {
            let (scale, min) = scales[2 * c + high];
            for l in 0..32 {
                let q = block[48 + 32 * c + l] >> (4 * high) & 15 | (block[16 + l] >> (2 * c + high) & 1) << 4;
                y[64 * c + 32 * high + l] = scale * q as f32 - min;
            }
        }
    }
    y
}

/// d · sc · (q − 32), ql(128) qh(64) scales(16 × i8) d(2). Each half of 128 elements has four runs of 32: run r takes
/// the low (r < 2) or high nibbles of ql from 32 · (r mod 2) on, and bits 2r of qh; a scale covers 16 elements.
#[inline(always)]
fn q6_k<const F16C: bool>(block: &[u8; 210]) -> [f32; 256] {
    let d = f16_at::<F16C>(block, 208);
    let mut y = [0.0; 256];
    for half in 0..2 {
        for run in 0..4 {
            for part in 0..2 {
                let scale = d * block[192 + 8 * half + 2 * run + part] as i8 as f32;
                for l in 16 * part..16 * part + 16 {
                    let low = block[64 * half + 32 * (run % 2) + l] >> (4 * (run / 2)) & 15;
                    let high = block[128 + 32 * half + l] >> (2 * run) & 3;
                    y[128 * half + 32 * run + l] = scale * ((low | high << 4) as i32 - 32) as f32;
                }
            }
        }
    }
    y
}

/// (d · sc, dmin · min) of the eight runs of 32 elements of a K block: 6 bits each in scales(12) at byte 4.
#[inline(always)]
fn k_scales<const F16C: bool>(block: &[u8]) -> [(f32, f32); 8] {
    let (d, dmin) = (f16_at::<F16C>(block, 0), f16_at::<F16C>(block, 2));
    let s = &block[4..16];
    std::array::from_fn(|j| {
        let (scale, min) = if j < 4 {
            (s[j] & 63, s[j + 4] & 63)
        } else {
            (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
        };
        (d * scale as f32, dmin * min as f32)
    })
}

/// A block of 32: 16 bytes at `at` hold the low four bits of each element. `value` gets the element and these bits.
#[inline(always)]
fn nibbles<const BYTES: usize>(block: &[u8; BYTES], at: usize, value: impl Fn(usize, i32) -> f32) -> [f32; 32] {
    let q: [u8; 32] = halves::<16, 32>(&block[at..]);
    let mut y = [0.0; 32];
    for j in 0..32 {
        y[j] = value(j, q[j] as i32);
    }
    y
}

/// The low halves of N bytes, then their high halves.
#[inline(always)]
fn halves<const N: usize, const TWICE: usize>(bytes: &[u8]) -> [u8; TWICE] {
    let bytes: &[u8; N] = bytes.first_chunk().expect("a block holds its codes");
    let mut q = [0; TWICE];
    for j in 0..N {
        q[j] = bytes[j] & 15;
        q[j + N] = bytes[j] >> 4;
    }
    // The compiler would take the two loops apart into scalars; through memory, both vectorise.
    std::hint::black_box(q)
}

/// f16 → f32, exact: one instruction where the processor has `F16C`, else selections that vectorise (`half` asks what the
/// processor can do each time).
#[inline(always)]
fn f16_at<const F16C: bool>(bytes: &[u8], at: usize) -> f32 {
    let half = u16::from_le_bytes([bytes[at], bytes[at + 1]]) as u32;
    #[cfg(target_arch = "x86_64")]
    if F16C {
        use std::arch::x86_64::{_mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32};
        // SAFETY: the processor has F16C.
        return unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half as i32))) };
    }
    let (sign, magnitude) = ((half & 0x8000) << 16, half & 0x7fff);
    // The exponent's bias is 112 smaller; that of infinities and NaNs must become 255.
    let bias = if magnitude < 31 << 10 { 112 << 23 } else { 224 << 23 };
    let normal = (magnitude << 13) + bias;
    let denormal = (magnitude as i32 as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
    f32::from_bits(sign | if magnitude < 1 << 10 { denormal } else { normal })
}

/// One of the formats above as a type: a function passed as a value is not compiled into the loop that calls it.
trait Format<const BYTES: usize, const N: usize> {
    /// `F16C`: whether the processor has it, which the caller has asked.
    fn decode<const F16C: bool>(block: &[u8; BYTES]) -> [f32; N];
}

/// `$body` with `$format` standing for the [`Format`] of a type.
macro_rules! with_format {
    ($dtype:expr, $format:ident => $body:expr) => {
        with_format!(@ $dtype, $format, $body,
            F32 f32_group 128 32, F16 f16_group 64 32, BF16 bf16_group 64 32, Q4_0 q4_0 18 32, Q4_1 q4_1 20 32,
            Q5_0 q5_0 22 32, Q5_1 q5_1 24 32, Q8_0 q8_0 34 32, Q4_K q4_k 144 256, Q5_K q5_k 176 256, Q6_K q6_k 210 256)
    };
    (@ $dtype:expr, $format:ident, $body:expr, $($name:ident $decode:ident $bytes:literal $n:literal),*) => {
        match $dtype {
            $(DType::$name => {
                struct $format;
                impl Format<$bytes, $n> for $format {
                    #[inline(always)]
                    fn decode<const F16C: bool>(block: &[u8; $bytes]) -> [f32; $n] {
                        $decode::<F16C>(block)
                    }
                }
                $body
            })*
        }
    };
}

/// The values of a row of `y.len()` elements.
pub fn dequantize_row(dtype: DType, row: &[u8], y: &mut [f32]) {
    dequantize::<true>(dtype, row, y)
}

/// The dot products of one stored row with ROWS rows of activations, which are as long as it. The row is decoded once.
pub fn dot_rows<const ROWS: usize>(dtype: DType, row: &[u8], x: [&[f32]; ROWS]) -> [f32; ROWS] {
    dot::<512, ROWS>(dtype, row, x)
}

/// The dot product of a stored row with `x`, which is as long as it.
pub fn dot_row(dtype: DType, row: &[u8], x: &[f32]) -> f32 {
    dot_rows(dtype, row, [x])[0]
}

/// `EXTENSIONS`: use those of the processor, if it has them.
pub(super) fn dequantize<const EXTENSIONS: bool>(dtype: DType, row: &[u8], y: &mut [f32]) {
    assert_eq!(row.len(), dtype.row_bytes(y.len()), "a {dtype} row of {} elements", y.len());
    with_format!(dtype, Stored => {
        #[cfg(target_arch = "x86_64")]
        if EXTENSIONS && avx2::present() {
            // SAFETY: the processor has them.
            return unsafe { avx2::dequantize_blocks::<Stored, _, _>(row, y) };
        }
        dequantize_blocks::<Stored, false, _, _>(row, y)
    })
}

/// `WIDEST`: use those of the processor's extensions whose registers have at most so many bits.
pub(super) fn dot<const WIDEST: usize, const ROWS: usize>(dtype: DType, row: &[u8], x: [&[f32]; ROWS]) -> [f32; ROWS] {
    for x in x {
        assert_eq!(row.len(), dtype.row_bytes(x.len()), "a {dtype} row against {} activations", x.len());
    }
    with_format!(dtype, Stored => {
        #[cfg(target_arch = "x86_64")]
        if WIDEST >= 512 && avx512::present() {
            // SAFETY: the processor has them.
            return unsafe { avx512::dot_blocks::<Stored, _, _, _>(row, x) };
        }
        #[cfg(target_arch = "x86_64")]
        if WIDEST >= 256 && avx2::present() {
            // SAFETY: the processor has them.
            return unsafe { avx2::dot_blocks::<Stored, _, _, _>(row, x) };
        }
        dot_blocks::<Stored, { cfg!(any(target_arch = "aarch64", target_feature = "fma")) }, false, _, _, _>(row, x)
    })
}

/// The same loops compiled for processors with AVX-512.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::Format;

    pub fn present() -> bool {
        super::avx2::present()
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,fma,f16c")]
    pub fn dot_blocks<F: Format<BYTES, N>, const ROWS: usize, const BYTES: usize, const N: usize>(
        row: &[u8],
        x: [&[f32]; ROWS],
    ) -> [f32; ROWS] {
        super::dot_blocks::<F, true, true, _, _, _>(row, x)
    }
}

/// The same loops compiled for processors with AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::Format;

    pub fn present() -> bool {
        is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dequantize_blocks<F: Format<BYTES, N>, const BYTES: usize, const N: usize>(row: &[u8], y: &mut [f32]) {
        super::dequantize_blocks::<F, true, _, _>(row, y)
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dot_blocks<F: Format<BYTES, N>, const ROWS: usize, const BYTES: usize, const N: usize>(
        row: &[u8],
        x: [&[f32]; ROWS],
    ) -> [f32; ROWS] {
        super::dot_blocks::<F, true, true, _, _, _>(row, x)
    }
}

#[inline(always)]
fn dequantize_blocks<F: Format<BYTES, N>, const F16C: bool, const BYTES: usize, const N: usize>(
    row: &[u8],
    y: &mut [f32],
) {
    let (blocks, row_rest) = row.as_chunks();
    let (groups, y_rest) = y.as_chunks_mut();
    for (block, y) in blocks.iter().zip(groups) {
        *y = F::decode::<F16C>(block);
    }
    if !y_rest.is_empty() {
        y_rest.copy_from_slice(&F::decode::<F16C>(&padded(row_rest))[..y_rest.len()]);
    }
}

/// `FMA`: whether `mul_add` is one instruction.
#[inline(always)]
fn dot_blocks<
    F: Format<BYTES, N>,
    const FMA: bool,
    const F16C: bool,
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
        let weights = F::decode::<F16C>(block);
        for r in 0..ROWS {
            add_products::<FMA>(&mut sums[r], &weights, &x[r][b * N..(b + 1) * N]);
        }
    }
    if !row_rest.is_empty() {
        let weights = F::decode::<F16C>(&padded(row_rest));
        for r in 0..ROWS {
            let x = &x[r][blocks.len() * N..];
            let mut filled = [0.0; N];
            filled[..x.len()].copy_from_slice(x);
            add_products::<FMA>(&mut sums[r], &weights, &filled);
        }
    }
    let mut totals = [0.0; ROWS];
    for r in 0..ROWS {
        totals[r] = sums[r].iter().sum();
    }
    totals
}

/// Sums are kept in as many lanes as fill the vector registers and hide the latency of an addition.
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

fn padded<const BYTES: usize>(rest: &[u8]) -> [u8; BYTES] {
    let mut block = [0; BYTES];
    block[..rest.len()].copy_from_slice(rest);
    block
}

impl Tensor {
    /// Writes the values of logical row `row`, `y.len()` = cols.
    pub fn read_row(&self, row: usize, y: &mut [f32]) {
        dequantize_row(self.dtype, self.row(row), y);
    }

    /// All values in logical order.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.iter().product()];
        if !values.is_empty() {
            for (row, y) in values.chunks_exact_mut(self.cols()).enumerate() {
                self.read_row(row, y);
            }
        }
        values
    }
}
