//! Weight matrices for operators: the rows of one or several stored tensors, in their own format.

use std::ops::Range;

use crate::ops::Operand;
use crate::tensor::{DType, RowOrder, Tensor};
use crate::work::layout::WeightLayout;
use crate::work::{DeviceProfile, Kernel, Plane, Slot};

/// A matrix (rows, cols) for the CPU: tensors of one type and width, concatenated by rows.
#[derive(Clone, Debug)]
pub struct Matrix {
    pub dtype: DType,
    pub cols: usize,
    parts: Vec<Tensor>,
}

impl Matrix {
    #[track_caller]
    pub fn new(parts: Vec<Tensor>) -> Self {
        let (dtype, cols) = (parts[0].dtype, parts[0].cols());
        assert!(parts.iter().all(|part| part.dtype == dtype && part.cols() == cols), "parts of one matrix differ");
        Matrix { dtype, cols, parts }
    }

    /// The tensors that are concatenated.
    pub fn parts(&self) -> &[Tensor] {
        &self.parts
    }

    pub fn rows(&self) -> usize {
        self.parts.iter().map(Tensor::rows).sum()
    }

    /// The stored bytes of some rows, in order.
    pub fn rows_in(&self, range: Range<usize>) -> Rows<'_> {
        assert!(range.end <= self.rows(), "rows {range:?} of a matrix of {}", self.rows());
        let (mut start, left) = (range.start, range.len());
        let mut parts = self.parts.iter();
        let mut part = parts.next();
        while let Some(tensor) = part.filter(|part| start >= part.rows()) {
            start -= tensor.rows();
            part = parts.next();
        }
        let size = self.dtype.row_bytes(self.cols);
        let mut rows = Rows { parts, size, bytes: &[], order: RowOrder::Stored, row: 0, end: 0, left };
        if let Some(part) = part {
            rows.enter(part, start);
        }
        rows
    }

    /// The stored bytes of a row.
    pub fn row(&self, mut row: usize) -> &[u8] {
        for part in &self.parts {
            if row < part.rows() {
                return part.row(row);
            }
            row -= part.rows();
        }
        panic!("row {row} past the end of a matrix");
    }
}

/// See [`Matrix::rows_in`]. Its step is a few instructions, because a product of few rows of activations takes only some
/// ten nanoseconds for a row.
pub struct Rows<'a> {
    parts: std::slice::Iter<'a, Tensor>,
    /// Bytes of a row.
    size: usize,
    /// The part of the next row, and its rows from the next one on.
    bytes: &'a [u8],
    order: RowOrder,
    row: usize,
    end: usize,
    /// Rows to come, in all parts.
    left: usize,
}

impl<'a> Rows<'a> {
    fn enter(&mut self, part: &'a Tensor, row: usize) {
        (self.bytes, self.order, self.row, self.end) = (&part.bytes, part.order, row, part.rows());
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.left == 0 {
            return None;
        }
        while self.row == self.end {
            let part = self.parts.next().expect("a matrix has the rows that were asked for");
            self.enter(part, 0);
        }
        let stored = if self.order == RowOrder::Stored { self.row } else { self.order.stored(self.row) };
        self.row += 1;
        self.left -= 1;
        Some(&self.bytes[stored * self.size..][..self.size])
    }
}

/// The kernels of one shader, one for each weight format.
pub type WeightKernels = [Kernel; DType::ALL.len()];

/// Declares [`WeightKernels`]: `weight_kernels!("file.wgsl", "entry", [modules], [accesses], Params, …)`.
macro_rules! weight_kernels {
    ([@ $file:literal, $entry:literal, $modules:tt, $accesses:tt, $params:ty, $constants:tt, $requires:expr] $($format:ident $name:ident)*) => {
        [$($crate::ops::weight_kernels!(@one $format $file, $entry, $modules, $accesses, $params, $constants, $requires)),*]
    };
    (@one $format:ident $file:literal, $entry:literal, [$($module:expr),*], $accesses:tt, $params:ty, $constants:tt, $requires:expr) => {
        $crate::ops::kernel!($file, $entry, [$($module,)* $crate::work::source::WEIGHT, $crate::work::source::WEIGHTS[$crate::formats::DType::$format as usize]], $accesses, $params, $constants, $requires)
    };
    ($file:literal, $entry:literal, $modules:tt, $accesses:tt, $params:ty) => {
        $crate::ops::weight_kernels!($file, $entry, $modules, $accesses, $params, [], $crate::work::Requires::NOTHING)
    };
    ($file:literal, $entry:literal, $modules:tt, $accesses:tt, $params:ty, $constants:tt, $requires:expr) => {
        $crate::formats::formats!([$crate::ops::weight_kernels] @ $file, $entry, $modules, $accesses, $params, $constants, $requires)
    };
}
pub(crate) use weight_kernels;

/// The kernel for a format; the kernels are in the order of [`DType::ALL`].
pub fn weight_kernel(kernels: &'static WeightKernels, dtype: DType) -> &'static Kernel {
    &kernels[dtype as usize]
}

/// The part of a weight that lies in one chunk of the stored matrix.
pub struct Part {
    /// First row of the part within the chunk.
    pub first: usize,
    pub rows: usize,
    /// First row of the part within the weight.
    pub out: usize,
    pub codes: Slot,
    pub scales: Slot,
}

/// The parts of a weight, in row order.
pub fn parts(weight: &Operand, profile: &DeviceProfile) -> Vec<Part> {
    let (rows, cols) = weight.ty.matrix();
    let (stored_rows, first) = weight.stored.map_or((rows, 0), |stored| (stored.rows, stored.first));
    let layout = WeightLayout::new(weight.ty.dtype(), stored_rows, cols, profile.max_binding);
    let wanted = first..first + rows;
    let plane = |chunk, plane| Slot::Plane { value: weight.id, chunk, plane };
    layout
        .chunks
        .iter()
        .enumerate()
        .filter_map(|(i, chunk)| {
            let (start, end) = (chunk.start.max(wanted.start), chunk.end.min(wanted.end));
            (start < end).then(|| Part {
                first: start - chunk.start,
                rows: end - start,
                out: start - first,
                codes: plane(i, Plane::Codes),
                scales: plane(i, Plane::Scales),
            })
        })
        .collect()
}
