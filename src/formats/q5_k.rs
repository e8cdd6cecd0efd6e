//! q5_k: w = (d · sc) · q − dmin · m, with sc and m of 6 bits for each 32 elements
//!
//! block   256 weights in 176 bytes: d(2) dmin(2) scales(12) qh(32) qs(128). Element 64c + 32h + l is as in q4_k, and bit 4 of
//!         it is bit 2c + h of qh[l]
//! device  as q4_k; then, after the scales, bit 4 of each element ([`bits::spread_bits`])

use super::{Format, Halves, Integers, Part, bits, q4_k};

pub struct Q5_K;

impl Format<176, 256> for Q5_K {
    const GGUF: u32 = 13;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(256, 32), Part::new(32, 16), Part::new(32, 32)];
    const GROUP: usize = 32;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 176]) -> [f32; 256] {
        let scales = q4_k::scales::<H>(block);
        let mut y = [0.0; 256];
        for c in 0..4 {
            for high in 0..2 {
                let (scale, min) = scales[2 * c + high];
                for l in 0..32 {
                    let q = block[48 + 32 * c + l] >> (4 * high) & 15 | (block[16 + l] >> (2 * c + high) & 1) << 4;
                    y[64 * c + 32 * high + l] = scale * q as f32 - min;
                }
            }
        }
        y
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 176], run: usize) -> Integers {
        let low: &[u8; 32] = bits::bytes_at(block, 48 + 32 * (run / 2));
        let high: &[u8; 32] = bits::bytes_at(block, 16);
        let q = |l: usize| low[l] >> (4 * (run % 2)) & 15 | (high[l] >> run & 1) << 4;
        let (scale, min) = q4_k::scales::<H>(block)[run];
        Integers::of(std::array::from_fn(|l| q(l) as i8), scale, min)
    }

    fn planes(block: &[u8; 176], run: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        let quants: &[u8; 32] = bits::bytes_at(block, 48 + 32 * (run / 2));
        bits::pack_nibbles(codes, |j| quants[j] >> (4 * (run % 2)));
        let (sc, m) = q4_k::subscale(bits::bytes_at(block, 4), run);
        scale(0, 0, bits::u32_at(block, 0));
        scale(1, 0, u16::from_le_bytes([sc, m]).into());
        scale(2, 0, bits::spread_bits(|j| u32::from(block[16 + j]) >> run & 1));
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 176] {
        let mut block = bits::random(next);
        let d = bits::scale(bound, next);
        bits::put_half(&mut block, 0, d / (63.0 * 15.5));
        bits::put_half(&mut block, 2, d / 63.0);
        block
    }
}
