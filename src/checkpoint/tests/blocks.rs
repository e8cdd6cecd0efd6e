//! Block formats against fixtures that gguf-py made, and dot products against decoded rows.

use std::path::Path;

use super::*;

/// A file of tests/fixtures/blocks: the number of values, and what follows it.
fn block_fixture(name: &str) -> (usize, Vec<u8>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/blocks").join(format!("{name}.bin"));
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    (u32::from_le_bytes(*bytes.first_chunk().unwrap()) as usize, bytes[4..].to_vec())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

#[test]
fn blocks_decode_as_gguf_does() {
    for dtype in DType::ALL {
        let (count, bytes) = block_fixture(&format!("dequantize_{dtype}"));
        let (blocks, expected) = bytes.split_at(dtype.row_bytes(count));
        for dequantize in [quant::dequantize_row, quant::dequantize::<false>] {
            let mut values = vec![0.0; count];
            dequantize(dtype, blocks, &mut values);
            for (i, (value, expected)) in values.iter().zip(floats(expected)).enumerate() {
                let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
                assert!(same, "{dtype}: element {i} is {value:e}, expected {expected:e}");
            }
        }
    }
}

#[test]
fn every_f16_is_decoded_exactly() {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dequantize in [quant::dequantize_row, quant::dequantize::<false>] {
        let mut values = vec![0.0; 1 << 16];
        dequantize(DType::F16, &bytes, &mut values);
        for (bits, value) in (0..=u16::MAX).zip(values) {
            let expected = half::f16::from_bits(bits).to_f32();
            let same = value.to_bits() == expected.to_bits() || value.is_nan() && expected.is_nan();
            assert!(same, "{bits:#06x} is {value:e}, expected {expected:e}");
            // As a block's scale too: (9 − 8) · d.
            let mut block = [0x99; 18];
            block[..2].copy_from_slice(&bits.to_le_bytes());
            let mut scaled = [0.0; 32];
            dequantize(DType::Q4_0, &block, &mut scaled);
            assert!(scaled.iter().all(|y| y.to_bits() == expected.to_bits() || y.is_nan() && expected.is_nan()));
        }
    }
}

#[test]
fn rows_quantize_as_gguf_does() {
    for dtype in [DType::F16, DType::Q8_0, DType::Q4_0] {
        let (count, bytes) = block_fixture(&format!("quantize_{dtype}"));
        let (values, expected) = bytes.split_at(4 * count);
        let mut blocks = vec![0; dtype.row_bytes(count)];
        quantize::quantize_row(dtype, &floats(values), &mut blocks);
        let size = dtype.row_bytes(32);
        for (row, (block, expected)) in blocks.chunks(size).zip(expected.chunks(size)).enumerate() {
            assert_eq!(block, expected, "{dtype}: row {row}");
        }
    }
}

#[test]
fn dots_multiply_what_is_decoded() {
    for dtype in DType::ALL {
        let blocks = if dtype.block().0 == 256 { 2 } else { 3 * 32 / dtype.block().0 };
        // Plain types have rows of any length.
        for cols in if dtype.block().0 == 1 { vec![1, 31, 32, 154] } else { vec![blocks * dtype.block().0] } {
            // Scales must be of usual size, so that blocks come from a fixture's end.
            let (count, bytes) = block_fixture(&format!("dequantize_{dtype}"));
            let row = match dtype {
                DType::F16 | DType::BF16 => [0x12, 0x3c].repeat(cols),
                _ => bytes[dtype.row_bytes(count) - dtype.row_bytes(cols)..dtype.row_bytes(count)].to_vec(),
            };
            let mut weights = vec![0.0; cols];
            quant::dequantize_row(dtype, &row, &mut weights);
            let x: Vec<Vec<f32>> =
                (0..4).map(|r| (0..cols).map(|i| ((i * 37 + r * 11) % 64) as f32 / 32.0 - 1.0).collect()).collect();
            let x_rows = std::array::from_fn::<_, 4, _>(|r| &x[r][..]);
            let sums = quant::dot_rows(dtype, &row, x_rows);
            let narrower = [quant::dot::<256, 4>(dtype, &row, x_rows), quant::dot::<0, 4>(dtype, &row, x_rows)];
            for (r, sum) in sums.into_iter().chain(narrower.into_iter().flatten()).enumerate() {
                let products = || weights.iter().zip(&x[r % 4]).map(|(&w, &x)| w as f64 * x as f64);
                let (expected, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                assert!((sum as f64 - expected).abs() <= 1e-6 * size, "{dtype} × {cols}: {sum}, expected {expected}");
            }
            assert_eq!(quant::dot_row(dtype, &row, &x[0]), sums[0], "{dtype} × {cols}");
        }
    }
}

/// Numbers whose scale is too small for f16, or too large, give blocks and no panic.
#[test]
fn extreme_rows_quantize() {
    for value in [1e-45, 1e-40, -1e-38, 3e38, f32::INFINITY, f32::NAN] {
        for dtype in [DType::F16, DType::Q8_0, DType::Q4_0] {
            let mut bytes = vec![0; dtype.row_bytes(32)];
            quantize::quantize_row(dtype, &[value; 32], &mut bytes);
            let mut decoded = [1.0; 32];
            quant::dequantize_row(dtype, &bytes, &mut decoded);
            assert!(
                value.abs() > 1.0 || value.is_nan() || decoded.iter().all(|y| y.abs() < 1e-30),
                "{dtype}: {value:e}"
            );
        }
    }
}
