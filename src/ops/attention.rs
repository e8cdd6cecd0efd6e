//! y[r, h, :] = Σ_t softmax_t(q[r, h] · k[t, h / G] / sqrt(D)) · v[t, h / G, :]
//!
//! t counts from the slot of row r: 0 .. its position + 1 where attention is causal, else 0 .. position of row 0 + rows
//!
//! q, y: (rows, heads · D)   keys, values: (capacity, kv heads, D)   G = heads / kv heads
//!
//! With `qk_norm` each q[r, h] and k[t, g] is first divided by sqrt(mean(·²) + eps). Where rope comes before the norm
//! (Llama 4, MobileLLM-R1) a rotation leaves the mean square as it is, so normalising where q meets k is the same.

use crate::kernel::source::{KV_F16, KV_F32, ROWS};
use crate::kernel::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};
use crate::ops::product::BROADCASTS;
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, head_stride, kernel, params};

#[derive(Clone, Debug)]
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    /// eps of the weightless QK-norm, where there is one.
    pub qk_norm: Option<f32>,
    /// Whether a row sees the rows of its sequence up to itself (language), or all rows of the pass (pictures).
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
    kernel!("attention/row.wgsl", "row", [ROWS, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["WG" = 64.0], Requires::NOTHING),
    kernel!("attention/row.wgsl", "row", [ROWS, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["WG" = 64.0], Requires::F16),
];

/// Few rows by broadcasts: a workgroup for each row and up to four heads that share their keys. By what the cache holds.
static HEADS: [Kernel; 2] = [
    kernel!("attention/heads.wgsl", "heads", [ROWS, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["HEADS" = 4.0], Requires::SUBGROUPS),
    kernel!("attention/heads.wgsl", "heads", [ROWS, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["HEADS" = 4.0], Requires::BOTH),
];

/// A prompt: a workgroup for 16 rows of a head. By what the cache holds.
static TILE: [Kernel; 2] = [
    kernel!("attention/tile.wgsl", "tile", [ROWS, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params),
    kernel!("attention/tile.wgsl", "tile", [ROWS, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::F16),
];

/// A prompt by broadcasts: a workgroup for 32 rows of a head. By what the cache holds.
static BROADCAST: [Kernel; 2] = [
    kernel!("attention/broadcast.wgsl", "broadcast", [ROWS, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::SUBGROUPS),
    kernel!("attention/broadcast.wgsl", "broadcast", [ROWS, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::BOTH),
];

pub fn kernels() -> Vec<&'static Kernel> {
    ROW.iter().chain(&HEADS).chain(&TILE).chain(&BROADCAST).collect()
}

/// The largest D that kernels hold, `MOST_QUADS` quads of attention/row.wgsl. The reference takes any.
pub const MOST_HEAD: usize = 256;

/// Query heads that a workgroup of attention/heads.wgsl takes at most.
const MOST_TOGETHER: usize = 4;

/// The largest D of the kernels that go by tiles, and of attention/heads.wgsl.
const MOST_TILE_HEAD: usize = 128;

impl Attention {
    /// Keys that row `row` of `count` sees.
    pub fn seen(&self, row: usize, count: usize, rows: &[Row]) -> usize {
        if self.causal { rows[row].position as usize + 1 } else { rows[0].position as usize + count }
    }

    /// What a row of q or k is multiplied by before they meet.
    pub fn factor(&self, x: impl Iterator<Item = f32>) -> f32 {
        let d = self.head_dim as f32;
        self.qk_norm.map_or(1.0, |eps| 1.0 / (x.map(|v| v * v).sum::<f32>() / d + eps).sqrt())
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

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (q, keys, values) = (reads[0].f32(), reads[1].f32(), reads[2].f32());
        let (d, width) = (self.head_dim, self.kv_heads * self.head_dim);
        let count = q.len() / (self.heads * d);
        for (i, (q, y)) in q.chunks_exact(d).zip(writes[0].chunks_exact_mut(d)).enumerate() {
            let (row, head) = (i / self.heads, i % self.heads);
            let at = head / (self.heads / self.kv_heads) * d;
            let first = rows[if self.causal { row } else { 0 }].slot as usize;
            let of = |cache: &'_ [f32], t: usize, c: usize| cache[(first + t) * width + at + c];
            let scale = self.factor(q.iter().copied()) / (d as f32).sqrt();
            let score = |t: usize| {
                let product: f32 = (0..d).map(|c| q[c] * of(keys, t, c)).sum();
                product * scale * self.factor((0..d).map(|c| of(keys, t, c)))
            };
            let scores: Vec<f32> = (0..self.seen(row, count, rows)).map(score).collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (c, y) in y.iter_mut().enumerate() {
                *y = weights.iter().enumerate().map(|(t, p)| p / total * of(values, t, c)).sum();
            }
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let (rows, _) = reads[0].ty.matrix();
        let half = usize::from(profile.kv_f16());
        let way = |kernel, constants, groups, why| {
            let dispatch = Dispatch {
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
                groups,
            };
            Candidate { dispatches: vec![dispatch], why }
        };
        let each = |rows| [self.heads as u32, rows, 1];
        let row = way(&ROW[half], vec![("WG", 64.0)], each(rows as u32), "a workgroup for each row and head takes any");
        if family == Family::Few {
            let mut ways = vec![row];
            // All lanes of a subgroup have quads of one head, and one share of the keys.
            let subgroups_fit = profile.subgroups.is_some_and(|(_, most)| self.head_dim.is_multiple_of(4 * most as usize));
            if self.causal && subgroups_fit && self.head_dim <= MOST_TILE_HEAD {
                let shared = self.heads / self.kv_heads;
                let tiles = shared.div_ceil(MOST_TOGETHER);
                let constants = vec![("HEADS", shared.div_ceil(tiles) as f64)];
                let heads = way(&HEADS[half], constants, [(self.kv_heads * tiles) as u32, rows as u32, 1], BROADCASTS);
                ways.insert(if profile.rasteriser { 0 } else { 1 }, heads);
            }
            return ways;
        }
        if self.head_dim > MOST_TILE_HEAD {
            return vec![row];
        }
        let tile = way(&TILE[half], vec![], each(groups(rows, 16)), "rows of a prompt share the keys that they see");
        let broadcast = way(&BROADCAST[half], vec![], each(groups(rows, 32)), BROADCASTS);
        if profile.rasteriser { vec![broadcast, tile, row] } else { vec![tile, row, broadcast] }
    }
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
    // Sequences that lie in no order and stand at no two positions in a row.
    let apart = |heads: usize, kv_heads: usize, head_dim: usize, qk_norm| {
        let at = [(600, 3), (0, 515), (620, 31), (700, 32), (800, 600)];
        let cache = Given::kv(1410, kv_heads, head_dim);
        let reads = vec![Given::f32([at.len(), heads * head_dim]), cache.clone(), cache];
        let op = Attention { heads, kv_heads, head_dim, qk_norm, causal: true };
        Case::new(op, reads).rows(at.map(|(slot, position)| Row { slot, ..Row::at(position) }).into()).few()
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
        case(1, 2, 2, 32, 0, None).few(),       // one head, two, three (of five and of nine), four (of seven and of eight)
        case(2, 4, 2, 128, 1023, None).few(),   // past two chunks of scores
        case(3, 10, 2, 96, 511, Some(1e-5)).few(),
        case(1, 9, 1, 64, 6, None).few(),
        case(2, 14, 2, 64, 70, Some(0.5)).few(),
        case(1, 8, 1, 32, 33, None).few(),
        case(2, 3, 1, 20, 40, None).few(),      // not whole subgroups
        apart(9, 3, 64, None),
        apart(4, 4, 128, Some(1e-6)),
        case(1, 9, 3, 64, 255, None).few().bench(), // MobileLLM-125M, one token, and eight
        case(8, 9, 3, 64, 255, None).few().bench(),
        case(1, 9, 3, 64, 2047, None).few().bench(),
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
