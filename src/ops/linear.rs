//! y[m, n] = residual[m, n] + f(bias[n] + Σ_k x[m, k] · W[n, k])
//!
//! x: (m, k)   W: (n, k) in any weight format   bias: (n)   residual, y: (m, n)   f: an activation, or nothing
//!
//! Bias and residual are optional. Models write no residual and at most a bias; fusion adds the operators that follow.

use crate::work::source::{
    ACTIVATION, EPILOGUE_BIAS, EPILOGUE_BIAS_RESIDUAL, EPILOGUE_PLAIN, EPILOGUE_RESIDUAL, PLAIN, X_ROWS,
};
use crate::work::{Candidate, DeviceProfile, Family, Kernel, Row};
use crate::ops::activation::Kind;
use crate::ops::product::{
    ProductKernels, ProductParams, few_shapes, gemm_kernels, gemv_kernels, many_shapes, plain_product, split_shapes,
};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType};
use crate::tensor::DType;

/// Reads x and W, then the bias and the residual if they exist.
#[derive(Clone, Debug, Default)]
pub struct Linear {
    pub bias: bool,
    /// f
    pub activation: Option<Kind>,
    pub residual: bool,
}

/// Declares the kernels for one epilogue.
macro_rules! kernels {
    ($epilogue:ident, $accesses:tt) => {
        ProductKernels {
            gemv: gemv_kernels!("linear/gemv.wgsl", "gemv", [PLAIN, ACTIVATION, $epilogue], $accesses, ProductParams, ["ACTIVATION" = 0.0]),
            gemm: gemm_kernels!("linear/gemm.wgsl", [X_ROWS, ACTIVATION, $epilogue], $accesses, ProductParams, ["ALIGNED" = 1.0, "ACTIVATION" = 0.0]),
        }
    };
}

/// Indexed by bias, then by residual.
static KERNELS: [[ProductKernels; 2]; 2] = [
    [
        kernels!(EPILOGUE_PLAIN, [ReadWrite Read Read ReadWrite]),
        kernels!(EPILOGUE_RESIDUAL, [ReadWrite Read Read ReadWrite ReadWrite]),
    ],
    [
        kernels!(EPILOGUE_BIAS, [ReadWrite Read Read ReadWrite Read]),
        kernels!(EPILOGUE_BIAS_RESIDUAL, [ReadWrite Read Read ReadWrite Read ReadWrite]),
    ],
];

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().flat_map(ProductKernels::all).collect()
}

impl Linear {
    /// Whether the operator is x · Wᵀ alone.
    pub fn is_product(&self) -> bool {
        !self.bias && self.is_affine()
    }

    /// Whether the operator is x · Wᵀ, with or without a bias.
    pub fn is_affine(&self) -> bool {
        !self.residual && self.activation.is_none()
    }

    /// The bias and the residual among the reads.
    pub fn more<T: Copy>(&self, reads: &[T]) -> (Option<T>, Option<T>) {
        let mut more = reads[2..].iter().copied();
        let found = (self.bias.then(|| more.next()).flatten(), self.residual.then(|| more.next()).flatten());
        assert_eq!(reads.len(), 2 + usize::from(self.bias) + usize::from(self.residual), "what {self:?} reads");
        found
    }
}

impl Operator for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[1].matrix());
        assert_eq!(k, cols, "linear of ({m}, {k}) with ({n}, {cols})");
        let (bias, residual) = self.more(reads);
        assert!(bias.is_none_or(|bias| bias.shape == [n]), "the bias of {self:?}: {bias:?}");
        assert!(residual.is_none_or(|x| x.matrix() == (m, n)), "the residual of {self:?}: {residual:?}");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, w) = (reads[0].f32(), reads[1].weight());
        let (bias, residual) = self.more(reads);
        plain_product(x, w, writes[0]);
        for (i, y) in writes[0].iter_mut().enumerate() {
            let sum = bias.map_or(0.0, |bias| bias.f32()[i % w.rows()]) + *y;
            let activated = self.activation.map_or(sum, |kind| kind.apply(sum));
            *y = residual.map_or(0.0, |residual| residual.f32()[i]) + activated;
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (x, w) = (&reads[0], &reads[1]);
        let activation = self.activation.map_or(0, Kind::code);
        let kernels = &KERNELS[usize::from(self.bias)][usize::from(self.residual)];
        kernels.candidates(x, w, family, profile, &[("ACTIVATION", f64::from(activation))], |part| {
            let common = [x.slot(), part.codes, part.scales, writes[0].slot()];
            common.into_iter().chain(reads[2..].iter().map(Operand::slot)).collect()
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |op: Linear, (dtype, m, n, k)| {
        let mut reads = vec![Given::f32([m, k]), Given::weight(dtype, n, k)];
        reads.extend(op.bias.then(|| Given::f32([n])));
        reads.extend(op.residual.then(|| Given::f32([m, n])));
        Case::new(op, reads)
    };
    let op = |bias, activation, residual| Linear { bias, activation, residual };
    let mut cases: Vec<Case> = many_shapes().into_iter().map(|shape| case(op(false, None, false), shape)).collect();
    cases.extend(few_shapes().into_iter().map(|shape| case(op(false, None, false), shape).few()));
    for (bias, residual) in [(false, false), (true, false), (false, true), (true, true)] {
        for (m, n, k) in [(1, 67, 33), (3, 130, 160), (9, 65, 31)] {
            cases.push(case(op(bias, None, residual), (DType::F16, m, n, k)).few());
        }
        for (m, n, k) in [(1, 67, 33), (35, 130, 160), (65, 66, 31)] {
            cases.push(case(op(bias, None, residual), (DType::F16, m, n, k)));
        }
        for (shape, bytes) in split_shapes() {
            cases.push(case(op(bias, None, residual), shape).in_bindings_of(bytes));
            cases.push(case(op(bias, None, residual), shape).few().in_bindings_of(bytes));
        }
    }
    for kind in Kind::ALL {
        for (bias, residual) in [(true, false), (false, false), (true, true)] {
            cases.push(case(op(bias, Some(kind), residual), (DType::F16, 3, 67, 33)).few());
            cases.push(case(op(bias, Some(kind), residual), (DType::F16, 35, 67, 33)));
        }
    }
    // Activations past the range of f16. Tiles of f16 hold its largest number instead, 65504: with infinity, a whole row
    // would be NaN.
    let past = |i: usize| if i.is_multiple_of(65) { 65530.0 } else { (i % 13) as f32 * 100.0 - 600.0 };
    let x = Given::floats([33, 64], &(0..33 * 64).map(past).collect::<Vec<f32>>());
    cases.push(Case::new(op(false, None, false), vec![x, Given::weight(DType::F16, 66, 64)]));
    // MobileLLM-125M: down projection of one token, of eight and of a prompt; the head.
    let down = op(false, None, true);
    for m in [1, 8] {
        cases.push(case(down.clone(), (DType::Q4_0, m, 576, 1536)).few().bench());
    }
    cases.push(case(down.clone(), (DType::Q4_0, 128, 576, 1536)).bench());
    cases.push(case(down, (DType::F16, 128, 576, 1536)).bench());
    cases.push(case(op(false, None, false), (DType::Q8_0, 1, 32000, 576)).few().bench());
    // CLIP ViT-L: q, k or v; the output projection of attention with its residual; squeeze-excitation.
    cases.push(case(op(true, Some(Kind::QuickGelu), false), (DType::F16, 577, 1024, 1024)).bench());
    cases.push(case(op(true, None, true), (DType::F16, 577, 1024, 1024)).bench());
    cases.push(case(op(true, Some(Kind::Relu), false), (DType::F16, 1, 512, 2048)).bench());
    cases
}
