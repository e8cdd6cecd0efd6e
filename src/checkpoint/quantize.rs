//! f32 → f16, q8_0 and q4_0, as ggml's reference does it.

use half::f16;

use crate::tensor::{Bytes, DType, Tensor};

/// `tensor` with elements of another type; itself if it has that type already. Rows keep their stored order.
pub fn quantize(tensor: &Tensor, dtype: DType) -> Tensor {
    if tensor.dtype == dtype {
        return tensor.clone();
    }
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let stored = Tensor { order: crate::tensor::RowOrder::Stored, ..tensor.clone() };
    let mut bytes = Vec::with_capacity(rows * dtype.row_bytes(cols));
    let mut values = vec![0.0; cols];
    for row in 0..rows {
        stored.read_row(row, &mut values);
        quantize_row(dtype, &values, &mut bytes);
    }
    // The source has been read for the last time.
    tensor.bytes.release();
    Tensor { dtype, bytes: Bytes::new(bytes), ..tensor.clone() }
}

/// Appends `values`, whose number is a multiple of the block.
pub fn quantize_row(dtype: DType, values: &[f32], bytes: &mut Vec<u8>) {
    match dtype {
        DType::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
        DType::F16 => bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        DType::Q8_0 => values.as_chunks().0.iter().for_each(|block| bytes.extend(q8_0(block))),
        DType::Q4_0 => values.as_chunks().0.iter().for_each(|block| bytes.extend(q4_0(block))),
        other => panic!("quantize_row makes f32, f16, q8_0 and q4_0, not {other}"),
    }
}

/// d = max |x| / 127, q = round(x · (1 / d)), half away from zero. d is stored as f16 but used as f32.
fn q8_0(x: &[f32; 32]) -> [u8; 34] {
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (q, x) in block[2..].iter_mut().zip(x) {
        *q = (x * inverse).round() as i8 as u8;
    }
    block
}

/// d = m / −8 for the element m of the largest |x|, q = min(15, ⌊x · (1 / d) + 8.5⌋). d is stored as f16 but used as f32.
fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let extreme = x.iter().fold(0f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let code = |x: f32| ((x * inverse + 8.5) as u8).min(15);
    let mut block = [0; 18];
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for j in 0..16 {
        block[2 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
    block
}
