//! The cases that operators are held to: one description serves tests, benches and the check on a user's device.

use crate::kernel::Run;
use crate::ops::{Elem, Operator, TensorType};
use crate::tensor::DType;

/// One operator with inputs of given shapes and contents.
#[derive(Debug)]
pub struct Case {
    pub op: Box<dyn Operator>,
    pub reads: Vec<Given>,
    /// State that the operator writes in place; it begins with this content.
    pub state: Vec<Given>,
    pub run: Run,
    /// Largest normalised mean squared error, Σ(y − ref)² / Σref², against the reference.
    pub nmse: f64,
    /// Whether benches time it.
    pub bench: bool,
}

/// A value of a case: its type, and what is in it.
#[derive(Clone, Debug)]
pub struct Given {
    pub ty: TensorType,
    pub fill: Fill,
}

/// Contents, reproducible from a seed.
#[derive(Clone, Debug, PartialEq)]
pub enum Fill {
    /// Uniform in −scale .. scale.
    Random(f32),
    /// Ids below this.
    Below(u32),
    /// cos and sin of angles, alternating.
    Angles,
    /// These ids.
    Ids(Vec<u32>),
    Zero,
}

impl Case {
    /// float32 arithmetic in another order: 1e-10 leaves room for sums over some thousands of terms and for `exp` and
    /// `inverseSqrt` of a few ulp, and none for a wrong element.
    pub fn new(op: impl Operator + 'static, reads: Vec<Given>) -> Self {
        Case { op: Box::new(op), reads, state: Vec::new(), run: Run::at(0), nmse: 1e-10, bench: false }
    }

    pub fn state(mut self, state: Vec<Given>) -> Self {
        self.state = state;
        self
    }

    pub fn run(mut self, run: Run) -> Self {
        self.run = run;
        self
    }

    pub fn at(self, position: usize) -> Self {
        self.run(Run::at(position))
    }

    pub fn bench(mut self) -> Self {
        self.bench = true;
        self
    }

    /// What reports call it: the operator, its attributes and shapes.
    pub fn label(&self) -> String {
        let shapes: Vec<String> = self.reads.iter().chain(&self.state).map(|given| given.ty.to_string()).collect();
        format!("{:?} ({}) at {}", self.op, shapes.join(", "), self.run.position)
    }
}

impl Given {
    pub fn f32(shape: impl Into<Vec<usize>>) -> Self {
        Given { ty: TensorType::f32(shape), fill: Fill::Random(1.0) }
    }

    /// A weight (rows, cols), scaled so that products with unit vectors stay near 1.
    pub fn weight(dtype: DType, rows: usize, cols: usize) -> Self {
        Given { ty: TensorType::weight(dtype, rows, cols), fill: Fill::Random((3.0 / cols as f32).sqrt()) }
    }

    /// Token ids (count), below `vocab`.
    pub fn tokens(count: usize, vocab: u32) -> Self {
        Given { ty: TensorType::u32([count]), fill: Fill::Below(vocab) }
    }

    /// A table of angles (context, head_dim).
    pub fn angles(context: usize, head_dim: usize) -> Self {
        Given { ty: TensorType::f32([context, head_dim]), fill: Fill::Angles }
    }

    pub fn kv(capacity: usize, heads: usize, head_dim: usize) -> Self {
        Given { ty: TensorType::kv(capacity, heads, head_dim), fill: Fill::Random(1.0) }
    }

    pub fn zero(mut self) -> Self {
        self.fill = Fill::Zero;
        self
    }

    /// The content as floats, or as the bits of ids. Weights are random floats, to be quantised.
    pub fn data(&self, seed: u64) -> Vec<u32> {
        let count = self.ty.count();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            // xorshift64*: the same numbers on every machine.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
        };
        match &self.fill {
            Fill::Random(scale) => {
                (0..count).map(|_| (scale * (next() as f32 / 2f32.powi(31) - 1.0)).to_bits()).collect()
            }
            Fill::Below(n) => (0..count).map(|_| next() % n).collect(),
            Fill::Angles => (0..count / 2)
                .flat_map(|_| {
                    let angle = next() as f32 / 2f32.powi(32) * std::f32::consts::TAU;
                    [angle.cos().to_bits(), angle.sin().to_bits()]
                })
                .collect(),
            Fill::Ids(ids) => ids.clone(),
            Fill::Zero => vec![0; count],
        }
    }

    pub fn is_weight(&self) -> bool {
        matches!(self.ty.elem, Elem::Weight(_))
    }
}
