//! q2_k: w = (d · sc) · q − dmin · m, with sc and m of 4 bits for each 16 elements
//!
//! block   256 weights in 84 bytes: scales(16) qs(64) d(2) dmin(2); a byte of scales is sc + 16 · m. Element
//!         128n + 32r + l (l < 32) is bits 2r and 2r + 1 of qs[32n + l]
//! device  codes: half a quad for 32 columns, word w has elements 16w to 16w + 15 ([`bits::spread_pairs`]);
//!         scales: (d, dmin) for 256 columns, then the two bytes of scales

use super::{Format, Halves, Integers, Part, bits};

pub struct Q2_K;

impl Format<84, 256> for Q2_K {
    const GGUF: u32 = 10;
    const CODES: usize = 2;
    const SCALES: &[Part] = &[Part::new(256, 32), Part::new(32, 16)];
    const GROUP: usize = 16;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 84]) -> [f32; 256] {
        let (d, dmin) = (bits::half::<H>(block, 80), bits::half::<H>(block, 82));
        let mut y = [0.0; 256];
        for run in 0..8 {
            for part in 0..2 {
                let byte = block[2 * run + part];
                let (scale, min) = (d * (byte & 15) as f32, dmin * (byte >> 4) as f32);
                for l in 16 * part..16 * part + 16 {
                    let q = block[16 + 32 * (run / 4) + l] >> (2 * (run % 4)) & 3;
                    y[32 * run + l] = scale * q as f32 - min;
                }
            }
        }
        y
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 84], run: usize) -> Integers {
        let codes: &[u8; 32] = bits::bytes_at(block, 16 + 32 * (run / 4));
        let (d, dmin) = (bits::half::<H>(block, 80), bits::half::<H>(block, 82));
        let bytes = [block[2 * run], block[2 * run + 1]];
        Integers {
            q: codes.map(|q| (q >> (2 * (run % 4)) & 3) as i8),
            scale: bytes.map(|byte| d * (byte & 15) as f32),
            min: bytes.map(|byte| dmin * (byte >> 4) as f32),
        }
    }

    fn planes(block: &[u8; 84], run: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        let quants: &[u8; 32] = bits::bytes_at(block, 16 + 32 * (run / 4));
        for w in 0..2 {
            codes[w] = bits::spread_pairs(|j| u32::from(quants[16 * w + j]) >> (2 * (run % 4)) & 3);
        }
        scale(0, 0, bits::u32_at(block, 80));
        scale(1, 0, bits::u16_at(block, 2 * run).into());
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 84] {
        let mut block = bits::random(next);
        let d = bits::scale(bound, next);
        bits::put_half(&mut block, 80, d / (15.0 * 1.5));
        bits::put_half(&mut block, 82, d / 15.0);
        block
    }
}
