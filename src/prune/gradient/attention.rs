//! Causal attention over windows of the same length, and its gradient.
//!
//! ```text
//! S = q kᵀ / √D     P = softmax of each row of S up to the diagonal     o = P v
//! dv = Pᵀ do        dP = do vᵀ        dS = P ⊙ (dP − rowsum(dP ⊙ P)) / √D        dq = dS k        dk = dSᵀ q
//! ```
//!
//! for each window and query head; all query heads of a key/value head use its k and v, and their gradients are added.

use crate::cpu::Scratch;
use crate::cpu::dense::{Dense, View};
use crate::threads::{Parts, Team};

pub struct Attention {
    pub window: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
}

impl Attention {
    /// P (windows, heads, window, window) and o (m, heads · D) of q (m, heads · D), k and v (m, kv heads · D).
    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32], team: &Team) -> (Vec<f32>, Vec<f32>) {
        let Attention { window: t, heads, kv_heads, head_dim: d } = *self;
        let windows = q.len() / (t * heads * d);
        let (mut p, mut o) = (vec![0.0; windows * heads * t * t], vec![0.0; q.len()]);
        let (all_p, all_o) = (Parts::new(&mut p), Parts::new(&mut o));
        let scale = 1.0 / (d as f32).sqrt();
        team.run(|member| {
            let mut scratch = Scratch::default();
            let mut result = vec![0.0; t * d];
            member.each(windows * heads, |item| {
                let (w, head) = (item / heads, item % heads);
                let kv_head = head / (heads / kv_heads);
                let q = part(q, t, heads, d, w, head);
                let (k, v) = (part(k, t, kv_heads, d, w, kv_head), part(v, t, kv_heads, d, w, kv_head));
                // SAFETY: each item is one head of one window.
                let p = unsafe { all_p.part(item * t * t..(item + 1) * t * t) };
                Dense { a: q, b: k.t(), size: [t, d, t], add: false }.run_alone(&mut scratch, p);
                p.chunks_exact_mut(t).enumerate().for_each(|(row, p)| softmax(p, row + 1, scale));
                Dense { a: View::new(p, t), b: v, size: [t, t, d], add: false }.run_alone(&mut scratch, &mut result);
                // SAFETY: as above.
                unsafe { write(&result, t, heads, d, w, head, &all_o) };
            });
        });
        (p, o)
    }

    /// dq, dk and dv for the gradient d_o, in the shapes of q, k, v and o.
    pub fn backward(
        &self,
        q: &[f32],
        k: &[f32],
        v: &[f32],
        p: &[f32],
        d_o: &[f32],
        team: &Team,
    ) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
        let Attention { window: t, heads, kv_heads, head_dim: d } = *self;
        let (windows, group) = (q.len() / (t * heads * d), heads / kv_heads);
        let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
        let (all_dq, all_dk, all_dv) = (Parts::new(&mut dq), Parts::new(&mut dk), Parts::new(&mut dv));
        let scale = 1.0 / (d as f32).sqrt();
        team.run(|member| {
            let mut scratch = Scratch::default();
            let mut ds = vec![0.0; t * t];
            let [mut dq, mut dk, mut dv] = [(); 3].map(|()| vec![0.0; t * d]);
            member.each(windows * kv_heads, |item| {
                let (w, kv_head) = (item / kv_heads, item % kv_heads);
                let (k, v) = (part(k, t, kv_heads, d, w, kv_head), part(v, t, kv_heads, d, w, kv_head));
                for head in kv_head * group..(kv_head + 1) * group {
                    let add = head > kv_head * group;
                    let (q, d_o) = (part(q, t, heads, d, w, head), part(d_o, t, heads, d, w, head));
                    let p = &p[(w * heads + head) * t * t..][..t * t];
                    Dense { a: View::new(p, t).t(), b: d_o, size: [t, t, d], add }.run_alone(&mut scratch, &mut dv);
                    Dense { a: d_o, b: v.t(), size: [t, d, t], add: false }.run_alone(&mut scratch, &mut ds);
                    for (ds, p) in ds.chunks_exact_mut(t).zip(p.chunks_exact(t)) {
                        let along: f32 = ds.iter().zip(p).map(|(ds, p)| ds * p).sum();
                        ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - along) * scale);
                    }
                    let ds = View::new(&ds, t);
                    Dense { a: ds, b: k, size: [t, t, d], add: false }.run_alone(&mut scratch, &mut dq);
                    Dense { a: ds.t(), b: q, size: [t, t, d], add }.run_alone(&mut scratch, &mut dk);
                    // SAFETY: each item is one key/value head of one window, with its query heads.
                    unsafe { write(&dq, t, heads, d, w, head, &all_dq) };
                }
                // SAFETY: as above.
                unsafe { write(&dk, t, kv_heads, d, w, kv_head, &all_dk) };
                // SAFETY: as above.
                unsafe { write(&dv, t, kv_heads, d, w, kv_head, &all_dv) };
            });
        });
        (dq, dk, dv)
    }
}

/// Window `w` of one head: (t, D)
fn part(x: &[f32], t: usize, heads: usize, d: usize, w: usize, head: usize) -> View<'_> {
    View { data: &x[w * t * heads * d + head * d..], row: heads * d, col: 1 }
}

/// Writes the elements that [`part`] reads.
///
/// # Safety
///
/// No other thread reads or writes this head of this window at the same time.
unsafe fn write(x: &[f32], t: usize, heads: usize, d: usize, w: usize, head: usize, y: &Parts<f32>) {
    for (row, x) in x.chunks_exact(d).enumerate() {
        let start = ((w * t + row) * heads + head) * d;
        // SAFETY: guaranteed by the caller.
        unsafe { y.part(start..start + d) }.copy_from_slice(x);
    }
}

/// softmax(scale · x) of the first `seen` elements; the others become zero.
fn softmax(x: &mut [f32], seen: usize, scale: f32) {
    let (x, unseen) = x.split_at_mut(seen);
    unseen.fill(0.0);
    let most = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (scale * (*x - most)).exp());
    let sum: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= sum);
}
