//! y = f(gate) · up, f by the model (Shazeer, 2020, arXiv 2002.05202):
//! ```text
//! silu        z / (1 + exp(−z))                                      SwiGLU
//! gelu tanh   z/2 · (1 + tanh(√(2/π) · (z + 0.044715 z³)))           GeGLU
//! ```
//!
//! gate, up, y: (rows, cols)

use crate::work::source::GATE;
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};
use crate::ops::{Case, Fill, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct Swiglu {
    pub gate: Gate,
}

/// The function of a gated unit, also used by fused operators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gate {
    #[default]
    Silu,
    /// The tanh approximation of GELU, with which Gemma was trained.
    GeluTanh,
}

impl Gate {
    /// The constant of kernels that include shared/gate.wgsl.
    pub fn constant(self) -> (&'static str, f64) {
        ("GELU", f64::from(u8::from(self == Gate::GeluTanh)))
    }

    /// f(z)
    pub fn apply(self, z: f32) -> f32 {
        match self {
            Gate::Silu => z / (1.0 + (-z).exp()),
            Gate::GeluTanh => {
                let z = f64::from(z);
                let u = (2.0 / std::f64::consts::PI).sqrt() * (z + 0.044_715 * z * z * z);
                // 1 + tanh(u) = 2 / (1 + exp(−2u)), a form without cancellation.
                (z / (1.0 + (-2.0 * u).exp())) as f32
            }
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
}

static KERNEL: Kernel =
    kernel!("swiglu.wgsl", "swiglu", [GATE], [ReadWrite ReadWrite ReadWrite], Params, ["GELU" = 0.0], Requires::NOTHING);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for Swiglu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        assert_eq!(reads[0].shape, reads[1].shape, "swiglu");
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (gate, up) = (reads[0].f32(), reads[1].f32());
        for (y, (gate, up)) in writes[0].iter_mut().zip(gate.iter().zip(up)) {
            *y = self.gate.apply(*gate) * up;
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0, 1])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let count = reads[0].ty.count();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![self.gate.constant()],
            slots: vec![reads[0].slot(), reads[1].slot(), writes[0].slot()],
            params: params(&Params { count: count as u32 }),
            groups: in_turns(count, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |gate, rows: usize, cols: usize| {
        // Up to ±8: covers the nonlinear range of the gate.
        let gates = Given { fill: Fill::Random(8.0), ..Given::f32([rows, cols]) };
        Case::new(Swiglu { gate }, vec![gates, Given::f32([rows, cols])])
    };
    let edges: [f32; 10] = [-1e4, -100.0, -20.0, -5.0, -1e-6, 0.0, 1e-6, 20.0, 100.0, 1e4];
    let edges = |gate| {
        let reads = vec![Given::floats([1, edges.len()], &edges), Given::f32([1, edges.len()])];
        Case::new(Swiglu { gate }, reads)
    };
    let mut cases = vec![edges(Gate::GeluTanh)];
    for gate in [Gate::Silu, Gate::GeluTanh] {
        cases.extend([(1, 1), (3, 31), (4, 9), (5, 257)].map(|(rows, cols)| case(gate, rows, cols)));
    }
    cases.push(case(Gate::Silu, 128, 1536).bench()); // MobileLLM-125M
    cases
}

#[cfg(test)]
mod tests {
    use super::Gate;

    #[test]
    fn gelu_by_tanh_has_its_published_values() {
        // torch.nn.functional.gelu(x, approximate="tanh") in float64.
        for (z, wanted) in [(1.0, 0.841_191_990_608_827_5), (-0.5, -0.154_285_990_174_856_5), (3.0, 2.996_362_607_918_227)] {
            let found = f64::from(Gate::GeluTanh.apply(z));
            assert!((found - wanted).abs() < 1e-7, "gelu({z}) is {found}, expected {wanted}");
        }
    }
}
