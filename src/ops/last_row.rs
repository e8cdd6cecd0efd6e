//! y[c] = x[rows − 1, c]
//!
//! x: (rows, cols)   y: (1, cols)

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct LastRow;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    cols: u32,
}

static KERNEL: Kernel = kernel!("last_row.wgsl", "last_row", [], [ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for LastRow {
    fn name(&self) -> &'static str {
        "last_row"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32([1, reads[0].matrix().1])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let x = reads[0].f32();
        let start = x.len() - writes[0].len();
        writes[0].copy_from_slice(&x[start..]);
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (rows, cols) = reads[0].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&Params { rows: rows as u32, cols: cols as u32 }),
            groups: in_turns(cols, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    [(1, 1), (3, 31), (2, 36), (257, 65)].map(|(rows, cols)| Case::new(LastRow, vec![Given::f32([rows, cols])])).into()
}
