//! Formats against fixtures that gguf-py wrote, and properties of every format.

use std::collections::BTreeSet;
use std::path::Path;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/blocks").join(name);
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A file of blocks: the number of values, and the bytes after it.
fn blocks(name: &str) -> (usize, Vec<u8>) {
    let bytes = fixture(&format!("{name}.bin"));
    (u32::from_le_bytes(*bytes.first_chunk().expect("a count")) as usize, bytes[4..].to_vec())
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

/// Whether two values are bit-identical; all NaNs are equal.
fn same(found: f32, wanted: f32) -> bool {
    found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan()
}

/// Compares a decoder of rows with the fixtures.
pub fn fixtures_decode(dequantize: fn(DType, &[u8], &mut [f32])) {
    for dtype in DType::ALL {
        let (count, bytes) = blocks(&format!("dequantize_{dtype}"));
        let (blocks, wanted) = bytes.split_at(dtype.row_bytes(count));
        let mut values = vec![0.0; count];
        dequantize(dtype, blocks, &mut values);
        for (i, (value, wanted)) in values.into_iter().zip(floats(wanted)).enumerate() {
            assert!(same(value, wanted), "{dtype}: element {i} is {value:e}, expected {wanted:e}");
        }
    }
}

/// Checks a decoder of rows with every f16, as an element and as the scale of a block.
pub fn every_half_decodes_exactly(dequantize: fn(DType, &[u8], &mut [f32])) {
    let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let mut values = vec![0.0; 1 << 16];
    dequantize(DType::F16, &bytes, &mut values);
    for (bits, value) in (0..=u16::MAX).zip(values) {
        let wanted = half::f16::from_bits(bits).to_f32();
        assert!(same(value, wanted), "{bits:#06x} is {value:e}, expected {wanted:e}");
        // (9 − 8) · d.
        let mut block = [0x99; 18];
        block[..2].copy_from_slice(&bits.to_le_bytes());
        let mut scaled = [0.0; 32];
        dequantize(DType::Q4_0, &block, &mut scaled);
        assert!(scaled.into_iter().all(|y| same(y, wanted)), "{bits:#06x} as a scale");
    }
}

#[test]
fn blocks_decode_as_gguf_does() {
    fixtures_decode(dequantize_row);
    every_half_decodes_exactly(dequantize_row);
}

/// Numbers, names and sizes, compared with the list of the fixtures' script.
#[test]
fn types_are_those_of_gguf() {
    let text = String::from_utf8(fixture("types.txt")).expect("text");
    let mut found = BTreeSet::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, numbers @ ..] = &words[..] else { panic!("an empty line") };
        let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
        let Some(dtype) = DType::from_gguf(numbers[0] as u32) else { continue };
        assert_eq!(dtype.name(), *name);
        assert_eq!(dtype.block(), (numbers[1], numbers[2]), "{name}");
        found.insert(dtype);
    }
    assert_eq!(found.len(), DType::ALL.len(), "only {found:?} are types of GGUF");
}

#[test]
fn rows_quantize_as_gguf_does() {
    let quantized: Vec<DType> = DType::ALL.into_iter().filter(|&dtype| quantizes(dtype)).collect();
    assert_eq!(quantized, [DType::F32, DType::F16, DType::Q4_0, DType::Q8_0]);
    for dtype in quantized.into_iter().filter(|&dtype| dtype != DType::F32) {
        let (count, bytes) = blocks(&format!("quantize_{dtype}"));
        let (values, wanted) = bytes.split_at(4 * count);
        let mut row = vec![0; dtype.row_bytes(count)];
        quantize_row(dtype, &floats(values), &mut row);
        let size = dtype.row_bytes(32);
        for (at, (block, wanted)) in row.chunks(size).zip(wanted.chunks(size)).enumerate() {
            assert_eq!(block, wanted, "{dtype}: row {at}");
        }
    }
}

#[test]
fn plain_rows_of_any_length_quantize() {
    for cols in [1, 31, 33, 70] {
        let values: Vec<f32> = (0..cols).map(|i| i as f32 / 4.0 - 3.0).collect();
        for dtype in [DType::F32, DType::F16] {
            let mut row = vec![0; dtype.row_bytes(cols)];
            quantize_row(dtype, &values, &mut row);
            let mut decoded = vec![1.0; cols];
            dequantize_row(dtype, &row, &mut decoded);
            assert_eq!(decoded, values, "{dtype} × {cols}");
        }
    }
}

/// Values whose scale is too small or too large for f16 give blocks and no panic.
#[test]
fn extreme_rows_quantize() {
    for value in [1e-45, 1e-40, -1e-38, 3e38, f32::INFINITY, f32::NAN] {
        for dtype in [DType::F16, DType::Q8_0, DType::Q4_0] {
            let mut row = vec![0; dtype.row_bytes(32)];
            quantize_row(dtype, &[value; 32], &mut row);
            let mut decoded = [1.0; 32];
            dequantize_row(dtype, &row, &mut decoded);
            assert!(
                value.abs() > 1.0 || value.is_nan() || decoded.iter().all(|y| y.abs() < 1e-30),
                "{dtype}: {value:e}"
            );
        }
    }
}

/// The tolerances of cases rely on this: random values fill the bound, and end where the formats define.
#[test]
fn random_rows_stay_within_their_bound() {
    let mut seed = 1u32;
    let mut next = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed
    };
    for dtype in DType::ALL {
        let row = random_row(dtype, 4096, 0.5, &mut next);
        let mut values = vec![0.0; 4096];
        dequantize_row(dtype, &row, &mut values);
        let (least, most) = values.iter().fold((0f32, 0f32), |(least, most), &w| (least.min(w), most.max(w)));
        // One code of q8_0 is past the bound: −128 / 127.
        assert!((-0.505..-0.2).contains(&least) && (0.2..1.005).contains(&most), "{dtype}: {least} to {most}");
        let mean = values.iter().sum::<f32>() / 4096.0;
        assert!(mean.abs() < 0.05, "{dtype}: a mean of {mean}");
    }
}
