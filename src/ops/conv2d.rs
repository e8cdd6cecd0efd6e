//! y[p, n] = Σ_k W[n, k] · patch_p[k]
//!
//! x: (channels · S · S)   W: (n, channels · patch²) in any weight format   y: (grid², n)   grid = ⌊S / patch⌋
//!
//! A convolution whose stride equals its kernel size: patches do not overlap, so it is a matrix product. Patch p lies
//! at (p / grid, p % grid); k counts its channels, then its rows, then its columns.

use crate::formats::dequantize_row;
use crate::work::{Candidate, DeviceProfile, Family, Kernel, Row};
use crate::ops::product::{self, GemmKernels, gemm_kernels};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct Conv2d {
    /// S: pixels of the picture's side.
    pub size: usize,
    /// Side of a patch in pixels; the remaining pixels at the right and at the bottom are not read.
    pub patch: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    common: product::ProductParams,
    size: u32,
    side: u32,
}

static KERNELS: GemmKernels = gemm_kernels!("conv2d/gemm.wgsl", [], [ReadWrite Read Read ReadWrite], Params, []);

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.all()
}

impl Conv2d {
    /// Patches on a side of the picture.
    pub fn grid(&self) -> usize {
        self.size / self.patch
    }

    /// The index in the picture of element k of a patch.
    pub fn place(&self, patch: usize, k: usize) -> usize {
        let (s, p, grid) = (self.size, self.patch, self.grid());
        let (channel, row, column) = (k / (p * p), k / p % p, k % p);
        (channel * s + patch / grid * p + row) * s + patch % grid * p + column
    }
}

impl Operator for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let (n, k) = reads[1].matrix();
        let channels = reads[0].count() / (self.size * self.size);
        assert_eq!(reads[0].count(), channels * self.size * self.size, "the picture of {self:?}");
        assert_eq!(k, channels * self.patch * self.patch, "the weight of {self:?}");
        vec![TensorType::f32([self.grid() * self.grid(), n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _rows: &[Row]) {
        let (x, w) = (reads[0].f32(), reads[1].weight());
        let mut row = vec![0.0; w.cols];
        for (c, w_row) in w.rows_in(0..w.rows()).enumerate() {
            dequantize_row(w.dtype, w_row, &mut row);
            for (patch, y) in writes[0].chunks_exact_mut(w.rows()).enumerate() {
                y[c] = row.iter().enumerate().map(|(k, w)| x[self.place(patch, k)] * w).sum();
            }
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (x, w) = (&reads[0], &reads[1]);
        let more = [self.size, self.patch].map(|v| v as u32);
        KERNELS.candidates(self.grid() * self.grid(), w, profile, &[], &more, |part| {
            vec![x.slot(), part.codes, part.scales, writes[0].slot()]
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |dtype, channels: usize, size: usize, patch: usize, n: usize| {
        let reads = vec![Given::f32([channels, size, size]), Given::weight(dtype, n, channels * patch * patch)];
        Case::new(Conv2d { size, patch }, reads)
    };
    vec![
        case(DType::F32, 1, 1, 1, 1),
        case(DType::F32, 3, 14, 14, 65), // one patch
        case(DType::F32, 3, 23, 5, 67),  // three columns and rows left over
        case(DType::F16, 3, 56, 14, 48),
        case(DType::BF16, 3, 128, 8, 40),
        case(DType::Q8_0, 3, 32, 8, 33),
        case(DType::Q4_0, 2, 24, 4, 31),
        case(DType::F16, 3, 40, 8, 150).in_bindings_of(64 * 400),
        case(DType::F16, 3, 336, 14, 1024).bench(), // CLIP ViT-L/14-336
    ]
}
