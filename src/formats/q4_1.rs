//! q4_1: w = d · q + m
//!
//! block   32 weights in 20 bytes: d(2) m(2) qs(16), elements as in q4_0
//! device  codes: qs as it is; scales: (d, m)

use super::{Format, Halves, Integers, Part, bits};

pub struct Q4_1;

impl Format<20, 32> for Q4_1 {
    const GGUF: u32 = 3;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(32, 32)];
    const GROUP: usize = 32;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 20]) -> [f32; 32] {
        let (d, m) = (bits::half::<H>(block, 0), bits::half::<H>(block, 2));
        bits::nibbles(block, 4, |_, q| q as f32 * d + m)
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 20], _: usize) -> Integers {
        let q: [u8; 32] = bits::halves::<16, 32>(bits::bytes_at(block, 4));
        Integers::of(q.map(|q| q as i8), bits::half::<H>(block, 0), -bits::half::<H>(block, 2))
    }

    fn planes(block: &[u8; 20], _: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, &block[4..]);
        scale(0, 0, bits::u32_at(block, 0));
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 20] {
        let mut block = bits::random(next);
        let d = bits::scale(bound, next);
        bits::put_half(&mut block, 0, d / 7.5);
        bits::put_half(&mut block, 2, -d);
        block
    }
}
