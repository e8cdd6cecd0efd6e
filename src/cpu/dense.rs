//! Products of float32 matrices in memory, either of them transposed or a part of a larger one: by panels of 32
//! columns.
//!
//! y[r, c] = Σ_i a[r, i] · b[i, c]    a: (m, k)   b: (k, n)   y: (m, n)

use crate::cpu::panel::{self, COLS, Lanes};
use crate::cpu::{Scratch, piece};
use crate::threads::{Parts, Team};

/// A matrix: element (i, j) is `data[i · row + j · col]`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub data: &'a [f32],
    pub row: usize,
    pub col: usize,
}

impl<'a> View<'a> {
    /// Rows of `cols` elements, one after the other.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        View { data, row: cols, col: 1 }
    }

    /// Rows become columns.
    pub fn t(self) -> Self {
        View { row: self.col, col: self.row, ..self }
    }
}

/// A product, and whether it is added to `y`.
#[derive(Clone, Copy)]
pub struct Dense<'a> {
    pub a: View<'a>,
    pub b: View<'a>,
    /// m, k, n.
    pub size: [usize; 3],
    /// y = y + a · b.
    pub add: bool,
}

/// The most rows of a result in an item of work: its sums fit the L2 cache.
const MOST_ROWS: usize = 1024;

impl Dense<'_> {
    /// Computes the product with a team. y: (m, n)
    pub fn run(&self, team: &Team, y: &mut [f32]) {
        let [m, _, n] = self.size;
        assert_eq!(y.len(), m * n, "a result of {m} × {n}");
        let panels = n.div_ceil(COLS);
        // If there are few panels, rows are split too; each part packs its own panel.
        let splits = (4 * team.count()).div_ceil(panels.max(1)).min(m.div_ceil(64)).max(m.div_ceil(MOST_ROWS));
        let some = m.div_ceil(splits.max(1));
        let y = Parts::new(y);
        team.run(|member| {
            let mut scratch = Scratch::default();
            member.each(panels * splits, |i| self.item(i / splits, piece(i % splits, some, m), &y, &mut scratch));
        });
    }

    /// Computes the product on the calling thread. y: (m, n)
    pub fn run_alone(&self, scratch: &mut Scratch, y: &mut [f32]) {
        let [m, _, n] = self.size;
        assert_eq!(y.len(), m * n, "a result of {m} × {n}");
        let y = Parts::new(y);
        for panel in 0..n.div_ceil(COLS) {
            for part in 0..m.div_ceil(MOST_ROWS) {
                self.item(panel, piece(part, MOST_ROWS, m), &y, scratch);
            }
        }
    }

    /// Computes the columns of one panel in some rows. No other item writes them.
    fn item(&self, panel: usize, rows: std::ops::Range<usize>, y: &Parts<f32>, scratch: &mut Scratch) {
        let Dense { a, b, size: [_, k, n], add } = *self;
        let columns = piece(panel, COLS, n);
        if rows.is_empty() {
            return;
        }
        let [packed, side, sums] = scratch.take([COLS * panel::DEPTH, panel::DECODED, rows.len() * COLS]);
        let (packed, sums): (&mut [Lanes], &mut [Lanes]) = (packed.as_chunks_mut().0, sums.as_chunks_mut().0);
        // SAFETY: the rows belong to this item.
        let result = |r: usize| unsafe { y.part(r * n + columns.start..r * n + columns.end) };
        for (r, sums) in rows.clone().zip(sums.iter_mut()) {
            sums.fill(0.0);
            if add {
                sums[..columns.len()].copy_from_slice(result(r));
            }
        }
        for first in (0..k).step_by(panel::DEPTH) {
            let packed = &mut packed[..panel::DEPTH.min(k - first)];
            panel::pack(b.data, [b.row, b.col], columns.clone(), first, side, packed);
            panel::add_products(&a.data[rows.start * a.row + first * a.col..], a.row, a.col, packed, sums);
        }
        for (r, sums) in rows.zip(sums.iter()) {
            result(r).copy_from_slice(&sums[..columns.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_plain_sums() {
        let team = Team::new(2);
        for size @ [m, k, n] in [[1, 1, 1], [3, 5, 7], [65, 33, 40], [130, 257, 31], [2, 300, 97], [1030, 3, 33]] {
            // Small integers, whose sums are exact in every order.
            let number = |i: usize| (i * 7 % 11) as f32 - 5.0;
            let a: Vec<f32> = (0..m * k).map(number).collect();
            let b: Vec<f32> = (0..k * n).map(|i| number(3 * i + 1)).collect();
            let wanted: Vec<f32> =
                (0..m * n).map(|at| 1.0 + (0..k).map(|i| a[at / n * k + i] * b[i * n + at % n]).sum::<f32>()).collect();
            let turned = |x: &[f32], cols: usize| -> Vec<f32> {
                let rows = x.len() / cols;
                (0..x.len()).map(|at| x[at % rows * cols + at / rows]).collect()
            };
            let (a_t, b_t) = (turned(&a, k), turned(&b, n));
            for (name, a, b) in [
                ("a b", View::new(&a, k), View::new(&b, n)),
                ("a bᵀ", View::new(&a, k), View::new(&b_t, k).t()),
                ("aᵀ b", View::new(&a_t, m).t(), View::new(&b, n)),
            ] {
                let mut y = vec![1.0; m * n];
                Dense { a, b, size, add: true }.run(&team, &mut y);
                assert_eq!(y, wanted, "{name} of {size:?}");
                Dense { a, b, size, add: false }.run_alone(&mut Scratch::default(), &mut y);
                assert!(y.iter().zip(&wanted).all(|(y, wanted)| y + 1.0 == *wanted), "{name} of {size:?}, alone");
            }
        }
    }
}
