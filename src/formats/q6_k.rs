//! q6_k: w = d · sc · (q − 32), with sc an i8 for each 16 elements
//!
//! block   256 weights in 210 bytes: ql(128) qh(64) scales(16 × i8) d(2). Element 128n + 32r + l (l < 32) is the low (r < 2)
//!         or high half of ql[64n + 32 · (r mod 2) + l], and above it bits 2r and 2r + 1 of qh[32n + l]
//! device  codes: the low four bits as q4_0; scales: d for 256 columns, then the two sc, then bits 4 and 5, a word for 16
//!         elements ([`bits::spread_pairs`])

use super::{Format, Halves, Integers, Part, bits};

pub struct Q6_K;

impl Format<210, 256> for Q6_K {
    const GGUF: u32 = 14;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(256, 16), Part::new(32, 16), Part::new(16, 32)];
    const GROUP: usize = 16;

    #[inline(always)]
    fn decode<H: Halves>(block: &[u8; 210]) -> [f32; 256] {
        let d = bits::half::<H>(block, 208);
        let mut y = [0.0; 256];
        for half in 0..2 {
            for run in 0..4 {
                for part in 0..2 {
                    let scale = d * block[192 + 8 * half + 2 * run + part] as i8 as f32;
                    for l in 16 * part..16 * part + 16 {
                        let low = block[64 * half + 32 * (run % 2) + l] >> (4 * (run / 2)) & 15;
                        let high = block[128 + 32 * half + l] >> (2 * run) & 3;
                        y[128 * half + 32 * run + l] = scale * ((low | high << 4) as i32 - 32) as f32;
                    }
                }
            }
        }
        y
    }

    #[inline(always)]
    fn integers<H: Halves>(block: &[u8; 210], run: usize) -> Integers {
        let (half, part) = (run / 4, run % 4);
        let low: &[u8; 32] = bits::bytes_at(block, 64 * half + 32 * (part % 2));
        let high: &[u8; 32] = bits::bytes_at(block, 128 + 32 * half);
        let q = |l: usize| low[l] >> (4 * (part / 2)) & 15 | (high[l] >> (2 * part) & 3) << 4;
        let d = bits::half::<H>(block, 208);
        let scale = [0, 1].map(|i| d * block[192 + 2 * run + i] as i8 as f32);
        Integers { q: std::array::from_fn(|l| q(l) as i8 - 32), scale, min: [0.0; 2] }
    }

    fn planes(block: &[u8; 210], run: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
        let (half, part) = (run / 4, run % 4);
        let low: &[u8; 32] = bits::bytes_at(block, 64 * half + 32 * (part % 2));
        let high: &[u8; 32] = bits::bytes_at(block, 128 + 32 * half);
        bits::pack_nibbles(codes, |j| low[j] >> (4 * (part / 2)));
        scale(0, 0, bits::u16_at(block, 208).into());
        scale(1, 0, bits::u16_at(block, 192 + 2 * run).into());
        for w in 0..2 {
            scale(2, w, bits::spread_pairs(|j| u32::from(high[16 * w + j]) >> (2 * part) & 3));
        }
    }

    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; 210] {
        let mut block = bits::random(next);
        bits::put_half(&mut block, 208, bits::scale(bound, next) / (128.0 * 32.0));
        block
    }
}
