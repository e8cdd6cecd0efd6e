//! q4_0: w = d · (q − 8)
//!
//! block   32 weights in 18 bytes: d(2) qs(16); element j < 16 is the low half of byte j, j + 16 the high half
//! device  codes: qs as it is; scales: d

use super::{Encode, Format, Halves, Integers, Part, bits};

pub struct Q4_0;

impl Format<18, 32> for Q4_0 {
    const GGUF: u32 = 2;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(32, 16)];
    const GROUP: usize = 32;
    const ENCODE: Option<Encode<18, 32>> = Some(encode);

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 18]) -> [f32; 32] {
        let d = bits::half::<H>(block, 0);
        bits::nibbles(block, 2, |_, q| (q as f32 - 8.0) * d)
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 18], _: usize) -> Integers {
        let q: [u8; 32] = bits::halves::<16, 32>(bits::bytes_at(block, 2));
        Integers::of(q.map(|q| q as i8 - 8), bits::half::<H>(block, 0), 0.0)
    }

    fn planes(block: &[u8; 18], _: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, &block[2..]);
        scale(0, 0, bits::u16_at(block, 0).into());
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 18] {
        let mut block = bits::random(next);
        bits::put_half(&mut block, 0, bits::scale(bound, next) / 8.0);
        block
    }
}

/// d = m / −8 for the element m of the largest |x|, q = min(15, ⌊x · (1 / d) + 8.5⌋). d is stored as f16, but q is
/// computed with d in f32.
fn encode(x: &[f32; 32]) -> [u8; 18] {
    let extreme = x.iter().fold(0f32, |extreme, &x| if x.abs() > extreme.abs() { x } else { extreme });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let code = |x: f32| ((x * inverse + 8.5) as i32).clamp(0, 15) as u8;
    let mut block = [0; 18];
    bits::put_half(&mut block, 0, d);
    for j in 0..16 {
        block[2 + j] = code(x[j]) | code(x[j + 16]) << 4;
    }
    block
}
