//! Conversion of tensors to another element format while they are loaded.

use crate::formats::quantize_row;
use crate::tensor::{Bytes, DType, RowOrder, Tensor};
use crate::threads;

/// `tensor` converted to `dtype`, with its rows in order; the same tensor if it already has that type.
pub fn quantize(tensor: &Tensor, dtype: DType) -> Tensor {
    if tensor.dtype == dtype {
        return tensor.clone();
    }
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let mut bytes = vec![0; rows * dtype.row_bytes(cols)];
    if !bytes.is_empty() {
        threads::rows(
            &mut bytes,
            dtype.row_bytes(cols),
            || vec![0.0; cols],
            |row, values, bytes| {
                tensor.read_row(row, values);
                quantize_row(dtype, values, bytes);
            },
        );
    }
    // The source bytes are not read again.
    tensor.bytes.release();
    Tensor { dtype, bytes: Bytes::new(bytes), order: RowOrder::Stored, ..tensor.clone() }
}
