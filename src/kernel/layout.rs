//! How a weight matrix lies in device memory: rows split into chunks that fit a binding, each chunk two planes.
//!
//! The unit is a block of 32 columns. Rows are interleaved: neighbouring threads take neighbouring rows, so their
//! loads are neighbours too, and a vector of activations is read once for all of them.
//!
//! ```text
//! codes    vec4<u32>[(block·quads + quad)·rows + row]      what `quad` holds depends on the type
//! scales   u32[…]                                          per type, see `pack`
//! ```

use std::ops::Range;

use crate::tensor::DType;

/// Columns of a block.
pub const BLOCK: usize = 32;

/// Where the rows of a (rows, cols) matrix of `dtype` lie.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightLayout {
    pub dtype: DType,
    pub cols: usize,
    /// Rows of each chunk, in order, covering the matrix.
    pub chunks: Vec<Range<usize>>,
}

impl WeightLayout {
    /// Splits so that no plane of a chunk is larger than `max_binding` bytes.
    pub fn new(dtype: DType, rows: usize, cols: usize, max_binding: u64) -> Self {
        let row_bytes = codes_words(dtype, 1, cols).max(scales_words(dtype, 1, cols)) as u64 * 4;
        let most = ((max_binding / row_bytes.max(1)) as usize).max(1);
        // Chunks of a multiple of 64 rows keep every chunk but the last free of half-empty workgroups. A matrix that
        // fits is one chunk, whatever its rows: fused operators count on that.
        let most = if most >= rows {
            rows.max(1)
        } else if most > 64 {
            most / 64 * 64
        } else {
            most
        };
        let chunks = (0..rows.div_ceil(most)).map(|i| i * most..((i + 1) * most).min(rows)).collect();
        WeightLayout { dtype, cols, chunks }
    }

    /// Whether the matrix is one chunk.
    pub fn whole(&self) -> bool {
        self.chunks.len() == 1
    }

    /// Bytes of both planes of all chunks.
    pub fn bytes(&self) -> u64 {
        self.chunks
            .iter()
            .map(|rows| {
                4 * (codes_words(self.dtype, rows.len(), self.cols) + scales_words(self.dtype, rows.len(), self.cols))
                    as u64
            })
            .sum()
    }
}

/// Blocks of 32 in a row; the last may be padded with zeros.
pub fn blocks(cols: usize) -> usize {
    cols.div_ceil(BLOCK)
}

/// `vec4<u32>`s that hold the codes of one block of one row.
pub fn quads(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 8,
        DType::F16 | DType::BF16 => 4,
        DType::Q8_0 => 2,
        _ => 1,
    }
}

/// 32-bit words of the codes plane.
pub fn codes_words(dtype: DType, rows: usize, cols: usize) -> usize {
    blocks(cols) * quads(dtype) * rows * 4
}

/// 32-bit words of the scales plane: at least 4, since a binding may not be empty.
pub fn scales_words(dtype: DType, rows: usize, cols: usize) -> usize {
    let b = blocks(cols);
    let supers = b.div_ceil(8);
    let words = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => 0,
        DType::Q4_0 | DType::Q8_0 => b.div_ceil(2),
        DType::Q5_0 => b.div_ceil(2) + b,
        DType::Q4_1 => b,
        DType::Q5_1 => b + b,
        DType::Q4_K => supers + b.div_ceil(2),
        DType::Q5_K => supers + b.div_ceil(2) + b,
        DType::Q6_K => supers.div_ceil(2) + b.div_ceil(2) + 2 * b,
    };
    (words * rows).max(4)
}
