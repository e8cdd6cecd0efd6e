//! Weight formats: how the elements of a tensor are stored. Each format has one file, which contains everything about
//! it: formula and bytes, its number in GGUF, the decoder of a block, the layout on a device, and random blocks.
//!
//! A new format needs a file here, `shaders/shared/weight_NAME.wgsl`, and a line in the table below. [`DType`], the
//! kernels of every operator that reads weights, the types of GGUF files and the lists of the tests are generated from
//! that line. The CPU's fastest products of integers read a format by an arm in `cpu/rounded/vnni.rs`.
//!
//! All bytes are little endian; d, m and dmin are f16.

#![allow(non_camel_case_types, reason = "GGUF's names of formats")]

mod bits;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;

/// The table of formats: a variant of [`DType`], and its module, which has the name of the format and of its shader.
///
/// `formats!([callback] arguments)` becomes `callback! { [arguments] F32 f32 F16 f16 … }`.
macro_rules! formats {
    ([$($callback:tt)*] $($arguments:tt)*) => {
        $($callback)*! {
            [$($arguments)*]
            F32 f32
            F16 f16
            BF16 bf16
            Q4_0 q4_0
            Q4_1 q4_1
            Q5_0 q5_0
            Q5_1 q5_1
            Q8_0 q8_0
            IQ4_NL iq4_nl
            Q2_K q2_k
            Q3_K q3_k
            Q4_K q4_k
            Q5_K q5_k
            Q6_K q6_k
        }
    };
}
pub(crate) use formats;

macro_rules! declare {
    ([] $($variant:ident $module:ident)*) => {
        $(pub(crate) mod $module;)*

        /// The storage format of a tensor's elements. The block types are those of GGUF.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum DType {
            $($variant),*
        }

        impl DType {
            /// Every type that can be run.
            pub const ALL: [DType; [$(stringify!($variant)),*].len()] = [$(DType::$variant),*];

            /// The name in GGUF and on the command line.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DType::$variant => stringify!($module)),*
                }
            }
        }
    };
}
formats!([declare]);

/// `with_format!(dtype, F => body)`: compiles the body once for each type, with `F` as the [`Format`] of that type.
macro_rules! with_format {
    ([@ $dtype:expr, $format:ident, $body:expr] $($variant:ident $module:ident)*) => {
        match $dtype {
            $($crate::formats::DType::$variant => {
                use $crate::formats::$module::$variant as $format;
                $body
            })*
        }
    };
    ($dtype:expr, $format:ident => $body:expr) => {
        $crate::formats::formats!([$crate::formats::with_format] @ $dtype, $format, $body)
    };
}
pub(crate) use with_format;

/// Columns of a block on a device, for all formats.
pub const BLOCK: usize = 32;

/// A format: blocks of `BYTES` bytes that decode to `N` values, a multiple of [`BLOCK`].
///
/// Plain types are decoded in groups of 32; an incomplete group at the end of a row is padded with zeros, which decode
/// to zeros.
pub trait Format<const BYTES: usize, const N: usize> {
    /// The number of the type in GGUF files.
    const GGUF: u32;

    /// (elements, bytes) of a block in files; plain types have blocks of one element.
    const SIZE: (usize, usize) = (N, BYTES);

    /// The plane of codes on a device: the number of 32-bit words per 32 columns. Four words form one `vec4<u32>`.
    const CODES: usize;

    /// The parts of the plane of scales on a device, in order.
    const SCALES: &[Part];

    /// Columns that share a scale, 16 or 32, or 0 for plain types, which have no integers.
    const GROUP: usize = 0;

    /// The quantiser of a block, as in ggml's reference, or `None` where dunlin does not quantise to this format.
    const ENCODE: Option<Encode<BYTES, N>> = None;

    /// The values of a block.
    fn decode<H: Halves>(block: &[u8; BYTES]) -> [f32; N];

    /// The integers of 32 columns. `run` is their index within the block. Plain types have none.
    fn integers<H: Halves>(_: &[u8; BYTES], _: usize) -> Integers {
        unreachable!("plain types have no integers")
    }

    /// The device form of 32 columns, without loss. `run` is their index within the block. Writes the words of the
    /// codes, and passes each scale to `scale(part, i, value)`, with `i` counted from the first scale that covers these
    /// columns.
    fn planes(block: &[u8; BYTES], run: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32));

    /// A block of random codes, with scales that keep the values within −bound .. bound. In formats that subtract a
    /// minimum, the values have a mean of zero and a maximum of 2 · bound.
    fn random(bound: f32, next: &mut dyn FnMut() -> u32) -> [u8; BYTES];
}

/// 32 columns as integers: w = scale · q − min, with a scale and a minimum for each 16 columns.
pub struct Integers {
    pub q: [i8; BLOCK],
    pub scale: [f32; 2],
    pub min: [f32; 2],
}

impl Integers {
    #[inline(always)]
    fn of(q: [i8; BLOCK], scale: f32, min: f32) -> Self {
        Integers { q, scale: [scale; 2], min: [min; 2] }
    }
}

/// A function that encodes N values as a block.
pub type Encode<const BYTES: usize, const N: usize> = fn(&[f32; N]) -> [u8; BYTES];

/// A part of the plane of scales: one number of 16 or 32 bits for each fixed number of columns of a row. Two numbers of
/// 16 bits share a word, the first in the lower half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub columns: usize,
    pub bits: usize,
}

impl Part {
    pub const fn new(columns: usize, bits: usize) -> Self {
        Part { columns, bits }
    }

    /// Words of the part for a row of `blocks` blocks of 32 columns.
    pub const fn words(self, blocks: usize) -> usize {
        ((blocks * BLOCK).div_ceil(self.columns) * self.bits).div_ceil(32)
    }
}

/// The conversion from f16 to f32. Every implementation is exact.
pub trait Halves {
    fn widen(half: u16) -> f32;

    fn widen32(bytes: &[u8; 64]) -> [f32; 32] {
        std::array::from_fn(|i| Self::widen(u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]])))
    }
}

/// Converts by selections, which vectorise (`half` checks the processor's features in each call).
pub struct Selections;

impl Halves for Selections {
    #[inline(always)]
    fn widen(half: u16) -> f32 {
        let (sign, magnitude) = ((half as u32 & 0x8000) << 16, half as u32 & 0x7fff);
        // The exponent's bias is smaller by 112; the exponent of infinities and NaNs must become 255.
        let bias = if magnitude < 31 << 10 { 112 << 23 } else { 224 << 23 };
        let normal = (magnitude << 13) + bias;
        let denormal = (magnitude as i32 as f32 * f32::from_bits((127 - 24) << 23)).to_bits();
        f32::from_bits(sign | if magnitude < 1 << 10 { denormal } else { normal })
    }
}

impl DType {
    /// (elements, bytes) of one block; plain types are blocks of one element.
    pub const fn block(self) -> (usize, usize) {
        with_format!(self, F => F::SIZE)
    }

    /// Bytes of a row of `cols` elements. `cols` is a multiple of the block.
    pub const fn row_bytes(self, cols: usize) -> usize {
        let (elements, bytes) = self.block();
        cols / elements * bytes
    }

    /// Columns that share a scale, or 0 if the type is plain.
    pub const fn group(self) -> usize {
        with_format!(self, F => F::GROUP)
    }

    /// The number of the type in GGUF files.
    pub const fn gguf(self) -> u32 {
        with_format!(self, F => F::GGUF)
    }

    /// The type with this number in GGUF files.
    pub fn from_gguf(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.gguf() == number)
    }

    /// Words of codes per 32 columns on a device.
    pub const fn codes(self) -> usize {
        with_format!(self, F => F::CODES)
    }

    /// The parts of the plane of scales.
    pub const fn scales(self) -> &'static [Part] {
        with_format!(self, F => F::SCALES)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The values of a row of `y.len()` elements.
pub fn dequantize_row(dtype: DType, row: &[u8], y: &mut [f32]) {
    assert_eq!(row.len(), dtype.row_bytes(y.len()), "a {dtype} row of {} elements", y.len());
    with_format!(dtype, F => dequantize_blocks::<F, Selections, _, _>(row, y))
}

#[inline(always)]
pub(crate) fn dequantize_blocks<F: Format<BYTES, N>, H: Halves, const BYTES: usize, const N: usize>(
    row: &[u8],
    y: &mut [f32],
) {
    let (blocks, row_rest) = row.as_chunks();
    let (groups, y_rest) = y.as_chunks_mut();
    for (block, y) in blocks.iter().zip(groups) {
        *y = F::decode::<H>(block);
    }
    if !y_rest.is_empty() {
        y_rest.copy_from_slice(&F::decode::<H>(&padded(row_rest))[..y_rest.len()]);
    }
}

/// Whether [`quantize_row`] supports a type.
pub fn quantizes(dtype: DType) -> bool {
    with_format!(dtype, F => <F as Format<_, _>>::ENCODE.is_some())
}

/// Quantises `values`, whose number is a multiple of the block, into `row`.
pub fn quantize_row(dtype: DType, values: &[f32], row: &mut [u8]) {
    assert_eq!(row.len(), dtype.row_bytes(values.len()), "a {dtype} row of {} elements", values.len());
    with_format!(dtype, F => quantize_blocks::<F, _, _>(dtype, values, row))
}

fn quantize_blocks<F: Format<BYTES, N>, const BYTES: usize, const N: usize>(
    dtype: DType,
    values: &[f32],
    row: &mut [u8],
) {
    let Some(encode) = F::ENCODE else { panic!("nothing is quantised to {dtype}") };
    let (groups, values_rest) = values.as_chunks();
    let (blocks, row_rest) = row.as_chunks_mut();
    for (values, block) in groups.iter().zip(blocks) {
        *block = encode(values);
    }
    if !values_rest.is_empty() {
        row_rest.copy_from_slice(&encode(&padded(values_rest))[..row_rest.len()]);
    }
}

/// Calls [`Format::planes`] for the columns from 32 · b on of a stored row.
pub fn planes(dtype: DType, row: &[u8], b: usize, codes: &mut [u32], scale: &mut impl FnMut(usize, usize, u32)) {
    with_format!(dtype, F => planes_of::<F, _, _>(row, b, codes, scale))
}

#[inline(always)]
fn planes_of<F: Format<BYTES, N>, const BYTES: usize, const N: usize>(
    row: &[u8],
    b: usize,
    codes: &mut [u32],
    scale: &mut impl FnMut(usize, usize, u32),
) {
    let (block, run) = (b * BLOCK / N, b % (N / BLOCK));
    let bytes = &row[block * BYTES..];
    match bytes.first_chunk() {
        Some(block) => F::planes(block, run, codes, scale),
        None => F::planes(&padded(bytes), run, codes, scale),
    }
}

/// A row of `cols` random elements: see [`Format::random`].
pub fn random_row(dtype: DType, cols: usize, bound: f32, next: &mut dyn FnMut() -> u32) -> Vec<u8> {
    with_format!(dtype, F => random_blocks::<F, _, _>(dtype.row_bytes(cols), bound, next))
}

fn random_blocks<F: Format<BYTES, N>, const BYTES: usize, const N: usize>(
    bytes: usize,
    bound: f32,
    next: &mut dyn FnMut() -> u32,
) -> Vec<u8> {
    let mut row: Vec<u8> = (0..bytes.div_ceil(BYTES)).flat_map(|_| F::random(bound, next)).collect();
    row.truncate(bytes);
    row
}

/// The last incomplete group of a row of a plain type, padded with zeros.
pub(crate) fn padded<T: Copy + Default, const LENGTH: usize>(rest: &[T]) -> [T; LENGTH] {
    let mut group = [T::default(); LENGTH];
    group[..rest.len()].copy_from_slice(rest);
    group
}
