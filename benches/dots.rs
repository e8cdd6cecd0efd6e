//! Dot products of stored rows with activations on one core, with data in its cache: weights a nanosecond, for each
//! format.

use std::hint::black_box;
use std::time::Instant;

use dunlin::cpu::dot::dot_row;
use dunlin::tensor::DType;

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
        println!("{:<6}{:6.1}", dtype.name(), (ROWS * COLS) as f64 / best / 1e9);
    }
}
