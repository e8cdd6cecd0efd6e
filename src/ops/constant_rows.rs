//! y[r, :] = c[r · cols ..]: copies a constant of the model to a place where operators read activations.
//!
//! c: (rows · cols)   y: (rows, cols)

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct ConstantRows {
    pub rows: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
}

static KERNEL: Kernel = kernel!("constant_rows.wgsl", "constant_rows", [], [Read ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for ConstantRows {
    fn name(&self) -> &'static str {
        "constant_rows"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let count = reads[0].count();
        assert_eq!(count % self.rows, 0, "{self:?} of {count}");
        vec![TensorType::f32([self.rows, count / self.rows])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        writes[0].copy_from_slice(&reads[0].f32()[..writes[0].len()]);
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
            params: params(&Params { count: count as u32 }),
            groups: in_turns(count, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, cols: usize| Case::new(ConstantRows { rows }, vec![Given::f32([rows * cols])]);
    vec![case(1, 1), case(3, 31), case(5, 257), case(1024, 1664).bench()] // the positions of Qwen-VL's tower
}
