//! RMS norm of rows, the first part of fused operators.

use crate::cpu::simd::{mul_add, simd};

simd! {
    /// x / sqrt(mean(x²) + eps) · gain, for each row of x.
    pub fn rms_norm(x: &[f32], gain: &[f32], eps: f32, y: &mut [f32]) {
        let k = gain.len();
        for (x, y) in x.chunks_exact(k).zip(y.chunks_exact_mut(k)) {
            let mut lanes = [0.0; 32];
            let (groups, rest) = x.as_chunks::<32>();
            for x in groups {
                for i in 0..32 {
                    lanes[i] = mul_add::<FMA>(x[i], x[i], lanes[i]);
                }
            }
            let squares = lanes.iter().sum::<f32>() + rest.iter().map(|x| x * x).sum::<f32>();
            let factor = 1.0 / (squares / k as f32 + eps).sqrt();
            for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
                *y = x * factor * gain;
            }
        }
    }
}
