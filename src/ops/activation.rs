//! y = f(x), element by element:
//! ```text
//! gelu          x/2 · (1 + erf(x / √2))
//! quick gelu    x / (1 + exp(−1.702 x))
//! relu          max(x, 0)
//! hard swish    x · clamp(x + 3, 0, 6) / 6
//! hard sigmoid  clamp(x + 3, 0, 6) / 6
//! ```
//!
//! x, y: (rows, cols)

use crate::work::source::ACTIVATION;
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Fill, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct Activation {
    pub kind: Kind,
}

/// The activation function, also used by fused operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The exact GELU, by erf.
    Gelu,
    QuickGelu,
    Relu,
    HardSwish,
    HardSigmoid,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    kind: u32,
}

static KERNEL: Kernel = kernel!("activation.wgsl", "activation", [ACTIVATION], [ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Gelu, Kind::QuickGelu, Kind::Relu, Kind::HardSwish, Kind::HardSigmoid];

    /// The code of the function in `activate` of `shared/activation.wgsl`. 0 is no activation.
    pub fn code(self) -> u32 {
        match self {
            Kind::Gelu => 1,
            Kind::QuickGelu => 2,
            Kind::Relu => 3,
            Kind::HardSwish => 4,
            Kind::HardSigmoid => 5,
        }
    }

    /// f(x)
    pub fn apply(self, x: f32) -> f32 {
        match self {
            Kind::Gelu => {
                let x = f64::from(x);
                (0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))) as f32
            }
            Kind::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
            Kind::Relu => x.max(0.0),
            Kind::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Kind::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        }
    }
}

/// 2/√π · exp(−x²) · Σ_n 2ⁿ x^(2n+1) / (1 · 3 · … · (2n+1)): all terms have one sign, so nothing cancels.
fn erf(x: f64) -> f64 {
    let square = x * x;
    // 1 − erf(6) is 2e-17.
    if square > 36.0 {
        return x.signum();
    }
    let (mut term, mut sum, mut odd) = (x, x, 1.0);
    // In this form of the comparison a NaN ends the loop too.
    while term.abs() > 1e-17 * sum.abs() {
        odd += 2.0;
        term *= 2.0 * square / odd;
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-square).exp() * sum
}

impl Operator for Activation {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        for (y, x) in writes[0].iter_mut().zip(reads[0].f32()) {
            *y = self.kind.apply(*x);
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let count = reads[0].ty.count();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&Params { count: count as u32, kind: self.kind.code() }),
            groups: in_turns(count, 64, profile),
        })
    }
}

/// The tolerance is tight, because an activation is a few ulp of `exp` and not a long sum.
const NMSE: f64 = 1e-12;

pub fn cases() -> Vec<Case> {
    let of = |kind: Kind, x: Given| Case { nmse: NMSE, ..Case::new(Activation { kind }, vec![x]) };
    // Up to ±8: covers the nonlinear range of every function.
    let case = |kind: Kind, rows: usize, cols: usize| {
        of(kind, Given { fill: Fill::Random(8.0), ..Given::f32([rows, cols]) })
    };
    // Values that overflow, the ends of the clamps, and zero. From −1e4 down the result is exactly 0 or near it.
    let edges: [f32; 13] = [-1e30, -1e4, -100.0, -52.0, -20.0, -3.0, -1e-6, 0.0, 1e-6, 3.0, 20.0, 52.0, 100.0];
    let edges = Given::floats([1, edges.len()], &edges);
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        cases.extend([of(kind, Given::f32([1, 1])), case(kind, 3, 31), case(kind, 5, 257), of(kind, edges.clone())]);
    }
    cases.push(case(Kind::QuickGelu, 577, 4096).bench()); // CLIP ViT-L/14 at 336
    cases.push(case(Kind::Gelu, 576, 2048).bench());      // the projector of MobileVLM-1.7B
    cases
}

#[cfg(test)]
mod tests {
    use super::Kind;

    #[test]
    fn functions_have_their_published_values() {
        let close = |kind: Kind, x: f32, wanted: f64| {
            let found = f64::from(kind.apply(x));
            // Half a unit in the last place of float32 is 6e-8 of the value.
            assert!((found - wanted).abs() <= 1e-7 * wanted.abs(), "{kind:?}({x}) is {found}, expected {wanted}");
        };
        // x · Φ(x), Φ from tables: Φ(1) = 0.841344746068543, Φ(−3) = 0.001349898031630, Φ(½) = 0.691462461274013.
        close(Kind::Gelu, 1.0, 0.841344746068543);
        close(Kind::Gelu, -3.0, -0.00404969409489);
        close(Kind::Gelu, 0.5, 0.3457312306370065);
        close(Kind::Gelu, 20.0, 20.0);
        close(Kind::QuickGelu, 1.0, 0.8457957659328212);
        close(Kind::Relu, -1.0, 0.0);
        close(Kind::HardSwish, 1.0, 4.0 / 6.0);
        close(Kind::HardSwish, -3.5, 0.0);
        close(Kind::HardSigmoid, 1.5, 0.75);
        for kind in Kind::ALL {
            assert!(kind.apply(-1e30).abs() < 1e-30 && kind.apply(1e30).is_finite(), "{kind:?} overflows");
        }
    }
}
