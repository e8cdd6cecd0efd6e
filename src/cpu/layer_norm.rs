//! `layer_norm`: members of the team take rows, and add in lanes of f64.

use crate::cpu::simd::simd;
use crate::cpu::{Call, Scratch, each_row};
use crate::ops::layer_norm::LayerNorm;
use crate::threads::Member;

pub fn run(op: &LayerNorm, call: &Call, member: &Member, _: &mut Scratch) {
    let (x, gain, bias) = (call.reads[0].f32(), call.reads[1].f32(), call.reads[2].f32());
    let cols = gain.len();
    each_row(&call.writes[0], cols, member, |r, y| row(&x[r * cols..][..cols], gain, bias, op.eps, y));
}

simd! {
    /// One row.
    pub fn row(x: &[f32], gain: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let cols = x.len() as f64;
        let mean = sum(x, |v| v) / cols;
        let squares = sum(x, |v| (v - mean) * (v - mean));
        let factor = 1.0 / (squares / cols + f64::from(eps)).sqrt();
        for ((y, x), (gain, bias)) in y.iter_mut().zip(x).zip(gain.iter().zip(bias)) {
            *y = ((f64::from(*x) - mean) * factor) as f32 * gain + bias;
        }
    }
}

/// Σ f(x)
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f64) -> f64) -> f64 {
    let mut lanes = [0.0; 16];
    let (groups, rest) = x.as_chunks::<16>();
    for x in groups {
        for i in 0..16 {
            lanes[i] += f(f64::from(x[i]));
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f(f64::from(x))).sum::<f64>()
}
