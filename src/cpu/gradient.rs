//! Derivatives of the operators between a decoder's products, row by row, as loops that vectorise.

use crate::cpu::exp::exp;
pub use crate::cpu::norm::rms_norm;
use crate::cpu::simd::{mul_add, simd};
pub use crate::cpu::swiglu::gated;

simd! {
    /// For y = silu(g) ⊙ u, σ = 1 / (1 + exp(−g)) and given dy:
    ///
    /// dg = dy ⊙ u ⊙ σ(1 + g(1 − σ))    du = dy ⊙ g σ
    pub fn silu_times_gradient(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        let n = dy.len();
        let (gate, up, dgate, dup) = (&gate[..n], &up[..n], &mut dgate[..n], &mut dup[..n]);
        for i in 0..n {
            let sigmoid = 1.0 / (1.0 + exp::<FMA>(-gate[i]));
            dup[i] = dy[i] * gate[i] * sigmoid;
            dgate[i] = dy[i] * up[i] * sigmoid * (1.0 + gate[i] * (1.0 - sigmoid));
        }
    }

    /// For y = x ρ ⊙ g, ρ = 1 / √(mean(x²) + eps), in each row, and given dy:
    ///
    /// dx = dx + ρ a − x ρ³ mean(a ⊙ x), a = dy ⊙ g
    pub fn add_rms_norm_gradient(x: &[f32], gain: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
        let k = gain.len();
        for ((x, dy), dx) in x.chunks_exact(k).zip(dy.chunks_exact(k)).zip(dx.chunks_exact_mut(k)) {
            let (mut squares, mut along) = ([0.0; 16], [0.0; 16]);
            let whole = k / 16 * 16;
            for i in (0..whole).step_by(16) {
                for lane in 0..16 {
                    let x = x[i..i + 16][lane];
                    squares[lane] = mul_add::<FMA>(x, x, squares[lane]);
                    along[lane] = mul_add::<FMA>(dy[i..i + 16][lane] * gain[i..i + 16][lane], x, along[lane]);
                }
            }
            for i in whole..k {
                squares[0] += x[i] * x[i];
                along[0] += dy[i] * gain[i] * x[i];
            }
            let factor = 1.0 / (squares.iter().sum::<f32>() / k as f32 + eps).sqrt();
            let back = factor * factor * factor * along.iter().sum::<f32>() / k as f32;
            for i in 0..k {
                dx[i] += factor * dy[i] * gain[i] - x[i] * back;
            }
        }
    }

    /// Logits → `scale` · (softmax − onehot), the gradient of −`scale` · log(softmax of the target), in place. Returns
    /// the sum of the exponentials and the largest logit.
    pub fn softmax_gradient(logits: &mut [f32], target: usize, scale: f32) -> (f32, f32) {
        let mut most = [f32::NEG_INFINITY; 16];
        for group in logits.chunks(16) {
            for (most, logit) in most.iter_mut().zip(group) {
                *most = if *logit > *most { *logit } else { *most };
            }
        }
        let most = most.into_iter().fold(f32::NEG_INFINITY, f32::max);
        let mut sums = [0.0; 16];
        for group in logits.chunks_mut(16) {
            for (sum, logit) in sums.iter_mut().zip(group) {
                *logit = exp::<FMA>(*logit - most);
                *sum += *logit;
            }
        }
        let sum = sums.iter().sum::<f32>();
        let factor = scale / sum;
        logits.iter_mut().for_each(|logit| *logit *= factor);
        logits[target] -= scale;
        (sum, most)
    }
}
