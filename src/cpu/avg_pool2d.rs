//! `avg_pool2d`: members of the team take cells.

use crate::cpu::{Call, Scratch, each_row};
use crate::ops::avg_pool2d::{AvgPool2d, window};
use crate::threads::Member;

pub fn run(op: &AvgPool2d, call: &Call, member: &Member, _: &mut Scratch) {
    let x = call.reads[0].f32();
    let channels = x.len() / (op.height * op.width);
    each_row(&call.writes[0], channels, member, |cell, y| {
        let rows = window(cell / op.out_width, op.height, op.out_height);
        let cols = window(cell % op.out_width, op.width, op.out_width);
        y.fill(0.0);
        for row in rows.clone() {
            for col in cols.clone() {
                let x = &x[(row * op.width + col) * channels..][..channels];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
        }
        let factor = 1.0 / (rows.len() * cols.len()) as f32;
        y.iter_mut().for_each(|y| *y *= factor);
    });
}
