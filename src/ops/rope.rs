//! Rotates the pairs of each head by the angles of the row's position:
//! ```text
//! y[a] = x[a] · cos − x[b] · sin        y[b] = x[b] · cos + x[a] · sin
//! ```
//! (a, b) is (i, i + D/2), or (2i, 2i + 1) where pairs are interleaved.
//!
//! x, y: (rows, heads · D)   angles: (context, D), row p = cos and sin of p · θ_0, of p · θ_1, …; there may be several
//! such tables one after another, from which each row of x selects its own

use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Row};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, in_turns, kernel, params};

#[derive(Clone, Debug)]
pub struct Rope {
    pub heads: usize,
    /// D
    pub head_dim: usize,
    pub interleaved: bool,
    pub angles: Angles,
}

/// The row of the table of angles that rotates a row: its stretch · `each` + `first` + its position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Angles {
    pub first: usize,
    pub each: usize,
}

impl Angles {
    /// The row of the table.
    pub fn of(&self, row: &Row) -> usize {
        row.stretch() * self.each + self.first + row.position as usize
    }
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,
    interleaved: u32,
    first: u32,
    each: u32,
}

static KERNEL: Kernel = kernel!("rope.wgsl", "rope", [crate::work::source::ROWS], [ReadWrite Read ReadWrite], Params);

pub fn kernels() -> Vec<&'static Kernel> {
    vec![&KERNEL]
}

impl Rope {
    /// The two elements of pair i of a head.
    pub fn pair(&self, i: usize) -> (usize, usize) {
        if self.interleaved { (2 * i, 2 * i + 1) } else { (i, i + self.head_dim / 2) }
    }

    /// Rotates one head by one row of angles.
    pub fn rotate(&self, x: &[f32], angles: &[f32], y: &mut [f32]) {
        for (i, angle) in angles.chunks_exact(2).enumerate() {
            let (a, b) = self.pair(i);
            y[a] = x[a] * angle[0] - x[b] * angle[1];
            y[b] = x[b] * angle[0] + x[a] * angle[1];
        }
    }
}

impl Operator for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        assert_eq!(reads[0].matrix().1, self.heads * self.head_dim, "{self:?}");
        assert_eq!(reads[1].matrix().1, self.head_dim, "the table of rope");
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (x, table) = (reads[0].f32(), reads[1].f32());
        let (d, cols) = (self.head_dim, self.heads * self.head_dim);
        for (r, (x, y)) in x.chunks_exact(cols).zip(writes[0].chunks_exact_mut(cols)).enumerate() {
            let angles = &table[self.angles.of(&rows[r]) * d..][..d];
            for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
                self.rotate(x, angles, y);
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
            params: params(&Params {
                rows: rows as u32,
                heads: self.heads as u32,
                head_dim: self.head_dim as u32,
                interleaved: self.interleaved.into(),
                first: self.angles.first as u32,
                each: self.angles.each as u32,
            }),
            groups: in_turns(rows * cols / 2, 64, profile),
        })
    }
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, heads: usize, head_dim: usize, interleaved, position: usize| {
        let reads = vec![Given::f32([rows, heads * head_dim]), Given::angles(position + rows, head_dim)];
        let angles = Angles::default();
        Case::new(Rope { heads, head_dim, interleaved, angles }, reads).at(position)
    };
    // Tables of 11 rows for each stretch; the last 5 rows rotate queries.
    let angles = Angles { first: 6, each: 11 };
    let rows: Vec<Row> = [(2, 3), (0, 4), (1, 0), (2, 1)].map(|(stretch, at)| Row::at(at).stretched(stretch)).into();
    let reads = vec![Given::f32([4, 36]), Given::angles(33, 12)];
    let stretched = Case::new(Rope { heads: 3, head_dim: 12, interleaved: false, angles }, reads).rows(rows).few();
    vec![
        stretched,
        case(1, 1, 2, false, 0),
        case(1, 3, 12, false, 2),
        case(3, 5, 22, false, 7),
        case(3, 5, 20, true, 7),
        case(1, 9, 64, false, 130).bench(),   // MobileLLM-125M, one token
        case(64, 32, 80, false, 64).bench(),  // MobileVLM-3B
        case(33, 9, 64, true, 0),             // MobileLLM-R1-140M
    ]
}
