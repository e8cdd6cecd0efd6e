//! bf16: the upper half of an f32.
//!
//! device: the codes are 4 quads of 8 numbers

use super::{Format, Halves, Part, bits};

pub struct BF16;

impl Format<64, 32> for BF16 {
    const GGUF: u32 = 30;
    const SIZE: (usize, usize) = (1, 2);
    const CODES: usize = 16;
    const SCALES: &[Part] = &[];

    #[inline(always)]
    fn decode<H: Halves>(bytes: &[u8; 64]) -> [f32; 32] {
        std::array::from_fn(|i| f32::from_bits((bytes[2 * i] as u32) << 16 | (bytes[2 * i + 1] as u32) << 24))
    }

    fn planes(bytes: &[u8; 64], _: usize, codes: &mut [u32], _: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, bytes);
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 64] {
        bytemuck::cast([0; 32].map(|_: u8| half::bf16::from_f32(bits::uniform(bound, next)).to_le_bytes()))
    }
}
