//! Tensors as data: element types, shapes, and bytes that are memory-mapped or owned.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

#[cfg(feature = "mmap")]
use memmap2::Mmap;

pub use crate::formats::DType;
use crate::formats::dequantize_row;

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
    /// Row r is the r-th row in the bytes.
    Stored,
    /// GGUF's `llama` files interleave the two halves of each head of q and k, so that row
    /// `head·D + s·D/2 + j` is stored at `head·D + 2j + s`. Reading rows undoes it.
    Interleaved { head_dim: usize },
    /// Groups of `each` rows, the first rows of every `step`: row `group·each + i` is stored at `group·step + i`. If q,
    /// k and v of a head are stored side by side, each of them has this order.
    Strided { each: usize, step: usize },
    /// Heads of D rows of which rope turns the first R, rows j and j + R/2 together. In this order rows j and j + D/2
    /// are a pair for every j, and pairs from R/2 on turn by no angle. Scores do not depend on the order within heads.
    PartlyRotated { head_dim: usize, rotated: usize },
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

    /// The bytes of its elements. Strided rows have other tensors' rows between them, which are not counted.
    pub fn size(&self) -> usize {
        self.rows() * self.dtype.row_bytes(self.cols())
    }

    /// The position of logical row `row` in the bytes, counted in rows.
    pub fn stored_row(&self, row: usize) -> usize {
        self.order.stored(row)
    }

    /// The bytes of logical row `row`.
    pub fn row(&self, row: usize) -> &[u8] {
        let stored = self.stored_row(row);
        let bytes = self.dtype.row_bytes(self.cols());
        &self.bytes[stored * bytes..(stored + 1) * bytes]
    }

    /// Writes the values of logical row `row`, `y.len()` = cols.
    pub fn read_row(&self, row: usize, y: &mut [f32]) {
        dequantize_row(self.dtype, self.row(row), y);
    }

    /// All values in logical order.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.shape.iter().product()];
        if !values.is_empty() {
            for (row, y) in values.chunks_exact_mut(self.cols()).enumerate() {
                self.read_row(row, y);
            }
        }
        values
    }
}

impl RowOrder {
    /// The position of logical row `row`, counted in rows.
    pub fn stored(self, row: usize) -> usize {
        match self {
            RowOrder::Stored => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, j) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * j + half
            }
            RowOrder::Strided { each, step } => row / each * step + row % each,
            RowOrder::PartlyRotated { head_dim, rotated } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, j) = (within / (head_dim / 2), within % (head_dim / 2));
                let place = match j.checked_sub(rotated / 2) {
                    None => j + half * rotated / 2,
                    Some(still) => rotated + still + half * (head_dim - rotated) / 2,
                };
                head * head_dim + place
            }
        }
    }
}

/// A range of bytes with its owner: a mapped file, or a vector. Cheap to clone.
#[derive(Clone)]
pub struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Memory(Arc<dyn AsRef<[u8]> + Send + Sync>),
    #[cfg(feature = "mmap")]
    File(Arc<Mmap>),
}

impl Bytes {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        let range = 0..owner.as_ref().len();
        Self { owner: Owner::Memory(Arc::new(owner)), range }
    }

    /// All bytes of a mapped file.
    #[cfg(feature = "mmap")]
    pub fn mapped(file: Mmap) -> Self {
        let range = 0..file.len();
        Self { owner: Owner::File(Arc::new(file)), range }
    }

    /// Returns the pages of a mapped file to the system; a later read loads them again. Bytes that are not mapped stay.
    pub fn release(&self) {
        #[cfg(all(unix, feature = "mmap"))]
        if let Owner::File(file) = &self.owner
            && !self.range.is_empty()
        {
            // SAFETY: the mapping is a read-only one of a file, so dropped pages are read again with the same content.
            // A failure costs only memory.
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
            #[cfg(feature = "mmap")]
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
