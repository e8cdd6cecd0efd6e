//! y[r, :] = x[first + r, :]
//!
//! x: (first + rows, cols)   y: (rows, cols)

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct SkipRows {
    pub first: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    start: u32,
}

static KERNEL: Kernel = kernel!("skip_rows.wgsl", "skip_rows", [], [ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for SkipRows {
    fn name(&self) -> &'static str {
        "skip_rows"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (rows, cols) = reads[0].matrix();
        assert!(self.first < rows, "{self:?} of ({rows}, {cols}) leaves nothing");
        vec![TensorType::f32([rows - self.first, cols])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let x = reads[0].f32();
        let start = x.len() - writes[0].len();
        writes[0].copy_from_slice(&x[start..]);
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (_, cols) = reads[0].ty.matrix();
        let count = writes[0].ty.count();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&Params { count: count as u32, start: (self.first * cols) as u32 }),
            groups: in_turns(count, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |first: usize, rows: usize, cols: usize| Case::new(SkipRows { first }, vec![Given::f32([rows, cols])]);
    vec![case(1, 2, 1), case(0, 3, 31), case(1, 17, 31), case(5, 7, 65), case(1, 577, 1024).bench()]
}
