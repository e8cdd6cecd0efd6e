//! y[r, c] = x[r, c] / sqrt(mean(x[r, :]²) + eps) · gain[c]
//!
//! x, y: (rows, cols)   gain: (cols), or (D) where each head of D columns is normalised separately

use crate::work::source::{REDUCE, RMS};
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row, Slot};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct RmsNorm {
    pub eps: f32,
}

/// `norm_add` has them too.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Params {
    rows: u32,
    cols: u32,
    eps: f32,
}

static KERNEL: Kernel = kernel!("rms_norm.wgsl", "rms_norm", [REDUCE, RMS], [ReadWrite Read ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl RmsNorm {
    /// All rows. The references of fused operators use it.
    pub fn rows(&self, x: &[f32], gain: &[f32]) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        for (x, y) in x.chunks_exact(gain.len()).zip(y.chunks_exact_mut(gain.len())) {
            self.row(x, gain, y);
        }
        y
    }

    /// The GPU work: a workgroup for each row.
    pub(super) fn dispatch(
        &self,
        kernel: &'static Kernel,
        slots: Vec<Slot>,
        (rows, cols): (usize, usize),
        profile: &DeviceProfile,
    ) -> Vec<Candidate> {
        Candidate::only(Dispatch {
            kernel: KernelRef(kernel),
            constants: vec![],
            slots,
            params: params(&Params { rows: rows as u32, cols: cols as u32, eps: self.eps }),
            groups: in_turns(rows, 1, profile),
        })
    }

    /// One row.
    pub fn row(&self, x: &[f32], gain: &[f32], y: &mut [f32]) {
        let squares: f32 = x.iter().map(|v| v * v).sum();
        let factor = 1.0 / (squares / x.len() as f32 + self.eps).sqrt();
        for ((y, x), gain) in y.iter_mut().zip(x).zip(gain) {
            *y = x * factor * gain;
        }
    }
}

impl Operator for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (rows, cols) = reads[0].matrix();
        assert_eq!(cols % reads[1].count(), 0, "rms_norm of ({rows}, {cols}) by {}", reads[1]);
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain) = (reads[0].f32(), reads[1].f32());
        for (x, y) in x.chunks_exact(gain.len()).zip(writes[0].chunks_exact_mut(gain.len())) {
            self.row(x, gain, y);
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let cols = reads[1].ty.count();
        let rows = reads[0].ty.count() / cols;
        self.dispatch(&KERNEL, vec![reads[0].slot(), reads[1].slot(), writes[0].slot()], (rows, cols), profile)
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, cols: usize| {
        Case::new(RmsNorm { eps: 1e-5 }, vec![Given::f32([rows, cols]), Given::f32([cols])])
    };
    let heads = |rows: usize, heads: usize, head_dim: usize| {
        Case::new(RmsNorm { eps: 1e-6 }, vec![Given::f32([rows, heads * head_dim]), Given::f32([head_dim])])
    };
    let large = Case::new(RmsNorm { eps: 0.5 }, vec![Given::f32([2, 65]), Given::f32([65])]);
    vec![
        large, // an eps large enough to matter
        heads(1, 3, 2),
        heads(5, 7, 22),
        heads(33, 16, 128), // Qwen3-0.6B
        case(1, 1),
        case(3, 31),
        case(7, 65),
        case(2, 1757),
        case(1, 576).bench(),     // MobileLLM-125M, one token
        case(128, 576).bench(),   // MobileLLM-125M, a prompt
        case(64, 2048).bench(),   // MobileVLM-1.7B
    ]
}
