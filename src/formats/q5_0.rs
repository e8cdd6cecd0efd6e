//! q5_0: w = d · (q − 16)
//!
//! block   32 weights in 22 bytes: d(2) qh(4) qs(16); qs as in q4_0, and bit j of qh is bit 4 of element j
//! device  codes: qs as it is; scales: d, then bit 4 of each element

use super::{Format, Halves, Integers, Part, bits};

pub struct Q5_0;

impl Format<22, 32> for Q5_0 {
    const GGUF: u32 = 6;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(32, 16), Part::new(32, 32)];
    const GROUP: usize = 32;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 22]) -> [f32; 32] {
        let d = bits::half::<H>(block, 0);
        let high = bits::u32_at(block, 2) as i32;
        bits::nibbles(block, 6, |j, q| ((q | (high >> j & 1) << 4) - 16) as f32 * d)
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 22], _: usize) -> Integers {
        let q = bits::fifths(bits::bytes_at(block, 6), bits::u32_at(block, 2));
        Integers::of(q.map(|q| q as i8 - 16), bits::half::<H>(block, 0), 0.0)
    }

    fn planes(block: &[u8; 22], _: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, &block[6..]);
        scale(0, 0, bits::u16_at(block, 0).into());
        let high = bits::u32_at(block, 2);
        scale(1, 0, bits::spread_bits(|j| high >> j & 1));
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 22] {
        let mut block = bits::random(next);
        bits::put_half(&mut block, 0, bits::scale(bound, next) / 16.0);
        block
    }
}
