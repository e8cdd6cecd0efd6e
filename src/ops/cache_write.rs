//! cache[slot + position, head, d] = x[r, head · D + d], slot and position of row r
//!
//! x: (rows, heads · D)   cache: (capacity, heads, D), written in place

use crate::work::source::{KV_F16, KV_F32, ROWS};
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, head_stride, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct CacheWrite {
    pub heads: usize,
    /// D
    pub head_dim: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    head_stride: u32,
    each: u32,
}

static KERNEL_F32: Kernel = kernel!("cache_write.wgsl", "cache_write", [ROWS, KV_F32], [ReadWrite ReadWrite], Params);
static KERNEL_F16: Kernel =
    kernel!("cache_write.wgsl", "cache_write", [ROWS, KV_F16], [ReadWrite ReadWrite], Params, [], Requires::F16);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL_F32, &KERNEL_F16]
}

impl Operator for CacheWrite {
    fn name(&self) -> &'static str {
        "cache_write"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        assert_eq!(reads[0].matrix().1, self.heads * self.head_dim, "{self:?}");
        vec![]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let cols = self.heads * self.head_dim;
        for (x, row) in reads[0].f32().chunks_exact(cols).zip(rows) {
            writes[0][row.place() * cols..][..cols].copy_from_slice(x);
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (rows, cols) = reads[0].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(if profile.kv_f16() { &KERNEL_F16 } else { &KERNEL_F32 }),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&Params {
                rows: rows as u32,
                heads: self.heads as u32,
                head_dim: self.head_dim as u32,
                head_stride: head_stride(self.head_dim) as u32,
                each: (family == Family::Few).into(),
            }),
            groups: in_turns(rows * cols, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, heads: usize, head_dim: usize, position: usize| {
        Case::new(CacheWrite { heads, head_dim }, vec![Given::f32([rows, heads * head_dim])])
            .state(vec![Given::kv(position + rows + 1, heads, head_dim)])
            .at(position)
    };
    // Rows of several sequences in any order.
    let rows = [(7, 3), (0, 5), (20, 1), (12, 0)].map(|(slot, position)| Row { slot, ..Row::at(position) });
    let apart = Case::new(CacheWrite { heads: 3, head_dim: 10 }, vec![Given::f32([4, 30])])
        .state(vec![Given::kv(23, 3, 10)])
        .rows(rows.into())
        .few();
    vec![apart, case(577, 2, 12, 3), case(1, 1, 2, 0), case(3, 5, 22, 7), case(7, 2, 20, 1), case(1, 3, 64, 33).bench(), case(128, 3, 64, 0).bench()]
}
