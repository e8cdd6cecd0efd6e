//! q3_k: w = d · (sc − 32) · (q − 4), with sc of 6 bits for each 16 elements
//!
//! block   256 weights in 110 bytes: hmask(32) qs(64) scales(12) d(2). Element 128n + 32r + l (l < 32) has bits 2r and
//!         2r + 1 of qs[32n + l] and above them bit 4n + r of hmask[l]. The low 4 bits of sc i are the low (i < 8) or
//!         high half of scales[i mod 8], and its high 2 bits start at bit 2 · ⌊i / 4⌋ of scales[8 + i mod 4]
//! device  codes: half a quad for 32 columns, as q2_k; scales: d for 256 columns, then sc − 32 of both 16 columns as i8, then
//!         the third bit of each element ([`bits::spread_bits`])

use super::{Format, Halves, Integers, Part, bits};

pub struct Q3_K;

impl Format<110, 256> for Q3_K {
    const GGUF: u32 = 11;
    const CODES: usize = 2;
    const SCALES: &[Part] = &[Part::new(256, 16), Part::new(32, 16), Part::new(32, 32)];
    const GROUP: usize = 16;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 110]) -> [f32; 256] {
        let d = bits::half::<H>(block, 108);
        let mut y = [0.0; 256];
        for run in 0..8 {
            for part in 0..2 {
                let scale = d * subscale(block, 2 * run + part) as f32;
                for l in 16 * part..16 * part + 16 {
                    let low = block[32 + 32 * (run / 4) + l] >> (2 * (run % 4)) & 3;
                    let high = block[l] >> run & 1;
                    y[32 * run + l] = scale * ((low | high << 2) as i32 - 4) as f32;
                }
            }
        }
        y
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 110], run: usize) -> Integers {
        let low: &[u8; 32] = bits::bytes_at(block, 32 + 32 * (run / 4));
        let high: &[u8; 32] = bits::bytes_at(block, 0);
        let q = |l: usize| low[l] >> (2 * (run % 4)) & 3 | (high[l] >> run & 1) << 2;
        let d = bits::half::<H>(block, 108);
        let scale = [0, 1].map(|part| d * subscale(block, 2 * run + part) as f32);
        Integers { q: std::array::from_fn(|l| q(l) as i8 - 4), scale, min: [0.0; 2] }
    }

    fn planes(block: &[u8; 110], run: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        let quants: &[u8; 32] = bits::bytes_at(block, 32 + 32 * (run / 4));
        for w in 0..2 {
            codes[w] = bits::spread_pairs(|j| u32::from(quants[16 * w + j]) >> (2 * (run % 4)) & 3);
        }
        let subscales = [0, 1].map(|part| subscale(block, 2 * run + part) as u8);
        scale(0, 0, bits::u16_at(block, 108).into());
        scale(1, 0, u16::from_le_bytes(subscales).into());
        scale(2, 0, bits::spread_bits(|j| u32::from(block[j]) >> run & 1));
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 110] {
        let mut block = bits::random(next);
        bits::put_half(&mut block, 108, bits::scale(bound, next) / (32.0 * 4.0));
        block
    }
}

/// sc − 32 of elements 16i to 16i + 15.
#[inline(always)]
fn subscale(block: &[u8; 110], i: usize) -> i8 {
    let low = block[96 + i % 8] >> (4 * (i / 8)) & 15;
    let high = block[104 + i % 4] >> (2 * (i / 4)) & 3;
    (low | high << 4) as i8 - 32
}
