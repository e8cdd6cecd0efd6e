//! y[n] = Σ_k W[n, k] · gain[k] · x[k] / sqrt(mean(x²) + eps)
//!
//! x: (1, k)   gain: (k)   W: (n, k) in any weight format   y: (1, n)

use crate::kernel::source::{GEMV, NORM, QUADS_SHARED, QUADS_SUBGROUP};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row, layout};
use crate::ops::product::{gemv_split, product, shapes, split_shapes};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::weight::{Part, WeightKernels, parts};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, params, weight_kernel, weight_kernels};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct NormMatmul {
    pub eps: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight_blocks: u32,
    cols: u32,
    first: u32,
    rows: u32,
    out: u32,
    eps: f32,
}

static KERNELS: [WeightKernels; 2] = [
    weight_kernels!("norm_matmul.wgsl", "norm_matmul", [GEMV, NORM, QUADS_SHARED], [ReadWrite Read Read Read ReadWrite], Params, ["SPLIT" = 4.0], Requires::NOTHING),
    weight_kernels!("norm_matmul.wgsl", "norm_matmul", [GEMV, NORM, QUADS_SUBGROUP], [ReadWrite Read Read Read ReadWrite], Params, ["SPLIT" = 4.0], Requires::SUBGROUPS),
];

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().collect()
}

impl Operator for NormMatmul {
    fn name(&self) -> &'static str {
        "norm_matmul"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[2].matrix());
        assert_eq!((m, k), (1, cols), "norm_matmul of ({m}, {k}) with ({n}, {cols})");
        vec![TensorType::f32([1, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, gain, w) = (reads[0].f32(), reads[1].f32(), reads[2].weight());
        let mut normed = vec![0.0; x.len()];
        RmsNorm { eps: self.eps }.row(x, gain, &mut normed);
        product(&normed, w, writes[0]);
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, gain, w) = (&reads[0], &reads[1], &reads[2]);
        let (_, cols) = w.ty.matrix();
        let dispatch = |part: Part| Dispatch {
            kernel: KernelRef(weight_kernel(&KERNELS[usize::from(profile.broadcasts())], w.ty.dtype())),
            constants: vec![("SPLIT", gemv_split(part.rows, profile))],
            slots: vec![x.slot(), gain.slot(), part.codes, part.scales, writes[0].slot()],
            params: params(&Params {
                weight_blocks: layout::blocks(cols) as u32,
                cols: cols as u32,
                first: part.first as u32,
                rows: part.rows as u32,
                out: part.out as u32,
                eps: self.eps,
            }),
            groups: [groups(part.rows, 64), 1, 1],
        };
        parts(w, profile).into_iter().map(dispatch).collect()
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(dtype, m, n, k)| {
        Case::new(NormMatmul { eps: 1e-5 }, vec![Given::f32([m, k]), Given::f32([k]), Given::weight(dtype, n, k)])
    };
    let mut cases: Vec<Case> = shapes().into_iter().filter(|shape| shape.1 == 1).map(case).collect();
    // An eps that shows.
    let reads = vec![Given::f32([1, 33]), Given::f32([33]), Given::weight(DType::F32, 5, 33)];
    cases.push(Case::new(NormMatmul { eps: 0.5 }, reads));
    let split = split_shapes().into_iter().filter(|(shape, _)| shape.1 == 1);
    cases.extend(split.map(|(shape, bytes)| case(shape).in_bindings_of(bytes)));
    // The heads of MobileLLM-125M and SmolLM2-135M.
    cases.push(case((DType::F16, 1, 32000, 576)).bench());
    cases.push(case((DType::Q8_0, 1, 49152, 576)).bench());
    cases
}
