//! iq4_nl: w = d · CODEBOOK[q]
//!
//! block   32 weights in 18 bytes: d(2) qs(16), elements as in q4_0
//! device  codes: qs as it is; scales: d

use super::{Format, Halves, Integers, Part, bits};

/// The values of the 16 codes: the steps are small around zero and grow towards the ends.
pub const CODEBOOK: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

pub struct IQ4_NL;

impl Format<18, 32> for IQ4_NL {
    const GGUF: u32 = 20;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(32, 16)];
    const GROUP: usize = 32;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 18]) -> [f32; 32] {
        let d = bits::half::<H>(block, 0);
        bits::nibbles(block, 2, |_, q| d * CODEBOOK[q as usize & 15])
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 18], _: usize) -> Integers {
        let q: [u8; 32] = bits::halves::<16, 32>(bits::bytes_at(block, 2));
        Integers::of(q.map(|q| CODEBOOK[q as usize & 15] as i8), bits::half::<H>(block, 0), 0.0)
    }

    fn planes(block: &[u8; 18], _: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, &block[2..]);
        scale(0, 0, bits::u16_at(block, 0).into());
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 18] {
        let mut block = bits::random(next);
        bits::put_half(&mut block, 0, bits::scale(bound, next) / 127.0);
        block
    }
}
