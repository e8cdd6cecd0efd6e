//! The operators, one file each. The file contains formula and shapes, attributes, shape rule, CPU reference, kernels,
//! dispatch geometry, and the test cases.

mod case;
pub mod cost;
mod product;
mod weight;

pub use attention::MOST_HEAD;
pub use case::{Case, Fill, Given};
pub(crate) use weight::weight_kernels;
pub use weight::{Matrix, weight_kernel};

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;

use crate::error::Result;
use crate::tensor::DType;
use crate::work::{Candidate, DeviceProfile, Family, Kernel, MOST_GROUPS, Row, Slot, ValueId, names};

/// The operators: each word is a module with `kernels()` and `cases()`.
macro_rules! operators {
    ($($name:ident)*) => {
        $(
            #[allow(rustdoc::broken_intra_doc_links, reason = "formulas have brackets, which rustdoc takes for links")]
            pub mod $name;
        )*

        /// Every kernel of every operator, by operator.
        pub fn kernels() -> Vec<(&'static str, Vec<&'static Kernel>)> {
            vec![$((stringify!($name), $name::kernels())),*]
        }

        /// Every case, by operator.
        pub fn cases() -> Vec<(&'static str, Vec<Case>)> {
            vec![$((stringify!($name), $name::cases())),*]
        }
    };
}

operators! {
    embedding
    splice_rows
    class_token
    constant_rows
    skip_rows
    rms_norm
    layer_norm
    linear
    rope
    cache_write
    attention
    swiglu
    activation
    add
    scale
    depthwise_conv2d
    avg_pool2d
    last_row
    sample
    norm_add
    norm_matmul
    norm_swiglu
    norm_qkv_rope
    conv2d
}

/// # Errors
///
/// A name in `refused` matches no kernel, so it is probably misspelt.
pub fn check_refused(refused: &BTreeSet<String>) -> Result<()> {
    let all = || kernels().into_iter().flat_map(|(_, kernels)| kernels);
    refused.iter().try_for_each(|name| names::find(all(), name).map(drop))
}

/// The kernel of this name, or the only one whose name has all the parts of `wanted`, with its operator.
///
/// # Errors
///
/// There is none, or there are several: the message lists names.
pub fn kernel_named(wanted: &str) -> Result<(&'static str, &'static Kernel)> {
    let kernel = names::one(kernels().into_iter().flat_map(|(_, kernels)| kernels), wanted)?;
    let operator = kernels().into_iter().find(|(_, all)| all.iter().any(|own| std::ptr::eq(*own, kernel)));
    Ok((operator.expect("an operator lists it").0, kernel))
}

/// One operation of a model. Fused operators are ordinary operators.
pub trait Operator: Any + fmt::Debug + Send + Sync {
    /// The name of the file, shader, entry point, builder method and label.
    fn name(&self) -> &'static str;

    /// The shape rule: the types of the results for the given inputs. State that is written in place (KV cache, tokens)
    /// already exists and is not listed. Panics where the shapes do not fit.
    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType>;

    /// The definition of the operator, as the plainest correct loops. `writes` contains state first, then the values
    /// that [`infer`] lists; `rows` has at least as many rows as the pass.
    ///
    /// [`infer`]: Operator::infer
    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]);

    /// The inputs that have one row per row of the result, if each result row depends only on its rows of these inputs
    /// and on all of the other inputs. Then ranges of rows may be computed in parallel.
    fn by_rows(&self) -> Option<&'static [usize]> {
        None
    }

    /// The GPU work: every kernel that can do it, best first for the device, each with its bindings, its tuning
    /// constants and its number of workgroups. Kernels that the device does not allow are listed too.
    fn candidates(
        &self,
        reads: &[Operand],
        writes: &[Operand],
        family: Family,
        profile: &DeviceProfile,
    ) -> Vec<Candidate>;
}

/// The type of a value: its shape, and the storage of its elements.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorType {
    pub shape: Vec<usize>,
    pub elem: Elem,
}

/// The storage of a value's elements on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    F32,
    U32,
    /// KV cache (capacity, heads, head dim): f32, or f16 where the profile says so; heads are padded to 4.
    Kv,
    /// A matrix in its own format, packed ([`crate::work::pack`]).
    Weight(DType),
}

impl TensorType {
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        TensorType { shape: shape.into(), elem: Elem::F32 }
    }

    pub fn u32(shape: impl Into<Vec<usize>>) -> Self {
        TensorType { shape: shape.into(), elem: Elem::U32 }
    }

    pub fn kv(capacity: usize, heads: usize, head_dim: usize) -> Self {
        TensorType { shape: vec![capacity, heads, head_dim], elem: Elem::Kv }
    }

    pub fn weight(dtype: DType, rows: usize, cols: usize) -> Self {
        TensorType { shape: vec![rows, cols], elem: Elem::Weight(dtype) }
    }

    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// (rows, cols) of a matrix.
    #[track_caller]
    pub fn matrix(&self) -> (usize, usize) {
        match self.shape[..] {
            [rows, cols] => (rows, cols),
            _ => panic!("expected a matrix, found {:?}", self.shape),
        }
    }

    /// The format of a weight.
    #[track_caller]
    pub fn dtype(&self) -> DType {
        match self.elem {
            Elem::Weight(dtype) => dtype,
            _ => panic!("expected a weight, found {:?}", self.elem),
        }
    }

    /// Bytes on a device, as activation, table or state.
    pub fn bytes(&self, profile: &DeviceProfile) -> u64 {
        match self.elem {
            Elem::F32 | Elem::U32 => 4 * self.count() as u64,
            Elem::Kv => {
                let heads: usize = self.shape[..2].iter().product();
                (heads * head_stride(self.shape[2])) as u64 * if profile.kv_f16() { 2 } else { 4 }
            }
            Elem::Weight(_) => unreachable!("weights are laid out by kernel::layout"),
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.elem {
            Elem::F32 => f.write_str("f32")?,
            Elem::U32 => f.write_str("u32")?,
            Elem::Kv => f.write_str("kv")?,
            Elem::Weight(dtype) => write!(f, "{dtype}")?,
        }
        write!(f, "{:?}", self.shape)
    }
}

/// The stride of a head in the KV cache on a device, in elements: a multiple of 4.
pub fn head_stride(head_dim: usize) -> usize {
    head_dim.next_multiple_of(4)
}

/// An input of a reference.
#[derive(Clone, Copy)]
pub enum Read<'a> {
    F32(&'a [f32]),
    U32(&'a [u32]),
    Weight(&'a Matrix),
}

impl<'a> Read<'a> {
    #[track_caller]
    pub fn f32(self) -> &'a [f32] {
        match self {
            Read::F32(data) => data,
            _ => panic!("expected f32 data"),
        }
    }

    #[track_caller]
    pub fn u32(self) -> &'a [u32] {
        match self {
            Read::U32(data) => data,
            _ => panic!("expected u32 data"),
        }
    }

    #[track_caller]
    pub fn weight(self) -> &'a Matrix {
        match self {
            Read::Weight(matrix) => matrix,
            _ => panic!("expected a weight"),
        }
    }
}

/// An input of a dispatch: a value, its type, and for a weight that is stored inside a larger one (q, k and v together)
/// its first row there.
#[derive(Clone, Debug)]
pub struct Operand {
    pub id: ValueId,
    pub ty: TensorType,
    pub stored: Option<Stored>,
}

/// The location of a weight in the matrix that it is stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Rows of the whole stored matrix.
    pub rows: usize,
    /// The weight's first row in that matrix.
    pub first: usize,
}

impl Operand {
    pub fn slot(&self) -> Slot {
        Slot::Value(self.id)
    }
}

/// The workgroups of one dimension that cover `count` items, `size` items each. Panics if no device runs as many.
pub fn groups(count: usize, size: usize) -> u32 {
    let groups = count.div_ceil(size);
    assert!(groups <= MOST_GROUPS as usize, "{groups} workgroups in one dimension, at most {MOST_GROUPS} run");
    groups as u32
}

/// As [`groups`], for a kernel whose workgroups take the items in turns if there are more than a dimension has
/// workgroups: its shader must loop over the items in steps of `num_workgroups`.
pub fn in_turns(count: usize, size: usize, profile: &DeviceProfile) -> [u32; 3] {
    [count.div_ceil(size).min(profile.max_groups as usize) as u32, 1, 1]
}

/// Bytes of a params struct.
pub fn params<P: bytemuck::Pod>(params: &P) -> Vec<u8> {
    bytemuck::bytes_of(params).to_vec()
}

/// Declares a kernel: `kernel!("file.wgsl", entry, [modules], [accesses], Params)`.
macro_rules! kernel {
    ($file:literal, $entry:literal, [$($module:expr),*], [$($access:ident)*], $params:ty) => {
        $crate::ops::kernel!($file, $entry, [$($module),*], [$($access)*], $params, [], $crate::work::Requires::NOTHING)
    };
    ($file:literal, $entry:literal, [$($module:expr),*], [$($access:ident)*], $params:ty, [$($constant:literal = $value:literal),*], $requires:expr) => {
        $crate::work::Kernel {
            file: $file,
            source: include_str!(concat!("../../shaders/", $file)),
            entry: $entry,
            modules: &[$(&$module),*],
            bindings: &[$($crate::work::Access::$access),*],
            params: std::mem::size_of::<$params>(),
            constants: &[$(($constant, $value)),*],
            requires: $requires,
            replaces: None,
        }
    };
}
pub(crate) use kernel;
