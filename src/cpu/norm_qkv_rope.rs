//! `norm_qkv_rope`: an item of work is some pairs of elements of a head, each of which is rotated.

use crate::cpu::norm::rms_norm;
use crate::cpu::product::rows_of_item;
use crate::cpu::{Call, Scratch, piece, rows};
use crate::ops::norm_qkv_rope::NormQkvRope;
use crate::threads::Member;

pub fn run(op: &NormQkvRope, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [x, vectors, w, angles] = call.reads else { panic!("norm_qkv_rope reads x, vectors, W and angles") };
    let (x, vectors, w, angles) = (x.f32(), vectors.f32(), w.weight(), angles.f32());
    let (gain, bias) = op.vectors(vectors);
    let [keys, values, q] = call.writes else { panic!("norm_qkv_rope writes keys, values and q") };
    let (d, m) = (op.head_dim, x.len() / w.cols);
    let pairs = d / 2;
    let some = (rows_of_item(w) / 2).clamp(1, pairs);
    let [normed, a, b] = scratch.take([x.len(), 2 * some * m, some * m]);
    rms_norm(x, gain, op.eps, normed);

    let parts = pairs.div_ceil(some);
    member.each(w.rows() / d * parts, |i| {
        let (head, range) = (i / parts, piece(i % parts, some, pairs));
        // Where the first and the second elements of the pairs lie: next to each other, or half a head apart.
        let count = range.len() * m;
        let (first, step) = (head * d, if op.interleaved { 2 * m } else { m });
        let (a, b): (&[f32], &[f32]) = if op.interleaved {
            let both = &mut a[..2 * count];
            rows::products(w, first + 2 * range.start..first + 2 * range.end, normed, both);
            (both, &both[m..])
        } else {
            let (a, b) = (&mut a[..count], &mut b[..count]);
            rows::products(w, first + range.start..first + range.end, normed, a);
            rows::products(w, first + pairs + range.start..first + pairs + range.end, normed, b);
            (a, b)
        };
        // Rows of W of pair 0 of the item, and how far those of the next are.
        let (at_a, at_b, apart) = if op.interleaved {
            (first + 2 * range.start, first + 2 * range.start + 1, 2)
        } else {
            (first + range.start, first + pairs + range.start, 1)
        };
        let bias = |row: usize| bias.get(row).copied().unwrap_or(0.0);

        for (r, row) in call.rows[..m].iter().enumerate() {
            let (q_heads, k_heads) = (op.q_rows / d, op.k_rows / d);
            let cached = |head: usize| (row.place() * op.kv_heads + head) * d;
            let (to, at, rotated) = if head < q_heads {
                (q, r * op.q_rows + head * d, true)
            } else if head < q_heads + k_heads {
                (keys, cached(head - q_heads), true)
            } else {
                (values, cached(head - q_heads - k_heads), false)
            };
            let turned = if head < q_heads { op.q_angles } else { op.k_angles() };
            let angles = &angles[turned.of(row) * d..][..d];
            let pair = |j: usize| {
                let (x, y) = (a[j * step + r] + bias(at_a + j * apart), b[j * step + r] + bias(at_b + j * apart));
                if !rotated {
                    return (x, y);
                }
                let angle = &angles[2 * (range.start + j)..];
                (x * angle[0] - y * angle[1], y * angle[0] + x * angle[1])
            };
            if op.interleaved {
                // SAFETY: each pair of a head is in one item, and no two rows have one place.
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
