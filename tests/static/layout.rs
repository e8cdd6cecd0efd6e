//! Packed weights, without a device: planes that are read element by element as documented (src/work/layout.rs and
//! src/formats) have the values of the stored rows.
//!
//! The reader below follows that documentation alone, and shares no code with the packer or with the shaders.

use dunlin::formats::dequantize_row;
use dunlin::ops::Given;
use dunlin::tensor::{DType, Tensor};
use dunlin::work::layout::{BLOCK, TILE, WeightLayout, blocks, codes_words, quads, scales_words};
use dunlin::work::pack::{self, Packer};

/// The planes of one chunk.
struct Planes {
    dtype: DType,
    rows: usize,
    cols: usize,
    codes: Vec<u32>,
    scales: Vec<u32>,
}

impl Planes {
    /// Word i of the codes of a block. The words of a row follow each other, four to an element, in tiles of 8 rows.
    fn code(&self, row: usize, block: usize, i: usize) -> u32 {
        let word = block * self.dtype.codes() + i;
        let count = quads(self.dtype, self.cols);
        self.codes[((row / 8 * count + word / 4) * 8 + row % 8) * 4 + word % 4]
    }

    /// Byte i of the codes of a block.
    fn byte(&self, row: usize, block: usize, i: usize) -> u8 {
        (self.code(row, block, i / 4) >> (8 * (i % 4))) as u8
    }

    /// Word `index` of a row in a part of the scales plane; the part begins after `part` words a row.
    fn word(&self, row: usize, part: usize, index: usize) -> u32 {
        let count = self.scales.len() / self.rows.next_multiple_of(8);
        self.scales[(row / 8 * count + part + index) * 8 + row % 8]
    }

    fn half(&self, row: usize, part: usize, index: usize) -> u16 {
        (self.word(row, part, index / 2) >> (16 * (index % 2))) as u16
    }

    /// The element at (row, col).
    fn element(&self, row: usize, col: usize) -> f32 {
        let (b, j) = (col / BLOCK, col % BLOCK);
        let count = blocks(self.cols);
        let (supers, halves) = (count.div_ceil(8), count.div_ceil(2));
        let f16 = |bits: u32| half::f16::from_bits(bits as u16).to_f32();
        let d = |bits: u16| f16(bits.into());
        // Byte j of the quad holds element j in its low half and j + 16 in its high half.
        let nibble = || u32::from(self.byte(row, b, j % 16) >> (4 * (j / 16)) & 15);
        // One bit of element 4t + k is bit 8k + t.
        let single = |part| (self.word(row, part, b) >> (8 * (j % 4) + j / 4)) & 1;
        // Bits 0 and 1 of element 16w + 4t + k are bits 8k + 2t and on of word w.
        let pair = |word: u32| word >> (8 * (j % 4) + 2 * (j % 16 / 4)) & 3;
        match self.dtype {
            DType::F32 => f32::from_bits(self.code(row, b, j)),
            DType::F16 => f16(self.code(row, b, j / 2) >> (16 * (j % 2)) & 0xffff),
            DType::BF16 => f32::from_bits((self.code(row, b, j / 2) >> (16 * (j % 2))) << 16),
            DType::Q8_0 => d(self.half(row, 0, b)) * f32::from(self.byte(row, b, j) as i8),
            DType::Q4_0 => d(self.half(row, 0, b)) * (nibble() as f32 - 8.0),
            DType::Q5_0 => {
                let q = nibble() | single(halves) << 4;
                d(self.half(row, 0, b)) * (q as f32 - 16.0)
            }
            DType::Q4_1 => {
                let dm = self.word(row, 0, b);
                f16(dm & 0xffff) * nibble() as f32 + f16(dm >> 16)
            }
            DType::Q5_1 => {
                let (dm, q) = (self.word(row, 0, b), nibble() | single(count) << 4);
                f16(dm & 0xffff) * q as f32 + f16(dm >> 16)
            }
            DType::IQ4_NL => {
                let value =
                    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113][nibble() as usize];
                d(self.half(row, 0, b)) * value as f32
            }
            DType::Q2_K => {
                let (d, q) = (self.word(row, 0, b / 8), pair(self.code(row, b, j / 16)));
                let scales = self.half(row, supers, b).to_le_bytes()[j / 16];
                f16(d & 0xffff) * f32::from(scales & 15) * q as f32 - f16(d >> 16) * f32::from(scales >> 4)
            }
            DType::Q3_K => {
                let first = supers.div_ceil(2);
                let scale = self.half(row, first, b).to_le_bytes()[j / 16] as i8;
                let q = pair(self.code(row, b, j / 16)) | single(first + halves) << 2;
                d(self.half(row, 0, b / 8)) * f32::from(scale) * (q as f32 - 4.0)
            }
            DType::Q4_K | DType::Q5_K => {
                let q = if self.dtype == DType::Q4_K { nibble() } else { nibble() | single(supers + halves) << 4 };
                let d = self.word(row, 0, b / 8);
                let [scale, minimum] = self.half(row, supers, b).to_le_bytes();
                f16(d & 0xffff) * f32::from(scale) * q as f32 - f16(d >> 16) * f32::from(minimum)
            }
            DType::Q6_K => {
                let first = supers.div_ceil(2);
                let scale = self.half(row, first, b).to_le_bytes()[j / 16] as i8;
                let high = pair(self.word(row, first + halves, 2 * b + j / 16));
                d(self.half(row, 0, b / 8)) * f32::from(scale) * ((nibble() | high << 4) as f32 - 32.0)
            }
        }
    }
}

/// The chunks of a matrix, packed.
fn planes(tensor: &Tensor, max_binding: u64) -> Vec<Planes> {
    let (dtype, cols) = (tensor.dtype, tensor.cols());
    let layout = WeightLayout::new(dtype, tensor.rows(), cols, max_binding);
    let chunk = |rows: std::ops::Range<usize>| {
        let mut codes = Vec::new();
        let mut packer = Packer::new(dtype, cols, rows.clone(), |r| tensor.row(r));
        while let Some((at, words)) = packer.codes() {
            assert_eq!(at, codes.len(), "segments come one after the other");
            codes.extend_from_slice(words);
        }
        let scales = packer.scales();
        assert_eq!((codes.len(), scales.len()), pack::sizes(dtype, rows.len(), cols), "{dtype} {rows:?} × {cols}");
        Planes { dtype, rows: rows.len(), cols, codes, scales }
    };
    layout.chunks.into_iter().map(chunk).collect()
}

/// Compares every element of every chunk with the stored row.
fn check(dtype: DType, rows: usize, cols: usize, max_binding: u64) {
    let at = format!("{dtype} ({rows}, {cols}) in bindings of {max_binding}");
    let tensor = Given::weight(dtype, rows, cols).tensor(rows as u64 + cols as u64);
    let mut row = 0;
    let mut wanted = vec![0.0; cols];
    for chunk in planes(&tensor, max_binding) {
        for r in 0..chunk.rows {
            dequantize_row(dtype, tensor.row(row), &mut wanted);
            // Products may be rounded in another order, so the error is relative to the largest value, not to this one.
            let size = wanted.iter().fold(0f32, |most, v| most.max(v.abs()));
            for (col, &wanted) in wanted.iter().enumerate() {
                let found = chunk.element(r, col);
                let exact = dtype.block().0 == 1;
                let same =
                    if exact { found.to_bits() == wanted.to_bits() } else { (found - wanted).abs() <= 1e-6 * size };
                assert!(same, "{at}: row {row}, column {col} is {found}, stored {wanted}");
            }
            // The padding of the last block adds nothing to a product.
            for col in cols..blocks(cols) * BLOCK {
                assert_eq!(chunk.element(r, col), 0.0, "{at}: row {row}, padding {col}");
            }
            row += 1;
        }
    }
    assert_eq!(row, rows, "{at}: rows in all chunks");
}

#[test]
fn planes_hold_what_the_rows_mean() {
    for dtype in DType::ALL {
        let widths = match dtype.block().0 {
            1 => vec![1, 31, 32, 33, 154, 257],
            32 => vec![32, 96, 160, 288],
            // One, three and nine super-blocks: halves in pairs, and a last one without a partner.
            _ => vec![256, 768, 2304],
        };
        for cols in widths {
            for rows in [1, 3, 64, 67] {
                check(dtype, rows, cols, 128 << 20);
            }
            // Several chunks: with few rows, and with a multiple of 64 rows.
            let row = 4 * codes_words(dtype, 1, cols).max(scales_words(dtype, 1, cols)) as u64;
            check(dtype, 7, cols, 3 * row);
            check(dtype, 200, cols, 70 * row);
        }
    }
}

#[test]
fn large_chunks_are_packed_in_segments() {
    // Matrices of more than 4 MiB of codes, which is the size of a segment.
    check(DType::F32, 257, 5000, 128 << 20);
    check(DType::Q4_0, 4099, 2560, 128 << 20);
}

#[test]
fn chunks_cover_the_rows_and_fit_the_binding() {
    for dtype in DType::ALL {
        let cols = if dtype.block().0 == 256 { 512 } else { 96 };
        let tile = 4 * codes_words(dtype, TILE, cols).max(scales_words(dtype, TILE, cols)) as u64;
        for rows in [1, 2, 7, 8, 9, 63, 64, 65, 100, 128, 1000] {
            for fit in [1, 2, 7, 8, 9, 16, 124, 125, 600] {
                let max_binding = fit as u64 * tile + tile - 1;
                let layout = WeightLayout::new(dtype, rows, cols, max_binding);
                let at = format!("{dtype}, {rows} rows, {fit} tiles fit: {:?}", layout.chunks);
                let mut next = 0;
                for (i, chunk) in layout.chunks.iter().enumerate() {
                    assert_eq!(chunk.start, next, "{at}: rows are covered in order");
                    assert!(!chunk.is_empty(), "{at}: no chunk is empty");
                    next = chunk.end;
                    let last = i + 1 == layout.chunks.len();
                    assert!(last || fit < 8 || chunk.len() % 64 == 0, "{at}: half-empty workgroups");
                    let (codes, scales) = pack::sizes(dtype, chunk.len(), cols);
                    assert!(4 * codes.max(scales) as u64 <= max_binding, "{at}: chunk {i} fits");
                }
                assert_eq!(next, rows, "{at}: all rows are covered");
                assert_eq!(layout.whole(), rows.div_ceil(TILE) <= fit, "{at}: what fits is one chunk");
                let sizes = layout.chunks.iter().map(|chunk| pack::sizes(dtype, chunk.len(), cols));
                assert_eq!(layout.bytes(), sizes.map(|(c, s)| 4 * (c + s) as u64).sum::<u64>(), "{at}: bytes");
            }
        }
    }
}
