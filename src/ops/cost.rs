//! Lower bounds of an operator's cost: bytes that must move, operations that must be done. Benches and profiles divide
//! both by the time.

use std::any::Any;

use crate::ops::attention::Attention;
use crate::ops::case::{Case, Fill, Given};
use crate::ops::depthwise_conv2d::{DepthwiseConv2d, TAPS};
use crate::ops::last_row::LastRow;
use crate::ops::splice_rows::SpliceRows;
use crate::ops::{Elem, Operator, TensorType};
use crate::work::{DeviceProfile, Family, Row};

/// One execution of an operator.
pub struct Execution<'a> {
    pub op: &'a dyn Operator,
    pub reads: Vec<Input<'a>>,
    /// The types of the state that is written in place.
    pub state: Vec<&'a TensorType>,
    /// The table of the pass.
    pub rows: &'a [Row],
    pub family: Family,
}

/// An input of an execution.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    pub ty: &'a TensorType,
    /// Whether it is a table, of which only the rows of the pass are read.
    pub table: bool,
}

impl Execution<'_> {
    /// Bytes that are read and written, each once; of tables, embeddings and caches only the rows that are used.
    pub fn bytes(&self, profile: &DeviceProfile) -> u64 {
        let (rows, results) = (self.row_count(), self.results());
        let written: u64 = results.iter().map(|ty| ty.bytes(profile)).sum();
        // Each row of a splice comes from x or from an image, so only x is counted.
        let once = if self.op::<SpliceRows>().is_some() { 2 } else { self.reads.len() };
        let lookup = self.reads[0].ty.elem == Elem::U32;
        let read = |Input { ty, table }: &Input| match ty.elem {
            Elem::Weight(dtype) => {
                let (all, cols) = ty.matrix();
                (if lookup { rows } else { all } * dtype.row_bytes(cols)) as u64
            }
            Elem::Kv => first(ty, self.keys(), profile),
            Elem::U32 => first(ty, rows, profile),
            Elem::F32 if *table => first(ty, rows, profile),
            Elem::F32 if self.op::<LastRow>().is_some() => written,
            Elem::F32 => ty.bytes(profile),
        };
        let reads: u64 = self.reads[..once].iter().map(read).sum();
        let state: u64 = self.state.iter().map(|ty| first(ty, rows, profile)).sum();
        reads + state + written
    }

    /// Multiplications and additions of a matrix product (2·m·n·k), of attention or of a convolution; `None` for other
    /// operators, which mainly move bytes.
    pub fn flops(&self) -> Option<u64> {
        let x = self.reads[0].ty;
        if x.elem != Elem::F32 {
            return None;
        }
        if self.op::<DepthwiseConv2d>().is_some() {
            return Some((2 * TAPS * self.results()[0].count()) as u64);
        }
        // A convolution has a row for each patch of its picture.
        let (m, width) = (self.row_count(), x.count() / x.shape[0]);
        let flops = |Input { ty, .. }: &Input| match ty.elem {
            Elem::Weight(_) => 2 * m * ty.count(),
            // q · k and the sum over v: keys and values of each position that a row attends to.
            Elem::Kv => (0..m).map(|row| 2 * width * self.seen(row).len()).sum(),
            _ => 0,
        };
        Some(self.reads.iter().map(flops).sum::<usize>() as u64).filter(|&flops| flops > 0)
    }

    /// The keys that a row attends to.
    fn seen(&self, row: usize) -> std::ops::Range<usize> {
        self.op::<Attention>().map_or(0..0, |attention| attention.seen(row, self.row_count(), self.rows))
    }

    /// Positions of the cache that all rows read: of one sequence each once, of several the sum.
    fn keys(&self) -> usize {
        let seen = (0..self.row_count()).map(|row| self.seen(row));
        match self.family {
            Family::Few => seen.map(|keys| keys.len()).sum(),
            Family::Many => seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).map_or(0, |keys| keys.len()),
        }
    }

    /// The operator as a `T`, if it is one.
    fn op<T: Operator>(&self) -> Option<&T> {
        (self.op as &dyn Any).downcast_ref()
    }

    fn results(&self) -> Vec<TensorType> {
        self.op.infer(&self.reads.iter().map(|input| input.ty).collect::<Vec<_>>())
    }

    /// Number of rows that are computed.
    fn row_count(&self) -> usize {
        self.results().first().map_or(self.reads[0].ty.shape[0], |result| result.shape[0])
    }
}

impl Case {
    /// [`Execution::bytes`] of the case.
    pub fn bytes(&self, profile: &DeviceProfile) -> u64 {
        self.execution().bytes(profile)
    }

    /// [`Execution::flops`] of the case.
    pub fn flops(&self) -> Option<u64> {
        self.execution().flops()
    }

    fn execution(&self) -> Execution<'_> {
        fn input(given: &Given) -> Input<'_> {
            Input { ty: &given.ty, table: given.fill == Fill::Angles }
        }
        Execution {
            op: &*self.op,
            reads: self.reads.iter().map(input).collect(),
            state: self.state.iter().map(|given| &given.ty).collect(),
            rows: &self.rows,
            family: self.family,
        }
    }
}

/// Bytes of at most the first `rows` rows.
fn first(ty: &TensorType, rows: usize, profile: &DeviceProfile) -> u64 {
    let mut ty = ty.clone();
    ty.shape[0] = ty.shape[0].min(rows);
    ty.bytes(profile)
}

#[cfg(test)]
mod tests {
    use crate::ops::{self, Case};
    use crate::work::DeviceProfile;

    /// The bench case of an operator whose label contains `part`.
    fn case(op: &str, part: &str) -> Case {
        let (_, cases) = ops::cases().into_iter().find(|(name, _)| *name == op).expect("an operator");
        cases.into_iter().find(|case| case.bench && case.label().contains(part)).expect("a case")
    }

    #[test]
    fn costs_are_those_of_the_formulas() {
        let cost = |op, part| {
            let case = case(op, part);
            (case.bytes(&DeviceProfile::baseline()), case.flops())
        };
        // Residual and y.
        assert_eq!(
            cost("linear", "(f32[128, 1536], q4_0[576, 1536]"),
            (128 * 1536 * 4 + 576 * 48 * 18 + 2 * 128 * 576 * 4, Some(2 * 128 * 1536 * 576))
        );
        // 256 positions of 3 heads of 64 for keys and values; q and y of 9 heads.
        assert_eq!(cost("attention", "at 255"), (2 * 256 * 192 * 4 + 2 * 576 * 4, Some(2 * 2 * 576 * 256)));
        // 577 rows attend to 577 positions of 16 heads of 64.
        let moved = 4 * 577 * 1024 * 4;
        assert_eq!(cost("attention", "causal: false"), (moved, Some(2 * 2 * 577 * 577 * 1024)));
        // A kernel of 9 elements per channel; 12 · 12 output pixels of 24 · 24 input pixels.
        let moved = 4 * 2048 * (576 + 9 + 144);
        assert_eq!(cost("depthwise_conv2d", "stride: 2"), (moved, Some(2 * 9 * 144 * 2048)));
        assert_eq!(cost("avg_pool2d", "out_height: 12"), (4 * 2048 * (576 + 144), None));
        // 144 ids of image rows and 48 others; each row of y is a row of x or of an image.
        assert_eq!(cost("splice_rows", "2048"), (4 * 192 * (1 + 2048 + 2048), None));
        // 24 · 24 patches of 3 · 14 · 14.
        assert_eq!(
            cost("conv2d", "336"),
            (3 * 336 * 336 * 4 + 1024 * 588 * 2 + 576 * 1024 * 4, Some(2 * 576 * 588 * 1024))
        );
        assert_eq!(cost("embedding", "49152"), (4 + 18 * 34 + 576 * 4, None));
        assert_eq!(cost("cache_write", "at 33"), (2 * 192 * 4, None));
        assert_eq!(cost("add", "128"), (3 * 128 * 576 * 4, None));
    }
}
