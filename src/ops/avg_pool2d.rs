//! The mean of x over the window of each cell of a coarser grid (PyTorch's `AdaptiveAvgPool2d`):
//! ```text
//! cell (i, j): rows ⌊i·height/out_height⌋ .. ⌈(i + 1)·height/out_height⌉, columns likewise
//! ```
//! Windows overlap where an input side is not a multiple of the output side. One cell averages the whole picture.
//!
//! x: (height · width, C), pixels row by row   y: (out_height · out_width, C)

use std::ops::Range;

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, kernel, params};

#[derive(Clone, Debug)]
pub struct AvgPool2d {
    pub height: usize,
    pub width: usize,
    pub out_height: usize,
    pub out_width: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    height: u32,
    width: u32,
    channels: u32,
    out_height: u32,
    out_width: u32,
}

static KERNEL: Kernel = kernel!("avg_pool2d.wgsl", "avg_pool2d", [], [ReadWrite ReadWrite], Params, ["PARTS" = 1.0], Requires::NOTHING);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for AvgPool2d {
    fn name(&self) -> &'static str {
        "avg_pool2d"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (pixels, channels) = reads[0].matrix();
        assert_eq!(pixels, self.height * self.width, "the pixels of {self:?}");
        vec![TensorType::f32([self.out_height * self.out_width, channels])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let x = reads[0].f32();
        let channels = x.len() / (self.height * self.width);
        for (cell, y) in writes[0].chunks_exact_mut(channels).enumerate() {
            let rows = window(cell / self.out_width, self.height, self.out_height);
            let cols = window(cell % self.out_width, self.width, self.out_width);
            let pixels = rows.len() * cols.len();
            y.fill(0.0);
            for pixel in rows.flat_map(|row| cols.clone().map(move |col| row * self.width + col)) {
                let x = &x[pixel * channels..][..channels];
                y.iter_mut().zip(x).for_each(|(y, x)| *y += x);
            }
            y.iter_mut().for_each(|y| *y /= pixels as f32);
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, _profile: &DeviceProfile) -> Vec<Candidate> {
        let (pixels, channels) = reads[0].ty.matrix();
        let (cells, _) = writes[0].ty.matrix();
        // A window of 2 × 2 is computed by one thread; threads share the window of a whole picture.
        let parts = if pixels >= 64 * cells { 4.0 } else { 1.0 };
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![("PARTS", parts)],
            slots: vec![reads[0].slot(), writes[0].slot()],
            params: params(&Params {
                height: self.height as u32,
                width: self.width as u32,
                channels: channels as u32,
                out_height: self.out_height as u32,
                out_width: self.out_width as u32,
            }),
            groups: [groups(channels, 64), groups(cells, 1), 1],
        })
    }
}

/// The range of pixels of cell `i` of `cells`, along a side of `pixels`.
pub fn window(i: usize, pixels: usize, cells: usize) -> Range<usize> {
    i * pixels / cells..((i + 1) * pixels).div_ceil(cells)
}

pub fn cases() -> Vec<Case> {
    let case = |height: usize, width: usize, out_height: usize, out_width: usize, channels: usize| {
        Case::new(AvgPool2d { height, width, out_height, out_width }, vec![Given::f32([height * width, channels])])
    };
    vec![
        case(1, 1, 1, 1, 1),
        case(4, 4, 1, 1, 31),
        case(8, 8, 1, 1, 65),     // the fewest pixels that are shared
        case(9, 7, 1, 1, 1),      // one less
        case(13, 11, 1, 1, 120),  // parts of different lengths
        case(5, 7, 2, 3, 65),     // windows that overlap
        case(16, 16, 12, 12, 31),
        case(3, 2, 5, 2, 7),      // more cells than pixels
        case(24, 24, 12, 12, 2048).bench(), // MobileVLM V2 1.7B
        case(24, 24, 1, 1, 2048).bench(),   // V1
    ]
}
