//! `norm_swiglu`: an item of work is a row of gate and the matching row of up.

use crate::cpu::norm::rms_norm;
use crate::cpu::product::rows_of_item;
use crate::cpu::rows::{self, Activations};
use crate::cpu::swiglu::gated;
use crate::cpu::{Call, Scratch, piece};
use crate::ops::norm_swiglu::NormSwiglu;
use crate::threads::Member;

pub fn run(op: &NormSwiglu, call: &Call, member: &Member, scratch: &mut Scratch) {
    let (x, gain, w) = (call.reads[0].f32(), call.reads[1].f32(), call.reads[2].weight());
    let (n, m, some) = (w.rows() / 2, x.len() / w.cols, (rows_of_item(w) / 2).max(1));
    let room = Activations::room(w, call.rounds, m);
    let [normed, room, gate, up, y] = scratch.take([x.len(), room, some * m, some * m, some * m]);
    rms_norm(x, gain, op.eps, normed);
    let normed = Activations::new(w, normed, room);
    member.each(n.div_ceil(some), |i| {
        let columns = piece(i, some, n);
        let count = columns.len() * m;
        rows::products(w, columns.clone(), &normed, &mut gate[..count]);
        rows::products(w, n + columns.start..n + columns.end, &normed, &mut up[..count]);
        gated(op.gate, &gate[..count], &up[..count], &mut y[..count]);
        for r in 0..m {
            // SAFETY: each column is in one item.
            let to = unsafe { call.writes[0].part(r * n + columns.start..r * n + columns.end) };
            to.iter_mut().zip(y[r..count].iter().step_by(m)).for_each(|(to, y)| *to = *y);
        }
    });
}
