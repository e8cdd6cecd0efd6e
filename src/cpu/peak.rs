//! Multiply-adds in registers, for the peak rate of a core.

use crate::cpu::simd::{mul_add, simd};

/// Sums that do not wait for each other.
pub const SUMS: usize = 10;

/// Steps of a round.
pub const STEPS: usize = 8;

/// Steps z ← z · a + b of one vector.
#[inline(always)]
fn step<const FMA: bool, const LANES: usize>(z: &mut [f32; LANES], a: f32, b: f32) {
    for z in z {
        *z = mul_add::<FMA>(*z, a, b);
    }
}

/// `rounds` · [`STEPS`] steps of all sums, which stay in registers.
#[inline(always)]
fn rounds_of<const FMA: bool, const LANES: usize>(sums: &mut [[f32; LANES]; SUMS], a: f32, b: f32, rounds: usize) {
    let [mut z0, mut z1, mut z2, mut z3, mut z4, mut z5, mut z6, mut z7, mut z8, mut z9] = *sums;
    for _ in 0..rounds * STEPS {
        step::<FMA, LANES>(&mut z0, a, b);
        step::<FMA, LANES>(&mut z1, a, b);
        step::<FMA, LANES>(&mut z2, a, b);
        step::<FMA, LANES>(&mut z3, a, b);
        step::<FMA, LANES>(&mut z4, a, b);
        step::<FMA, LANES>(&mut z5, a, b);
        step::<FMA, LANES>(&mut z6, a, b);
        step::<FMA, LANES>(&mut z7, a, b);
        step::<FMA, LANES>(&mut z8, a, b);
        step::<FMA, LANES>(&mut z9, a, b);
    }
    *sums = [z0, z1, z2, z3, z4, z5, z6, z7, z8, z9];
}

simd! {
    /// Sums of 8 lanes, a register of AVX2.
    pub fn of_8(sums: &mut [[f32; 8]; SUMS], a: f32, b: f32, rounds: usize) {
        rounds_of::<FMA, 8>(sums, a, b, rounds);
    }

    /// Sums of 16 lanes, a register of AVX-512.
    pub fn of_16(sums: &mut [[f32; 16]; SUMS], a: f32, b: f32, rounds: usize) {
        rounds_of::<FMA, 16>(sums, a, b, rounds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_takes_every_step() {
        // z ← z · 0.5 + 1 ends at 2 from every start.
        let (mut narrow, mut wide) = ([[7.0; 8]; SUMS], [[-3.0; 16]; SUMS]);
        of_8(&mut narrow, 0.5, 1.0, 1);
        of_16(&mut wide, 0.5, 1.0, 1);
        let after = |start: f32| 2.0 + (start - 2.0) * 0.5f32.powi(STEPS as i32);
        assert!(narrow.as_flattened().iter().all(|&z| (z - after(7.0)).abs() < 1e-6), "{narrow:?}");
        assert!(wide.as_flattened().iter().all(|&z| (z - after(-3.0)).abs() < 1e-6), "{wide:?}");
    }
}
