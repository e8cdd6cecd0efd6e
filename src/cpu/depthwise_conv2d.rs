//! `depthwise_conv2d`: members of the team take pixels. The kernel's elements for one position are contiguous, so that
//! the channels of a pixel are a vector.

use crate::cpu::simd::{mul_add, simd};
use crate::cpu::{Call, Scratch, each_row};
use crate::ops::depthwise_conv2d::{DepthwiseConv2d, TAPS};
use crate::threads::Member;

pub fn run(op: &DepthwiseConv2d, call: &Call, member: &Member, scratch: &mut Scratch) {
    let (x, kernel) = (call.reads[0].f32(), call.reads[1].f32());
    let channels = kernel.len() / TAPS;
    let [taps] = scratch.take([kernel.len()]);
    for (i, tap) in taps.iter_mut().enumerate() {
        *tap = kernel[i % channels * TAPS + i / channels];
    }
    let (_, out_width) = op.out();
    each_row(&call.writes[0], channels, member, |pixel, y| {
        match call.reads.get(2) {
            Some(bias) => y.copy_from_slice(bias.f32()),
            None => y.fill(0.0),
        }
        let (top, left) = (op.stride * (pixel / out_width), op.stride * (pixel % out_width));
        for (t, tap) in taps.chunks_exact(channels).enumerate() {
            // Rows and columns are numbered from 1: row and column 0 are the border.
            let (row, col) = (top + t / 3, left + t % 3);
            if (1..=op.height).contains(&row) && (1..=op.width).contains(&col) {
                add_product(tap, &x[((row - 1) * op.width + col - 1) * channels..][..channels], y);
            }
        }
    });
}

simd! {
    /// y += a · b, element by element
    pub fn add_product(a: &[f32], b: &[f32], y: &mut [f32]) {
        for ((y, a), b) in y.iter_mut().zip(a).zip(b) {
            *y = mul_add::<FMA>(*a, *b, *y);
        }
    }
}
