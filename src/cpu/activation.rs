//! `activation`: members of the team take pieces of the result.

use crate::cpu::exp::exp;
use crate::cpu::simd::{mul_add, simd};
use crate::cpu::{Call, Scratch, elements};
use crate::ops::activation::{Activation, Kind};
use crate::threads::Member;

pub fn run(op: &Activation, call: &Call, member: &Member, _: &mut Scratch) {
    let x = call.reads[0].f32();
    elements(&call.writes[0], member, |range, y| {
        y.copy_from_slice(&x[range]);
        apply(op.kind, y);
    });
}

simd! {
    /// x → f(x), for each element.
    pub fn apply(kind: Kind, x: &mut [f32]) {
        // Each arm has its own loop, because a loop with the choice inside would not vectorise.
        match kind {
            Kind::Gelu => x.iter_mut().for_each(|x| *x = gelu::<FMA>(*x)),
            Kind::QuickGelu => x.iter_mut().for_each(|x| *x /= 1.0 + exp::<FMA>(-1.702 * *x)),
            Kind::Relu => x.iter_mut().for_each(|x| *x = Kind::Relu.apply(*x)),
            Kind::HardSwish => x.iter_mut().for_each(|x| *x = Kind::HardSwish.apply(*x)),
            Kind::HardSigmoid => x.iter_mut().for_each(|x| *x = Kind::HardSigmoid.apply(*x)),
        }
    }
}

/// x/2 · (1 + erf(x / √2)), erf within 2e-7 by Abramowitz and Stegun's 7.1.26:
/// erf(z) = 1 − (a1 t + … + a5 t⁵) exp(−z²), t = 1 / (1 + 0.3275911 z), z ≥ 0
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> f32 {
    const A: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let tail = A.iter().fold(0.0, |sum, &a| mul_add::<FMA>(sum, t, a)) * t * exp::<FMA>(-z * z);
    // If x is negative, 1 + erf is the series itself, so that no digits cancel.
    x * 0.5 * if x < 0.0 { tail } else { 2.0 - tail }
}
