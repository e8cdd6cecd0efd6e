//! y[r, h, :] = Σ_t softmax_t(q[r, h] · k[t, h / G] / sqrt(D)) · v[t, h / G, :]
//!
//! t = 0 .. position + r + 1 where attention is causal, else 0 .. position + rows for every row
//!
//! q, y: (rows, heads · D)   keys, values: (capacity, kv heads, D)   G = heads / kv heads
//!
//! With `qk_norm` each q[r, h] and k[t, g] is first divided by sqrt(mean(·²) + eps). Where rope comes before the norm
//! (Llama 4, MobileLLM-R1) a rotation leaves the mean square as it is, so normalising where q meets k is the same.

use crate::kernel::source::{KV_F16, KV_F32, RUN};
use crate::kernel::{DeviceProfile, Dispatch, Kernel, KernelRef, Requires, Run};
use crate::ops::exp::exp;
use crate::ops::panel::{COLS, add_products};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, head_stride, kernel, params};
use crate::threads;

#[derive(Clone, Debug)]
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    /// eps of the weightless QK-norm, where there is one.
    pub qk_norm: Option<f32>,
    /// Whether a row sees only the rows up to itself (language), or all of the pass (pictures).
    pub causal: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    head_stride: u32,
    scale: f32,
    eps: f32,
    rows: u32,
    causal: u32,
}

/// Few rows: a workgroup for each row and head. By what the cache holds.
static ROW: [Kernel; 2] = [
    kernel!("attention/row.wgsl", "row", [RUN, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["WG" = 64.0], Requires::NOTHING),
    kernel!("attention/row.wgsl", "row", [RUN, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["WG" = 64.0], Requires::F16),
];

/// A prompt: a workgroup for 16 rows of a head. By what the cache holds.
static TILE: [Kernel; 2] = [
    kernel!("attention/tile.wgsl", "tile", [RUN, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params),
    kernel!("attention/tile.wgsl", "tile", [RUN, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::F16),
];

/// A prompt by broadcasts: a workgroup for 32 rows of a head. By what the cache holds.
static BROADCAST: [Kernel; 2] = [
    kernel!("attention/broadcast.wgsl", "broadcast", [RUN, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::SUBGROUPS),
    kernel!("attention/broadcast.wgsl", "broadcast", [RUN, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::BOTH),
];

pub fn kernels() -> Vec<&'static Kernel> {
    ROW.iter().chain(&TILE).chain(&BROADCAST).collect()
}

/// The largest D that kernels hold, `MOST_QUADS` quads of attention/row.wgsl. The reference takes any.
pub const MOST_HEAD: usize = 256;

impl Attention {
    /// Keys that row `row` of `rows` sees.
    pub fn seen(&self, row: usize, rows: usize, run: &Run) -> usize {
        run.position as usize + if self.causal { row + 1 } else { rows }
    }
}

impl Operator for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        assert_eq!(self.heads % self.kv_heads, 0, "{self:?}");
        assert_eq!(reads[0].matrix().1, self.heads * self.head_dim, "{self:?}");
        for cache in &reads[1..] {
            assert_eq!(cache.shape[1..], [self.kv_heads, self.head_dim], "the cache of {self:?}");
        }
        vec![reads[0].clone()]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], run: &Run) {
        let (q, keys, values) = (reads[0].f32(), reads[1].f32(), reads[2].f32());
        let rows = q.len() / (self.heads * self.head_dim);
        if rows < 8 {
            self.few_rows(q, keys, values, rows, run, writes[0]);
        } else {
            self.many_rows(q, keys, values, rows, run, writes[0]);
        }
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], profile: &DeviceProfile) -> Vec<Dispatch> {
        let (rows, _) = reads[0].ty.matrix();
        let half = usize::from(profile.kv_f16());
        let (kernel, constants, row_groups) = if rows < 4 || self.head_dim > 128 {
            (&ROW[half], vec![("WG", 64.0)], rows as u32)
        } else if profile.broadcasts() {
            (&BROADCAST[half], vec![], groups(rows, 32))
        } else {
            (&TILE[half], vec![], groups(rows, 16))
        };
        vec![Dispatch {
            kernel: KernelRef(kernel),
            constants,
            slots: vec![reads[0].slot(), reads[1].slot(), reads[2].slot(), writes[0].slot()],
            params: params(&Params {
                heads: self.heads as u32,
                kv_heads: self.kv_heads as u32,
                head_dim: self.head_dim as u32,
                head_stride: head_stride(self.head_dim) as u32,
                scale: 1.0 / (self.head_dim as f32).sqrt(),
                eps: self.qk_norm.unwrap_or(-1.0),
                rows: rows as u32,
                causal: self.causal.into(),
            }),
            groups: [self.heads as u32, row_groups, 1],
        }]
    }
}

/// The loops of the CPU. Those for few rows are the formula.
impl Attention {
    /// What a row of q or k is multiplied by before they meet.
    fn factor(&self, x: &[f32]) -> f32 {
        self.qk_norm.map_or(1.0, |eps| 1.0 / (dot(x, x) / self.head_dim as f32 + eps).sqrt())
    }

    /// Heads of rows side by side: keys and values are read where they are.
    fn few_rows(&self, q: &[f32], keys: &[f32], values: &[f32], rows: usize, run: &Run, y: &mut [f32]) {
        let (d, width) = (self.head_dim, self.kv_heads * self.head_dim);
        threads::rows(y, d, |i, y| {
            let (row, head) = (i / self.heads, i % self.heads);
            let at = head / (self.heads / self.kv_heads) * d;
            let q = &q[i * d..(i + 1) * d];
            let scale = self.factor(q) / (d as f32).sqrt();
            let mut scores: Vec<f32> = (0..self.seen(row, rows, run))
                .map(|t| {
                    let k = &keys[t * width + at..][..d];
                    dot(q, k) * scale * self.factor(k)
                })
                .collect();
            softmax(&mut scores);
            y.fill(0.0);
            for (t, p) in scores.iter().enumerate() {
                let v = &values[t * width + at..][..d];
                y.iter_mut().zip(v).for_each(|(y, v)| *y += p * v);
            }
        });
    }

    /// Two products of matrices a head: 32 keys or 32 columns of values are a panel, and 32 rows of a head go together.
    fn many_rows(&self, q: &[f32], keys: &[f32], values: &[f32], rows: usize, run: &Run, y: &mut [f32]) {
        const ROWS: usize = 32;
        let (d, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let length = self.seen(rows - 1, rows, run);
        // (kv heads, length / 32, D, 32) and (kv heads, D / 32, length, 32)
        let (key_panels, value_panels) = (length.div_ceil(COLS), d.div_ceil(COLS));
        let mut k = vec![[0.0; COLS]; self.kv_heads * key_panels * d];
        threads::rows(&mut k, d, |i, panel| {
            let (head, first) = (i / key_panels, i % key_panels * COLS);
            for t in first..length.min(first + COLS) {
                let key = &keys[t * width + head * d..][..d];
                let factor = self.factor(key);
                panel.iter_mut().zip(key).for_each(|(panel, key)| panel[t - first] = key * factor);
            }
        });
        let mut v = vec![[0.0; COLS]; self.kv_heads * value_panels * length];
        threads::rows(&mut v, length, |i, panel| {
            let (head, first) = (i / value_panels, i % value_panels * COLS);
            let columns = COLS.min(d - first);
            for (t, panel) in panel.iter_mut().enumerate() {
                panel[..columns].copy_from_slice(&values[t * width + head * d + first..][..columns]);
            }
        });

        // (heads, rows / 32, D / 32, 32 rows, 32)
        let blocks = rows.div_ceil(ROWS);
        let mut by_head = vec![[0.0; COLS]; self.heads * blocks * value_panels * ROWS];
        threads::rows(&mut by_head, value_panels * ROWS, |i, y| {
            let (head, first) = (i / blocks, i % blocks * ROWS);
            let kv_head = head / (self.heads / self.kv_heads);
            let count = ROWS.min(rows - first);
            let length = self.seen(first + count - 1, rows, run);
            let q = &q[(first * self.heads + head) * d..];
            let mut scores = vec![0.0; count * length];
            for (p, panel) in k.chunks_exact(d).skip(kv_head * key_panels).take(length.div_ceil(COLS)).enumerate() {
                let mut products = [[0.0; COLS]; ROWS];
                add_products(q, self.heads * d, panel, &mut products[..count]);
                for (scores, products) in scores.chunks_exact_mut(length).zip(&products) {
                    let scores = &mut scores[p * COLS..length.min((p + 1) * COLS)];
                    scores.copy_from_slice(&products[..scores.len()]);
                }
            }
            for (r, scores) in scores.chunks_exact_mut(length).enumerate() {
                let scale = self.factor(&q[r * self.heads * d..][..d]) / (d as f32).sqrt();
                let (seen, unseen) = scores.split_at_mut(self.seen(first + r, rows, run));
                seen.iter_mut().for_each(|score| *score *= scale);
                softmax(seen);
                unseen.fill(0.0);
            }
            for (p, y) in y.chunks_exact_mut(ROWS).enumerate() {
                let panel = &v[(kv_head * value_panels + p) * (v.len() / self.kv_heads / value_panels)..][..length];
                add_products(&scores, length, panel, &mut y[..count]);
            }
        });
        threads::rows(y, d, |i, y| {
            let (row, head) = (i / self.heads, i % self.heads);
            let block = &by_head[(head * blocks + row / ROWS) * value_panels * ROWS..];
            for (p, y) in y.chunks_mut(COLS).enumerate() {
                y.copy_from_slice(&block[p * ROWS + row % ROWS][..y.len()]);
            }
        });
    }
}

/// scores → exp(scores) / Σ exp(scores)
fn softmax(scores: &mut [f32]) {
    let largest = folded(scores, f32::NEG_INFINITY, f32::max);
    scores.iter_mut().for_each(|score| *score = exp(*score - largest));
    let factor = 1.0 / folded(scores, 0.0, |a, b| a + b);
    scores.iter_mut().for_each(|score| *score *= factor);
}

/// All of `x` in one, in 16 lanes that a vector unit can hold.
fn folded(x: &[f32], start: f32, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [start; 16];
    let (x16, rest) = x.as_chunks::<16>();
    for x in x16 {
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane = f(*lane, *x));
    }
    rest.iter().chain(&lanes).copied().fold(start, f)
}

/// Σ a · b, in 16 sums that a vector unit can hold.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 16];
    let (a16, a_rest) = a.as_chunks::<16>();
    let (b16, b_rest) = b.as_chunks::<16>();
    for (a, b) in a16.iter().zip(b16) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    sums.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

pub fn cases() -> Vec<Case> {
    let case = |rows: usize, heads: usize, kv_heads: usize, head_dim: usize, position: usize, qk_norm| {
        let cache = Given::kv(position + rows + 1, kv_heads, head_dim);
        let reads = vec![Given::f32([rows, heads * head_dim]), cache.clone(), cache];
        Case::new(Attention { heads, kv_heads, head_dim, qk_norm, causal: true }, reads).at(position)
    };
    // All rows see all: a picture's pass.
    let whole = |rows: usize, heads: usize, kv_heads: usize, head_dim: usize, position: usize| {
        let cache = Given::kv(position + rows, kv_heads, head_dim);
        let reads = vec![Given::f32([rows, heads * head_dim]), cache.clone(), cache];
        Case::new(Attention { heads, kv_heads, head_dim, qk_norm: None, causal: false }, reads).at(position)
    };
    vec![
        case(1, 1, 1, 2, 0, None),
        case(1, 3, 1, 22, 63, None),
        case(7, 6, 2, 20, 61, None),
        case(5, 9, 3, 16, 0, Some(1e-5)),
        case(2, 4, 2, 20, 7, Some(0.5)),        // an eps that shows
        case(1, 32, 32, 80, 64, None),          // MobileVLM-3B
        case(2, 4, 2, 128, 1023, None),         // past one chunk of scores
        case(1, 2, 1, 256, 5, None),
        case(5, 2, 1, 256, 5, None),
        case(17, 6, 2, 20, 40, None),
        case(33, 4, 4, 80, 31, Some(1e-6)),
        case(16, 2, 2, 128, 0, None),
        case(1, 9, 3, 64, 255, None).bench(),   // MobileLLM-125M, one token
        case(1, 9, 3, 64, 2047, None).bench(),
        case(128, 9, 3, 64, 128, None).bench(), // MobileLLM-125M, a prompt
        whole(1, 1, 1, 2, 0),
        whole(3, 2, 2, 22, 0),                  // few rows
        whole(3, 4, 2, 64, 9),
        whole(4, 2, 1, 8, 0),
        whole(5, 2, 1, 256, 0),                 // heads too large for tiles
        whole(17, 2, 2, 22, 0),                 // one past a tile of rows
        whole(17, 3, 1, 12, 0),
        whole(17, 2, 2, 8, 7),
        whole(32, 4, 4, 10, 0),                 // a whole tile of keys
        whole(33, 2, 2, 104, 0),
        whole(65, 2, 2, 128, 0),
        whole(577, 16, 16, 64, 0).bench(),      // CLIP ViT-L/14 at 336
    ]
}
