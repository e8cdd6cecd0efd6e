//! Products of float32 rows with panels of 32 columns, in tiles of sums that stay in registers.
//!
//! A sum is added in order of i, whatever the number of rows and whichever tile it is in.

use std::ops::Range;

use crate::cpu::dot::dequantize_row;
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Level, level};
use crate::cpu::simd::{TARGET_FMA, mul_add};
use crate::ops::Matrix;

/// Columns of a panel: two registers of AVX-512, four of AVX2, eight of NEON.
pub const COLS: usize = 32;

/// A row of a panel, or 32 columns of a result.
pub type Lanes = [f32; COLS];

/// Elements of a weight's row that a panel holds at once: whole blocks of every format.
pub const DEPTH: usize = 256;

/// Rows that are decoded before they are transposed.
const SIDE: usize = 16;

/// The number of floats of the buffer of [`decode`].
pub const DECODED: usize = SIDE * DEPTH;

/// panel[i][c] = W[rows.start + c, first + i], zero beyond the end of `rows`.
pub fn decode(w: &Matrix, rows: Range<usize>, first: usize, decoded: &mut [f32], panel: &mut [Lanes]) {
    let depth = panel.len();
    let (block, block_bytes) = w.dtype.block();
    let bytes = first / block * block_bytes..first / block * block_bytes + w.dtype.row_bytes(depth);
    let mut stored = w.rows_in(rows);
    for side in 0..COLS / SIDE {
        let mut count = 0;
        for (row, decoded) in stored.by_ref().zip(decoded.chunks_exact_mut(DEPTH)).take(SIDE) {
            dequantize_row(w.dtype, &row[bytes.clone()], &mut decoded[..depth]);
            count += 1;
        }
        decoded[count * DEPTH..].fill(0.0);
        transpose(decoded, side, panel);
    }
}

/// panel[i][c] = b[first + i, columns.start + c], zero beyond the end of `columns`. Element (i, c) of b is
/// `b[i · row + c · col]`, `strides` = row, col, and one of them is 1.
pub fn pack(
    b: &[f32],
    strides: [usize; 2],
    columns: Range<usize>,
    first: usize,
    decoded: &mut [f32],
    panel: &mut [Lanes],
) {
    let [row, col] = strides;
    let depth = panel.len();
    if col == 1 {
        for (i, panel) in panel.iter_mut().enumerate() {
            panel[..columns.len()].copy_from_slice(&b[(first + i) * row..][columns.clone()]);
            panel[columns.len()..].fill(0.0);
        }
        return;
    }
    assert_eq!(row, 1, "neither rows nor columns lie together");
    for side in 0..COLS / SIDE {
        let mut count = 0;
        for (column, decoded) in columns.clone().skip(SIDE * side).zip(decoded.chunks_exact_mut(DEPTH)) {
            decoded[..depth].copy_from_slice(&b[column * col + first..][..depth]);
            count += 1;
        }
        decoded[count * DEPTH..].fill(0.0);
        transpose(decoded, side, panel);
    }
}

/// panel[i][16 · side + c] = decoded[256 · c + i]
fn transpose(decoded: &[f32], side: usize, panel: &mut [Lanes]) {
    #[cfg(not(target_arch = "x86_64"))]
    let done = 0;
    #[cfg(target_arch = "x86_64")]
    let done = if level() >= Level::Avx512 {
        let (squares, _) = panel.as_chunks_mut::<SIDE>();
        for (i, square) in squares.iter_mut().enumerate() {
            // SAFETY: the processor has AVX-512; 16 rows of `decoded` have 16 elements from 16 · i on.
            unsafe { x86::transpose16(decoded[SIDE * i..].as_ptr(), DEPTH, square, SIDE * side) };
        }
        SIDE * squares.len()
    } else {
        0
    };
    for (i, panel) in panel.iter_mut().enumerate().skip(done) {
        for (c, panel) in panel[SIDE * side..][..SIDE].iter_mut().enumerate() {
            *panel = decoded[DEPTH * c + i];
        }
    }
}

/// y[r][:] += Σ_i x[r · row + i · step] · panel[i][:]
///
/// panel: (k, 32)   y: (rows, 32)
pub fn add_products(x: &[f32], row: usize, step: usize, panel: &[Lanes], y: &mut [Lanes]) {
    if y.is_empty() || panel.is_empty() {
        return;
    }
    // The loops below read x without bounds checks.
    assert!((y.len() - 1) * row + (panel.len() - 1) * step < x.len(), "x ends before its last row");
    #[cfg(target_arch = "x86_64")]
    match level() {
        // SAFETY of both: the processor has the instructions, and x is long enough.
        Level::Avx512 | Level::Vnni => return unsafe { x86::avx512(x.as_ptr(), row, step, panel, y) },
        Level::Avx2 => return unsafe { x86::avx2(x.as_ptr(), row, step, panel, y) },
        Level::Target => {}
    }
    // SAFETY: x is long enough.
    unsafe { tiles::<TARGET_FMA, 2>(x.as_ptr(), row, step, panel, y) };
}

/// Takes as many rows at a time as can have their sums in registers.
#[inline(always)]
unsafe fn tiles<const FMA: bool, const ROWS: usize>(
    x: *const f32,
    row: usize,
    step: usize,
    panel: &[Lanes],
    y: &mut [Lanes],
) {
    let (groups, rest) = y.as_chunks_mut::<ROWS>();
    let whole = groups.len() * ROWS;
    // SAFETY of both: row r of y has its row of x.
    for (g, y) in groups.iter_mut().enumerate() {
        unsafe { tile::<FMA, ROWS>(x.add(g * ROWS * row), row, step, panel, y) };
    }
    for (r, y) in rest.iter_mut().enumerate() {
        unsafe { tile::<FMA, 1>(x.add((whole + r) * row), row, step, panel, std::array::from_mut(y)) };
    }
}

#[inline(always)]
unsafe fn tile<const FMA: bool, const ROWS: usize>(
    x: *const f32,
    row: usize,
    step: usize,
    panel: &[Lanes],
    y: &mut [Lanes; ROWS],
) {
    let mut sums = *y;
    for (i, w) in panel.iter().enumerate() {
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: the caller has checked the length of x.
            let x = unsafe { *x.add(r * row + i * step) };
            for c in 0..COLS {
                sums[c] = mul_add::<FMA>(x, w[c], sums[c]);
            }
        }
    }
    *y = sums;
}

/// For processors with more and wider registers.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m512, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_shuffle_f32x4, _mm512_shuffle_ps,
        _mm512_storeu_ps, _mm512_unpackhi_ps, _mm512_unpacklo_ps,
    };

    use super::{COLS, Lanes, SIDE, tiles};

    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(x: *const f32, row: usize, step: usize, panel: &[Lanes], y: &mut [Lanes]) {
        // SAFETY: the caller keeps the contract.
        unsafe { tiles::<true, 2>(x, row, step, panel, y) };
    }

    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(x: *const f32, row: usize, step: usize, panel: &[Lanes], y: &mut [Lanes]) {
        let (mut x, mut y) = (x, y);
        while !y.is_empty() {
            // SAFETY of all: row r of y has its row of x.
            let rows = match y.len() {
                8.. => unsafe { tile512::<8>(x, row, step, panel, y) },
                4.. => unsafe { tile512::<4>(x, row, step, panel, y) },
                2.. => unsafe { tile512::<2>(x, row, step, panel, y) },
                _ => unsafe { tile512::<1>(x, row, step, panel, y) },
            };
            y = &mut y[rows..];
            if !y.is_empty() {
                // SAFETY: the next row of x.
                x = unsafe { x.add(rows * row) };
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn tile512<const ROWS: usize>(
        x: *const f32,
        row: usize,
        step: usize,
        panel: &[Lanes],
        y: &mut [Lanes],
    ) -> usize {
        let y = y[..ROWS].as_mut_ptr().cast::<f32>();
        let mut sums = [[_mm512_set1_ps(0.0); 2]; ROWS];
        for (r, sums) in sums.iter_mut().enumerate() {
            for (half, sum) in sums.iter_mut().enumerate() {
                // SAFETY: ROWS rows of 32.
                *sum = unsafe { _mm512_loadu_ps(y.add(r * COLS + 16 * half)) };
            }
        }
        for (i, w) in panel.iter().enumerate() {
            // SAFETY: a row of the panel has 32 elements.
            let w = unsafe { [_mm512_loadu_ps(w.as_ptr()), _mm512_loadu_ps(w.as_ptr().add(16))] };
            for (r, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller has checked the length of x.
                let x = _mm512_set1_ps(unsafe { *x.add(r * row + i * step) });
                sums[0] = _mm512_fmadd_ps(x, w[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(x, w[1], sums[1]);
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            for (half, sum) in sums.iter().enumerate() {
                // SAFETY: ROWS rows of 32.
                unsafe { _mm512_storeu_ps(y.add(r * COLS + 16 * half), *sum) };
            }
        }
        ROWS
    }

    /// square[i][at + c] = from[c · stride + i], 16 by 16: pairs of rows, pairs of pairs, then quarters of registers.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn transpose16(from: *const f32, stride: usize, square: &mut [Lanes; SIDE], at: usize) {
        // SAFETY: the caller has 16 rows of 16 elements.
        let rows: [__m512; SIDE] = std::array::from_fn(|c| unsafe { _mm512_loadu_ps(from.add(c * stride)) });
        // Row 4 g + j: elements j of each quarter, of rows 4 g .. 4 g + 4.
        let mut quads = rows;
        for g in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|j| rows[4 * g + j]);
            let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            quads[4 * g] = _mm512_shuffle_ps::<0b01_00_01_00>(ab, cd);
            quads[4 * g + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab, cd);
            quads[4 * g + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab_high, cd_high);
            quads[4 * g + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab_high, cd_high);
        }
        for j in 0..4 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|g| quads[4 * g + j]);
            // Quarters 0 and 2, 1 and 3.
            let (ab_even, ab_odd) =
                (_mm512_shuffle_f32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b));
            let (cd_even, cd_odd) =
                (_mm512_shuffle_f32x4::<0b10_00_10_00>(c, d), _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d));
            let done = [
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even),
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd),
            ];
            for (quarter, done) in done.into_iter().enumerate() {
                let to = &mut square[4 * quarter + j][at..at + SIDE];
                // SAFETY: it holds 16.
                unsafe { _mm512_storeu_ps(to.as_mut_ptr(), done) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{COLS, DEPTH, SIDE, add_products, tiles, transpose};

    #[test]
    fn tiles_are_plain_sums() {
        for (rows, k, row, step) in [(1, 1, 1, 1), (2, 3, 5, 1), (7, 33, 40, 1), (9, 300, 300, 1), (15, 20, 1, 17)] {
            // Small integers, whose sums are exact in every order.
            let x: Vec<f32> = (0..rows * row + k * step).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
            let panel: Vec<[f32; COLS]> =
                (0..k).map(|i| std::array::from_fn(|c| ((i * 5 + c * 3) % 13) as f32 - 6.0)).collect();
            let mut wanted = vec![[1.0; COLS]; rows];
            for r in 0..rows {
                for c in 0..COLS {
                    wanted[r][c] += (0..k).map(|i| x[r * row + i * step] * panel[i][c]).sum::<f32>();
                }
            }
            let mut found = vec![[1.0; COLS]; rows];
            add_products(&x, row, step, &panel, &mut found);
            assert_eq!(found, wanted, "{rows} rows of {k}, {row} apart");
            let mut found = vec![[1.0; COLS]; rows];
            // SAFETY: x is long enough.
            unsafe { tiles::<false, 4>(x.as_ptr(), row, step, &panel, &mut found) };
            assert_eq!(found, wanted, "{rows} rows of {k}, {row} apart");
        }
    }

    #[test]
    fn a_panel_is_transposed() {
        let decoded: Vec<f32> = (0..SIDE * DEPTH).map(|i| i as f32).collect();
        for depth in [1, 16, 37, DEPTH] {
            let mut panel = vec![[0.0; COLS]; depth];
            transpose(&decoded, 0, &mut panel);
            transpose(&decoded, 1, &mut panel);
            for (i, panel) in panel.iter().enumerate() {
                let wanted: [f32; COLS] = std::array::from_fn(|c| (c % SIDE * DEPTH + i) as f32);
                assert_eq!(*panel, wanted, "row {i} of {depth}");
            }
        }
    }
}
