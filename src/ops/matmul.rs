//! y[m, n] = Σ_k x[m, k] · W[n, k]
//!
//! x: (m, k)   W: (n, k) in any weight format   y: (m, n)

use crate::kernel::source::{GEMM_ROWS, PLAIN};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, Row};
use crate::ops::product::{self, GemmParams, GemvParams, ProductKernels, gemm_kernels, gemv_kernels};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct Matmul;

static KERNELS: ProductKernels = ProductKernels {
    gemv: gemv_kernels!("matmul/gemv.wgsl", [PLAIN], [ReadWrite Read Read ReadWrite], GemvParams),
    gemm: gemm_kernels!("matmul/gemm.wgsl", [GEMM_ROWS], [ReadWrite Read Read ReadWrite], GemmParams),
};

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.all()
}

impl Operator for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[1].matrix());
        assert_eq!(k, cols, "matmul of ({m}, {k}) with ({n}, {cols})");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        product::product(reads[0].f32(), reads[1].weight(), writes[0]);
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, w) = (&reads[0], &reads[1]);
        KERNELS.dispatch(x, w, family, profile, &[], |part| vec![x.slot(), part.codes, part.scales, writes[0].slot()])
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(dtype, m, n, k)| Case::new(Matmul, vec![Given::f32([m, k]), Given::weight(dtype, n, k)]);
    let mut cases: Vec<Case> = product::shapes().into_iter().map(case).collect();
    cases.extend(product::split_shapes().map(|(shape, bytes)| case(shape).in_bindings_of(bytes)));
    // MobileLLM-125M: down projection of one token and of a prompt; the head.
    for (dtype, m, n, k) in [(DType::Q4_0, 1, 576, 1536), (DType::Q4_0, 128, 576, 1536), (DType::F16, 128, 576, 1536), (DType::Q8_0, 1, 32000, 576)] {
        cases.push(case((dtype, m, n, k)).bench());
    }
    cases
}
