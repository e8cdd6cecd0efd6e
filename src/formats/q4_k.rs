//! q4_k: w = (d · sc) · q − dmin · m, with sc and m of 6 bits for each 32 elements
//!
//! block   256 weights in 144 bytes: d(2) dmin(2) scales(12) qs(128). Element 64c + 32h + l (l < 32) is the low (h = 0) or
//!         high half of qs[32c + l]; scales: [`subscale`]
//! device  codes: as q4_0; scales: (d, dmin) for 256 columns, then (sc, m) as bytes

use super::{Format, Halves, Part, bits};

pub struct Q4_K;

impl Format<144, 256> for Q4_K {
    const GGUF: u32 = 12;
    const CODES: usize = 4;
    const SCALES: &[Part] = &[Part::new(256, 32), Part::new(32, 16)];

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
    let (d, dmin) = (bits::half::<H>(block, 0), bits::half::<H>(block, 2));
    let s = bits::bytes_at(block, 4);
    std::array::from_fn(|run| {
        let (scale, min) = subscale(s, run);
        (d * scale as f32, dmin * min as f32)
    })
}

/// sc and m of a run. In the first four runs they are the low 6 bits of bytes j and j + 4. In the others the low 4 bits
/// are the halves of byte j + 4, and the high 2 bits are the top bits of the bytes of the first four runs.
#[inline(always)]
pub fn subscale(s: &[u8; 12], j: usize) -> (u8, u8) {
    if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        (s[j + 4] & 15 | s[j - 4] >> 6 << 4, s[j + 4] >> 4 | s[j] >> 6 << 4)
    }
}
