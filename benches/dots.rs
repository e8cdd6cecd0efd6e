//! Dot products of stored rows with activations on one core, with data in its cache: weights a nanosecond, for each
//! format, with activations of f32 and with those that are rounded to 8 bits.

use std::hint::black_box;
use std::time::Instant;

use dunlin::cpu::dot::dot_row;
use dunlin::cpu::rows::{Activations, products};
use dunlin::ops::Matrix;
use dunlin::tensor::{Bytes, DType, RowOrder, Tensor};

const ROWS: usize = 100;
/// A multiple of the block size of every format.
const COLS: usize = 768;

fn main() {
    let x: Vec<f32> = (0..COLS).map(|i| (i as f32 * 0.37).sin()).collect();
    for dtype in DType::ALL {
        let bytes = dtype.row_bytes(COLS);
        // Scales below 2, so that no sum overflows.
        let rows: Vec<u8> = (0..bytes * ROWS).map(|i| (i * 37 % 251) as u8 & 0x3f).collect();
        let pass = || {
            let start = Instant::now();
            for row in rows.chunks_exact(bytes) {
                black_box(dot_row(dtype, row, black_box(&x)));
            }
            start.elapsed().as_secs_f64()
        };
        let best = (0..600).map(|_| pass()).fold(f64::INFINITY, f64::min);
        let rate = |seconds: f64| (ROWS * COLS) as f64 / seconds / 1e9;
        let mut line = format!("{:<6}{:6.1}", dtype.name(), rate(best));
        if dtype.group() > 0 {
            let w = matrix(dtype, rows);
            let mut room = vec![0.0; Activations::room(&w, true, 1)];
            let x = Activations::new(&w, &x, &mut room);
            let mut sums = [0.0; ROWS];
            let mut pass = || {
                let start = Instant::now();
                products(&w, 0..ROWS, black_box(&x), &mut sums);
                black_box(&sums);
                start.elapsed().as_secs_f64()
            };
            let best = (0..600).map(|_| pass()).fold(f64::INFINITY, f64::min);
            line += &format!("{:8.1}", rate(best));
        }
        println!("{line}");
    }
}

fn matrix(dtype: DType, rows: Vec<u8>) -> Matrix {
    let shape = vec![ROWS, COLS];
    Matrix::new(vec![Tensor { dtype, shape, bytes: Bytes::new(rows), order: RowOrder::Stored }])
}
