//! Fast CPU kernels of operators whose reference loops are too slow: one file an operator, with the operator's name.
//!
//! Every member of a team runs a kernel at the same time and takes items of its work. An operator without a kernel runs
//! its reference, split into ranges of rows if they do not depend on each other. All SIMD of the crate is in this
//! module.
//!
//! Within a family the sums of a row have one order, whatever the number of rows (tests/model/company.rs).

#![allow(clippy::undocumented_unsafe_blocks, reason = "a kernel argues once for all of its intrinsics and parts")]
#![allow(
    clippy::needless_range_loop,
    reason = "a counted loop over several arrays vectorises, and reads like the formula"
)]

pub mod dense;
pub mod dot;
mod exp;
pub mod gradient;
mod norm;
mod panel;
pub mod peak;
mod product;
mod rounded;
pub mod rows;
mod simd;

pub use simd::{Level, levels, limit};

use std::any::Any;
use std::ops::Range;

use crate::ops::{Operator, Read, TensorType};
use crate::threads::{Member, Parts};
use crate::work::{Family, Row};

/// A kernel: the work of one member of the team in one step.
pub type Kernel = fn(&dyn Operator, &Call, &Member, &mut Scratch);

/// The inputs and outputs of a step, the same for all members of a team.
pub struct Call<'a> {
    pub reads: &'a [Read<'a>],
    /// State, then results, as in [`Operator::reference`].
    pub writes: &'a [Parts<'a, f32>],
    /// The table of the pass.
    pub rows: &'a [Row],
    pub family: Family,
    /// Whether rows that are multiplied with integers are rounded to integers too.
    pub rounds: bool,
    /// Rows of the last result.
    pub m: usize,
    /// Floats that members share while the step runs.
    pub workspace: Parts<'a, f32>,
}

/// Declares the kernels: `operator: Type`. Each module has `run(&Type, &Call, &Member, &mut Scratch)`, and also
/// `workspace(&Type, reads: &[&TensorType])` if it is listed after the semicolon.
macro_rules! kernels {
    ($($name:ident: $op:ident),*; $($shared:ident: $shared_op:ident),*) => {
        $(mod $name;)*

        /// The kernel of an operator: its own, or its reference.
        pub fn kernel(op: &str) -> Kernel {
            match op {
                $(stringify!($name) => |op, call, member, scratch| {
                    $name::run(operator::<crate::ops::$name::$op>(op), call, member, scratch)
                },)*
                _ => by_reference,
            }
        }

        /// The operators that have a kernel.
        pub const KERNELS: &[&str] = &[$(stringify!($name)),*];

        /// Floats that the members share while an operator runs.
        pub fn workspace(op: &dyn Operator, reads: &[&TensorType]) -> usize {
            match op.name() {
                $(stringify!($shared) => $shared::workspace(operator::<crate::ops::$shared::$shared_op>(op), reads),)*
                _ => 0,
            }
        }
    };
}

kernels! {
    linear: Linear,
    norm_add: NormAdd,
    norm_matmul: NormMatmul,
    norm_swiglu: NormSwiglu,
    norm_qkv_rope: NormQkvRope,
    attention: Attention,
    rms_norm: RmsNorm,
    layer_norm: LayerNorm,
    swiglu: Swiglu,
    activation: Activation,
    conv2d: Conv2d,
    depthwise_conv2d: DepthwiseConv2d,
    avg_pool2d: AvgPool2d,
    sample: Sample;
    conv2d: Conv2d,
    sample: Sample
}

fn operator<T: Operator>(op: &dyn Operator) -> &T {
    (op as &dyn Any).downcast_ref().expect("an operator has the type of its name")
}

/// The largest number of inputs of an operator, and of outputs.
pub const MOST_OPERANDS: usize = 8;

/// Runs the operator's reference: on ranges of rows if the operator allows it, else all at once.
fn by_reference(op: &dyn Operator, call: &Call, member: &Member, _: &mut Scratch) {
    let Some(by_row) = op.by_rows() else {
        return member.each(1, |_| {
            // SAFETY: only one member runs this, and no other step writes these results.
            let mut writes = call.writes.iter().map(|parts| unsafe { parts.part(0..parts.len()) });
            let mut slices: [&mut [f32]; MOST_OPERANDS] = std::array::from_fn(|_| writes.next().unwrap_or_default());
            op.reference(call.reads, &mut slices[..call.writes.len()], call.rows);
        });
    };
    let [y] = call.writes else { panic!("{} has rows and writes one result", op.name()) };
    let count = call.m;
    let y_cols = y.len() / count;
    let some = count.div_ceil(4 * member.count).max(1);
    member.each(count.div_ceil(some), |i| {
        let range = i * some..count.min((i + 1) * some);
        let mut reads = [Read::F32(&[]); MOST_OPERANDS];
        for (i, (slice, read)) in reads.iter_mut().zip(call.reads).enumerate() {
            *slice = *read;
            if by_row.contains(&i) {
                let cols = read.f32().len() / count;
                *slice = Read::F32(&read.f32()[range.start * cols..range.end * cols]);
            }
        }
        // SAFETY: each row is in one item.
        let y = unsafe { y.part(range.start * y_cols..range.end * y_cols) };
        let rows = &call.rows[range.start.min(call.rows.len())..];
        op.reference(&reads[..call.reads.len()], &mut [y], rows);
    });
}

/// Scratch memory of one member. It grows to the largest size that was asked for, and stays allocated.
#[derive(Default)]
pub struct Scratch(Floats);

impl Scratch {
    /// Slices of these lengths. Their contents are left over from earlier uses.
    pub fn take<const N: usize>(&mut self, lengths: [usize; N]) -> [&mut [f32]; N] {
        self.0.grow(lengths.iter().map(|length| length.next_multiple_of(LINE)).sum());
        let mut rest = &mut self.0[..];
        lengths.map(|length| {
            let (slice, after) = std::mem::take(&mut rest).split_at_mut(length.next_multiple_of(LINE));
            rest = after;
            &mut slice[..length]
        })
    }
}

/// Floats of a cache line.
const LINE: usize = 16;

/// Floats that begin at the start of a cache line.
///
/// New floats are zeros that the operating system has not touched yet: memory is used when it is first written, so that
/// a KV cache with room for a long context takes what its sequences take.
#[derive(Default)]
pub struct Floats {
    data: Vec<f32>,
    /// The first float of `data` at the start of a cache line.
    first: usize,
    len: usize,
}

impl Floats {
    /// Makes room for `count` floats; the content stays.
    pub fn grow(&mut self, count: usize) {
        if count <= self.len {
            return;
        }
        let len = count.next_multiple_of(LINE);
        // `vec!` of zeros takes zeroed pages as they come; `resize` would write them.
        let data = vec![0f32; len + LINE - 1];
        let first = (data.as_ptr() as usize).wrapping_neg() % (LINE * size_of::<f32>()) / size_of::<f32>();
        let before = std::mem::replace(self, Floats { data, first, len });
        self[..before.len].copy_from_slice(&before);
    }

    /// The address of the first float.
    pub fn start(&mut self) -> *mut f32 {
        self.as_mut_ptr()
    }
}

impl std::ops::Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[self.first..][..self.len]
    }
}

impl std::ops::DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[self.first..][..self.len]
    }
}

/// The part of `count` items that is number `i` of parts of `size`.
pub(crate) fn piece(i: usize, size: usize, count: usize) -> Range<usize> {
    i * size..count.min((i + 1) * size)
}

/// Calls `work` with pieces of some thousand elements of a result that is computed element by element.
fn elements(y: &Parts<f32>, member: &Member, mut work: impl FnMut(Range<usize>, &mut [f32])) {
    const PIECE: usize = 2048;
    member.each(y.len().div_ceil(PIECE), |i| {
        let range = piece(i, PIECE, y.len());
        // SAFETY: each element is in one item.
        work(range.clone(), unsafe { y.part(range) });
    });
}

/// Calls `work` with each row of a result, `cols` elements wide.
fn each_row(y: &Parts<f32>, cols: usize, member: &Member, mut work: impl FnMut(usize, &mut [f32])) {
    let count = y.len() / cols;
    let some = count.div_ceil(4 * member.count).max(1);
    member.each(count.div_ceil(some), |i| {
        for r in piece(i, some, count) {
            // SAFETY: each row is in one item.
            work(r, unsafe { y.part(r * cols..(r + 1) * cols) });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_begin_at_a_cache_line_and_stay_when_they_grow() {
        let mut floats = Floats::default();
        for (count, room) in [(3, 16), (2, 16), (17, 32), (1000, 1008)] {
            floats.grow(count);
            assert_eq!((floats.len(), floats.start() as usize % 64), (room, 0));
            assert_eq!(floats[0], if count == 3 { 0.0 } else { 5.0 });
            floats[0] = 5.0;
            assert!(floats[1..].iter().all(|&v| v == 0.0));
        }
    }

    /// 2 GiB of which two floats are written take little memory.
    #[test]
    #[cfg(target_os = "linux")]
    fn floats_take_memory_when_they_are_written() {
        let resident = || {
            let status = std::fs::read_to_string("/proc/self/statm").expect("the counts of this process");
            status.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("resident pages")
        };
        let (mut floats, before) = (Floats::default(), resident());
        floats.grow(1 << 29);
        (floats[0], floats[1 << 28]) = (1.0, 2.0);
        let pages = resident().saturating_sub(before);
        // Other tests of this process allocate at the same time.
        assert!(pages < (1 << 30) / 4096, "{pages} pages are resident");
    }
}
