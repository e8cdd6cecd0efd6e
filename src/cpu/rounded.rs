//! Dot products of stored rows with activations that are rounded to integers of 8 bits, in blocks of 32.
//!
//! x ≈ scale_x · q_x    scale_x = max |x| / 127 of the block, q_x = round(x / scale_x)
//! W · x = Σ_groups scale_w · scale_x · (Σ q_w · q_x) − min_w · (scale_x · Σ q_x)
//!
//! A group is the columns that share a scale of W: 32, or 16. Sums within a group are exact: 32 · 128 · 127 < 2^31. A
//! sum has the same lanes and the same order, whichever rows are computed with it.

#[cfg(target_arch = "x86_64")]
mod vnni;

use std::ops::Range;

use crate::cpu::simd::{Level, level, mul_add, simd};
use crate::formats::{BLOCK, DType, Format, Halves, Selections, with_format};
use crate::ops::Matrix;

/// Rows of activations as integers.
pub struct Rounded<'a> {
    k: usize,
    /// Columns that share a scale of W.
    group: usize,
    /// (m, [`width`]): see [`Row`].
    data: &'a [f32],
}

/// A row of activations. Its parts begin at cache lines and end with zeros.
struct Row<'a> {
    /// q_x of each column, filled up to a multiple of 64.
    codes: &'a [i8],
    /// −(q_x + q_x + q_x + q_x) of each four columns.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only VNNI's unsigned codes need them"))]
    fours: &'a [i32],
    /// scale_x of each group, filled up to a multiple of 16.
    scales: &'a [f32],
    /// scale_x · Σ q_x of each group.
    sums: &'a [f32],
}

/// Columns that are multiplied at once.
const UNIT: usize = 64;

/// Groups whose scales are converted at once.
const SCALES: usize = 16;

/// The lengths in floats of codes (and of fours), and of scales (and of sums).
fn lengths(k: usize, group: usize) -> [usize; 2] {
    [k.next_multiple_of(UNIT) / 4, (k / group).next_multiple_of(SCALES)]
}

/// Floats of a rounded row of `k` columns.
pub fn width(k: usize, group: usize) -> usize {
    let [codes, scales] = lengths(k, group);
    2 * (codes + scales)
}

impl<'a> Rounded<'a> {
    /// Rows that [`round`] has written.
    pub fn new(w: &Matrix, data: &'a [f32]) -> Self {
        Rounded { k: w.cols, group: w.dtype.group(), data }
    }

    /// The number of rows.
    pub fn m(&self) -> usize {
        self.data.len() / width(self.k, self.group)
    }

    fn row(&self, r: usize) -> Row<'a> {
        let (width, [codes, scales]) = (width(self.k, self.group), lengths(self.k, self.group));
        let (integers, floats) = self.data[r * width..(r + 1) * width].split_at(2 * codes);
        Row {
            codes: bytemuck::cast_slice(&integers[..codes]),
            fours: bytemuck::cast_slice(&integers[codes..]),
            scales: &floats[..scales],
            sums: &floats[scales..],
        }
    }
}

simd! {
    /// Rounds rows of `k` columns for products with a matrix whose groups have `group` columns. A row with a value that
    /// is not finite has a scale that is not a number.
    pub fn round(x: &[f32], k: usize, group: usize, data: &mut [f32]) {
        for (x, data) in x.chunks_exact(k).zip(data.chunks_exact_mut(width(k, group))) {
            let [codes, scales] = lengths(k, group);
            data.fill(0.0);
            let (integers, floats) = data.split_at_mut(2 * codes);
            let (codes, fours) = integers.split_at_mut(codes);
            let (scales, sums) = floats.split_at_mut(scales);
            let (codes, _) = bytemuck::cast_slice_mut::<_, i8>(codes).as_chunks_mut::<BLOCK>();
            let (fours, _) = bytemuck::cast_slice_mut::<_, i32>(fours).as_chunks_mut::<{ BLOCK / 4 }>();
            let each = BLOCK / group;
            for (b, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
                let scale = round_block::<FMA>(x, &mut codes[b]);
                for (fours, codes) in fours[b].iter_mut().zip(codes[b].as_chunks::<4>().0) {
                    *fours = -codes.iter().map(|&code| i32::from(code)).sum::<i32>();
                }
                for i in 0..each {
                    let fours = &fours[b][i * group / 4..(i + 1) * group / 4];
                    scales[each * b + i] = scale;
                    sums[each * b + i] = -scale * fours.iter().sum::<i32>() as f32;
                }
            }
        }
    }
}

/// Writes the codes of a block and returns its scale.
#[inline(always)]
fn round_block<const FMA: bool>(x: &[f32; BLOCK], codes: &mut [i8; BLOCK]) -> f32 {
    /// 1.5 · 2^23: the bits of a small number added to it end with the nearest integer, ties to even.
    const NEAREST: f32 = 12_582_912.0;
    let mut largest = [0.0f32; 16];
    let mut poison = [0.0f32; 16];
    for half in x.as_chunks::<16>().0 {
        for i in 0..16 {
            let size = half[i].abs();
            largest[i] = if size > largest[i] { size } else { largest[i] };
            poison[i] = mul_add::<FMA>(half[i], 0.0, poison[i]);
        }
    }
    let largest = largest.into_iter().fold(0.0, |a, b| if b > a { b } else { a });
    let poison: f32 = poison.into_iter().sum();
    // Below, 127 / largest would be infinite.
    let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
    for i in 0..BLOCK {
        codes[i] = (x[i] * inverse + NEAREST).to_bits() as i8;
    }
    largest / 127.0 + poison
}

/// sums[i · m + r] = W[rows.start + i, :] · x[r, :], m = rows of x
pub fn products(w: &Matrix, rows: Range<usize>, x: &Rounded, sums: &mut [f32]) {
    products_at(level(), w, rows, x, sums);
}

fn products_at(level: Level, w: &Matrix, rows: Range<usize>, x: &Rounded, sums: &mut [f32]) {
    let m = x.m();
    assert_eq!((rows.len() * m, w.cols, w.dtype.group()), (sums.len(), x.k, x.group), "rounded rows of another matrix");
    #[cfg(target_arch = "x86_64")]
    if level >= Level::Vnni {
        return vnni::products(w, rows, x, sums);
    }
    for (row, sums) in w.rows_in(rows).zip(sums.chunks_exact_mut(m)) {
        let mut r = 0;
        while r < m {
            r += match m - r {
                4.. => some::<4>(level, w.dtype, row, x, r, sums),
                _ => some::<1>(level, w.dtype, row, x, r, sums),
            };
        }
    }
}

/// One row of W with rows r to r + ROWS of x.
fn some<const ROWS: usize>(level: Level, dtype: DType, row: &[u8], x: &Rounded, r: usize, sums: &mut [f32]) -> usize {
    let x: [Row; ROWS] = std::array::from_fn(|i| x.row(r + i));
    let found = with_format!(dtype, F => match level {
        Level::Target => dot_blocks::<F, Selections, Plain, { crate::cpu::simd::TARGET_FMA }, _, _, _>(row, x),
        // SAFETY: the processor has AVX2, FMA and F16C.
        #[cfg(target_arch = "x86_64")]
        _ => unsafe { avx2::dot_blocks::<F, _, _, _>(row, x) },
    });
    sums[r..r + ROWS].copy_from_slice(&found);
    ROWS
}

/// Sums of products of integers: lane l has columns 4 l to 4 l + 3.
trait Lanes {
    fn lanes(w: &[i8; BLOCK], x: &[i8; BLOCK]) -> [i32; 8];
}

struct Plain;

impl Lanes for Plain {
    #[inline(always)]
    fn lanes(w: &[i8; BLOCK], x: &[i8; BLOCK]) -> [i32; 8] {
        let mut lanes = [0; 8];
        for (lane, (w, x)) in lanes.iter_mut().zip(w.as_chunks::<4>().0.iter().zip(x.as_chunks::<4>().0)) {
            for i in 0..4 {
                *lane += i32::from(w[i]) * i32::from(x[i]);
            }
        }
        lanes
    }
}

#[inline(always)]
fn dot_blocks<
    F: Format<BYTES, N>,
    H: Halves,
    L: Lanes,
    const FMA: bool,
    const ROWS: usize,
    const BYTES: usize,
    const N: usize,
>(
    row: &[u8],
    x: [Row; ROWS],
) -> [f32; ROWS] {
    let mut lanes = [[0.0f32; 8]; ROWS];
    let mut mins = [0.0f32; ROWS];
    for (b, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
        for run in 0..N / BLOCK {
            let w = F::integers::<H>(block, run);
            let at = b * (N / BLOCK) + run;
            for r in 0..ROWS {
                let codes = x[r].codes[at * BLOCK..].first_chunk().expect("a block of a row");
                let found = L::lanes(&w.q, codes);
                for half in 0..2 {
                    let group = if F::GROUP == 16 { 2 * at + half } else { at };
                    let scale = w.scale[half] * x[r].scales[group];
                    for l in 4 * half..4 * half + 4 {
                        lanes[r][l] = mul_add::<FMA>(scale, found[l] as f32, lanes[r][l]);
                    }
                    if F::GROUP == 16 || half == 0 {
                        mins[r] = mul_add::<FMA>(w.min[half], x[r].sums[group], mins[r]);
                    }
                }
            }
        }
    }
    let mut totals = [0.0; ROWS];
    for r in 0..ROWS {
        totals[r] = lanes[r].iter().sum::<f32>() - mins[r];
    }
    totals
}

/// The same loop with 32 products an instruction.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm256_abs_epi8, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi16,
        _mm256_sign_epi8, _mm256_storeu_si256,
    };

    use super::{BLOCK, Format, Lanes, Row};
    use crate::cpu::dot::F16c;

    struct Avx2;

    impl Lanes for Avx2 {
        #[inline(always)]
        fn lanes(w: &[i8; BLOCK], x: &[i8; BLOCK]) -> [i32; 8] {
            let mut lanes = [0; 8];
            // SAFETY: the processor has AVX2; each array has 32 bytes.
            unsafe {
                let (w, x) = (_mm256_loadu_si256(w.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().cast()));
                // |w| · (x with the sign of w): two products are at most 2 · 128 · 127, which fits 16 bits.
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
                let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                _mm256_storeu_si256(lanes.as_mut_ptr().cast(), fours);
            }
            lanes
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    pub fn dot_blocks<F: Format<BYTES, N>, const ROWS: usize, const BYTES: usize, const N: usize>(
        row: &[u8],
        x: [Row; ROWS],
    ) -> [f32; ROWS] {
        super::dot_blocks::<F, F16c, Avx2, true, _, _, _>(row, x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::levels;
    use crate::formats::{dequantize_row, random_row};
    use crate::tensor::{Bytes, RowOrder, Tensor};

    /// Every format at every level beside the sums in f64 of what the rounded rows stand for.
    #[test]
    fn products_are_those_of_the_rounded_rows() {
        let mut seed = 1u32;
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed
        };
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.group() > 0) {
            // One block, an odd number of blocks, whole units, and more than one span of scales.
            for blocks in if dtype.block().0 == 32 { vec![1, 3, 16, 35] } else { vec![1, 2, 3] } {
                let (n, m, k) = (7, 9, blocks * dtype.block().0);
                let bytes: Vec<u8> = (0..n).flat_map(|_| random_row(dtype, k, 1.0, &mut next)).collect();
                let tensor = Tensor { dtype, shape: vec![n, k], bytes: Bytes::new(bytes), order: RowOrder::Stored };
                let w = Matrix::new(vec![tensor]);
                let x: Vec<f32> = (0..m * k).map(|i| ((i * 37 + i / 7) % 64) as f32 / 32.0 - 1.0).collect();
                let mut data = vec![f32::NAN; m * width(k, dtype.group())];
                round(&x, k, dtype.group(), &mut data);
                let rounded = Rounded::new(&w, &data);

                for level in levels() {
                    let mut sums = vec![f32::NAN; n * m];
                    products_at(level, &w, 0..n, &rounded, &mut sums);
                    let mut weights = vec![0.0; k];
                    for i in 0..n {
                        dequantize_row(dtype, w.row(i), &mut weights);
                        for r in 0..m {
                            let row = rounded.row(r);
                            let value = |c: usize| f64::from(row.scales[c / rounded.group]) * f64::from(row.codes[c]);
                            let products = || (0..k).map(|c| f64::from(weights[c]) * value(c));
                            let (wanted, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                            let found = f64::from(sums[i * m + r]);
                            // A minimum is subtracted after the sum, so codes up to 31 times a scale cancel.
                            assert!(
                                (found - wanted).abs() <= 4e-6 * size,
                                "{dtype} × {k}, {level:?}: {found}, {wanted}"
                            );
                            let error = (0..k).map(|c| (value(c) - f64::from(x[r * k + c])).abs()).fold(0.0, f64::max);
                            assert!(error <= 0.5 / 127.0 + 1e-7, "{dtype} × {k}: rounded by {error}");
                        }
                    }
                    // A product is the same with other rows beside it.
                    for (i, r) in [(0, 0), (3, 8), (6, 5)] {
                        let width = width(k, dtype.group());
                        let alone = Rounded::new(&w, &data[r * width..(r + 1) * width]);
                        let mut sum = [f32::NAN];
                        products_at(level, &w, i..i + 1, &alone, &mut sum);
                        assert_eq!(sum[0], sums[i * m + r], "{dtype} × {k}, {level:?}: row {i} and {r}");
                    }
                }
            }
        }
    }

    #[test]
    fn zeros_stay_zeros_and_what_is_not_finite_is_not_lost() {
        let group = DType::Q4_0.group();
        let mut data = vec![0.0; width(32, group)];
        for (value, finite) in [(0.0, true), (1e-40, true), (1e30, true), (f32::INFINITY, false), (f32::NAN, false)] {
            let x: [f32; 32] = std::array::from_fn(|i| if i == 5 { value } else { 0.0 });
            round(&x, 32, group, &mut data);
            let w = Matrix::new(vec![Tensor {
                dtype: DType::Q4_0,
                shape: vec![1, 32],
                bytes: Bytes::new(vec![0x3c; 18]),
                order: RowOrder::Stored,
            }]);
            for level in levels() {
                let mut sum = [0.0];
                products_at(level, &w, 0..1, &Rounded::new(&w, &data), &mut sum);
                assert_eq!(sum[0].is_nan(), !finite, "{value} gives {}", sum[0]);
            }
        }
    }
}
