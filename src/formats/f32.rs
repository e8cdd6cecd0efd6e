//! f32: plain numbers.
//!
//! device: the codes are 8 quads of 4 numbers

use super::{Encode, Format, Halves, Part, bits};

pub struct F32;

impl Format<128, 32> for F32 {
    const GGUF: u32 = 0;
    const SIZE: (usize, usize) = (1, 4);
    const CODES: usize = 32;
    const SCALES: &[Part] = &[];
    const ENCODE: Option<Encode<128, 32>> = Some(encode);

    #[inline(always)]
    fn decode<H: Halves>(bytes: &[u8; 128]) -> [f32; 32] {
        std::array::from_fn(|i| {
            f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
        })
    }

    fn planes(bytes: &[u8; 128], _: usize, codes: &mut [u32], _: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, bytes);
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 128] {
        encode(&std::array::from_fn(|_| bits::uniform(bound, next)))
    }
}

fn encode(values: &[f32; 32]) -> [u8; 128] {
    bytemuck::cast(values.map(f32::to_le_bytes))
}
