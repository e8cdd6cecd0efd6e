//! `norm_qkv_rope`: an item of work is some pairs of elements of a head, which rope rotates; with a QK-norm, a whole
//! head.

use crate::cpu::norm::rms_norm;
use crate::cpu::product::rows_of_item;
use crate::cpu::rows::{self, Activations};
use crate::cpu::{Call, Scratch, piece};
use crate::ops::norm_qkv_rope::{NormQkvRope, Vectors};
use crate::threads::Member;

pub fn run(op: &NormQkvRope, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [x, vectors, w, angles] = call.reads else { panic!("norm_qkv_rope reads x, vectors, W and angles") };
    let (x, vectors, w, angles) = (x.f32(), vectors.f32(), w.weight(), angles.f32());
    let Vectors { gain, bias, q_norm, k_norm } = op.vectors(vectors);
    let [keys, values, q] = call.writes else { panic!("norm_qkv_rope writes keys, values and q") };
    let (d, m) = (op.head_dim, x.len() / w.cols);
    let pairs = d / 2;
    let some = if op.qk_norm { pairs } else { (rows_of_item(w) / 2).clamp(1, pairs) };
    let room = Activations::room(w, call.rounds, m);
    let [normed, room, a, b] = scratch.take([x.len(), room, 2 * some * m, some * m]);
    rms_norm(x, gain, op.eps, normed);
    let normed = Activations::new(w, normed, room);

    let parts = pairs.div_ceil(some);
    member.each(w.rows() / d * parts, |i| {
        let (head, range) = (i / parts, piece(i % parts, some, pairs));
        // The positions of the first and the second elements of the pairs: adjacent, or half a head apart.
        let count = range.len() * m;
        let (first, step) = (head * d, if op.interleaved { 2 * m } else { m });
        let (a, b): (&[f32], &[f32]) = if op.interleaved {
            let both = &mut a[..2 * count];
            rows::products(w, first + 2 * range.start..first + 2 * range.end, &normed, both);
            (both, &both[m..])
        } else {
            let (a, b) = (&mut a[..count], &mut b[..count]);
            rows::products(w, first + range.start..first + range.end, &normed, a);
            rows::products(w, first + pairs + range.start..first + pairs + range.end, &normed, b);
            (a, b)
        };
        let (q_heads, k_heads) = (op.q_rows / d, op.k_rows / d);
        let turns = head < q_heads + k_heads;
        let head_norm = if head < q_heads { q_norm } else { k_norm };
        // The positions in a head of the two elements of pair j of the item.
        let places = |j: usize| {
            let pair = range.start + j;
            if op.interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pairs + pair) }
        };
        let bias = |row: usize| bias.get(first + row).copied().unwrap_or(0.0);

        for (r, row) in call.rows[..m].iter().enumerate() {
            let cached = |head: usize| (row.place() * op.kv_heads + head) * d;
            let (to, at) = if head < q_heads {
                (q, r * op.q_rows + head * d)
            } else if turns {
                (keys, cached(head - q_heads))
            } else {
                (values, cached(head - q_heads - k_heads))
            };
            let product = |j: usize| {
                let (x, y) = places(j);
                (a[j * step + r] + bias(x), b[j * step + r] + bias(y))
            };
            let factor = if op.qk_norm && turns {
                let squares = |j: usize| {
                    let (x, y) = product(j);
                    x * x + y * y
                };
                1.0 / ((0..pairs).map(squares).sum::<f32>() / d as f32 + op.eps).sqrt()
            } else {
                1.0
            };
            let turned = if head < q_heads { op.q_angles } else { op.k_angles() };
            let pair = |j: usize| {
                let (mut x, mut y) = product(j);
                if op.qk_norm && turns {
                    let (at_x, at_y) = places(j);
                    (x, y) = (x * factor * head_norm[at_x], y * factor * head_norm[at_y]);
                }
                if !(op.rope && turns) {
                    return (x, y);
                }
                let angle = &angles[turned.of(row) * d + 2 * (range.start + j)..][..2];
                (x * angle[0] - y * angle[1], y * angle[0] + x * angle[1])
            };
            if op.interleaved {
                // SAFETY: each pair of a head is in one item, and no two rows have the same position in the cache.
                let to = unsafe { to.part(at + 2 * range.start..at + 2 * range.end) };
                for (j, to) in to.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    *to = pair(j).into();
                }
            } else {
                // SAFETY: as above; the halves of a head do not overlap.
                let low = unsafe { to.part(at + range.start..at + range.end) };
                let high = unsafe { to.part(at + pairs + range.start..at + pairs + range.end) };
                for (j, (low, high)) in low.iter_mut().zip(high).enumerate() {
                    (*low, *high) = pair(j);
                }
            }
        }
    });
}
