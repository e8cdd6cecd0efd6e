//! y[r, c] = f(bias[c] + Σ_k x[r, k] · W[c, k]) + residual[r, c]: dot products for few rows, panels for many.

use std::ops::Range;

use crate::cpu::panel::{self, COLS, Lanes};
use crate::cpu::rows::{self, Activations};
use crate::cpu::{Call, Scratch, activation, piece};
use crate::ops::Matrix;
use crate::ops::activation::Kind;
use crate::threads::{Member, Parts};
use crate::work::Family;

pub struct Product<'a> {
    pub x: &'a [f32],
    pub w: &'a Matrix,
    pub bias: Option<&'a [f32]>,
    pub activation: Option<Kind>,
    pub residual: Option<&'a [f32]>,
}

impl<'a> Product<'a> {
    pub fn new(x: &'a [f32], w: &'a Matrix) -> Self {
        Product { x, w, bias: None, activation: None, residual: None }
    }

    /// Applies bias, activation and residual to the sums of columns `columns` of row r.
    fn finish(&self, r: usize, columns: Range<usize>, y: &mut [f32]) {
        if let Some(bias) = self.bias {
            y.iter_mut().zip(&bias[columns.clone()]).for_each(|(y, bias)| *y += bias);
        }
        if let Some(kind) = self.activation {
            activation::apply(kind, y);
        }
        if let Some(residual) = self.residual {
            let residual = &residual[r * self.w.rows()..][columns];
            y.iter_mut().zip(residual).for_each(|(y, residual)| *y += residual);
        }
    }
}

/// One member's part of a product.
pub fn run(product: &Product, call: &Call, y: &Parts<f32>, member: &Member, scratch: &mut Scratch) {
    match call.family {
        Family::Few => few(product, call, y, member, scratch),
        Family::Many => many(product, y, member, scratch),
    }
}

/// Rows of W in an item of work: about a microsecond of work.
pub fn rows_of_item(w: &Matrix) -> usize {
    (12 << 10 >> w.dtype.row_bytes(w.cols).max(1).ilog2()).max(4)
}

fn few(product: &Product, call: &Call, y: &Parts<f32>, member: &Member, scratch: &mut Scratch) {
    let (x, w) = (product.x, product.w);
    let (n, m, some) = (w.rows(), x.len() / w.cols, rows_of_item(w));
    let [room, sums] = scratch.take([Activations::room(w, call.rounds, m), some * m]);
    let x = Activations::new(w, x, room);
    member.each(n.div_ceil(some), |i| {
        let columns = piece(i, some, n);
        let sums = &mut sums[..columns.len() * m];
        rows::products(w, columns.clone(), &x, sums);
        for r in 0..m {
            // SAFETY: each column is in one item.
            let y = unsafe { y.part(r * n + columns.start..r * n + columns.end) };
            y.iter_mut().zip(sums[r..].iter().step_by(m)).for_each(|(y, sum)| *y = *sum);
            product.finish(r, columns.clone(), y);
        }
    });
}

fn many(product: &Product, y: &Parts<f32>, member: &Member, scratch: &mut Scratch) {
    let (x, w) = (product.x, product.w);
    let (n, k, m) = (w.rows(), w.cols, x.len() / w.cols);
    let panels = n.div_ceil(COLS);
    // If there are few panels, rows are split too; each part decodes its own panel.
    let splits = (4 * member.count).div_ceil(panels).min(m.div_ceil(32));
    let some = m.div_ceil(splits);
    let [panel, decoded, sums] = scratch.take([COLS * panel::DEPTH, panel::DECODED, some * COLS]);
    let panel: &mut [Lanes] = panel.as_chunks_mut().0;
    member.each(panels * splits, |i| {
        let (columns, rows) = (piece(i / splits, COLS, n), piece(i % splits, some, m));
        if rows.is_empty() {
            return;
        }
        let sums: &mut [Lanes] = sums[..rows.len() * COLS].as_chunks_mut().0;
        sums.fill([0.0; COLS]);
        for first in (0..k).step_by(panel::DEPTH) {
            let panel = &mut panel[..panel::DEPTH.min(k - first)];
            panel::decode(w, columns.clone(), first, decoded, panel);
            panel::add_products(&x[rows.start * k + first..], k, 1, panel, sums);
        }
        for (r, sums) in rows.zip(sums) {
            // SAFETY: each row's columns are in one item.
            let y = unsafe { y.part(r * n + columns.start..r * n + columns.end) };
            y.copy_from_slice(&sums[..columns.len()]);
            product.finish(r, columns.clone(), y);
        }
    });
}
