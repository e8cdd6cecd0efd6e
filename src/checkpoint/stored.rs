//! A tensor as a file stores it: any element type, any strides. [`Stored::load`] converts it to a form that can be run.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use super::quantize::quantize;
use crate::error::{Error, Result};
use crate::tensor::{Bytes, DType, RowOrder, Tensor};

/// The location and layout of a tensor. `bytes` has been checked to hold all of its elements.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The file that holds the tensor, for error messages.
    pub file: Arc<PathBuf>,
    pub element: Element,
    pub shape: Vec<usize>,
    /// The layout of the elements, where it is not contiguous.
    pub view: Option<View>,
    pub bytes: Bytes,
    pub order: RowOrder,
    /// Whether the tensor is a gain that is stored less 1: [`Stored::load`] adds the 1.
    pub less_1: bool,
}

/// A non-contiguous layout: a transposed matrix, or a convolution with its channels last.
#[derive(Clone, Debug)]
pub struct View {
    /// The shape that the strides belong to. [`Stored::shape`] may be another shape with the same number of elements.
    pub shape: Vec<usize>,
    /// Strides in elements.
    pub strides: Vec<usize>,
}

/// The element type in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Element {
    Run(DType),
    /// Converted to f32 when loaded.
    F64,
    /// Listed, but an error when loaded.
    Other(String),
}

impl Element {
    pub fn name(&self) -> &str {
        match self {
            Element::Run(dtype) => dtype.name(),
            Element::F64 => "f64",
            Element::Other(name) => name,
        }
    }
}

/// The product of the dimensions, unless it overflows.
pub fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |product, &size| product.checked_mul(size))
}

impl Stored {
    /// An error unless the tensor has `shape`.
    pub fn check_shape(&self, name: &str, shape: &[usize]) -> Result<()> {
        if self.shape == shape {
            return Ok(());
        }
        Err(Error::checkpoint(format!(
            "{}: tensor `{name}` has shape {:?}, expected {shape:?}; the configuration may be of another model",
            self.file.display(),
            self.shape,
        )))
    }

    /// The tensor in a form that can be run. Matrices of floats are quantised to `weights` if it is given; vectors
    /// (norms) become f32.
    pub fn load(&self, name: &str, weights: Option<DType>) -> Result<Tensor> {
        let tensor = match &self.element {
            Element::Run(dtype) => Tensor {
                dtype: *dtype,
                shape: self.shape.clone(),
                bytes: self.contiguous(dtype.block().1),
                order: self.order,
            },
            Element::F64 => Tensor {
                dtype: DType::F32,
                shape: self.shape.clone(),
                bytes: f64_to_f32(&self.contiguous(8)),
                order: self.order,
            },
            Element::Other(element) => {
                return Err(Error::checkpoint(format!(
                    "{}: tensor `{name}` holds {element} elements, which dunlin does not run; convert it to one of {}",
                    self.file.display(),
                    DType::ALL.map(DType::name).join(", "),
                )));
            }
        };
        Ok(match weights {
            _ if self.less_1 => plus_1(quantize(&tensor, DType::F32)),
            _ if tensor.shape.len() < 2 => quantize(&tensor, DType::F32),
            Some(wanted) => quantize(&tensor, target(tensor.dtype, tensor.cols(), wanted)),
            None => tensor,
        })
    }

    /// The same elements in the same order of indices, as a tensor of another shape.
    pub fn reshaped(self, shape: Vec<usize>) -> Self {
        assert_eq!(count(&shape), count(&self.shape), "{:?} as {shape:?}", self.shape);
        Self { shape, ..self }
    }

    /// A range of rows of a matrix, or of elements of a vector.
    ///
    /// Contiguous rows stay in place and keep their type.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let whole = self.clone().in_order();
        assert!(rows.start <= rows.end && rows.end <= whole.shape[0], "rows {rows:?} of {:?}", whole.shape);
        let each = whole.bytes.len() / whole.shape[0].max(1);
        let bytes = whole.bytes.slice(rows.start * each..rows.end * each);
        let shape = [rows.len()].into_iter().chain(whole.shape[1..].iter().copied()).collect();
        Self { shape, bytes, ..whole }
    }

    /// Of every `step` rows, the rows `first..first + each`.
    pub fn rows_of_every(&self, first: usize, each: usize, step: usize) -> Self {
        let whole = self.clone().in_order();
        let (rows, groups) = (whole.shape[0], whole.shape[0] / step);
        assert!(groups * step == rows && first + each <= step, "{each} rows from {first} of every {step} of {rows}");
        let size = whole.bytes.len() / rows;
        let bytes = whole.bytes.slice(first * size..((groups - 1) * step + first + each) * size);
        let shape: Vec<usize> = [groups * each].into_iter().chain(whole.shape[1..].iter().copied()).collect();
        match whole.shape.len() {
            // The row order describes rows; a vector counts as one row.
            1 => Self { shape, bytes, view: Some(View { shape: vec![groups, each], strides: vec![step, 1] }), ..whole },
            _ => Self { shape, bytes, order: RowOrder::Strided { each, step }, ..whole },
        }
    }

    /// The transpose of a matrix.
    pub fn transposed(&self) -> Self {
        let whole = self.clone().in_order();
        let [rows, cols] = whole.shape[..] else { panic!("the transpose of {:?}", whole.shape) };
        let view = View { shape: vec![cols, rows], strides: vec![1, cols] };
        Self { shape: vec![cols, rows], view: Some(view), ..whole }
    }

    /// The same tensor with its elements in index order: a copy, unless they are. What is cut from it shares the copy.
    pub(super) fn in_order(self) -> Self {
        let size = match &self.element {
            _ if self.view.is_none() => return self,
            Element::Run(dtype) => dtype.block().1,
            Element::F64 => 8,
            // Loading refuses this type; until then only the shape is used.
            Element::Other(_) => return Self { view: None, ..self },
        };
        Self { view: None, bytes: self.contiguous(size), ..self }
    }

    /// Bytes of the tensor's elements in the file.
    pub fn size(&self) -> usize {
        match (&self.element, self.shape.split_last()) {
            (Element::Run(dtype), Some((&cols, rows))) => rows.iter().product::<usize>() * dtype.row_bytes(cols),
            (Element::F64, _) => 8 * self.shape.iter().product::<usize>(),
            _ => self.bytes.len(),
        }
    }

    /// The type that [`Stored::load`] returns, or `None` where loading fails.
    pub fn dtype(&self, weights: Option<DType>) -> Option<DType> {
        let stored = match self.element {
            Element::Run(dtype) => dtype,
            Element::F64 => DType::F32,
            Element::Other(_) => return None,
        };
        Some(match weights {
            _ if self.shape.len() < 2 => DType::F32,
            Some(wanted) => target(stored, self.shape[self.shape.len() - 1], wanted),
            None => stored,
        })
    }

    /// The elements, `size` bytes each, in index order.
    pub(super) fn contiguous(&self, size: usize) -> Bytes {
        let Some(View { shape, strides }) = &self.view else { return self.bytes.clone() };
        let mut index = vec![0; shape.len()];
        let elements = count(shape).expect("checked when the file was read");
        let mut gathered = Vec::with_capacity(elements * size);
        for _ in 0..elements {
            let offset: usize = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            gathered.extend_from_slice(&self.bytes[offset * size..(offset + 1) * size]);
            for (i, &size) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < size {
                    break;
                }
                *i = 0;
            }
        }
        Bytes::new(gathered)
    }
}

/// The type of a matrix after `--weights`. Block types do not change; rows that blocks of 32 do not divide become f16.
fn target(stored: DType, cols: usize, wanted: DType) -> DType {
    match stored {
        DType::F32 | DType::F16 | DType::BF16 if cols.is_multiple_of(wanted.block().0) => wanted,
        DType::F32 | DType::F16 | DType::BF16 => DType::F16,
        blocks => blocks,
    }
}

fn plus_1(tensor: Tensor) -> Tensor {
    let values: Vec<u8> = tensor.to_f32().into_iter().flat_map(|value| (1.0 + value).to_le_bytes()).collect();
    Tensor { bytes: Bytes::new(values), ..tensor }
}

fn f64_to_f32(bytes: &[u8]) -> Bytes {
    let values = bytes.as_chunks().0.iter().flat_map(|&eight| (f64::from_le_bytes(eight) as f32).to_le_bytes());
    Bytes::new(values.collect::<Vec<u8>>())
}
