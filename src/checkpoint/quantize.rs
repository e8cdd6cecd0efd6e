//! Tensors whose elements become those of another format while they are loaded.

use crate::formats::quantize_row;
use crate::tensor::{Bytes, DType, RowOrder, Tensor};

/// `tensor` with elements of another type; itself if it has that type already. Rows keep their stored order.
pub fn quantize(tensor: &Tensor, dtype: DType) -> Tensor {
    if tensor.dtype == dtype {
        return tensor.clone();
    }
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let source = Tensor { order: RowOrder::Stored, ..tensor.clone() };
    let mut bytes = vec![0; rows * dtype.row_bytes(cols)];
    if !bytes.is_empty() {
        for_each_row(&mut bytes, dtype.row_bytes(cols), cols, |row, values, bytes| {
            source.read_row(row, values);
            quantize_row(dtype, values, bytes);
        });
    }
    // The source has been read for the last time.
    tensor.bytes.release();
    Tensor { dtype, bytes: Bytes::new(bytes), ..tensor.clone() }
}

/// Calls `run` with each row's number, space for its values, and its part of `bytes`.
#[cfg(feature = "threads")]
fn for_each_row(bytes: &mut [u8], size: usize, cols: usize, run: impl Fn(usize, &mut [f32], &mut [u8]) + Sync) {
    use rayon::prelude::*;
    let rows = bytes.par_chunks_mut(size).enumerate().with_min_len(16);
    rows.for_each_init(|| vec![0.0; cols], |values, (row, bytes)| run(row, values, bytes));
}

#[cfg(not(feature = "threads"))]
fn for_each_row(bytes: &mut [u8], size: usize, cols: usize, run: impl Fn(usize, &mut [f32], &mut [u8])) {
    let mut values = vec![0.0; cols];
    bytes.chunks_mut(size).enumerate().for_each(|(row, bytes)| run(row, &mut values, bytes));
}
