//! y[r, c] = (x[r, c] − mean(x[r, :])) / sqrt(variance(x[r, :]) + eps) · gain[c] + bias[c]
//!
//! x, y: (rows, cols)   gain, bias: (cols)   the variance is the biased one: Σ (x − mean)² / cols

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, kernel, params};

#[derive(Clone, Debug)]
pub struct LayerNorm {
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    cols: u32,
    eps: f32,
}

static KERNEL: Kernel = kernel!("layer_norm.wgsl", "layer_norm", [], [ReadWrite Read Read ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for LayerNorm {
    fn name(&self) -> &'static str {
        "layer_norm"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (rows, cols) = reads[0].matrix();
        assert_eq!(reads[1].shape, [cols], "the gain of layer_norm of ({rows}, {cols})");
        assert_eq!(reads[2].shape, [cols], "the bias of layer_norm of ({rows}, {cols})");
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain, bias) = (reads[0].f32(), reads[1].f32(), reads[2].f32());
        let cols = gain.len();
        for (x, y) in x.chunks_exact(cols).zip(writes[0].chunks_exact_mut(cols)) {
            let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / cols as f64;
            let squares: f64 = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
            let factor = 1.0 / (squares / cols as f64 + f64::from(self.eps)).sqrt();
            for c in 0..cols {
                y[c] = ((f64::from(x[c]) - mean) * factor) as f32 * gain[c] + bias[c];
            }
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, _profile: &DeviceProfile) -> Vec<Candidate> {
        let (rows, cols) = reads[0].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), reads[2].slot(), writes[0].slot()],
            params: params(&Params { cols: cols as u32, eps: self.eps }),
            groups: [rows as u32, 1, 1],
        })
    }
}

pub fn cases() -> Vec<Case> {
    let of = |eps: f32, x: Given| {
        let cols = x.ty.matrix().1;
        Case::new(LayerNorm { eps }, vec![x, Given::f32([cols]), Given::f32([cols])])
    };
    let case = |rows: usize, cols: usize| of(1e-5, Given::f32([rows, cols]));
    // A mean of ten thousand times the spread: computing the variance as mean(x²) − mean² would cancel all digits.
    let offset = |cols: usize| {
        let x: Vec<f32> = (0..2 * cols).map(|i| 100.0 + 0.01 * (i * 37 % 101) as f32 / 101.0).collect();
        of(1e-5, Given::floats([2, cols], &x))
    };
    // One outlier column, as in the residual stream of CLIP.
    let mut outlier = vec![0.5; 1024];
    outlier.iter_mut().enumerate().for_each(|(c, v)| *v += (c * 37 % 101) as f32 / 101.0);
    outlier[0] = 300.0;
    vec![
        of(0.5, Given::f32([2, 65])), // an eps large enough to matter
        case(1, 1),
        case(3, 31),
        case(7, 65),
        case(2, 1757),
        offset(31),
        offset(1024),
        of(1e-5, Given::floats([1, 1024], &outlier)),
        case(577, 1024).bench(), // CLIP ViT-L/14 at 336
        case(576, 2048).bench(), // the projector of MobileVLM-1.7B
    ]
}
