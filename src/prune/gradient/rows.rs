//! Division of rows among the threads of a team.

use crate::cpu::piece;
use crate::threads::{Parts, Team};

/// Calls `work(row, a, b)` for each row of two results with the same number of rows, whose widths are given.
pub fn both<'a>(
    team: &Team,
    (a, a_width): (&'a mut [f32], usize),
    (b, b_width): (&'a mut [f32], usize),
    work: impl Fn(usize, &mut [f32], &mut [f32]) + Sync,
) {
    let rows = a.len() / a_width;
    assert_eq!(rows * b_width, b.len(), "two results of as many rows");
    let (a, b) = (Parts::new(a), Parts::new(b));
    let some = rows.div_ceil(8 * team.count()).max(1);
    team.run(|member| {
        member.each(rows.div_ceil(some), |i| {
            for row in piece(i, some, rows) {
                // SAFETY: each row belongs to one item.
                let a = unsafe { a.part(row * a_width..(row + 1) * a_width) };
                // SAFETY: as above.
                let b = unsafe { b.part(row * b_width..(row + 1) * b_width) };
                work(row, a, b);
            }
        });
    });
}
