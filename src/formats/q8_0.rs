//! q8_0: w = d · q
//!
//! block   32 weights in 34 bytes: d(2) qs(32 × i8)
//! device  codes: qs as it is, 2 quads; scales: d

use super::{Encode, Format, Halves, Integers, Part, Selections, bits};

pub struct Q8_0;

impl Format<34, 32> for Q8_0 {
    const GGUF: u32 = 8;
    const CODES: usize = 8;
    const SCALES: &[Part] = &[Part::new(32, 16)];
    const GROUP: usize = 32;
    const ENCODE: Option<Encode<34, 32>> = Some(encode);

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 34]) -> [f32; 32] {
        // Selections instead of H: the compiler generates slower code for the loop after F16C's instruction.
        let d = bits::half::<Selections>(block, 0);
        let mut y = [0.0; 32];
        for i in 0..32 {
            y[i] = block[2 + i] as i8 as f32 * d;
        }
        y
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 34], _: usize) -> Integers {
        let q: &[u8; 32] = bits::bytes_at(block, 2);
        Integers::of(q.map(|q| q as i8), bits::half::<H>(block, 0), 0.0)
    }

    fn planes(block: &[u8; 34], _: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        bits::copy(codes, &block[2..]);
        scale(0, 0, bits::u16_at(block, 0).into());
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 34] {
        let mut block = bits::random(next);
        bits::put_half(&mut block, 0, bits::scale(bound, next) / 127.0);
        block
    }
}

/// d = max |x| / 127, q = round(x · (1 / d)), half away from zero. d is stored as f16, but q is computed with d in f32.
fn encode(x: &[f32; 32]) -> [u8; 34] {
    let largest = x.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let mut block = [0; 34];
    bits::put_half(&mut block, 0, d);
    for (q, x) in block[2..].iter_mut().zip(x) {
        *q = round(x * inverse) as i8 as u8;
    }
    block
}

/// Rounds half away from zero, for values that fit an i8. (`f32::round` is a call where the processor has no
/// instruction for it.)
fn round(x: f32) -> i32 {
    // x is infinite where the whole block is below the smallest normal number.
    let x = x.clamp(-127.0, 127.0);
    let whole = x as i32;
    let rest = x - whole as f32;
    whole + (rest >= 0.5) as i32 - (rest <= -0.5) as i32
}
