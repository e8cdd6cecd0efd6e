//! Multiply-adds in registers, for the peak rate of a core.

use crate::cpu::simd::{mul_add, simd};

/// Floats of a sum: two registers of AVX-512, four of AVX2.
pub const LANES: usize = 32;

/// Vectors that are added in a round, which stay in the first cache.
pub const STEPS: usize = 16;

/// Vectors of [`LANES`] floats.
pub type Vectors<const COUNT: usize> = [[f32; LANES]; COUNT];

/// `rounds` · [`STEPS`] steps z ← a · z + b of all sums, which stay in registers.
#[inline(always)]
fn steps<const FMA: bool, const SUMS: usize>(sums: &mut Vectors<SUMS>, a: f32, b: &Vectors<STEPS>, rounds: usize) {
    let mut all = *sums;
    for _ in 0..rounds {
        for b in b {
            for z in &mut all {
                for lane in 0..LANES {
                    z[lane] = mul_add::<FMA>(a, z[lane], b[lane]);
                }
            }
        }
    }
    *sums = all;
}

simd! {
    /// As many sums as the registers of AVX2 and NEON hold.
    pub fn of_3(sums: &mut Vectors<3>, a: f32, b: &Vectors<STEPS>, rounds: usize) {
        steps::<FMA, 3>(sums, a, b, rounds);
    }

    /// As many as hide the latency of AVX-512.
    pub fn of_6(sums: &mut Vectors<6>, a: f32, b: &Vectors<STEPS>, rounds: usize) {
        steps::<FMA, 6>(sums, a, b, rounds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_takes_every_step() {
        // z ← z / 2 + 1 tends to 2 from every start.
        let (mut few, mut many) = ([[7.0; LANES]; 3], [[-3.0; LANES]; 6]);
        of_3(&mut few, 0.5, &[[1.0; LANES]; STEPS], 1);
        of_6(&mut many, 0.5, &[[1.0; LANES]; STEPS], 1);
        let after = |start: f32| 2.0 + (start - 2.0) * 0.5f32.powi(STEPS as i32);
        assert!(few.as_flattened().iter().all(|&z| (z - after(7.0)).abs() < 1e-6), "{few:?}");
        assert!(many.as_flattened().iter().all(|&z| (z - after(-3.0)).abs() < 1e-6), "{many:?}");
    }
}
