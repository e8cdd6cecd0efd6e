//! `swiglu`: members of the team take pieces of the result.

use crate::cpu::exp::exp;
use crate::cpu::simd::simd;
use crate::cpu::{Call, Scratch, elements};
use crate::ops::swiglu::{Gate, Swiglu};
use crate::threads::Member;

pub fn run(op: &Swiglu, call: &Call, member: &Member, _: &mut Scratch) {
    let (gate, up) = (call.reads[0].f32(), call.reads[1].f32());
    elements(&call.writes[0], member, |range, y| gated(op.gate, &gate[range.clone()], &up[range], y));
}

simd! {
    /// f(gate) · up
    pub fn gated(f: Gate, gate: &[f32], up: &[f32], y: &mut [f32]) {
        let elements = y.iter_mut().zip(gate).zip(up);
        // Each arm has its own loop, because a choice inside a loop would not vectorise.
        match f {
            Gate::Silu => elements.for_each(|((y, gate), up)| *y = gate / (1.0 + exp::<FMA>(-gate)) * up),
            Gate::GeluTanh => elements.for_each(|((y, gate), up)| {
                // 1 + tanh(u) = 2 / (1 + exp(−2u)), in which no digits cancel.
                let u = 0.797_884_6 * gate * (1.0 + 0.044_715 * gate * gate);
                *y = gate / (1.0 + exp::<FMA>(-2.0 * u)) * up;
            }),
        }
    }
}
