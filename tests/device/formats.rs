//! Shaders decode weights correctly: every kernel that reads weights, on every adapter, reads the blocks of
//! tests/fixtures/blocks, whose values the PyPI package `gguf` computed.
//!
//! Results must be equal: a scale is f16 (11 bits) and codes are small, so d · q has at most 23 bits and is exact in
//! f32; the one addition left is rounded correctly by devices. Two exceptions are stated below: subnormal numbers may
//! become zero, and products with tiles of f16 round the weight to f16.

use std::path::Path;

use crate::support::adapters;
use dunlin::backend::check::Prepared;
use dunlin::backend::wgpu::device::Gpu;
use dunlin::ops::embedding::Embedding;
use dunlin::ops::linear::Linear;
use dunlin::ops::{Case, Fill, Given, TensorType};
use dunlin::tensor::{Bytes, DType, RowOrder, Tensor};
use dunlin::work::{DeviceProfile, Row, ValueId};

/// The blocks of a fixture as a matrix, and the elements of that matrix.
struct Blocks {
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Blocks {
    fn read(dtype: DType) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/blocks/dequantize_{dtype}.bin"));
        let content = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let count = u32::from_le_bytes(*content.first_chunk().expect("a count")) as usize;
        let (bytes, values) = content[4..].split_at(dtype.row_bytes(count));
        let values: Vec<f32> = values.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect();
        assert_eq!(values.len(), count, "{dtype}");
        // Rows have several blocks. Rows of plain types end inside a block of the device's layout.
        let cols = match dtype {
            DType::F32 => 60,
            DType::F16 | DType::BF16 => 443,
            _ if dtype.block().0 == 256 => 512,
            _ => 160,
        };
        assert_eq!(count % cols, 0, "{dtype}: whole rows");
        Blocks { dtype, rows: count / cols, cols, bytes: bytes.to_vec(), values }
    }

    /// The same blocks, but a block becomes zero if `keep` rejects one of its elements.
    fn only(mut self, keep: impl Fn(f32) -> bool) -> Self {
        let (elements, size) = self.dtype.block();
        let (mut kept, count) = (0, self.values.len() / elements);
        for (values, bytes) in self.values.chunks_mut(elements).zip(self.bytes.chunks_mut(size)) {
            if values.iter().all(|&value| keep(value)) {
                kept += 1;
            } else {
                values.fill(0.0);
                bytes.fill(0);
            }
        }
        assert!(kept * 4 >= count, "{}: {kept} of {count} blocks are left", self.dtype);
        self
    }

    fn tensor(&self) -> Tensor {
        let bytes = Bytes::new(self.bytes.clone());
        Tensor { dtype: self.dtype, shape: vec![self.rows, self.cols], bytes, order: RowOrder::Stored }
    }

    /// The case with these blocks as the weight, which is its second input.
    fn prepare(&self, case: &Case) -> Prepared {
        let mut prepared = Prepared::new(case);
        assert!(prepared.weights.insert("read1".into(), self.tensor()).is_some());
        prepared
    }

    fn weight(&self) -> Given {
        Given::weight(self.dtype, self.rows, self.cols)
    }
}

/// Calls `check` with the device and the profile of every adapter, and a name for messages.
fn on_every_adapter(check: impl Fn(&Gpu, &DeviceProfile, &str)) {
    for adapter in adapters::all() {
        let gpu = Gpu::open(adapter.index).expect("adapter opens");
        let full = DeviceProfile { reduced_precision: false, ..gpu.profile.clone() };
        check(&gpu, &full, &adapter.label());
    }
}

fn result(prepared: &Prepared) -> ValueId {
    prepared.results[0].1
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect()
}

/// Values must be equal. NaN equals NaN, and a subnormal number may be zero.
fn same(at: &str, found: &[f32], wanted: &[f32]) {
    assert_eq!(found.len(), wanted.len(), "{at}");
    for (i, (&found, &wanted)) in found.iter().zip(wanted).enumerate() {
        let flushed = found == 0.0 && wanted.abs() < f32::MIN_POSITIVE;
        let same = found == wanted || (found.is_nan() && wanted.is_nan()) || flushed;
        assert!(same, "{at}: element {i} is {found:e}, expected {wanted:e}");
    }
}

#[test]
fn embedding_decodes_as_gguf_does() {
    on_every_adapter(|gpu, profile, adapter| {
        for dtype in DType::ALL {
            let blocks = Blocks::read(dtype);
            let ids = (0..blocks.rows as u32).rev().collect();
            let tokens = Given { ty: TensorType::u32([blocks.rows]), fill: Fill::Ids(ids) };
            let case = Case::new(Embedding { rows: blocks.rows, scale: 1.0 }, vec![tokens, blocks.weight()]);
            let prepared = blocks.prepare(&case);
            let found = prepared.on_device(&case, gpu, profile).expect("runs");
            let found: Vec<f32> = found[0].iter().map(|&bits| f32::from_bits(bits)).collect();
            let wanted: Vec<f32> = blocks.values.chunks(blocks.cols).rev().flatten().copied().collect();
            same(&format!("{dtype} on {adapter}"), &found, &wanted);
        }
    });
}

#[test]
fn matrix_times_vector_decodes_as_gguf_does() {
    on_every_adapter(|gpu, profile, adapter| {
        for dtype in DType::ALL {
            // 0 · ∞ is NaN, so blocks with infinite elements are left out.
            let blocks = Blocks::read(dtype).only(f32::is_finite);
            let case = Case::new(Linear::default(), vec![Given::f32([1, blocks.cols]), blocks.weight()]).few();
            let prepared = blocks.prepare(&case);
            let runner = prepared.runner(gpu, profile).expect("prepares");
            let x = prepared.filled[0].0;
            // One column at a time: the product of W with a unit vector is a column of W.
            for col in 0..blocks.cols {
                let mut unit = vec![0f32; blocks.cols];
                unit[col] = 1.0;
                runner.write(x, bytemuck::cast_slice(&unit));
                runner.run(&[Row::at(0)]);
                let found = floats(&runner.read(result(&prepared)).expect("reads"));
                let wanted: Vec<f32> = blocks.values.iter().skip(col).step_by(blocks.cols).copied().collect();
                same(&format!("{dtype} on {adapter}, column {col}"), &found[..blocks.rows], &wanted);
            }
        }
    });
}

/// The unit matrix, (n, n).
fn unit(n: usize) -> Given {
    let bits = (0..n * n).map(|i| if i % (n + 1) == 0 { 1f32.to_bits() } else { 0 }).collect();
    Given { ty: TensorType::f32([n, n]), fill: Fill::Ids(bits) }
}

/// The product with the unit matrix, which is the transposed weight: the device's values and the expected ones.
fn transposed(blocks: &Blocks, gpu: &Gpu, profile: &DeviceProfile) -> (Vec<f32>, Vec<f32>) {
    let case = Case::new(Linear::default(), vec![unit(blocks.cols), blocks.weight()]);
    let found = blocks.prepare(&case).on_device(&case, gpu, profile).expect("runs");
    let found = found[0].iter().map(|&bits| f32::from_bits(bits)).collect();
    let column = |col| blocks.values.iter().skip(col).step_by(blocks.cols);
    (found, (0..blocks.cols).flat_map(column).copied().collect())
}

#[test]
fn matrix_times_matrix_decodes_as_gguf_does() {
    on_every_adapter(|gpu, profile, adapter| {
        for dtype in DType::ALL {
            let blocks = Blocks::read(dtype).only(f32::is_finite);
            let (found, wanted) = transposed(&blocks, gpu, profile);
            same(&format!("{dtype} on {adapter}"), &found, &wanted);
        }
    });
}

/// Tiles of f16 hold weights rounded to f16, up or down; f16 subnormals may be zero.
#[test]
fn tiles_of_half_precision_round_and_nothing_else() {
    for adapter in adapters::all() {
        let gpu = Gpu::open(adapter.index).expect("adapter opens");
        if !gpu.profile.f16 {
            println!("skipped: {} has no f16", adapter.label());
            continue;
        }
        for dtype in DType::ALL {
            let blocks = Blocks::read(dtype).only(|value| value.abs() < 60_000.0);
            let (found, wanted) = transposed(&blocks, &gpu, &gpu.profile);
            for (i, (&found, &wanted)) in found.iter().zip(&wanted).enumerate() {
                let most = if wanted.abs() < 2f32.powi(-14) { 2f32.powi(-14) } else { wanted.abs() / 1024.0 };
                let error = (found - wanted).abs();
                assert!(error <= most, "{dtype} on {}: element {i} is {found:e} for {wanted:e}", adapter.label());
            }
        }
    }
}
