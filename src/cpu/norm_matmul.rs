//! `norm_matmul`: every member computes the norm itself, which takes less time than a barrier.

use crate::cpu::norm::rms_norm;
use crate::cpu::product::rows_of_item;
use crate::cpu::rows::{self, Activations};
use crate::cpu::{Call, Scratch, piece};
use crate::ops::norm_matmul::NormMatmul;
use crate::threads::Member;

pub fn run(op: &NormMatmul, call: &Call, member: &Member, scratch: &mut Scratch) {
    let (x, gain, w) = (call.reads[0].f32(), call.reads[1].f32(), call.reads[2].weight());
    let (n, m, some) = (w.rows(), x.len() / w.cols, rows_of_item(w));
    let [normed, room, sums] = scratch.take([x.len(), Activations::room(w, call.rounds, m), some * m]);
    rms_norm(x, gain, op.eps, normed);
    let normed = Activations::new(w, normed, room);
    member.each(n.div_ceil(some), |i| {
        let columns = piece(i, some, n);
        let sums = &mut sums[..columns.len() * m];
        rows::products(w, columns.clone(), &normed, sums);
        for r in 0..m {
            // SAFETY: each column is in one item.
            let y = unsafe { call.writes[0].part(r * n + columns.start..r * n + columns.end) };
            y.iter_mut().zip(sums[r..].iter().step_by(m)).for_each(|(y, sum)| *y = *sum);
        }
    });
}
