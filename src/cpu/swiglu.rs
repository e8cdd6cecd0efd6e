//! `swiglu`: members of the team take pieces of the result.

use crate::cpu::exp::exp;
use crate::cpu::simd::simd;
use crate::cpu::{Call, Scratch, elements};
use crate::ops::swiglu::Swiglu;
use crate::threads::Member;

pub fn run(_: &Swiglu, call: &Call, member: &Member, _: &mut Scratch) {
    let (gate, up) = (call.reads[0].f32(), call.reads[1].f32());
    elements(&call.writes[0], member, |range, y| silu_times(&gate[range.clone()], &up[range], y));
}

simd! {
    /// silu(gate) · up
    pub fn silu_times(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp::<FMA>(-gate)) * up;
        }
    }
}
