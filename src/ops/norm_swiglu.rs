//! n = x / sqrt(mean(x²) + eps) · gain        y = silu(Wgate · n) · (Wup · n)
//!
//! x: (1, k)   gain: (k)   W: (2 · ffn, k), gate above up, in any weight format   y: (1, ffn)

use crate::kernel::source::{GEMV, NORM, QUADS_SHARED, QUADS_SUBGROUP};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row, layout};
use crate::ops::product::{gemv_split, product};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::swiglu::silu;
use crate::ops::weight::{WeightKernels, parts};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, params, weight_kernel, weight_kernels};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct NormSwiglu {
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight_blocks: u32,
    cols: u32,
    ffn: u32,
    eps: f32,
}

static KERNELS: [WeightKernels; 2] = [
    weight_kernels!("norm_swiglu.wgsl", "norm_swiglu", [GEMV, NORM, QUADS_SHARED], [ReadWrite Read Read Read ReadWrite], Params, ["SPLIT" = 4.0], Requires::NOTHING),
    weight_kernels!("norm_swiglu.wgsl", "norm_swiglu", [GEMV, NORM, QUADS_SUBGROUP], [ReadWrite Read Read Read ReadWrite], Params, ["SPLIT" = 4.0], Requires::SUBGROUPS),
];

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().collect()
}

impl Operator for NormSwiglu {
    fn name(&self) -> &'static str {
        "norm_swiglu"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[2].matrix());
        assert_eq!((m, k, n % 2), (1, cols, 0), "norm_swiglu of ({m}, {k}) with ({n}, {cols})");
        vec![TensorType::f32([1, n / 2])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain, w) = (reads[0].f32(), reads[1].f32(), reads[2].weight());
        let mut normed = vec![0.0; x.len()];
        RmsNorm { eps: self.eps }.row(x, gain, &mut normed);
        let mut both = vec![0.0; w.rows()];
        product(&normed, w, &mut both);
        let (gate, up) = both.split_at(w.rows() / 2);
        for ((y, &gate), &up) in writes[0].iter_mut().zip(gate).zip(up) {
            *y = silu(gate) * up;
        }
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, gain, w) = (&reads[0], &reads[1], &reads[2]);
        let (rows, cols) = w.ty.matrix();
        let [part] = &parts(w, profile)[..] else { panic!("norm_swiglu wants its weight in one chunk") };
        vec![Dispatch {
            kernel: KernelRef(weight_kernel(&KERNELS[usize::from(profile.broadcasts())], w.ty.dtype())),
            constants: vec![("SPLIT", gemv_split(rows, profile))],
            slots: vec![x.slot(), gain.slot(), part.codes, part.scales, writes[0].slot()],
            params: params(&Params {
                weight_blocks: layout::blocks(cols) as u32,
                cols: cols as u32,
                ffn: rows as u32 / 2,
                eps: self.eps,
            }),
            groups: [groups(rows / 2, 32), 1, 1],
        }]
    }
}

pub fn cases() -> Vec<Case> {
    let case = |dtype, ffn: usize, k: usize| {
        let reads = vec![Given::f32([1, k]), Given::f32([k]), Given::weight(dtype, 2 * ffn, k)];
        Case::new(NormSwiglu { eps: 1e-5 }, reads)
    };
    let mut cases: Vec<Case> =
        DType::ALL.into_iter().map(|dtype| case(dtype, 37, if dtype.block().0 == 256 { 768 } else { 160 })).collect();
    cases.extend([case(DType::F32, 1, 1), case(DType::F32, 33, 154), case(DType::F32, 36, 33), case(DType::F16, 154, 2113)]);
    // An eps that shows.
    let reads = vec![Given::f32([1, 33]), Given::f32([33]), Given::weight(DType::F32, 10, 33)];
    cases.push(Case::new(NormSwiglu { eps: 0.5 }, reads));
    cases.push(case(DType::Q4_0, 1536, 576).bench()); // MobileLLM-125M
    cases
}
