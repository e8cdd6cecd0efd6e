//! How a weight matrix lies in device memory: rows split into chunks that fit a binding, each chunk two planes.
//!
//! The unit is a block of 32 columns. Rows lie in tiles of 8, and within a tile the row counts fastest. Neighbouring threads
//! take neighbouring rows, so they load neighbouring words; they share one load of the activations; and a workgroup reads
//! its weights from beginning to end.
//!
//! ```text
//! plane[((row / 8)·count + i)·8 + row % 8]      element i of a row's `count`
//!
//! codes    elements are vec4<u32>: the words of the codes of each block, one block after the other
//! scales   elements are u32: the parts of the format, one after the other
//! ```
//!
//! What the words hold depends on the format: see its file in `src/formats`.

use std::ops::Range;

pub use crate::formats::BLOCK;
use crate::tensor::DType;

/// Rows of a chunk at most, so that workgroups of 16 rows are within the limit of one dimension.
const MOST_CHUNK: usize = 1 << 20;

/// Rows of a tile; the last tile of a chunk is filled up with zeros.
pub const TILE: usize = 8;

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
        let tile_bytes = codes_words(dtype, TILE, cols).max(scales_words(dtype, TILE, cols)) as u64 * 4;
        let tiles = ((max_binding / tile_bytes.max(1)) as usize).min(MOST_CHUNK / TILE);
        // Chunks of whole workgroups (64 rows) where that many fit, and of one tile at least. A matrix that fits is one
        // chunk, whatever its rows: fused operators count on that.
        let group = 64 / TILE;
        let most = match tiles {
            _ if tiles >= rows.div_ceil(TILE) => rows.max(1),
            _ if tiles >= group => tiles / group * group * TILE,
            _ => tiles.max(1) * TILE,
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

/// `vec4<u32>`s that hold the codes of a row.
pub fn quads(dtype: DType, cols: usize) -> usize {
    (blocks(cols) * dtype.codes()).div_ceil(4)
}

/// 32-bit words of the codes plane.
pub fn codes_words(dtype: DType, rows: usize, cols: usize) -> usize {
    quads(dtype, cols) * rows.next_multiple_of(TILE) * 4
}

/// 32-bit words of the scales plane: at least 4, since a binding may not be empty.
pub fn scales_words(dtype: DType, rows: usize, cols: usize) -> usize {
    let words: usize = dtype.scales().iter().map(|part| part.words(blocks(cols))).sum();
    (words * rows.next_multiple_of(TILE)).max(4)
}
