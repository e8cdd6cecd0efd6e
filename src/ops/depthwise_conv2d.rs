//! A 3 × 3 convolution of each channel separately, padded by 1 (a cross-correlation, as PyTorch's `conv2d`):
//! ```text
//! y[(i, j), c] = bias[c] + Σ_{a, b < 3} kernel[c, a, b] · x[(stride·i + a − 1, stride·j + b − 1), c]
//! ```
//! Pixels outside the picture are 0.
//!
//! x: (height · width, C), pixels row by row   kernel: (C · 9)   bias: (C), where there is one
//! y: (⌈height / stride⌉ · ⌈width / stride⌉, C)

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct DepthwiseConv2d {
    pub height: usize,
    pub width: usize,
    pub stride: usize,
    /// Whether there is a bias, which is the third input.
    pub bias: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    height: u32,
    width: u32,
    channels: u32,
    out_width: u32,
    stride: u32,
    bias: u32,
}

static KERNEL: Kernel =
    kernel!("depthwise_conv2d.wgsl", "depthwise_conv2d", [], [ReadWrite Read Read ReadWrite], Params);

/// Number of elements in the kernel of a channel.
pub const TAPS: usize = 9;

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl DepthwiseConv2d {
    /// (height, width) of the result.
    pub fn out(&self) -> (usize, usize) {
        (self.height.div_ceil(self.stride), self.width.div_ceil(self.stride))
    }
}

impl Operator for DepthwiseConv2d {
    fn name(&self) -> &'static str {
        "depthwise_conv2d"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (pixels, channels) = reads[0].matrix();
        assert_eq!(pixels, self.height * self.width, "the pixels of {self:?}");
        assert_eq!(reads[1].shape, [channels * TAPS], "the kernel of {self:?}");
        assert_eq!(reads.len(), 2 + usize::from(self.bias), "what {self:?} reads");
        if self.bias {
            assert_eq!(reads[2].shape, [channels], "the bias of {self:?}");
        }
        let (height, width) = self.out();
        vec![TensorType::f32([height * width, channels])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, kernel) = (reads[0].f32(), reads[1].f32());
        let channels = kernel.len() / TAPS;
        let (_, out_width) = self.out();
        for (pixel, y) in writes[0].chunks_exact_mut(channels).enumerate() {
            match reads.get(2) {
                Some(bias) => y.copy_from_slice(bias.f32()),
                None => y.fill(0.0),
            }
            let (top, left) = (self.stride * (pixel / out_width), self.stride * (pixel % out_width));
            for t in 0..TAPS {
                // Indices start from 1: row and column 0 are the padding.
                let (row, col) = (top + t / 3, left + t % 3);
                if (1..=self.height).contains(&row) && (1..=self.width).contains(&col) {
                    let x = &x[((row - 1) * self.width + col - 1) * channels..][..channels];
                    for c in 0..channels {
                        y[c] += kernel[TAPS * c + t] * x[c];
                    }
                }
            }
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (_, channels) = reads[0].ty.matrix();
        let count = writes[0].ty.count();
        // Every binding needs a buffer. Without a bias the kernel is bound there and not read.
        let bias = reads.get(2).unwrap_or(&reads[1]);
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), bias.slot(), writes[0].slot()],
            params: params(&Params {
                count: count as u32,
                height: self.height as u32,
                width: self.width as u32,
                channels: channels as u32,
                out_width: self.out().1 as u32,
                stride: self.stride as u32,
                bias: self.bias.into(),
            }),
            groups: in_turns(count, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |height: usize, width: usize, channels: usize, stride: usize, bias: bool| {
        let mut reads = vec![Given::f32([height * width, channels]), Given::f32([channels * TAPS])];
        if bias {
            reads.push(Given::f32([channels]));
        }
        Case::new(DepthwiseConv2d { height, width, stride, bias }, reads)
    };
    vec![
        case(1, 1, 1, 1, false),
        case(1, 1, 31, 2, true),
        case(1, 7, 5, 1, true),
        case(4, 4, 31, 1, true),
        case(5, 7, 1, 2, false),  // an odd side: the last pixel is the centre of the last window
        case(5, 7, 65, 2, true),
        case(8, 8, 65, 2, false), // an even side: the last pixel is at the edge
        case(8, 8, 120, 1, false),
        case(8, 5, 3, 3, true),
        case(24, 24, 2048, 1, true).bench(),  // MobileVLM V2 1.7B
        case(24, 24, 2048, 1, false).bench(), // V1
        case(24, 24, 2048, 2, false).bench(),
    ]
}
