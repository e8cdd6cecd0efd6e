//! y[m, n] = residual[m, n] + Σ_k x[m, k] · W[n, k]
//!
//! x: (m, k)   W: (n, k) in any weight format   residual, y: (m, n)

use crate::kernel::source::{GEMM_ROWS, PLAIN};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, Row};
use crate::ops::product::{self, GemmParams, GemvParams, ProductKernels, gemm_kernels, gemv_kernels};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct MatmulAdd;

static KERNELS: ProductKernels = ProductKernels {
    gemv: gemv_kernels!("matmul_add/gemv.wgsl", [PLAIN], [ReadWrite Read Read ReadWrite ReadWrite], GemvParams),
    gemm: gemm_kernels!("matmul_add/gemm.wgsl", [GEMM_ROWS], [ReadWrite Read Read ReadWrite ReadWrite], GemmParams),
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

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        product::product(reads[0].f32(), reads[1].weight(), writes[0]);
        for (y, residual) in writes[0].iter_mut().zip(reads[2].f32()) {
            *y += residual;
        }
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, w, residual) = (&reads[0], &reads[1], &reads[2]);
        KERNELS.dispatch(x, w, family, profile, &[], |part| {
            vec![x.slot(), part.codes, part.scales, residual.slot(), writes[0].slot()]
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(dtype, m, n, k)| {
        Case::new(MatmulAdd, vec![Given::f32([m, k]), Given::weight(dtype, n, k), Given::f32([m, n])])
    };
    let mut cases: Vec<Case> = product::shapes().into_iter().map(case).collect();
    cases.extend(product::split_shapes().map(|(shape, bytes)| case(shape).in_bindings_of(bytes)));
    // MobileLLM-125M: output projection of one token and of a prompt.
    cases.push(case((DType::Q4_0, 1, 576, 576)).bench());
    cases.push(case((DType::Q4_0, 128, 576, 576)).bench());
    cases
}
