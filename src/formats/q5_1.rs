//! q5_1: w = d · q + m
//!
//! block   32 weights in 24 bytes: d(2) m(2) qh(4) qs(16), elements as in q5_0
//! device  codes: qs as it is; scales: (d, m), then bit 4 of each element

use super::{Format, Halves, Integers, Part, bits};

pub struct Q5_1;

impl Format<24, 32> for Q5_1 {
    const GGUF: u32 = 7;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(32, 32), Part::new(32, 32)];
    const GROUP: usize = 32;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 24]) -> [f32; 32] {
        let (d, m) = (bits::half::<H>(block, 0), bits::half::<H>(block, 2));
        let high = bits::u32_at(block, 4) as i32;
        bits::nibbles(block, 8, |j, q| (q | (high >> j & 1) << 4) as f32 * d + m)
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 24], _: usize) -> Integers {
        let q = bits::fifths(bits::bytes_at(block, 8), bits::u32_at(block, 4));
        Integers::of(q.map(|q| q as i8), bits::half::<H>(block, 0), -bits::half::<H>(block, 2))
    }

    fn planes(block: &[u8; 24], _: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, &block[8..]);
        scale(0, 0, bits::u32_at(block, 0));
        let high = bits::u32_at(block, 4);
        scale(1, 0, bits::spread_bits(|j| high >> j & 1));
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 24] {
        let mut block = bits::random(next);
        let d = bits::scale(bound, next);
        bits::put_half(&mut block, 0, d / 15.5);
        bits::put_half(&mut block, 2, -d);
        block
    }
}
