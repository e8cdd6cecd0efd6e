//! y = silu(gate) · up, silu(z) = z / (1 + exp(−z))
//!
//! gate, up, y: (rows, cols)

use crate::kernel::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, kernel, params};

#[derive(Clone, Debug)]
pub struct Swiglu;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
}

static KERNEL: Kernel = kernel!("swiglu.wgsl", "swiglu", [], [ReadWrite ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

/// z · σ(z)
pub fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
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
            *y = silu(*gate) * up;
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0, 1])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, _profile: &DeviceProfile) -> Vec<Candidate> {
        let count = reads[0].ty.count();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), writes[0].slot()],
            params: params(&Params { count: count as u32 }),
            groups: [groups(count, 64), 1, 1],
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, cols: usize| Case::new(Swiglu, vec![Given::f32([rows, cols]), Given::f32([rows, cols])]);
    vec![case(1, 1), case(3, 31), case(4, 9), case(5, 257), case(128, 1536).bench()]
}
