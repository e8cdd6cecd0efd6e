//! y[m, n] = residual[m, n] + bias[n] + Σ_k x[m, k] · W[n, k]
//!
//! x: (m, k)   W: (n, k) in any weight format   bias: (n)   residual, y: (m, n)

use crate::kernel::source::{GEMM_ROWS, PLAIN};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, Row};
use crate::ops::product::{self, GemmParams, GemvParams, ProductKernels, gemm_kernels, gemv_kernels};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct LinearAdd;

static KERNELS: ProductKernels = ProductKernels {
    gemv: gemv_kernels!("linear_add/gemv.wgsl", [PLAIN], [ReadWrite Read Read Read ReadWrite ReadWrite], GemvParams),
    gemm: gemm_kernels!("linear_add/gemm.wgsl", [GEMM_ROWS], [ReadWrite Read Read Read ReadWrite ReadWrite], GemmParams),
};

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.all()
}

impl Operator for LinearAdd {
    fn name(&self) -> &'static str {
        "linear_add"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[1].matrix());
        assert_eq!(k, cols, "linear_add of ({m}, {k}) with ({n}, {cols})");
        assert_eq!(reads[2].shape, [n], "the bias of linear_add");
        assert_eq!(reads[3].matrix(), (m, n), "the residual of linear_add");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        product::product(reads[0].f32(), reads[1].weight(), writes[0]);
        let (bias, residual) = (reads[2].f32(), reads[3].f32());
        for (i, (y, residual)) in writes[0].iter_mut().zip(residual).enumerate() {
            *y += bias[i % bias.len()] + residual;
        }
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, w, bias, residual) = (&reads[0], &reads[1], &reads[2], &reads[3]);
        KERNELS.dispatch(x, w, family, profile, &[], |part| {
            vec![x.slot(), part.codes, part.scales, bias.slot(), residual.slot(), writes[0].slot()]
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |(dtype, m, n, k)| {
        let reads = vec![Given::f32([m, k]), Given::weight(dtype, n, k), Given::f32([n]), Given::f32([m, n])];
        Case::new(LinearAdd, reads)
    };
    let mut cases: Vec<Case> = product::shapes().into_iter().map(case).collect();
    cases.extend(product::split_shapes().map(|(shape, bytes)| case(shape).in_bindings_of(bytes)));
    // CLIP ViT-L: what attention adds.
    cases.push(case((DType::F16, 577, 1024, 1024)).bench());
    cases
}
