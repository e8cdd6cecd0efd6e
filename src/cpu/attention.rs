//! `attention`: for few rows, an item of work is one head of one row, and keys and values are read from the cache
//! directly. For many rows, 32 rows of a head are the lanes of two products.

use crate::cpu::exp::exp;
use crate::cpu::panel::{COLS, Lanes, add_products};
use crate::cpu::simd::{mul_add, simd};
use crate::cpu::{Call, Scratch, piece};
use crate::work::Family;
use crate::ops::attention::Attention;
use crate::threads::Member;

pub fn run(op: &Attention, call: &Call, member: &Member, scratch: &mut Scratch) {
    match call.family {
        Family::Few => few(op, call, member, scratch),
        Family::Many => many(op, call, member, scratch),
    }
}

/// The offset of the keys or values for a head of q, and their stride.
fn cached(op: &Attention, head: usize, first: usize) -> (usize, usize) {
    let width = op.kv_heads * op.head_dim;
    (first * width + head / (op.heads / op.kv_heads) * op.head_dim, width)
}

fn few(op: &Attention, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [q, keys, values] = call.reads else { panic!("attention reads q, keys and values") };
    let (q, keys, values) = (q.f32(), keys.f32(), values.f32());
    let d = op.head_dim;
    // The buffer is as long as the cache, so that it does not grow with each token.
    let [scores] = scratch.take([keys.len() / (op.kv_heads * d)]);
    member.each(call.m * op.heads, |i| {
        let (row, head) = (i / op.heads, i % op.heads);
        let seen = op.seen(row, call.m, call.rows);
        let slot = call.rows[if op.causal { row } else { 0 }].slot as usize;
        let (at, width) = cached(op, head, slot);
        // SAFETY: each head of a row is one item.
        let y = unsafe { call.writes[0].part(i * d..(i + 1) * d) };
        let (keys, values) = (&keys[at + seen.start * width..], &values[at + seen.start * width..]);
        attend(op, &q[i * d..][..d], keys, values, width, &mut scores[..seen.len()], y);
    });
}

simd! {
    /// Computes one head of one row; `scores` has one element for each key in the row's window.
    pub fn attend(
        op: &Attention,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        width: usize,
        scores: &mut [f32],
        y: &mut [f32],
    ) {
        let d = q.len();
        let factor = |x: &[f32]| op.qk_norm.map_or(1.0, |eps| 1.0 / (dot::<FMA>(x, x) / d as f32 + eps).sqrt());
        let scale = factor(q) * op.scale;
        for (t, score) in scores.iter_mut().enumerate() {
            let k = &keys[t * width..][..d];
            *score = dot::<FMA>(q, k) * scale * factor(k);
        }
        softmax::<FMA>(scores);
        let (columns, rest) = y.as_chunks_mut::<COLS>();
        for (c, y) in columns.iter_mut().enumerate() {
            let mut sums = [0.0; COLS];
            for (t, p) in scores.iter().enumerate() {
                let v: &[f32; COLS] = values[t * width + c * COLS..].first_chunk().expect("a head of the cache");
                for i in 0..COLS {
                    sums[i] = mul_add::<FMA>(*p, v[i], sums[i]);
                }
            }
            *y = sums;
        }
        rest.fill(0.0);
        for (t, p) in scores.iter().enumerate() {
            let v = &values[t * width + d - rest.len()..][..rest.len()];
            rest.iter_mut().zip(v).for_each(|(y, v)| *y = mul_add::<FMA>(*p, *v, *y));
        }
    }

    /// Row t of `scores` has rows of q as lanes: scores → exp(scores − largest), 0 if t is not in `first` .. `seen` of
    /// the lane. Returns the sums of the lanes.
    pub fn softmax_lanes(scores: &mut [Lanes], first: &[usize; COLS], seen: &[usize; COLS]) -> Lanes {
        // Keys that all lanes see; before and after them are keys that only some lanes see.
        let begin = first.iter().copied().max().unwrap_or(0).min(scores.len());
        let end = seen.iter().copied().min().unwrap_or(0).clamp(begin, scores.len());
        let (before, rest) = scores.split_at_mut(begin);
        let (whole, behind) = rest.split_at_mut(end - begin);
        for (at, part) in [(0, &mut *before), (end, &mut *behind)] {
            for (t, scores) in part.iter_mut().enumerate() {
                for i in 0..COLS {
                    let sees = first[i] <= at + t && at + t < seen[i];
                    scores[i] = if sees { scores[i] } else { f32::NEG_INFINITY };
                }
            }
        }
        let mut largest = [f32::NEG_INFINITY; COLS];
        for scores in before.iter().chain(&*whole).chain(&*behind) {
            for i in 0..COLS {
                largest[i] = if scores[i] > largest[i] { scores[i] } else { largest[i] };
            }
        }
        let mut sums = [0.0; COLS];
        for (t, scores) in before.iter_mut().enumerate() {
            for i in 0..COLS {
                let weight = exp::<FMA>(scores[i] - largest[i]);
                scores[i] = if first[i] <= t && t < seen[i] { weight } else { 0.0 };
                sums[i] += scores[i];
            }
        }
        for scores in whole {
            for i in 0..COLS {
                scores[i] = exp::<FMA>(scores[i] - largest[i]);
                sums[i] += scores[i];
            }
        }
        for (t, scores) in behind.iter_mut().enumerate() {
            for i in 0..COLS {
                let weight = exp::<FMA>(scores[i] - largest[i]);
                scores[i] = if first[i] <= end + t && end + t < seen[i] { weight } else { 0.0 };
                sums[i] += scores[i];
            }
        }
        sums
    }

    /// Σ x²
    pub fn squares(x: &[f32]) -> f32 {
        dot::<FMA>(x, x)
    }
}

/// Σ a · b
#[inline(always)]
fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    let ((a16, a_rest), (b16, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a16.iter().zip(b16) {
        for i in 0..16 {
            lanes[i] = mul_add::<FMA>(a[i], b[i], lanes[i]);
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    halved(lanes, |a, b| a + b) + rest
}

/// scores → exp(scores) / Σ exp(scores)
#[inline(always)]
fn softmax<const FMA: bool>(scores: &mut [f32]) {
    let largest = folded(scores, f32::NEG_INFINITY, |a, b| if b > a { b } else { a });
    scores.iter_mut().for_each(|score| *score = exp::<FMA>(*score - largest));
    let factor = 1.0 / folded(scores, 0.0, |a, b| a + b);
    scores.iter_mut().for_each(|score| *score *= factor);
}

/// Reduces `x` to one value, through 16 lanes that fit a vector register.
#[inline(always)]
fn folded(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (x16, rest) = x.as_chunks::<16>();
    for x in x16 {
        for i in 0..16 {
            lanes[i] = f(lanes[i], x[i]);
        }
    }
    rest.iter().fold(halved(lanes, &f), |a, b| f(a, *b))
}

/// Reduces 16 lanes to one, half by half.
#[inline(always)]
fn halved(mut lanes: [f32; 16], f: impl Fn(f32, f32) -> f32) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
    }
    lanes[0]
}

/// Sᵀ = K · Qᵀ and yᵀ = Vᵀ · P, with the rows of q in lanes: K and V are read from the cache, and P replaces Sᵀ in
/// place.
fn many(op: &Attention, call: &Call, member: &Member, scratch: &mut Scratch) {
    let [q, keys, values] = call.reads else { panic!("attention reads q, keys and values") };
    let (q, keys, values) = (q.f32(), keys.f32(), values.f32());
    let (d, count) = (op.head_dim, call.m);
    let factor = |x: &[f32]| op.qk_norm.map_or(1.0, |eps| 1.0 / (squares(x) / d as f32 + eps).sqrt());
    let slot = call.rows[0].slot as usize;
    let longest = op.seen(count - 1, count, call.rows).end;
    let blocks = count.div_ceil(COLS);
    let [queries, scores, sums] = scratch.take([d * COLS, longest * COLS, d * COLS]);
    let (queries, scores, y): (&mut [Lanes], &mut [Lanes], &mut [Lanes]) =
        (queries.as_chunks_mut().0, scores.as_chunks_mut().0, sums.as_chunks_mut().0);
    member.each(op.heads * blocks, |i| {
        // The last rows have the most keys, so they are computed first and members finish at about the same time.
        let (head, rows) = (i % op.heads, piece(blocks - 1 - i / op.heads, COLS, count));
        let (at, width) = cached(op, head, slot);
        let seen = |r: usize| op.seen(rows.start + r.min(rows.len() - 1), count, call.rows);
        // Keys are numbered from the first key of any of these rows.
        let from = seen(0).start;
        let at = at + from * width;
        let (first, seen): ([usize; COLS], [usize; COLS]) =
            (std::array::from_fn(|r| seen(r).start - from), std::array::from_fn(|r| seen(r).end - from));
        queries.fill([0.0; COLS]);
        for (lane, r) in rows.clone().enumerate() {
            let q = &q[(r * op.heads + head) * d..][..d];
            let scale = factor(q) * op.scale;
            queries.iter_mut().zip(q).for_each(|(queries, q)| queries[lane] = q * scale);
        }
        let scores = &mut scores[..seen[COLS - 1]];
        scores.fill([0.0; COLS]);
        add_products(&keys[at..], width, 1, queries, scores);
        if op.qk_norm.is_some() {
            for (t, scores) in scores.iter_mut().enumerate() {
                let factor = factor(&keys[at + t * width..][..d]);
                scores.iter_mut().for_each(|score| *score *= factor);
            }
        }
        let totals = softmax_lanes(scores, &first, &seen);
        y.fill([0.0; COLS]);
        add_products(&values[at..], 1, width, scores, y);
        for (lane, r) in rows.enumerate() {
            // SAFETY: each head of a row is in one item.
            let to = unsafe { call.writes[0].part((r * op.heads + head) * d..(r * op.heads + head + 1) * d) };
            to.iter_mut().zip(&*y).for_each(|(to, y)| *to = y[lane] / totals[lane]);
        }
    });
}
