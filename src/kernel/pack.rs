//! GGUF and plain rows → the two planes of [`layout`](super::layout), without loss.
//!
//! A block is 32 columns, b its index, s = b / 8 its super-block; `half(i)` is 16 bits of word i / 2.
//!
//! ```text
//! type        codes of a block (quads)                 words of a row in the scales plane, part by part
//! f32         8 quads of 4 floats                      –
//! f16, bf16   4 quads of 8 halves                      –
//! q8_0        2 quads of 16 i8                         d half(b)
//! q4_0        1 quad: byte j = element j, j + 16       d half(b)
//! q4_1        as q4_0                                  (d, m) word b
//! q5_0, q5_1  as q4_0                                  as q4_0, q4_1; then bit 4 of each element, word b
//! q4_k        as q4_0                                  (d, dmin) word s; then (sc, m) bytes, half(b)
//! q5_k        as q4_0                                  as q4_k; then bit 4 of each element, word b
//! q6_k        as q4_0, the low 4 bits                  d half(s); then (sc0, sc1) i8, half(b); then bits 4 and 5, words 2b, 2b + 1
//! ```
//!
//! Bit 4 of element 4t + k is bit 8k + t of its word, and bits 4 and 5 of element 16w + 4t + k are bits 8k + 2t of
//! word w: four neighbours come out of one shift and one mask.

use std::ops::Range;

use super::layout::{BLOCK, TILE, blocks, codes_words, quads, scales_words};
use crate::tensor::DType;

/// 32-bit words of the codes and of the scales of `rows` rows.
pub fn sizes(dtype: DType, rows: usize, cols: usize) -> (usize, usize) {
    (codes_words(dtype, rows, cols), scales_words(dtype, rows, cols))
}

/// Codes that are packed before they are handed on: 4 MiB.
const SEGMENT: usize = 1 << 20;

/// Packs `rows` of a matrix with `cols` columns; `row(r)` gives the stored bytes of row r. The codes go to
/// `codes(at, words)` segment by segment, `at` counted in words; the scales are returned.
pub fn pack<'a>(
    dtype: DType,
    cols: usize,
    rows: Range<usize>,
    row: impl Fn(usize) -> &'a [u8],
    mut codes: impl FnMut(usize, &[u32]),
) -> Vec<u32> {
    let (count, nb) = (rows.len(), blocks(cols));
    let row_words = nb * quads(dtype) * 4;
    let mut scales = vec![0; scales_words(dtype, count, cols)];
    let scale_words = scales_words(dtype, TILE, cols) / TILE;
    let step = (SEGMENT / (row_words * TILE)).max(1) * TILE;
    let mut words = [0u32; 32];
    let mut segment = Vec::new();
    for start in (0..count).step_by(step) {
        let end = (start + step).min(count);
        segment.clear();
        segment.resize((end - start).next_multiple_of(TILE) * row_words, 0);
        for r in start..end {
            let bytes = row(rows.start + r);
            let mut scales = Scales { plane: &mut scales, words: scale_words, row: r };
            for b in 0..nb {
                let words = &mut words[..quads(dtype) * 4];
                block(dtype, bytes, cols, b, words, &mut scales);
                for (q, quad) in words.chunks_exact(4).enumerate() {
                    let at = place(r - start, nb * quads(dtype), b * quads(dtype) + q) * 4;
                    segment[at..at + 4].copy_from_slice(quad);
                }
            }
        }
        codes(start * row_words, &segment);
    }
    scales
}

/// Where element `i` of a row's `count` lies in a plane.
fn place(row: usize, count: usize, i: usize) -> usize {
    ((row / TILE) * count + i) * TILE + row % TILE
}

/// Writes into the scales plane of one row; parts begin at so many words a row.
struct Scales<'a> {
    plane: &'a mut [u32],
    /// Words a row.
    words: usize,
    row: usize,
}

impl Scales<'_> {
    fn word(&mut self, part: usize, index: usize, value: u32) {
        self.plane[place(self.row, self.words, part + index)] = value;
    }

    fn half(&mut self, part: usize, index: usize, value: u16) {
        self.plane[place(self.row, self.words, part + index / 2)] |= u32::from(value) << (16 * (index % 2));
    }
}

/// The codes of block `b` into `words`, its scales into the plane.
fn block(dtype: DType, row: &[u8], cols: usize, b: usize, words: &mut [u32], scales: &mut Scales) {
    let nb = blocks(cols);
    let halves = nb.div_ceil(2);
    let (elements, bytes) = dtype.block();
    let at = |size: usize| &row[b * size..(b + 1) * size];
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {
            let start = b * BLOCK * bytes;
            let end = (start + BLOCK * bytes).min(cols * bytes);
            words.fill(0);
            bytemuck::cast_slice_mut::<u32, u8>(words)[..end - start].copy_from_slice(&row[start..end]);
        }
        DType::Q8_0 => {
            let block = at(bytes);
            scales.half(0, b, u16_at(block, 0));
            copy(words, &block[2..]);
        }
        DType::Q4_0 => {
            let block = at(bytes);
            scales.half(0, b, u16_at(block, 0));
            copy(words, &block[2..]);
        }
        DType::Q4_1 => {
            let block = at(bytes);
            scales.word(0, b, u32_at(block, 0));
            copy(words, &block[4..]);
        }
        DType::Q5_0 => {
            let block = at(bytes);
            scales.half(0, b, u16_at(block, 0));
            let high = u32_at(block, 2);
            scales.word(halves, b, spread_bits(|j| (high >> j) & 1));
            copy(words, &block[6..]);
        }
        DType::Q5_1 => {
            let block = at(bytes);
            scales.word(0, b, u32_at(block, 0));
            let high = u32_at(block, 4);
            scales.word(nb, b, spread_bits(|j| (high >> j) & 1));
            copy(words, &block[8..]);
        }
        DType::Q4_K | DType::Q5_K => {
            let (s, sub) = (b / (elements / BLOCK), b % (elements / BLOCK));
            let block = &row[s * bytes..(s + 1) * bytes];
            let supers = nb.div_ceil(8);
            scales.word(0, s, u32_at(block, 0));
            let (scale, min) = k_scale(&block[4..16], sub);
            scales.half(supers, b, u16::from(scale) | u16::from(min) << 8);
            let quants = if dtype == DType::Q4_K { &block[16..] } else { &block[48..] };
            let (chunk, high) = (sub / 2, sub % 2);
            nibbles(words, |j| quants[32 * chunk + j] >> (4 * high));
            if dtype == DType::Q5_K {
                let bits = &block[16..48];
                scales.word(supers + halves, b, spread_bits(|j| u32::from(bits[j] >> sub) & 1));
            }
        }
        DType::Q6_K => {
            let (s, sub) = (b / 8, b % 8);
            let block = &row[s * bytes..(s + 1) * bytes];
            let (n, part) = (sub / 4, sub % 4);
            let low = &block[64 * n..64 * n + 64];
            let high = &block[128 + 32 * n..128 + 32 * n + 32];
            let subscales = &block[192..208];
            nibbles(words, |j| low[j + 32 * (part % 2)] >> (4 * (part / 2)));
            let bits = |j: usize| u32::from(high[j] >> (2 * part)) & 3;
            let dhalves = nb.div_ceil(8).div_ceil(2);
            if sub == 0 {
                scales.half(0, s, u16_at(block, 208));
            }
            let at = 8 * n + 2 * part;
            scales.half(dhalves, b, u16::from_le_bytes([subscales[at], subscales[at + 1]]));
            for w in 0..2 {
                let word = (0..16).fold(0, |word, j| word | bits(16 * w + j) << (8 * (j % 4) + 2 * (j / 4)));
                scales.word(dhalves + halves, 2 * b + w, word);
            }
        }
    }
}

/// The 6-bit scale and minimum of sub-block j of a Q4_K or Q5_K block.
fn k_scale(s: &[u8], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        ((s[j + 4] & 15) | (s[j - 4] >> 6) << 4, (s[j + 4] >> 4) | (s[j] >> 6) << 4)
    }
}

/// Packs the low nibbles of `code(0..32)` as Q4_0 does: byte j holds elements j and j + 16.
fn nibbles(words: &mut [u32], code: impl Fn(usize) -> u8) {
    for (i, word) in words.iter_mut().enumerate() {
        *word = (0..4).fold(0, |word, k| {
            let j = 4 * i + k;
            word | u32::from((code(j) & 15) | (code(j + 16) & 15) << 4) << (8 * k)
        });
    }
}

/// Bit 8k + t of the word is `bit(4t + k)`.
fn spread_bits(bit: impl Fn(usize) -> u32) -> u32 {
    (0..32).fold(0, |word, j| word | bit(j) << (8 * (j % 4) + j / 4))
}

fn copy(words: &mut [u32], bytes: &[u8]) {
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(4)) {
        *word = u32_at(bytes, 0);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
