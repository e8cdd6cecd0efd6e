//! `norm_add`, rows side by side.

use crate::cpu::norm::rms_norm;
use crate::cpu::{Call, Scratch, each_row};
use crate::ops::norm_add::NormAdd;
use crate::threads::Member;

pub fn run(op: &NormAdd, call: &Call, member: &Member, _: &mut Scratch) {
    let (x, gain, residual) = (call.reads[0].f32(), call.reads[1].f32(), call.reads[2].f32());
    let cols = gain.len();
    each_row(&call.writes[0], cols, member, |r, y| {
        rms_norm(&x[r * cols..][..cols], gain, op.eps, y);
        y.iter_mut().zip(&residual[r * cols..][..cols]).for_each(|(y, residual)| *y += residual);
    });
}
