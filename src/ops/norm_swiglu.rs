//! n = x / sqrt(mean(x²) + eps) · gain, row by row        y[m] = f(Wgate · n[m]) · (Wup · n[m])
//!
//! f: the function of `swiglu`
//!
//! x: (m, k)   gain: (k)   W: (2 · ffn, k), gate above up, in any weight format   y: (m, ffn)

use crate::work::source::{GATE, NORM};
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row, layout};
use crate::ops::product::{GemvKernels, GemvTuning, gemv_candidates, gemv_kernels, plain_product};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::swiglu::Gate;
use crate::ops::weight::parts;
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, params, weight_kernel};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct NormSwiglu {
    pub eps: f32,
    pub gate: Gate,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight_blocks: u32,
    cols: u32,
    m: u32,
    ffn: u32,
    eps: f32,
}

static KERNELS: GemvKernels =
    gemv_kernels!("norm_swiglu.wgsl", "norm_swiglu", [NORM, GATE], [ReadWrite Read Read Read ReadWrite], Params, ["GELU" = 0.0]);

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().collect()
}

impl Operator for NormSwiglu {
    fn name(&self) -> &'static str {
        "norm_swiglu"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[2].matrix());
        assert_eq!((k, n % 2), (cols, 0), "norm_swiglu of ({m}, {k}) with ({n}, {cols})");
        vec![TensorType::f32([m, n / 2])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain, w) = (reads[0].f32(), reads[1].f32(), reads[2].weight());
        let mut both = vec![0.0; x.len() / gain.len() * w.rows()];
        plain_product(&RmsNorm { eps: self.eps }.rows(x, gain), w, &mut both);
        let ffn = w.rows() / 2;
        for (both, y) in both.chunks_exact(2 * ffn).zip(writes[0].chunks_exact_mut(ffn)) {
            for (j, y) in y.iter_mut().enumerate() {
                *y = self.gate.apply(both[j]) * both[ffn + j];
            }
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (x, gain, w) = (&reads[0], &reads[1], &reads[2]);
        let ((m, _), (rows, cols)) = (x.ty.matrix(), w.ty.matrix());
        let [part] = &parts(w, profile)[..] else { panic!("norm_swiglu wants its weight in one chunk") };
        let tuning = GemvTuning::new(rows, x, profile);
        gemv_candidates(&KERNELS, profile, |kernels| {
            vec![Dispatch {
            kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
            constants: [&tuning.constants()[..], &[self.gate.constant()]].concat(),
            slots: vec![x.slot(), gain.slot(), part.codes, part.scales, writes[0].slot()],
            params: params(&Params {
                weight_blocks: layout::blocks(cols) as u32,
                cols: cols as u32,
                m: m as u32,
                ffn: rows as u32 / 2,
                eps: self.eps,
            }),
            groups: tuning.groups(rows / 2, 32),
            }]
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |eps, dtype, m: usize, ffn: usize, k: usize| {
        let reads = vec![Given::f32([m, k]), Given::f32([k]), Given::weight(dtype, 2 * ffn, k)];
        Case::new(NormSwiglu { eps, gate: Gate::Silu }, reads).few()
    };
    let gelu = |dtype, m: usize, ffn: usize, k: usize| {
        let reads = vec![Given::f32([m, k]), Given::f32([k]), Given::weight(dtype, 2 * ffn, k)];
        Case::new(NormSwiglu { eps: 1e-6, gate: Gate::GeluTanh }, reads).few()
    };
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let k = if dtype.block().0 == 256 { 768 } else { 160 };
        cases.extend([case(1e-5, dtype, 1, 37, k), case(1e-5, dtype, 5, 37, k)]);
    }
    for (m, ffn, k) in [(1, 1, 1), (1, 33, 154), (2, 33, 154), (1, 36, 33), (3, 36, 33), (8, 32, 576), (9, 31, 300), (17, 5, 31)] {
        cases.push(case(1e-5, DType::F32, m, ffn, k));
    }
    cases.extend([case(1e-5, DType::F16, 1, 154, 2113), case(1e-5, DType::F16, 8, 65, 2113)]);
    // An eps large enough to matter.
    cases.extend([case(0.5, DType::F32, 1, 5, 33), case(0.5, DType::F32, 3, 5, 33)]);
    cases.extend([gelu(DType::F32, 1, 33, 154), gelu(DType::F16, 5, 65, 97), gelu(DType::Q4_0, 3, 36, 160)]);
    cases.push(gelu(DType::Q8_0, 1, 2048, 640)); // Gemma 3 270M
    // MobileLLM-125M, one token and eight.
    cases.extend([1, 8].map(|m| case(1e-5, DType::Q4_0, m, 1536, 576).bench()));
    cases
}
