//! The tokens of a vision transformer from the patches of a picture:
//! ```text
//! y[0, :] = class[:] + positions[0, :]        y[1 + p, :] = patches[p, :] + positions[1 + p, :]
//! ```
//! patches: (n, width)   class: (width)   positions: ((n + 1) · width)   y: (n + 1, width)

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct ClassToken;

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    width: u32,
}

static KERNEL: Kernel = kernel!("class_token.wgsl", "class_token", [], [ReadWrite Read Read ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for ClassToken {
    fn name(&self) -> &'static str {
        "class_token"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (n, width) = reads[0].matrix();
        assert_eq!(reads[1].shape, [width], "the class of class_token of ({n}, {width})");
        assert_eq!(reads[2].shape, [(n + 1) * width], "the positions of class_token of ({n}, {width})");
        vec![TensorType::f32([n + 1, width])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (patches, class, positions) = (reads[0].f32(), reads[1].f32(), reads[2].f32());
        for ((y, x), position) in writes[0].iter_mut().zip(class.iter().chain(patches)).zip(positions) {
            *y = x + position;
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (rows, width) = writes[0].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), reads[2].slot(), writes[0].slot()],
            params: params(&Params { count: (rows * width) as u32, width: width as u32 }),
            groups: in_turns(rows * width, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |n: usize, width: usize| {
        let reads = vec![Given::f32([n, width]), Given::f32([width]), Given::f32([(n + 1) * width])];
        Case::new(ClassToken, reads)
    };
    vec![case(1, 1), case(16, 31), case(35, 65), case(2, 257), case(576, 1024).bench()]
}
