//! q4_k: w = (d · sc) · q − dmin · m, with sc and m of 6 bits for each 32 elements
//!
//! block   256 weights in 144 bytes: d(2) dmin(2) scales(12) qs(128). Element 64c + 32h + l (l < 32) is the low (h = 0) or
//!         high half of qs[32c + l]; scales: [`subscales`]
//! device  codes: as q4_0; scales: (d, dmin) for 256 columns, then (sc, m) as bytes

use super::{Format, Halves, Integers, Part, bits};

pub struct Q4_K;

impl Format<144, 256> for Q4_K {
    const GGUF: u32 = 12;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(256, 32), Part::new(32, 16)];
    const GROUP: usize = 32;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 144]) -> [f32; 256] {
        let scales = scales::<H>(block);
        let mut y = [0.0; 256];
        for c in 0..4 {
            let q: [u8; 64] = bits::halves::<32, 64>(bits::bytes_at(block, 16 + 32 * c));
            for high in 0..2 {
                let (scale, min) = scales[2 * c + high];
                for l in 32 * high..32 * high + 32 {
                    y[64 * c + l] = scale * q[l] as i32 as f32 - min;
                }
            }
        }
        y
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 144], run: usize) -> Integers {
        let codes: &[u8; 32] = bits::bytes_at(block, 16 + 32 * (run / 2));
        let (scale, min) = scales::<H>(block)[run];
        Integers::of(codes.map(|q| (q >> (4 * (run % 2)) & 15) as i8), scale, min)
    }

    fn planes(block: &[u8; 144], run: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        let quants: &[u8; 32] = bits::bytes_at(block, 16 + 32 * (run / 2));
        bits::pack_nibbles(codes, |j| quants[j] >> (4 * (run % 2)));
        let (sc, m) = subscale(bits::bytes_at(block, 4), run);
        scale(0, 0, bits::u32_at(block, 0));
        scale(1, 0, u16::from_le_bytes([sc, m]).into());
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 144] {
        let mut block = bits::random(next);
        let d = bits::scale(bound, next);
        bits::put_half(&mut block, 0, d / (63.0 * 7.5));
        bits::put_half(&mut block, 2, d / 63.0);
        block
    }
}

/// (d · sc, dmin · m) of the eight runs of 32 elements of a block with the header of q4_k.
#[inline(always)]
pub fn scales<H: Halves>(block: &[u8]) -> [(f32, f32); 8] {
    let [d, dmin] = halves::<H>(bits::u32_at(block, 0));
    let [sc, m] = subscales([4, 8, 12].map(|at| bits::u32_at(block, at))).map(u64::to_le_bytes);
    std::array::from_fn(|run| (d * sc[run] as f32, dmin * m[run] as f32))
}

/// sc and m of a run.
pub fn subscale(s: &[u8; 12], run: usize) -> (u8, u8) {
    let [sc, m] = subscales([0, 4, 8].map(|at| bits::u32_at(s, at))).map(u64::to_le_bytes);
    (sc[run], m[run])
}

/// The two f16 of a word.
#[inline(always)]
pub fn halves<H: Halves>(word: u32) -> [f32; 2] {
    [H::widen(word as u16), H::widen((word >> 16) as u16)]
}

/// sc of the eight runs, a byte each, and m. In the first four runs they are the low 6 bits of the bytes of words a and
/// b. In the others the low 4 bits are the halves of the bytes of word c, and the high 2 bits are the top bits of the
/// bytes of a and b.
#[inline(always)]
pub fn subscales([a, b, c]: [u32; 3]) -> [u64; 2] {
    let (low, half, top) = (0x3f3f_3f3f, 0x0f0f_0f0f, 0x0303_0303);
    let sc = c & half | (a >> 6 & top) << 4;
    let m = c >> 4 & half | (b >> 6 & top) << 4;
    [u64::from(a & low) | u64::from(sc) << 32, u64::from(b & low) | u64::from(m) << 32]
}
