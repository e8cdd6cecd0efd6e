//! y[m, n] = residual[m, n] + Σ_k x[m, k] · W[n, k]
//!
//! x: (m, k)   W: (n, k) in any weight format   residual, y: (m, n)

use crate::kernel::source::{COOPERATIVE_8, COOPERATIVE_16, GEMM, GEMM_COOPERATIVE, GEMM_EDGES, GEMM_ROWS, GEMM_SUBGROUP, GEMV, PLAIN, QUADS_SHARED, QUADS_SUBGROUP, TILE_F16, TILE_F32};
use crate::kernel::{DeviceProfile, Dispatch, Kernel, Requires, Run};
use crate::ops::matmul::{GemmParams, GemvParams, MatmulKernels, product, shapes, split_shapes};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, weight_kernels};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct MatmulAdd;

static KERNELS: MatmulKernels = MatmulKernels {
    gemv: [
        weight_kernels!("matmul_add/gemv.wgsl", "gemv", [GEMV, PLAIN, QUADS_SHARED], [ReadWrite Read Read ReadWrite ReadWrite], GemvParams, ["SPLIT" = 4.0], Requires::NOTHING),
        weight_kernels!("matmul_add/gemv.wgsl", "gemv", [GEMV, PLAIN, QUADS_SUBGROUP], [ReadWrite Read Read ReadWrite ReadWrite], GemvParams, ["SPLIT" = 4.0], Requires::SUBGROUPS),
    ],
    gemm_f32: weight_kernels!("matmul_add/gemm.wgsl", "gemm", [GEMM, GEMM_EDGES, GEMM_ROWS, TILE_F32], [ReadWrite Read Read ReadWrite ReadWrite], GemmParams),
    gemm_f16: weight_kernels!("matmul_add/gemm.wgsl", "gemm", [GEMM, GEMM_EDGES, GEMM_ROWS, TILE_F16], [ReadWrite Read Read ReadWrite ReadWrite], GemmParams, [], Requires::F16),
    gemm_subgroup: weight_kernels!("matmul_add/gemm.wgsl", "gemm", [GEMM_SUBGROUP, GEMM_EDGES, GEMM_ROWS], [ReadWrite Read Read ReadWrite ReadWrite], GemmParams, [], Requires::SUBGROUPS),
    gemm_cooperative: [
        weight_kernels!("matmul_add/gemm.wgsl", "gemm", [GEMM_COOPERATIVE, COOPERATIVE_8, GEMM_EDGES, GEMM_ROWS], [ReadWrite Read Read ReadWrite ReadWrite], GemmParams, ["STRIPS" = 1.0], Requires::cooperative(8)),
        weight_kernels!("matmul_add/gemm.wgsl", "gemm", [GEMM_COOPERATIVE, COOPERATIVE_16, GEMM_EDGES, GEMM_ROWS], [ReadWrite Read Read ReadWrite ReadWrite], GemmParams, ["STRIPS" = 1.0], Requires::cooperative(16)),
    ],
};

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.all()
}

impl Operator for MatmulAdd {
    fn name(&self) -> &'static str {
        "matmul_add"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[1].matrix());
        assert_eq!(k, cols, "matmul_add of ({m}, {k}) with ({n}, {cols})");
        assert_eq!(reads[2].matrix(), (m, n), "the residual of matmul_add");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _run: &Run) {
        product(reads[0].f32(), reads[1].weight(), writes[0]);
        for (y, residual) in writes[0].iter_mut().zip(reads[2].f32()) {
            *y += residual;
        }
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, w, residual) = (&reads[0], &reads[1], &reads[2]);
        KERNELS.dispatch(x, w, profile, |part| {
            vec![x.slot(), part.codes, part.scales, residual.slot(), writes[0].slot()]
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(dtype, m, n, k)| {
        Case::new(MatmulAdd, vec![Given::f32([m, k]), Given::weight(dtype, n, k), Given::f32([m, n])])
    };
    let mut cases: Vec<Case> = shapes().into_iter().map(case).collect();
    cases.extend(split_shapes().map(|(shape, bytes)| case(shape).in_bindings_of(bytes)));
    // MobileLLM-125M: output projection of one token and of a prompt.
    cases.push(case((DType::Q4_0, 1, 576, 576)).bench());
    cases.push(case((DType::Q4_0, 128, 576, 576)).bench());
    cases
}
