//! y[m, n] = Σ_k W[n, k] · gain[k] · x[m, k] / sqrt(mean(x[m]²) + eps)
//!
//! x: (m, k)   gain: (k)   W: (n, k) in any weight format   y: (m, n)

use crate::work::source::NORM;
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::product::{
    GemvKernels, GemvTuning, ProductParams, few_shapes, gemv_candidates, gemv_kernels, plain_product, split_shapes,
};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::weight::{Part, parts};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, params, weight_kernel};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct NormMatmul {
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    common: ProductParams,
    eps: f32,
}

static KERNELS: GemvKernels =
    gemv_kernels!("norm_matmul.wgsl", "norm_matmul", [NORM], [ReadWrite Read Read Read ReadWrite], Params, []);

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().collect()
}

impl Operator for NormMatmul {
    fn name(&self) -> &'static str {
        "norm_matmul"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[2].matrix());
        assert_eq!(k, cols, "norm_matmul of ({m}, {k}) with ({n}, {cols})");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain, w) = (reads[0].f32(), reads[1].f32(), reads[2].weight());
        plain_product(&RmsNorm { eps: self.eps }.rows(x, gain), w, writes[0]);
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (x, gain, w) = (&reads[0], &reads[1], &reads[2]);
        let (m, _) = x.ty.matrix();
        gemv_candidates(&KERNELS, profile, |kernels| {
            let dispatch = |part: Part| {
 let tuning = GemvTuning::new(part.rows, x, profile);
 Dispatch {
                kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
                constants: tuning.constants().into(),
                slots: vec![x.slot(), gain.slot(), part.codes, part.scales, writes[0].slot()],
                params: params(&Params { common: ProductParams::new(m, w, &part), eps: self.eps }),
                groups: tuning.groups(part.rows, 64),
            }};
            parts(w, profile).into_iter().map(dispatch).collect()
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |eps, (dtype, m, n, k)| {
        let reads = vec![Given::f32([m, k]), Given::f32([k]), Given::weight(dtype, n, k)];
        Case::new(NormMatmul { eps }, reads).few()
    };
    let mut cases: Vec<Case> = few_shapes().into_iter().map(|shape| case(1e-5, shape)).collect();
    // An eps large enough to matter.
    cases.push(case(0.5, (DType::F32, 1, 5, 33)));
    cases.push(case(0.5, (DType::F32, 3, 5, 33)));
    cases.extend(split_shapes().map(|(shape, bytes)| case(1e-5, shape).in_bindings_of(bytes)));
    // The heads of MobileLLM-125M and SmolLM2-135M.
    cases.push(case(1e-5, (DType::F16, 1, 32000, 576)).bench());
    cases.push(case(1e-5, (DType::Q8_0, 1, 49152, 576)).bench());
    cases.push(case(1e-5, (DType::Q8_0, 8, 49152, 576)).bench());
    cases
}
