//! A decoder block and its gradient.
//!
//! ```text
//! h₁ = RMS(x)     q, k, v = rope(h₁ W_qᵀ), rope(h₁ W_kᵀ), h₁ W_vᵀ     x₂ = x + Attn(q, k, v) W_oᵀ
//! h₂ = RMS(x₂)    s = silu(h₂ W_gᵀ) ⊙ h₂ W_uᵀ                        y = x₂ + s W_dᵀ
//! ```
//!
//! The backward pass, where RMSᵇ is the gradient of RMS, and dW is added to the existing gradients:
//!
//! ```text
//! dW_d = dyᵀ s      ds = dy W_d        dg, du = those of silu(g) ⊙ u      dW_g = dgᵀ h₂     dW_u = duᵀ h₂
//! dx₂ = dy + RMSᵇ(dg W_g + du W_u; x₂)
//! dW_o = dx₂ᵀ o     do = dx₂ W_o       dq, dk, dv = those of attention, turned back by rope's angles
//! dW_q = dqᵀ h₁     dW_k = dkᵀ h₁      dW_v = dvᵀ h₁
//! dx = dx₂ + RMSᵇ(dq W_q + dk W_k + dv W_v; x)
//! ```

use std::borrow::Cow;

use super::attention::Attention;
use super::layer::{Layer, Matrices};
use super::rows::both;
use crate::cpu::dense::{Dense, View};
use crate::cpu::gradient::{add_rms_norm_gradient, gated, rms_norm, silu_times_gradient};
use crate::ops::rope::Rope;
use crate::ops::swiglu::Gate;
use crate::threads::Team;

/// A block with its widths. The rows are those of windows of the same length, one window after another.
pub struct Block<'a> {
    pub layer: &'a Layer,
    /// Rows per window.
    pub window: usize,
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    pub ffn: usize,
    pub eps: f32,
    /// cos and sin of each position's angles: (window, D)
    pub angles: &'a [f32],
    /// The rotation of heads; `None` in layers without rope.
    pub rope: Option<Rope>,
    /// eps of the weightless norm of q and k after rope, where there is one.
    pub qk_norm: Option<f32>,
}

/// The activations of m rows that the backward pass needs.
pub struct Activations {
    h1: Vec<f32>, // (m, hidden)
    q: Vec<f32>,  // (m, heads · D), rotated
    k: Vec<f32>,  // (m, kv heads · D), rotated
    v: Vec<f32>,  // (m, kv heads · D)
    p: Vec<f32>,  // (windows, heads, window, window)
    o: Vec<f32>,  // (m, heads · D)
    x2: Vec<f32>, // (m, hidden)
    h2: Vec<f32>, // (m, hidden)
    g: Vec<f32>,  // (m, ffn)
    u: Vec<f32>,  // (m, ffn)
}

impl Block<'_> {
    /// Size of [`Activations`] per window in bytes.
    pub fn activation_bytes(&self) -> usize {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        4 * self.window * (3 * self.hidden + 2 * q + 2 * kv + self.heads * self.window + 2 * self.ffn)
    }

    /// y for x, (m, hidden), and the activations that [`Block::backward`] needs.
    pub fn forward(&self, x: &[f32], team: &Team) -> (Activations, Vec<f32>) {
        let w = &self.layer.matrices;
        let (hidden, ffn) = (self.hidden, self.ffn);
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let h1 = self.norm(x, &self.layer.attention_norm, team);
        let projected = |w: &[f32], bias: &[f32], width: usize| {
            let mut y = times_transposed(&h1, w, hidden, width, team);
            if !bias.is_empty() {
                y.chunks_exact_mut(width).for_each(|y| y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias));
            }
            y
        };
        let mut q = projected(&w.q, &self.layer.q_bias, q_width);
        let mut k = projected(&w.k, &self.layer.k_bias, kv_width);
        let v = projected(&w.v, &self.layer.v_bias, kv_width);
        self.rotate(&mut q, q_width, 1.0, team);
        self.rotate(&mut k, kv_width, 1.0, team);
        let (p, o) = self.attention().forward(&self.unit(&q), &self.unit(&k), &v, team);
        let mut x2 = x.to_vec();
        add_times_transposed(&o, &w.o, q_width, hidden, &mut x2, team);

        let h2 = self.norm(&x2, &self.layer.mlp_norm, team);
        let g = times_transposed(&h2, &w.gate, hidden, ffn, team);
        let u = times_transposed(&h2, &w.up, hidden, ffn, team);
        let s = self.swiglu(&g, &u, team);
        let mut y = x2.clone();
        add_times_transposed(&s, &w.down, ffn, hidden, &mut y, team);
        (Activations { h1, q, k, v, p, o, x2, h2, g, u }, y)
    }

    /// dx for dy, (m, hidden). Adds to the gradients of the layer's matrices.
    pub fn backward(
        &self,
        x: &[f32],
        a: &Activations,
        dy: Vec<f32>,
        gradients: &mut Matrices,
        team: &Team,
    ) -> Vec<f32> {
        let w = &self.layer.matrices;
        let (hidden, ffn) = (self.hidden, self.ffn);
        let (q_width, kv_width) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);

        let s = self.swiglu(&a.g, &a.u, team);
        add_outer(&dy, &s, hidden, ffn, &mut gradients.down, team);
        let ds = times(&dy, &w.down, hidden, ffn, team);
        // `s` is not needed any more, so its memory is used for dg.
        let (mut dg, mut du) = (s, vec![0.0; a.u.len()]);
        both(team, (&mut dg, ffn), (&mut du, ffn), |row, dg, du| {
            let row = row * ffn..(row + 1) * ffn;
            silu_times_gradient(&a.g[row.clone()], &a.u[row.clone()], &ds[row], dg, du);
        });
        add_outer(&dg, &a.h2, ffn, hidden, &mut gradients.gate, team);
        add_outer(&du, &a.h2, ffn, hidden, &mut gradients.up, team);
        let mut dh2 = times(&dg, &w.gate, ffn, hidden, team);
        add_times(&du, &w.up, ffn, hidden, &mut dh2, team);
        let mut dx2 = dy;
        self.add_norm_gradient(&a.x2, &self.layer.mlp_norm, &mut dh2, &mut dx2, team);

        add_outer(&dx2, &a.o, hidden, q_width, &mut gradients.o, team);
        let d_o = times(&dx2, &w.o, hidden, q_width, team);
        let (q, k) = (self.unit(&a.q), self.unit(&a.k));
        let (dq, dk, dv) = self.attention().backward(&q, &k, &a.v, &a.p, &d_o, team);
        let (mut dq, mut dk) = (self.unit_gradient(&a.q, dq), self.unit_gradient(&a.k, dk));
        self.rotate(&mut dq, q_width, -1.0, team);
        self.rotate(&mut dk, kv_width, -1.0, team);
        add_outer(&dq, &a.h1, q_width, hidden, &mut gradients.q, team);
        add_outer(&dk, &a.h1, kv_width, hidden, &mut gradients.k, team);
        add_outer(&dv, &a.h1, kv_width, hidden, &mut gradients.v, team);
        let mut dh1 = times(&dq, &w.q, q_width, hidden, team);
        add_times(&dk, &w.k, kv_width, hidden, &mut dh1, team);
        add_times(&dv, &w.v, kv_width, hidden, &mut dh1, team);
        let mut dx = dx2;
        self.add_norm_gradient(x, &self.layer.attention_norm, &mut dh1, &mut dx, team);
        dx
    }

    fn attention(&self) -> Attention {
        Attention { window: self.window, heads: self.heads, kv_heads: self.kv_heads, head_dim: self.head_dim }
    }

    fn norm(&self, x: &[f32], gain: &[f32], team: &Team) -> Vec<f32> {
        let mut y = vec![0.0; x.len()];
        let width = self.hidden;
        let mut rows = vec![0.0; x.len() / width];
        both(team, (&mut y, width), (&mut rows, 1), |row, y, _| {
            rms_norm(&x[row * width..(row + 1) * width], gain, self.eps, y);
        });
        y
    }

    /// dx = dx + RMSᵇ(dy; x, gain). `dy` is not changed.
    fn add_norm_gradient(&self, x: &[f32], gain: &[f32], dy: &mut [f32], dx: &mut [f32], team: &Team) {
        let width = self.hidden;
        both(team, (dy, width), (dx, width), |row, dy, dx| {
            add_rms_norm_gradient(&x[row * width..(row + 1) * width], gain, self.eps, dy, dx);
        });
    }

    /// silu(g) ⊙ u
    fn swiglu(&self, g: &[f32], u: &[f32], team: &Team) -> Vec<f32> {
        let mut s = vec![0.0; g.len()];
        let width = self.ffn;
        let mut rows = vec![0.0; g.len() / width];
        both(team, (&mut s, width), (&mut rows, 1), |row, s, _| {
            let row = row * width..(row + 1) * width;
            gated(Gate::Silu, &g[row.clone()], &u[row], s);
        });
        s
    }

    /// Rotates the heads of all rows by the angles of their positions: `sign` 1 is forward, −1 is backward.
    fn rotate(&self, x: &mut [f32], width: usize, sign: f32, team: &Team) {
        let Some(rope) = &self.rope else { return };
        let d = self.head_dim;
        let mut rows = vec![0.0; x.len() / width];
        both(team, (x, width), (&mut rows, 1), |row, x, _| {
            let angles = &self.angles[row % self.window * d..][..d];
            for x in x.chunks_exact_mut(d) {
                for (i, angle) in angles.chunks_exact(2).enumerate() {
                    let (a, b) = rope.pair(i);
                    let (cos, sin) = (angle[0], sign * angle[1]);
                    (x[a], x[b]) = (x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin);
                }
            }
        });
    }

    /// Normalises heads to unit mean square, where the model does so.
    fn unit<'x>(&self, x: &'x [f32]) -> Cow<'x, [f32]> {
        let Some(eps) = self.qk_norm else { return x.into() };
        let mut y = vec![0.0; x.len()];
        rms_norm(x, &vec![1.0; self.head_dim], eps, &mut y);
        y.into()
    }

    /// The gradient of [`Block::unit`] at x.
    fn unit_gradient(&self, x: &[f32], dy: Vec<f32>) -> Vec<f32> {
        let Some(eps) = self.qk_norm else { return dy };
        let mut dx = vec![0.0; dy.len()];
        add_rms_norm_gradient(x, &vec![1.0; self.head_dim], eps, &dy, &mut dx);
        dx
    }
}

/// x Wᵀ    x: (m, k)   W: (n, k)
fn times_transposed(x: &[f32], w: &[f32], k: usize, n: usize, team: &Team) -> Vec<f32> {
    let m = x.len() / k;
    let mut y = vec![0.0; m * n];
    Dense { a: View::new(x, k), b: View::new(w, k).t(), size: [m, k, n], add: false }.run(team, &mut y);
    y
}

/// y = y + x Wᵀ    x: (m, k)   W: (n, k)   y: (m, n)
fn add_times_transposed(x: &[f32], w: &[f32], k: usize, n: usize, y: &mut [f32], team: &Team) {
    Dense { a: View::new(x, k), b: View::new(w, k).t(), size: [x.len() / k, k, n], add: true }.run(team, y);
}

/// x W    x: (m, k)   W: (k, n)
fn times(x: &[f32], w: &[f32], k: usize, n: usize, team: &Team) -> Vec<f32> {
    let m = x.len() / k;
    let mut y = vec![0.0; m * n];
    Dense { a: View::new(x, k), b: View::new(w, n), size: [m, k, n], add: false }.run(team, &mut y);
    y
}

/// y = y + x W    x: (m, k)   W: (k, n)   y: (m, n)
fn add_times(x: &[f32], w: &[f32], k: usize, n: usize, y: &mut [f32], team: &Team) {
    Dense { a: View::new(x, k), b: View::new(w, n), size: [x.len() / k, k, n], add: true }.run(team, y);
}

/// dW = dW + dyᵀ x    dy: (m, n)   x: (m, k)   dW: (n, k)
fn add_outer(dy: &[f32], x: &[f32], n: usize, k: usize, dw: &mut [f32], team: &Team) {
    let m = dy.len() / n;
    Dense { a: View::new(dy, n).t(), b: View::new(x, k), size: [n, m, k], add: true }.run(team, dw);
}
