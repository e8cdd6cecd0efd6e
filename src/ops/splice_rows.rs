//! y[r, :] = rows[t − vocab, :] where t = tokens[slot + position] of row r is past the vocabulary, else x[r, :]
//!
//! tokens: (capacity) u32   x, y: (n, cols)   rows: (m, cols), state: the rows of an image
//!
//! Row i of an image has the id vocab + i. The output of `embedding` for such an id is never read. An id past the last
//! row selects the last row.

use crate::work::source::ROWS;
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Fill, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct SpliceRows {
    /// Size of the vocabulary: ids from here on refer to rows.
    pub vocab: usize,
    /// Columns of x and of rows.
    pub cols: usize,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    count: u32,
    cols: u32,
    vocab: u32,
    rows: u32,
}

static KERNEL: Kernel =
    kernel!("splice_rows.wgsl", "splice_rows", [ROWS], [ReadWrite ReadWrite ReadWrite ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Operator for SpliceRows {
    fn name(&self) -> &'static str {
        "splice_rows"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((n, cols), (m, width)) = (reads[1].matrix(), reads[2].matrix());
        assert!([cols, width] == [self.cols; 2] && m > 0, "{self:?} of ({m}, {width}) into ({n}, {cols})");
        vec![reads[1].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (tokens, x, images) = (reads[0].u32(), reads[1].f32(), reads[2].f32());
        for (r, y) in writes[0].chunks_exact_mut(self.cols).enumerate() {
            let token = tokens[rows[r].place()] as usize;
            let source = match token.checked_sub(self.vocab) {
                None => &x[r * self.cols..],
                Some(row) => &images[row.min(images.len() / self.cols - 1) * self.cols..],
            };
            y.copy_from_slice(&source[..self.cols]);
        }
    }

    fn by_rows(&self) -> Option<&'static [usize]> {
        Some(&[1])
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (n, cols) = reads[1].ty.matrix();
        let (rows, _) = reads[2].ty.matrix();
        Candidate::only(Dispatch {
            kernel: KernelRef(&KERNEL),
            constants: vec![],
            slots: vec![reads[0].slot(), reads[1].slot(), reads[2].slot(), writes[0].slot()],
            params: params(&Params {
                count: (n * cols) as u32,
                cols: cols as u32,
                vocab: self.vocab as u32,
                rows: rows as u32,
            }),
            groups: in_turns(n * cols, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    // Ids of a step after `position` others, a vocabulary of 100, and rows for the ids from 100 on.
    let case = |ids: &[u32], position: usize, rows: usize, cols: usize| {
        let tokens: Vec<u32> = std::iter::repeat_n(100, position).chain(ids.iter().copied()).collect();
        let tokens = Given { fill: Fill::Ids(tokens.clone()), ..Given::tokens(tokens.len(), 100) };
        let reads = vec![tokens, Given::f32([ids.len(), cols]), Given::f32([rows, cols])];
        Case::new(SpliceRows { vocab: 100, cols }, reads).at(position)
    };
    let prompt: Vec<u32> = (0..31).chain(100..244).chain(40..57).collect();
    vec![
        case(&[5], 0, 1, 1),
        case(&[100], 3, 1, 31),
        case(&[7, 100, 101, 102, 99, 0], 2, 3, 65), // an image in the middle
        case(&[102, 9, 100], 0, 4, 31),             // any row, in any order
        case(&[103, 9999, u32::MAX], 1, 3, 65),     // ids past the last row
        case(&[1, 2, 3], 5, 7, 257),                // no image here
        case(&prompt, 9, 144, 2048).bench(),        // MobileVLM-1.7B
    ]
}
