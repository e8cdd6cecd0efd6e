//! Products with AVX-512 VNNI: 64 columns an instruction, several rows of W at a time.
//!
//! The instruction multiplies unsigned with signed bytes. Signed codes of W are therefore stored as q + 2^SHIFT, and
//! sums begin with −2^SHIFT · Σ q_x.

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _mm_loadu_si128, _mm_set_epi64x, _mm256_broadcastsi128_si256,
    _mm256_loadu_si256, _mm256_set1_epi8, _mm256_set1_ps, _mm512_add_epi8, _mm512_add_epi32, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_broadcast_i64x4, _mm512_castps256_ps512, _mm512_castsi256_si512,
    _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_insertf32x8, _mm512_inserti64x4, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_add_epi8, _mm512_mask_i32gather_epi32, _mm512_mul_ps, _mm512_mullo_epi32, _mm512_or_si512,
    _mm512_permutexvar_ps, _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setr_epi32, _mm512_setr_epi64, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_epi8,
    _mm512_slli_epi16, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_srli_epi32, _mm512_srlv_epi64, _mm512_sub_ps,
    _mm512_test_epi8_mask, _mm512_xor_si512,
};
use std::ops::Range;

use super::{Rounded, SCALES, UNIT};
use crate::cpu::dot::F16c;
use crate::cpu::simd::prefetch;
use crate::formats::{DType, Format, Halves, iq4_nl, q2_k, q3_k, q4_k};
use crate::ops::Matrix;

/// How a format's rows are read. All of its functions need AVX-512 F, BW, VL, DQ and VNNI, and a pointer at a row.
trait Codes {
    /// Columns that share a scale.
    const GROUP: usize;
    /// Bytes of 32 columns, if blocks have 32 columns, else 0.
    const BLOCK_BYTES: usize = 0;
    /// Codes are q + 2^SHIFT, or q if it is 0.
    const SHIFT: u32 = 0;
    /// Whether the format has minima.
    const MINS: bool = false;

    /// The codes of columns 64 · unit to 64 · unit + 63.
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i;

    /// Scales and minima of `count` groups from group 16 · span on; zeros beyond.
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512);
}

/// See [`super::products`]; the caller has checked the lengths.
pub fn products(w: &Matrix, rows: Range<usize>, x: &Rounded, sums: &mut [f32]) {
    // SAFETY of all: the level says that the processor has AVX-512 VNNI, and rows of W are as long as those of x.
    match w.dtype {
        DType::Q4_0 => unsafe { all::<Q4_0>(w, rows, x, sums) },
        DType::Q4_1 => unsafe { all::<Q4_1>(w, rows, x, sums) },
        DType::Q5_0 => unsafe { all::<Q5_0>(w, rows, x, sums) },
        DType::Q5_1 => unsafe { all::<Q5_1>(w, rows, x, sums) },
        DType::Q8_0 => unsafe { all::<Q8_0>(w, rows, x, sums) },
        DType::IQ4_NL => unsafe { all::<Iq4Nl>(w, rows, x, sums) },
        DType::Q2_K => unsafe { all::<Plain<q2_k::Q2_K, 84>>(w, rows, x, sums) },
        DType::Q3_K => unsafe { all::<Plain<q3_k::Q3_K, 110>>(w, rows, x, sums) },
        DType::Q4_K => unsafe { all::<Q4K>(w, rows, x, sums) },
        DType::Q5_K => unsafe { all::<Q5K>(w, rows, x, sums) },
        DType::Q6_K => unsafe { all::<Q6K>(w, rows, x, sums) },
        DType::F32 | DType::F16 | DType::BF16 => unreachable!("plain types are not rounded"),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
unsafe fn all<F: Codes>(w: &Matrix, rows: Range<usize>, x: &Rounded, sums: &mut [f32]) {
    let m = x.m();
    let mut stored = w.rows_in(rows);
    let (groups, rest) = sums.split_at_mut(sums.len() / (4 * m) * 4 * m);
    for sums in groups.chunks_exact_mut(4 * m) {
        let rows: [&[u8]; 4] = std::array::from_fn(|_| stored.next().expect("a row for each sum"));
        let mut r = 0;
        while r < m {
            // SAFETY: the caller keeps the contract.
            unsafe {
                r += match m - r {
                    4.. => {
                        let [a, b, c, d] = rows;
                        tile::<F, 2, 4>([a, b], x, r, sums);
                        tile::<F, 2, 4>([c, d], x, r, &mut sums[2 * m..])
                    }
                    2.. => tile::<F, 4, 2>(rows, x, r, sums),
                    _ => tile::<F, 4, 1>(rows, x, r, sums),
                };
            }
        }
    }
    for (row, sums) in stored.zip(rest.chunks_exact_mut(m)) {
        for r in 0..m {
            // SAFETY: as above.
            unsafe { tile::<F, 1, 1>([row], x, r, sums) };
        }
    }
}

/// Computes `W` rows of W with rows r to r + `X` of x.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
#[inline]
unsafe fn tile<F: Codes, const W: usize, const X: usize>(
    w: [&[u8]; W],
    x: &Rounded,
    r: usize,
    sums: &mut [f32],
) -> usize {
    let (k, m) = (x.k, x.m());
    let rows: [super::Row; X] = std::array::from_fn(|i| x.row(r + i));
    let units_of_span = SCALES * F::GROUP / UNIT;
    let mut lanes = [[_mm512_setzero_ps(); X]; W];
    let mut mins = [[_mm512_setzero_ps(); X]; W];
    for span in 0..k.div_ceil(SCALES * F::GROUP) {
        let count = (k / F::GROUP - SCALES * span).min(SCALES);
        // SAFETY of all: the parts of a row of x are as long as `lengths` says, and rows of W have k columns.
        let mut scales = [[_mm512_setzero_ps(); X]; W];
        for i in 0..W {
            let (d, min) = unsafe { F::scales(w[i].as_ptr(), span, count) };
            for r in 0..X {
                scales[i][r] = _mm512_mul_ps(d, unsafe { _mm512_loadu_ps(rows[r].scales.as_ptr().add(SCALES * span)) });
                if F::MINS {
                    let sums = unsafe { _mm512_loadu_ps(rows[r].sums.as_ptr().add(SCALES * span)) };
                    mins[i][r] = _mm512_fmadd_ps(min, sums, mins[i][r]);
                }
            }
        }
        let first = span * units_of_span;
        for unit in first..(first + units_of_span).min(k.div_ceil(UNIT)) {
            let mut codes = [_mm512_setzero_si512(); W];
            for i in 0..W {
                codes[i] = if F::BLOCK_BYTES == 0 || (unit + 1) * UNIT <= k {
                    unsafe { F::codes(w[i].as_ptr(), unit) }
                } else {
                    // The last 32 columns: x has zeros for the others.
                    let mut last = [0; 2 * MOST_BYTES];
                    let at = 2 * unit * F::BLOCK_BYTES;
                    last[..F::BLOCK_BYTES].copy_from_slice(&w[i][at..at + F::BLOCK_BYTES]);
                    unsafe { F::codes(last.as_ptr(), 0) }
                };
            }
            for w in w {
                prefetch(w, unit * w.len() * UNIT / k, w.len() * UNIT / k);
            }
            let lane = spread::<F>(unit - first);
            for r in 0..X {
                let x = unsafe { _mm512_loadu_si512(rows[r].codes.as_ptr().add(unit * UNIT).cast()) };
                let start = if F::SHIFT == 0 {
                    _mm512_setzero_si512()
                } else {
                    let fours = unsafe { _mm512_loadu_si512(rows[r].fours.as_ptr().add(unit * UNIT / 4).cast()) };
                    shifted::<F>(fours)
                };
                for i in 0..W {
                    let products = _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(start, codes[i], x));
                    lanes[i][r] = _mm512_fmadd_ps(products, _mm512_permutexvar_ps(lane, scales[i][r]), lanes[i][r]);
                }
            }
        }
    }
    for i in 0..W {
        for j in 0..X {
            let total = if F::MINS { _mm512_sub_ps(lanes[i][j], mins[i][j]) } else { lanes[i][j] };
            sums[i * m + r + j] = _mm512_reduce_add_ps(total);
        }
    }
    X
}

/// The largest number of bytes of a block of 32 columns.
const MOST_BYTES: usize = 34;

/// The group of each four columns of a unit, counted from the first group of its span.
#[target_feature(enable = "avx512f")]
#[inline]
fn spread<F: Codes>(unit: usize) -> __m512i {
    let first = _mm512_set1_epi32((unit * UNIT / F::GROUP) as i32);
    let groups = if F::GROUP == 32 {
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
    } else {
        _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3)
    };
    _mm512_add_epi32(first, groups)
}

/// x · 2^SHIFT
#[target_feature(enable = "avx512f")]
#[inline]
fn shifted<F: Codes>(x: __m512i) -> __m512i {
    match F::SHIFT {
        3 => _mm512_slli_epi32::<3>(x),
        4 => _mm512_slli_epi32::<4>(x),
        5 => _mm512_slli_epi32::<5>(x),
        _ => _mm512_slli_epi32::<7>(x),
    }
}

/// Of the next 16 blocks of `bytes` bytes, those of the first `count`: 32 bits at the start of each, zeros beyond.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn heads(blocks: *const u8, bytes: usize, count: usize) -> __m512i {
    let index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let index = _mm512_mullo_epi32(index, _mm512_set1_epi32(bytes as i32));
    // SAFETY: the caller has `count` blocks.
    unsafe {
        _mm512_mask_i32gather_epi32::<1>(_mm512_setzero_si512(), ((1u32 << count) - 1) as u16, index, blocks.cast())
    }
}

/// The lower 16 bits of each lane, as f16.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

/// Scales at the start of blocks of 32 columns.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn block_scales(row: *const u8, bytes: usize, span: usize, count: usize) -> (__m512, __m512) {
    // SAFETY: by the caller.
    (halves(unsafe { heads(row.add(SCALES * span * bytes), bytes, count) }), _mm512_setzero_ps())
}

/// Scales and minima at the start of blocks of 32 columns, w = d · q + m.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
unsafe fn block_minima(row: *const u8, bytes: usize, span: usize, count: usize) -> (__m512, __m512) {
    // SAFETY: by the caller.
    let both = unsafe { heads(row.add(SCALES * span * bytes), bytes, count) };
    (halves(both), _mm512_sub_ps(_mm512_setzero_ps(), halves(_mm512_srli_epi32::<16>(both))))
}

/// Low and high nibbles of two blocks' 16 bytes.
#[target_feature(enable = "avx512f,avx2")]
#[inline]
unsafe fn nibbles(first: *const u8, second: *const u8) -> __m512i {
    let (a, b): (__m128i, __m128i) = unsafe { (_mm_loadu_si128(first.cast()), _mm_loadu_si128(second.cast())) };
    let (a, b) = (_mm256_broadcastsi128_si256(a), _mm256_broadcastsi128_si256(b));
    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
    let low = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    _mm512_and_si512(low, _mm512_set1_epi8(15))
}

/// Adds 16 to the codes whose bits of two blocks are set.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
unsafe fn fifths(codes: __m512i, first: *const u8, second: *const u8) -> __m512i {
    let [a, b]: [u32; 2] = unsafe { [first.cast::<u32>().read_unaligned(), second.cast::<u32>().read_unaligned()] };
    _mm512_mask_add_epi8(codes, u64::from(a) | u64::from(b) << 32, codes, _mm512_set1_epi8(16))
}

struct Q4_0;

impl Codes for Q4_0 {
    const GROUP: usize = 32;
    const BLOCK_BYTES: usize = 18;
    const SHIFT: u32 = 3;

    #[target_feature(enable = "avx512f,avx2")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        // SAFETY of this and the others: by the caller.
        unsafe { nibbles(row.add(36 * unit + 2), row.add(36 * unit + 20)) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { block_scales(row, 18, span, count) }
    }
}

struct Q4_1;

impl Codes for Q4_1 {
    const GROUP: usize = 32;
    const BLOCK_BYTES: usize = 20;
    const MINS: bool = true;

    #[target_feature(enable = "avx512f,avx2")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        unsafe { nibbles(row.add(40 * unit + 4), row.add(40 * unit + 24)) }
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { block_minima(row, 20, span, count) }
    }
}

struct Q5_0;

impl Codes for Q5_0 {
    const GROUP: usize = 32;
    const BLOCK_BYTES: usize = 22;
    const SHIFT: u32 = 4;

    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let (a, b) = unsafe { (row.add(44 * unit), row.add(44 * unit + 22)) };
        unsafe { fifths(nibbles(a.add(6), b.add(6)), a.add(2), b.add(2)) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { block_scales(row, 22, span, count) }
    }
}

struct Q5_1;

impl Codes for Q5_1 {
    const GROUP: usize = 32;
    const BLOCK_BYTES: usize = 24;
    const MINS: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let (a, b) = unsafe { (row.add(48 * unit), row.add(48 * unit + 24)) };
        unsafe { fifths(nibbles(a.add(8), b.add(8)), a.add(4), b.add(4)) }
    }

    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { block_minima(row, 24, span, count) }
    }
}

struct Q8_0;

impl Codes for Q8_0 {
    const GROUP: usize = 32;
    const BLOCK_BYTES: usize = 34;
    const SHIFT: u32 = 7;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let [a, b]: [__m256i; 2] = [2, 36].map(|at| unsafe { _mm256_loadu_si256(row.add(68 * unit + at).cast()) });
        let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { block_scales(row, 34, span, count) }
    }
}

struct Iq4Nl;

impl Codes for Iq4Nl {
    const GROUP: usize = 32;
    const BLOCK_BYTES: usize = 18;
    const SHIFT: u32 = 7;

    #[target_feature(enable = "avx512f,avx512bw,avx2")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let table: [u8; 16] = const {
            let (mut table, mut i) = ([0; 16], 0);
            while i < 16 {
                table[i] = (iq4_nl::CODEBOOK[i] + 128.0) as u8;
                i += 1;
            }
            table
        };
        let table: __m128i = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
        let table = _mm512_broadcast_i32x4(table);
        _mm512_shuffle_epi8(table, unsafe { Q4_0::codes(row, unit) })
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { block_scales(row, 18, span, count) }
    }
}

/// 16 scales and 16 minima of two blocks with the header of q4_k; the second only if `count` is above 8.
#[target_feature(enable = "avx512f,avx512dq,avx2,f16c")]
#[inline]
unsafe fn subscales(blocks: *const u8, bytes: usize, count: usize) -> (__m512, __m512) {
    let (mut d, mut codes) = ([[0.0; 2]; 2], [[0u64; 2]; 2]);
    for block in 0..count / 8 {
        let header: [u32; 4] = unsafe { blocks.add(block * bytes).cast::<[u32; 4]>().read_unaligned() };
        d[block] = q4_k::halves::<F16c>(header[0]);
        codes[block] = q4_k::subscales([header[1], header[2], header[3]]);
    }
    let part = |i: usize| {
        let codes = _mm_set_epi64x(codes[1][i] as i64, codes[0][i] as i64);
        let [first, second] = [d[0][i], d[1][i]].map(|d| _mm256_set1_ps(d));
        let d = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(first), second);
        _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)), d)
    };
    (part(0), part(1))
}

/// The low nibbles of 32 bytes, then the high ones.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn nibbles32(at: *const u8) -> __m512i {
    let both = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(at.cast()) });
    let low = _mm512_srlv_epi64(both, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    _mm512_and_si512(low, _mm512_set1_epi8(15))
}

struct Q4K;

impl Codes for Q4K {
    const GROUP: usize = 32;
    const MINS: bool = true;

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        unsafe { nibbles32(row.add(unit / 4 * 144 + 16 + 32 * (unit % 4))) }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx2,f16c")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { subscales(row.add(2 * span * 144), 144, count) }
    }
}

struct Q5K;

impl Codes for Q5K {
    const GROUP: usize = 32;
    const MINS: bool = true;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let (block, c) = (unsafe { row.add(unit / 4 * 176) }, unit % 4);
        let high = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(block.add(16).cast()) });
        let bit = _mm256_set1_epi8;
        let (low_bit, high_bit) = (bit((1u8 << (2 * c)) as i8), bit((2u8 << (2 * c)) as i8));
        let bits = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low_bit), high_bit);
        let codes = unsafe { nibbles32(block.add(48 + 32 * c)) };
        _mm512_mask_add_epi8(codes, _mm512_test_epi8_mask(high, bits), codes, _mm512_set1_epi8(16))
    }

    #[target_feature(enable = "avx512f,avx512dq,avx2,f16c")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, count: usize) -> (__m512, __m512) {
        unsafe { subscales(row.add(2 * span * 176), 176, count) }
    }
}

struct Q6K;

impl Codes for Q6K {
    const GROUP: usize = 16;
    const SHIFT: u32 = 5;

    #[target_feature(enable = "avx512f,avx512bw")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let (block, half, high) = (unsafe { row.add(unit / 4 * 210) }, unit % 4 / 2, unit % 2 == 1);
        let low = unsafe { _mm512_loadu_si512(block.add(64 * half).cast()) };
        let low = if high { _mm512_srli_epi16::<4>(low) } else { low };
        let pairs = _mm512_broadcast_i64x4(unsafe { _mm256_loadu_si256(block.add(128 + 32 * half).cast()) });
        let first = if high { 4 } else { 0 };
        let after = first + 2;
        let shifts = _mm512_setr_epi64(first, first, first, first, after, after, after, after);
        let pairs = _mm512_and_si512(_mm512_srlv_epi64(pairs, shifts), _mm512_set1_epi8(3));
        _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), _mm512_slli_epi16::<4>(pairs))
    }

    #[target_feature(enable = "avx512f,f16c")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, _: usize) -> (__m512, __m512) {
        let block = unsafe { row.add(210 * span) };
        let d = <F16c as Halves>::widen(unsafe { block.add(208).cast::<u16>().read_unaligned() });
        let codes = _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(block.add(192).cast()) });
        let scales = _mm512_mul_ps(_mm512_cvtepi32_ps(codes), _mm512_set1_ps(d));
        (scales, _mm512_setzero_ps())
    }
}

/// A format of blocks of 256 columns whose integers are decoded in memory.
struct Plain<F, const BYTES: usize>(F);

impl<F: Format<BYTES, 256>, const BYTES: usize> Codes for Plain<F, BYTES> {
    const GROUP: usize = 16;
    const SHIFT: u32 = 7;
    const MINS: bool = true;

    #[target_feature(enable = "avx512f,avx512bw,avx2,fma,f16c")]
    #[inline]
    unsafe fn codes(row: *const u8, unit: usize) -> __m512i {
        let block = unsafe { &*row.add(unit / 4 * BYTES).cast::<[u8; BYTES]>() };
        let q = [0, 1].map(|i| F::integers::<F16c>(block, 2 * (unit % 4) + i).q);
        _mm512_add_epi8(unsafe { _mm512_loadu_si512(q.as_ptr().cast()) }, _mm512_set1_epi8(-128))
    }

    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    #[inline]
    unsafe fn scales(row: *const u8, span: usize, _: usize) -> (__m512, __m512) {
        let block = unsafe { &*row.add(span * BYTES).cast::<[u8; BYTES]>() };
        let (mut scales, mut mins) = ([[0.0; 2]; 8], [[0.0; 2]; 8]);
        for run in 0..8 {
            let integers = F::integers::<F16c>(block, run);
            (scales[run], mins[run]) = (integers.scale, integers.min);
        }
        unsafe { (_mm512_loadu_ps(scales.as_ptr().cast()), _mm512_loadu_ps(mins.as_ptr().cast())) }
    }
}
