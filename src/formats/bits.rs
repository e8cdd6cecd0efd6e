//! Bit operations that several formats share: codes of four bits, and the device layout of single bits and bit pairs.

use super::Halves;

pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// N bytes of a block as an array: the compiler knows N and omits bounds checks.
#[inline(always)]
pub fn bytes_at<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..].first_chunk().expect("a block holds its codes")
}

/// The f16 at byte `at`.
#[inline(always)]
pub fn half<H: Halves>(bytes: &[u8], at: usize) -> f32 {
    H::widen(u16_at(bytes, at))
}

/// The low halves (4 bits) of N bytes, then their high halves.
#[inline(always)]
pub fn halves<const N: usize, const TWICE: usize>(bytes: &[u8; N]) -> [u8; TWICE] {
    let mut q = [0; TWICE];
    for j in 0..N {
        q[j] = bytes[j] & 15;
        q[j + N] = bytes[j] >> 4;
    }
    // Without black_box the compiler would split both loops into scalars; through memory, both vectorise.
    std::hint::black_box(q)
}

/// Codes of five bits: the halves of the bytes, and above the code of element j bit j of `high`.
#[inline(always)]
pub fn fifths(low: &[u8; 16], high: u32) -> [u8; 32] {
    let q: [u8; 32] = halves::<16, 32>(low);
    std::array::from_fn(|j| q[j] | ((high >> j & 1) as u8) << 4)
}

/// Decodes a block of 32: the 16 bytes at `at` hold the low four bits of each element. `value` receives the element's
/// index and these bits.
#[inline(always)]
pub fn nibbles<const BYTES: usize>(block: &[u8; BYTES], at: usize, value: impl Fn(usize, i32) -> f32) -> [f32; 32] {
    let q: [u8; 32] = halves::<16, 32>(bytes_at(block, at));
    let mut y = [0.0; 32];
    for j in 0..32 {
        y[j] = value(j, q[j] as i32);
    }
    y
}

/// Writes the bytes as words.
pub fn copy(words: &mut [u32], bytes: &[u8]) {
    let words: &mut [u8] = bytemuck::cast_slice_mut(words);
    words.copy_from_slice(&bytes[..words.len()]);
}

/// Writes four words of 4-bit codes: byte j holds `code(j)` in the low half and `code(j + 16)` in the high half.
pub fn pack_nibbles(words: &mut [u32], code: impl Fn(usize) -> u8) {
    for (i, word) in words.iter_mut().enumerate() {
        *word = (0..4).fold(0, |word, k| {
            let j = 4 * i + k;
            word | u32::from((code(j) & 15) | (code(j + 16) & 15) << 4) << (8 * k)
        });
    }
}

/// A word of 32 bits: the bit of element 4t + k is bit 8k + t, so that one shift and one mask extract four neighbours.
pub fn spread_bits(bit: impl Fn(usize) -> u32) -> u32 {
    (0..32).fold(0, |word, j| word | bit(j) << (8 * (j % 4) + j / 4))
}

/// A word of 16 pairs of bits: the pair of element 4t + k is bits 8k + 2t and 8k + 2t + 1.
pub fn spread_pairs(pair: impl Fn(usize) -> u32) -> u32 {
    (0..16).fold(0, |word, j| word | pair(j) << (8 * (j % 4) + 2 * (j / 4)))
}

/// Random bytes.
pub fn random<const BYTES: usize>(next: &mut dyn FnMut() -> u32) -> [u8; BYTES] {
    std::array::from_fn(|_| (next() >> 13) as u8)
}

/// A random number, uniform in −bound .. bound.
pub fn uniform(bound: f32, next: &mut dyn FnMut() -> u32) -> f32 {
    bound * (next() as f32 / 2f32.powi(31) - 1.0)
}

/// A random number, uniform in bound / 2 .. bound, so that the scales of blocks differ.
pub fn scale(bound: f32, next: &mut dyn FnMut() -> u32) -> f32 {
    bound * (0.5 + next() as f32 / 2f32.powi(33))
}

/// Writes an f16 at byte `at`.
pub fn put_half(block: &mut [u8], at: usize, value: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(value).to_le_bytes());
}
