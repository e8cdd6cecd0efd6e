//! f16: plain numbers.
//!
//! device: the codes are 4 quads of 8 numbers

use half::slice::HalfFloatSliceExt;

use super::{Encode, Format, Halves, Part, bits};

pub struct F16;

impl Format<64, 32> for F16 {
    const GGUF: u32 = 1;
    const SIZE: (usize, usize) = (1, 2);
    const CODES: usize = 16;
    const SCALES: &[Part] = &[];
    const ENCODE: Option<Encode<64, 32>> = Some(encode);

    #[inline(always)]
    fn decode<H: Halves>(bytes: &[u8; 64]) -> [f32; 32] {
        H::widen32(bytes)
    }

    fn planes(bytes: &[u8; 64], _: usize, codes: &mut [u32], _: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, bytes);
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 64] {
        encode(&std::array::from_fn(|_| bits::uniform(bound, next)))
    }
}

/// Rounds to nearest, ties to even.
fn encode(values: &[f32; 32]) -> [u8; 64] {
    let mut halves = [half::f16::ZERO; 32];
    halves.convert_from_f32_slice(values);
    bytemuck::cast(halves.map(half::f16::to_le_bytes))
}
