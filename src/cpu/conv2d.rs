//! `conv2d`: gathers the patches as rows, then computes a product.

use crate::cpu::product::{self, Product};
use crate::cpu::{Call, Scratch, each_row};
use crate::ops::TensorType;
use crate::ops::conv2d::Conv2d;
use crate::threads::Member;

/// The patches: (patches, k).
pub fn workspace(op: &Conv2d, reads: &[&TensorType]) -> usize {
    op.grid() * op.grid() * reads[1].matrix().1
}

pub fn run(op: &Conv2d, call: &Call, member: &Member, scratch: &mut Scratch) {
    let (x, w) = (call.reads[0].f32(), call.reads[1].weight());
    each_row(&call.workspace, w.cols, member, |patch, row| {
        for (k, row) in row.chunks_mut(op.patch).enumerate() {
            row.copy_from_slice(&x[op.place(patch, k * op.patch)..][..op.patch]);
        }
    });
    member.barrier();
    // SAFETY: after the barrier no member writes the patches.
    let patches: &[f32] = unsafe { call.workspace.part(0..call.workspace.len()) };
    product::run(&Product::new(patches, w), call, &call.writes[0], member, scratch);
}
