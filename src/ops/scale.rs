//! y[r, c] = x[r, c] · s[0, c]
//!
//! x, y: (rows, cols)   s: (1, cols), a temporary: the factor of each channel in squeeze-and-excitation

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct Scale;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    cols: u32,
}

static KERNEL: Kernel = kernel!("scale.wgsl", "scale", [], [ReadWrite ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (rows, cols) = reads[0].matrix();
        assert_eq!(reads[1].matrix(), (1, cols), "the factors of scale of ({rows}, {cols})");
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, s) = (reads[0].f32(), reads[1].f32());
        for (x, y) in x.chunks_exact(s.len()).zip(writes[0].chunks_exact_mut(s.len())) {
            for ((y, x), s) in y.iter_mut().zip(x).zip(s) {
                *y = x * s;
            }
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[0])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (rows, cols) = reads[0].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), writes[0].slot()],
            params: params(&Params { count: (rows * cols) as u32, cols: cols as u32 }),
            groups: in_turns(rows * cols, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, cols: usize| Case::new(Scale, vec![Given::f32([rows, cols]), Given::f32([1, cols])]);
    vec![case(1, 1), case(7, 1), case(3, 31), case(5, 65), case(16, 120), case(2, 257), case(576, 2048).bench()]
}
