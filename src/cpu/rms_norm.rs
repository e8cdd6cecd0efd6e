//! `rms_norm`: members of the team take rows.

use crate::cpu::norm::rms_norm;
use crate::cpu::{Call, Scratch, each_row};
use crate::ops::rms_norm::RmsNorm;
use crate::threads::Member;

pub fn run(op: &RmsNorm, call: &Call, member: &Member, _: &mut Scratch) {
    let (x, gain) = (call.reads[0].f32(), call.reads[1].f32());
    let cols = gain.len();
    each_row(&call.writes[0], cols, member, |r, y| rms_norm(&x[r * cols..][..cols], gain, op.eps, y));
}
