//! GGUF and plain rows → the two planes of [`layout`](super::layout), without loss.

use std::ops::Range;

use super::layout::{TILE, blocks, codes_words, quads, scales_words};
use crate::formats;
use crate::tensor::DType;

/// 32-bit words of the codes and of the scales of `rows` rows.
pub fn sizes(dtype: DType, rows: usize, cols: usize) -> (usize, usize) {
    (codes_words(dtype, rows, cols), scales_words(dtype, rows, cols))
}

/// Bytes of codes that are packed at a time: 4 MiB.
const SEGMENT: usize = 1 << 20;

/// Packs some rows of a matrix, segment by segment.
pub struct Packer<F> {
    dtype: DType,
    cols: usize,
    rows: Range<usize>,
    /// The stored bytes of a row.
    row: F,
    /// Rows that were packed.
    packed: usize,
    scales: Vec<u32>,
    segment: Vec<u32>,
}

impl<'a, F: Fn(usize) -> &'a [u8]> Packer<F> {
    /// `rows` of a matrix with `cols` columns; `row(r)` gives the stored bytes of row r.
    pub fn new(dtype: DType, cols: usize, rows: Range<usize>, row: F) -> Self {
        let scales = vec![0; scales_words(dtype, rows.len(), cols)];
        Packer { dtype, cols, rows, row, packed: 0, scales, segment: Vec::new() }
    }

    /// The next codes, and where they begin in the plane, in words. `None` when all rows are packed.
    pub fn codes(&mut self) -> Option<(usize, &[u32])> {
        let &mut Packer { dtype, cols, packed: start, .. } = self;
        if start == self.rows.len() {
            return None;
        }
        let (nb, block_words, row_quads) = (blocks(cols), dtype.codes(), quads(dtype, cols));
        let parts = Parts::new(dtype, nb);
        let step = (SEGMENT / (4 * row_quads * TILE)).max(1) * TILE;
        let end = (start + step).min(self.rows.len());
        let mut words = [0u32; 32];
        let words = &mut words[..block_words];
        self.segment.clear();
        self.segment.resize((end - start).next_multiple_of(TILE) * row_quads * 4, 0);
        for r in start..end {
            let bytes = (self.row)(self.rows.start + r);
            for b in 0..nb {
                formats::planes(dtype, bytes, b, words, &mut |part, i, value| {
                    let (at, shift) = parts.place(part, b, i);
                    self.scales[place(r, parts.words, at)] |= value << shift;
                });
                // A block is whole quads, or a part of one.
                for (q, words) in words.chunks(4).enumerate() {
                    let first = b * block_words + 4 * q;
                    let at = place(r - start, row_quads, first / 4) * 4 + first % 4;
                    self.segment[at..at + words.len()].copy_from_slice(words);
                }
            }
        }
        self.packed = end;
        Some((start * row_quads * 4, &self.segment))
    }

    /// The plane of scales, when all codes are packed.
    pub fn scales(self) -> Vec<u32> {
        assert_eq!(self.packed, self.rows.len(), "rows are left to pack");
        self.scales
    }
}

/// Where element `i` of a row's `count` lies in a plane.
fn place(row: usize, count: usize, i: usize) -> usize {
    ((row / TILE) * count + i) * TILE + row % TILE
}

/// Where the parts of a row lie in the plane of scales.
struct Parts {
    /// The part, log₂ of its columns, and the word that it begins at.
    parts: Vec<(formats::Part, u32, usize)>,
    /// Words of a row.
    words: usize,
}

impl Parts {
    fn new(dtype: DType, blocks: usize) -> Self {
        let mut words = 0;
        let begin = |&part: &formats::Part| {
            let first = words;
            words += part.words(blocks);
            assert!(part.columns.is_power_of_two(), "{dtype}: a number for {} columns", part.columns);
            (part, part.columns.ilog2(), first)
        };
        let parts = dtype.scales().iter().map(begin).collect();
        Parts { parts, words }
    }

    /// The word and the lowest bit of a number: the i-th from the one on that covers block `b`.
    fn place(&self, part: usize, b: usize, i: usize) -> (usize, usize) {
        let (part, columns, first) = self.parts[part];
        let bit = (((b * formats::BLOCK) >> columns) + i) * part.bits;
        (first + bit / 32, bit % 32)
    }
}
