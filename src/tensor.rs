//! Tensors as data: element types, shapes, and bytes that are mapped or owned. No arithmetic.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use memmap2::Mmap;

/// How the elements of a tensor are stored. The block types are those of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types)]
pub enum DType {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl DType {
    /// Every type that can be run.
    pub const ALL: [DType; 11] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q4_K,
        DType::Q5_K,
        DType::Q6_K,
    ];

    /// (elements, bytes) of one block; plain types are blocks of one element.
    pub const fn block(self) -> (usize, usize) {
        match self {
            DType::F32 => (1, 4),
            DType::F16 | DType::BF16 => (1, 2),
            DType::Q4_0 => (32, 18),
            DType::Q4_1 => (32, 20),
            DType::Q5_0 => (32, 22),
            DType::Q5_1 => (32, 24),
            DType::Q8_0 => (32, 34),
            DType::Q4_K => (256, 144),
            DType::Q5_K => (256, 176),
            DType::Q6_K => (256, 210),
        }
    }

    /// Bytes of a row of `cols` elements. `cols` is a multiple of the block.
    pub const fn row_bytes(self, cols: usize) -> usize {
        let (elements, bytes) = self.block();
        cols / elements * bytes
    }

    /// The name as GGUF and the command line write it.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::Q4_0 => "q4_0",
            DType::Q4_1 => "q4_1",
            DType::Q5_0 => "q5_0",
            DType::Q5_1 => "q5_1",
            DType::Q8_0 => "q8_0",
            DType::Q4_K => "q4_k",
            DType::Q5_K => "q5_k",
            DType::Q6_K => "q6_k",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A stored tensor. A matrix is (rows, cols) with `cols` contiguous.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub bytes: Bytes,
    pub order: RowOrder,
}

/// The order of a matrix's rows in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Row r is the r-th in the bytes.
    Stored,
    /// GGUF's `llama` files interleave the two halves of each head of q and k, so that row
    /// `head·D + s·D/2 + j` is stored at `head·D + 2j + s`. Reading rows undoes it.
    Interleaved { head_dim: usize },
}

impl Tensor {
    /// Rows of the matrix: everything but the last dimension.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)].iter().product()
    }

    /// Elements of a row: the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Where logical row `row` lies in the bytes, counted in rows.
    pub fn stored_row(&self, row: usize) -> usize {
        match self.order {
            RowOrder::Stored => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, j) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * j + half
            }
        }
    }

    /// The bytes of logical row `row`.
    pub fn row(&self, row: usize) -> &[u8] {
        let stored = self.stored_row(row);
        let bytes = self.dtype.row_bytes(self.cols());
        &self.bytes[stored * bytes..(stored + 1) * bytes]
    }
}

/// A range of bytes that somebody keeps alive: a mapped file, or a vector. Cheap to clone.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Memory(Arc<dyn AsRef<[u8]> + Send + Sync>),
    File(Arc<Mmap>),
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        Self { owner: Owner::Memory(Arc::new(owner)), range }
    }

    /// All bytes of a mapped file.
    pub fn mapped(file: Mmap) -> Self {
        let range = 0..file.len();
        Self { owner: Owner::File(Arc::new(file)), range }
    }

    /// Gives the pages of a mapped file back to the system; a later read brings them in again. Bytes in memory stay.
    pub fn release(&self) {
        #[cfg(unix)]
        if let Owner::File(file) = &self.owner
            && !self.range.is_empty()
        {
            // SAFETY: the mapping is read-only and of a file, so dropped pages are read again, with the same content.
            // That it could not be done costs memory and nothing else.
            let _ = unsafe {
                file.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, self.range.start, self.range.len())
            };
        }
    }

    /// A part of these bytes. `range` is relative to them and within them.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "slice {range:?} of {} bytes", self.len());
        Self { owner: self.owner.clone(), range: self.range.start + range.start..self.range.start + range.end }
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Memory(owner) => (**owner).as_ref(),
            Owner::File(file) => &file[..],
        };
        &all[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}
