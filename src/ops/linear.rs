//! y[m, n] = f(bias[n] + Σ_k x[m, k] · W[n, k])
//!
//! x: (m, k)   W: (n, k) in any weight format   bias: (n)   y: (m, n)   f: an activation, or nothing

use crate::kernel::source::{ACTIVATION, GEMM_ROWS, PLAIN};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, Row};
use crate::ops::activation::Kind;
use crate::ops::product::{self, ProductKernels, gemm_kernels, gemv_kernels};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct Linear {
    /// f
    pub activation: Option<Kind>,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GemvParams {
    common: product::GemvParams,
    activation: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct GemmParams {
    common: product::GemmParams,
    activation: u32,
}

static KERNELS: ProductKernels = ProductKernels {
    gemv: gemv_kernels!("linear/gemv.wgsl", [PLAIN, ACTIVATION], [ReadWrite Read Read Read ReadWrite], GemvParams),
    gemm: gemm_kernels!("linear/gemm.wgsl", [GEMM_ROWS, ACTIVATION], [ReadWrite Read Read Read ReadWrite], GemmParams),
};

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.all()
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[1].matrix());
        assert_eq!(k, cols, "linear of ({m}, {k}) with ({n}, {cols})");
        assert_eq!(reads[2].shape, [n], "the bias of linear");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        product::product(reads[0].f32(), reads[1].weight(), writes[0]);
        let bias = reads[2].f32();
        for y in writes[0].chunks_exact_mut(bias.len()) {
            for (y, bias) in y.iter_mut().zip(bias) {
                *y = self.activation.map_or(*y + bias, |kind| kind.apply(*y + bias));
            }
        }
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, w, bias) = (&reads[0], &reads[1], &reads[2]);
        let activation = self.activation.map_or(0, Kind::code);
        KERNELS.dispatch(x, w, family, profile, &[activation], |part| {
            vec![x.slot(), part.codes, part.scales, bias.slot(), writes[0].slot()]
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |activation, (dtype, m, n, k)| {
        Case::new(Linear { activation }, vec![Given::f32([m, k]), Given::weight(dtype, n, k), Given::f32([n])])
    };
    let mut cases: Vec<Case> = product::shapes().into_iter().map(|shape| case(None, shape)).collect();
    cases.extend(product::split_shapes().map(|(shape, bytes)| case(Some(Kind::Gelu), shape).in_bindings_of(bytes)));
    for kind in Kind::ALL {
        cases.push(case(Some(kind), (DType::F16, 1, 67, 33)));
        cases.push(case(Some(kind), (DType::F16, 35, 67, 33)));
    }
    // CLIP ViT-L: q, k or v; squeeze-excitation.
    cases.push(case(Some(Kind::QuickGelu), (DType::F16, 577, 1024, 1024)).bench());
    cases.push(case(Some(Kind::Relu), (DType::F16, 1, 512, 2048)).bench());
    cases
}
