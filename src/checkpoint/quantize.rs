//! f32 → f16, q8_0 and q4_0, as ggml's reference does it.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::tensor::{Bytes, DType, RowOrder, Tensor};
use crate::threads;

/// `tensor` with elements of another type; itself if it has that type already. Rows keep their stored order.
pub fn quantize(tensor: &Tensor, dtype: DType) -> Tensor {
    if tensor.dtype == dtype {
        return tensor.clone();
    }
    let (rows, cols) = (tensor.rows(), tensor.cols());
    let source = Tensor { order: RowOrder::Stored, ..tensor.clone() };
    let mut bytes = vec![0; rows * dtype.row_bytes(cols)];
    if !bytes.is_empty() {
        threads::rows(&mut bytes, dtype.row_bytes(cols), || vec![0.0; cols], |row, values, bytes| {
            source.read_row(row, values);
            quantize_row(dtype, values, bytes);
        });
    }
    // The source has been read for the last time.
    tensor.bytes.release();
    Tensor { dtype, bytes: Bytes::new(bytes), ..tensor.clone() }
}

/// Writes a row of `values`, whose number is a multiple of the block, to `bytes`.
pub fn quantize_row(dtype: DType, values: &[f32], bytes: &mut [u8]) {
    assert_eq!(bytes.len(), dtype.row_bytes(values.len()), "a {dtype} row of {} elements", values.len());
    match dtype {
        DType::F32 => {
            bytes.as_chunks_mut().0.iter_mut().zip(values).for_each(|(bytes, value)| *bytes = value.to_le_bytes());
        }
        DType::F16 => {
            for (bytes, values) in bytes.chunks_mut(2 * 64).zip(values.chunks(64)) {
                let mut halves = [f16::ZERO; 64];
                halves[..values.len()].convert_from_f32_slice(values);
                bytes.as_chunks_mut().0.iter_mut().zip(halves).for_each(|(bytes, half)| *bytes = half.to_le_bytes());
            }
        }
        DType::Q8_0 => blocks(values, bytes, q8_0),
        DType::Q4_0 => blocks(values, bytes, q4_0),
        other => panic!("quantize_row makes f32, f16, q8_0 and q4_0, not {other}"),
    }
}

fn blocks<const BYTES: usize>(values: &[f32], bytes: &mut [u8], encode: fn(&[f32; 32]) -> [u8; BYTES]) {
    for (values, bytes) in values.as_chunks().0.iter().zip(bytes.as_chunks_mut().0) {
        *bytes = encode(values);
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
        *q = round(x * inverse) as i8 as u8;
    }
    block
}

/// d = m / −8 for the element m of the largest |x|, q = min(15, ⌊x · (1 / d) + 8.5⌋). d is stored as f16 but used as f32.
fn q4_0(x: &[f32; 32]) -> [u8; 18] {
    let extreme = x.iter().fold(0f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let code = |x: f32| ((x * inverse + 8.5) as i32).clamp(0, 15) as u8;
    let mut block = [0; 18];
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for j in 0..16 {
        block[2 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
    block
}

/// Half away from zero, for what fits an i8. (`f32::round` is a call where the processor has no instruction for it.)
fn round(x: f32) -> i32 {
    // Infinite where all of the block is below the smallest normal number.
    let x = x.clamp(-127.0, 127.0);
    let whole = x as i32;
    let rest = x - whole as f32;
    whole + (rest >= 0.5) as i32 - (rest <= -0.5) as i32
}
