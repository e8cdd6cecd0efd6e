//! y[r, c] = residual[r, c] + x[r, c] / sqrt(mean(x[r, :]²) + eps) · gain[c]
//!
//! x, residual, y: (rows, cols)   gain: (cols)
//!
//! A residual addition after a norm of the layer's output (Gemma's "post-norms").

use crate::work::source::{REDUCE, RMS};
use crate::work::{Candidate, DeviceProfile, Family, Kernel, Row};
use crate::ops::rms_norm::{Params, RmsNorm};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, kernel};

#[derive(Clone, Debug)]
pub struct NormAdd {
    pub eps: f32,
}

static KERNEL: Kernel =
    kernel!("norm_add.wgsl", "norm_add", [REDUCE, RMS], [ReadWrite Read ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for NormAdd {
    fn name(&self) -> &'static str {
        "norm_add"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (rows, cols) = reads[0].matrix();
        assert_eq!((&reads[1].shape[..], reads[2]), (&[cols][..], reads[0]), "norm_add of ({rows}, {cols})");
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain, residual) = (reads[0].f32(), reads[1].f32(), reads[2].f32());
        let normed = RmsNorm { eps: self.eps }.rows(x, gain);
        for (y, (normed, residual)) in writes[0].iter_mut().zip(normed.iter().zip(residual)) {
            *y = residual + normed;
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0, 2])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let slots = vec![reads[0].slot(), reads[1].slot(), reads[2].slot(), writes[0].slot()];
        RmsNorm { eps: self.eps }.dispatch(&KERNEL, slots, reads[0].ty.matrix(), profile)
    }
}

pub fn cases() -> Vec<Case> {
    let case = |eps, rows: usize, cols: usize| {
        Case::new(NormAdd { eps }, vec![Given::f32([rows, cols]), Given::f32([cols]), Given::f32([rows, cols])])
    };
    vec![
        case(1e-5, 1, 1),
        case(0.5, 2, 65), // an eps large enough to matter
        case(1e-6, 7, 31),
        case(1e-6, 2, 1757),
        case(1e-6, 1, 640).bench(),    // Gemma 3 270M, one token
        case(1e-6, 128, 1152).bench(), // Gemma 3 1B, a prompt
    ]
}
