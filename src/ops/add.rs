//! y = a + b
//!
//! a, b, y: (rows, cols)

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct Add;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
}

static KERNEL: Kernel = kernel!("add.wgsl", "add", [], [ReadWrite ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        assert_eq!(reads[0].shape, reads[1].shape, "add");
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        for ((y, &a), &b) in writes[0].iter_mut().zip(reads[0].f32()).zip(reads[1].f32()) {
            *y = a + b;
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0, 1])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let count = reads[0].ty.count();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), writes[0].slot()],
            params: params(&Params { count: count as u32 }),
            groups: in_turns(count, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, cols: usize| Case::new(Add, vec![Given::f32([rows, cols]), Given::f32([rows, cols])]);
    vec![case(1, 1), case(3, 31), case(4, 9), case(5, 257), case(128, 576).bench()]
}
