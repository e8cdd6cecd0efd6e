//! What a case costs at least: bytes that must move, arithmetic that must be done. Benches divide both by the time.

use crate::kernel::DeviceProfile;
use crate::ops::case::{Case, Fill, Given};
use crate::ops::{Elem, TensorType};

impl Case {
    /// Bytes that are read and written, each once: of tables, embeddings and caches only the rows that are used.
    pub fn bytes(&self, profile: &DeviceProfile) -> u64 {
        let (rows, results) = (self.rows(), self.results());
        let lookup = self.reads[0].ty.elem == Elem::U32;
        let read = |given: &Given| match given.ty.elem {
            Elem::Weight(dtype) => {
                let (all, cols) = given.ty.matrix();
                (if lookup { rows } else { all } * dtype.row_bytes(cols)) as u64
            }
            Elem::Kv => first(&given.ty, self.run.position as usize + rows, profile),
            Elem::U32 => first(&given.ty, rows, profile),
            Elem::F32 if given.fill == Fill::Angles => first(&given.ty, rows, profile),
            Elem::F32 => given.ty.bytes(profile),
        };
        let reads: u64 = self.reads.iter().map(read).sum();
        let state: u64 = self.state.iter().map(|given| first(&given.ty, rows, profile)).sum();
        reads + state + results.iter().map(|ty| ty.bytes(profile)).sum::<u64>()
    }

    /// Multiplications and additions of a matrix product (2·m·n·k) or of attention; other operators only move bytes.
    pub fn flops(&self) -> Option<u64> {
        let x = &self.reads[0].ty;
        if x.elem != Elem::F32 {
            return None;
        }
        // A convolution has a row for each patch of its picture.
        let (m, width) = (self.rows(), x.count() / x.shape[0]);
        let flops = |given: &Given| match given.ty.elem {
            Elem::Weight(_) => 2 * m * given.ty.count(),
            // q · k and the sum over v: each position that a row sees, of the keys and of the values.
            Elem::Kv => (1..=m).map(|row| 2 * width * (self.run.position as usize + row)).sum(),
            _ => 0,
        };
        Some(self.reads.iter().map(flops).sum::<usize>() as u64).filter(|&flops| flops > 0)
    }

    fn results(&self) -> Vec<TensorType> {
        self.op.infer(&self.reads.iter().map(|given| &given.ty).collect::<Vec<_>>())
    }

    /// Tokens that the case works on.
    fn rows(&self) -> usize {
        self.results().first().map_or(self.reads[0].ty.shape[0], |result| result.shape[0])
    }
}

/// Bytes of the first `rows` rows at most.
fn first(ty: &TensorType, rows: usize, profile: &DeviceProfile) -> u64 {
    let mut ty = ty.clone();
    ty.shape[0] = ty.shape[0].min(rows);
    ty.bytes(profile)
}

#[cfg(test)]
mod tests {
    use crate::kernel::DeviceProfile;
    use crate::ops::{self, Case};

    /// The benched case of an operator whose label has `part`.
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
        assert_eq!(
            cost("matmul", "(f32[128, 1536], q4_0[576, 1536])"),
            (128 * 1536 * 4 + 576 * 48 * 18 + 128 * 576 * 4, Some(2 * 128 * 1536 * 576))
        );
        // 256 positions of 3 heads of 64, keys and values; q and y of 9 heads.
        assert_eq!(cost("attention", "at 255"), (2 * 256 * 192 * 4 + 2 * 576 * 4, Some(2 * 2 * 576 * 256)));
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
