//! y[r, :] = scale · W[tokens[slot + position], :], slot and position of row r
//!
//! tokens: (capacity) u32   W: (vocab, cols)   y: (rows, cols)
//!
//! Rows of y whose ids are not rows of W stay unchanged (`splice_rows` writes them).

use crate::formats::dequantize_row;
use crate::work::source::ROWS;
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row, layout};
use crate::ops::weight::{WeightKernels, parts};
use crate::ops::{Case, Fill, Given, Operand, Operator, Read, TensorType, in_turns, params, weight_kernel, weight_kernels};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct Embedding {
    /// Rows of the pass.
    pub rows: usize,
    /// The factor of embeddings: 1 in most models.
    pub scale: f32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight_blocks: u32,
    cols: u32,
    rows: u32,
    start: u32,
    count: u32,
    scale: f32,
}

static KERNELS: WeightKernels =
    weight_kernels!("embedding.wgsl", "embedding", [ROWS], [ReadWrite Read Read ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().collect()
}

impl Operator for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        vec![TensorType::f32([self.rows, reads[1].matrix().1])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (tokens, w) = (reads[0].u32(), reads[1].weight());
        for (r, y) in writes[0].chunks_exact_mut(w.cols).enumerate() {
            let token = tokens[rows[r].place()];
            if (token as usize) < w.rows() {
                dequantize_row(w.dtype, w.row(token as usize), y);
                y.iter_mut().for_each(|y| *y *= self.scale);
            }
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (_, cols) = reads[1].ty.matrix();
        let blocks = layout::blocks(cols);
        let dispatch = |part: crate::ops::weight::Part| Dispatch {
            kernel: KernelRef(weight_kernel(&KERNELS, reads[1].ty.dtype())),
            constants: vec![],
            slots: vec![reads[0].slot(), part.codes, part.scales, writes[0].slot()],
            params: params(&Params {
                weight_blocks: blocks as u32,
                cols: cols as u32,
                rows: self.rows as u32,
                start: part.out as u32,
                count: part.rows as u32,
                scale: self.scale,
            }),
            groups: in_turns(self.rows * blocks, 64, profile),
        };
        let dispatches = parts(&reads[1], profile).into_iter().map(dispatch).collect();
        vec![Candidate { dispatches, why: "the only kernel for it" }]
    }
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let (vocab, cols) = if dtype.block().0 == 256 { (31, 512) } else { (31, 160) };
        let table = Given::weight(dtype, vocab, cols);
        cases.push(Case::new(Embedding { rows: 7, scale: 1.0 }, vec![Given::tokens(11, vocab as u32), table]).at(3));
    }
    // Rows that end inside a block, and rows that do not begin on a quad.
    for cols in [1, 31, 36, 154, 257] {
        let reads = vec![Given::tokens(5, 13), Given::weight(DType::F16, 13, cols)];
        cases.push(Case::new(Embedding { rows: 5, scale: 1.0 }, reads));
    }
    // A table in chunks of 32 rows, with tokens in every chunk: a chunk must leave the rows of other chunks unchanged.
    let mut tokens = Given::tokens(7, 90);
    tokens.fill = Fill::Ids(vec![0, 31, 32, 63, 64, 88, 89]);
    let reads = vec![tokens, Given::weight(DType::Q4_0, 90, 160)];
    cases.push(Case::new(Embedding { rows: 7, scale: 1.0 }, reads).in_bindings_of(32 * 80));
    // Ids past the vocabulary leave their rows unchanged.
    let mut tokens = Given::tokens(5, 13);
    tokens.fill = Fill::Ids(vec![12, 13, 0, 9999, u32::MAX]);
    cases.push(Case::new(Embedding { rows: 5, scale: 1.0 }, vec![tokens, Given::weight(DType::Q8_0, 13, 64)]));
    let reads = vec![Given::tokens(3, 13), Given::weight(DType::BF16, 13, 80)];
    cases.push(Case::new(Embedding { rows: 3, scale: 80f32.sqrt() }, reads)); // as Gemma has it
    // SmolLM2-135M, one token.
    let reads = vec![Given::tokens(1, 49152), Given::weight(DType::Q8_0, 49152, 576)];
    cases.push(Case::new(Embedding { rows: 1, scale: 1.0 }, reads).bench());
    cases
}
