//! y[r, h, :] = Σ_t softmax_t(scale · q[r, h] · k[t, h / G]) · v[t, h / G, :]
//!
//! t counts from the slot of row r: 0 .. its position + 1 where attention is causal, or the last `window` of these with
//! a window; else 0 .. position of row 0 + rows, or + `cross` where the keys are not the rows of the queries
//!
//! q, y: (rows, heads · D)   keys, values: (capacity, kv heads, D)   G = heads / kv heads
//!
//! With `qk_norm` each q[r, h] and k[t, g] is first divided by sqrt(mean(·²) + eps). The models apply rope before the
//! norm (Llama 4, MobileLLM-R1), but a rotation keeps the mean square, so normalising in attention gives the same
//! result.

use std::ops::Range;

use crate::work::source::{KV_F16, KV_F32, REDUCE, ROWS, WINDOW};
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row};
use crate::ops::product::BROADCASTS;
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, head_stride, kernel, params};

#[derive(Clone, Debug)]
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    /// The factor of scores: 1/√D in most models.
    pub scale: f32,
    /// eps of the weightless QK-norm, where there is one.
    pub qk_norm: Option<f32>,
    /// Whether a row attends to the rows of its sequence up to itself (language), or to all rows of the pass
    /// (pictures).
    pub causal: bool,
    /// The largest number of rows that a causal row attends to, itself included.
    pub window: Option<usize>,
    /// The number of keys, where attention is not causal and the keys are not the rows of the pass.
    pub cross: Option<usize>,
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
    window: u32,
    keys: u32,
}

/// Few rows: one workgroup per row and head. Indexed by the type of the KV cache.
static ROW: [Kernel; 2] = [
    kernel!("attention/row.wgsl", "row", [ROWS, KV_F32, REDUCE], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["WG" = 64.0], Requires::NOTHING),
    kernel!("attention/row.wgsl", "row", [ROWS, KV_F16, REDUCE], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["WG" = 64.0], Requires::F16),
];

/// Few rows with broadcasts: one workgroup per row and up to four heads that share their keys. Indexed by the type of
/// the KV cache.
static HEADS: [Kernel; 2] = [
    kernel!("attention/heads.wgsl", "heads", [ROWS, KV_F32], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["HEADS" = 4.0], Requires::SUBGROUPS),
    kernel!("attention/heads.wgsl", "heads", [ROWS, KV_F16], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, ["HEADS" = 4.0], Requires::BOTH),
];

/// A prompt: one workgroup per 16 rows of a head. Indexed by the type of the KV cache.
static TILE: [Kernel; 2] = [
    kernel!("attention/tile.wgsl", "tile", [ROWS, KV_F32, WINDOW], [ReadWrite ReadWrite ReadWrite ReadWrite], Params),
    kernel!("attention/tile.wgsl", "tile", [ROWS, KV_F16, WINDOW], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::F16),
];

/// A prompt with broadcasts: one workgroup per 32 rows of a head. Indexed by the type of the KV cache.
static BROADCAST: [Kernel; 2] = [
    kernel!("attention/broadcast.wgsl", "broadcast", [ROWS, KV_F32, WINDOW], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::SUBGROUPS),
    kernel!("attention/broadcast.wgsl", "broadcast", [ROWS, KV_F16, WINDOW], [ReadWrite ReadWrite ReadWrite ReadWrite], Params, [], Requires::BOTH),
];

pub fn kernels() -> Vec<&'static Kernel> {
    ROW.iter().chain(&HEADS).chain(&TILE).chain(&BROADCAST).collect()
}

/// The largest D of the kernels, `MOST_QUADS` quads of attention/row.wgsl. The reference has no limit.
pub const MOST_HEAD: usize = 256;

/// The largest number of query heads per workgroup in attention/heads.wgsl.
const MOST_TOGETHER: usize = 4;

/// The largest D of the tiled kernels, and of attention/heads.wgsl.
const MOST_TILE_HEAD: usize = 128;

impl Attention {
    /// The attention of most language models: causal, without a window or norms, scaled by 1/√D.
    pub fn new(heads: usize, kv_heads: usize, head_dim: usize) -> Self {
        let scale = 1.0 / (head_dim as f32).sqrt();
        Attention { heads, kv_heads, head_dim, scale, qk_norm: None, causal: true, window: None, cross: None }
    }

    /// The keys that row `row` of `count` attends to.
    pub fn seen(&self, row: usize, count: usize, rows: &[Row]) -> Range<usize> {
        let end = match self.causal {
            true => rows[row].position as usize + 1,
            false => rows[0].position as usize + self.cross.unwrap_or(count),
        };
        end - self.window.map_or(end, |window| window.min(end))..end
    }

    /// The factor of the qk_norm for a row of q or k, or 1 without it.
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
        assert!(self.causal || self.window.is_none(), "{self:?} has a window and looks ahead");
        assert_eq!(reads[0].matrix().1, self.heads * self.head_dim, "{self:?}");
        for cache in &reads[1..] {
            assert_eq!(cache.shape[1..], [self.kv_heads, self.head_dim], "the cache of {self:?}");
        }
        assert!(!(self.causal && self.cross.is_some()), "{self:?}");
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
            let scale = self.factor(q.iter().copied()) * self.scale;
            let score = |t: usize| {
                let product: f32 = (0..d).map(|c| q[c] * of(keys, t, c)).sum();
                product * scale * self.factor((0..d).map(|c| of(keys, t, c)))
            };
            let seen = self.seen(row, count, rows);
            let scores: Vec<f32> = seen.clone().map(score).collect();
            let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f32 = weights.iter().sum();
            for (c, y) in y.iter_mut().enumerate() {
                *y = seen.clone().zip(&weights).map(|(t, p)| p / total * of(values, t, c)).sum();
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
                    scale: self.scale,
                    eps: self.qk_norm.unwrap_or(-1.0),
                    rows: rows as u32,
                    causal: self.causal.into(),
                    window: self.window.map_or(u32::MAX, |window| window as u32),
                    keys: self.cross.unwrap_or(rows) as u32,
                }),
                groups,
            };
            Candidate { dispatches: vec![dispatch], why }
        };
        let each = |rows| [self.heads as u32, rows, 1];
        let row = way(&ROW[half], vec![("WG", 64.0)], each(rows as u32), "a workgroup for each row and head takes any");
        if family == Family::Few {
            let mut ways = vec![row];
            // All lanes of a subgroup must work on quads of one head and on the same keys.
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
        Case::new(Attention { qk_norm, ..Attention::new(heads, kv_heads, head_dim) }, reads).at(position)
    };
    let windowed = |rows: usize, heads: usize, kv_heads: usize, head_dim: usize, position: usize, window| {
        let cache = Given::kv(position + rows + 1, kv_heads, head_dim);
        let reads = vec![Given::f32([rows, heads * head_dim]), cache.clone(), cache];
        let op = Attention { window: Some(window), scale: 0.3, ..Attention::new(heads, kv_heads, head_dim) };
        Case::new(op, reads).at(position)
    };
    // All rows attend to all rows, as in the pass of a picture.
    let whole = |rows: usize, heads: usize, kv_heads: usize, head_dim: usize, position: usize| {
        let cache = Given::kv(position + rows, kv_heads, head_dim);
        let reads = vec![Given::f32([rows, heads * head_dim]), cache.clone(), cache];
        Case::new(Attention { causal: false, ..Attention::new(heads, kv_heads, head_dim) }, reads).at(position)
    };
    // Queries that share keys of another source, with more or fewer keys than queries.
    let cross = |rows: usize, heads: usize, kv_heads: usize, head_dim: usize, keys: usize| {
        let cache = Given::kv(keys, kv_heads, head_dim);
        let reads = vec![Given::f32([rows, heads * head_dim]), cache.clone(), cache];
        let op = Attention { causal: false, cross: Some(keys), ..Attention::new(heads, kv_heads, head_dim) };
        Case::new(op, reads)
    };
    // Sequences in no order, whose rows have no consecutive positions.
    let apart = |heads: usize, kv_heads: usize, head_dim: usize, qk_norm, window| {
        let at = [(600, 3), (0, 515), (620, 31), (700, 32), (800, 600)];
        let cache = Given::kv(1410, kv_heads, head_dim);
        let reads = vec![Given::f32([at.len(), heads * head_dim]), cache.clone(), cache];
        let op = Attention { qk_norm, window, ..Attention::new(heads, kv_heads, head_dim) };
        Case::new(op, reads).rows(at.map(|(slot, position)| Row { slot, ..Row::at(position) }).into()).few()
    };
    vec![
        case(1, 1, 1, 2, 0, None),
        case(1, 3, 1, 22, 63, None),
        case(7, 6, 2, 20, 61, None),
        case(5, 9, 3, 16, 0, Some(1e-5)),
        case(2, 4, 2, 20, 7, Some(0.5)),        // an eps large enough to matter
        case(1, 32, 32, 80, 64, None),          // MobileVLM-3B
        case(2, 4, 2, 128, 1023, None),         // past one chunk of scores
        case(1, 2, 1, 256, 5, None),
        case(5, 2, 1, 256, 5, None),
        case(17, 6, 2, 20, 40, None),
        case(33, 4, 4, 80, 31, Some(1e-6)),
        case(16, 2, 2, 128, 0, None),
        windowed(1, 4, 1, 22, 60, 1).few(),           // only the row itself
        windowed(1, 4, 2, 32, 60, 61).few(),          // exactly all
        windowed(1, 4, 2, 32, 60, 60).few(),          // all but one
        windowed(1, 2, 1, 64, 1500, 1100).few(),      // past one chunk of scores
        windowed(1, 4, 1, 256, 700, 512).few(),       // Gemma 3 270M, one token
        windowed(21, 4, 1, 256, 0, 7),          // D larger than tiles allow
        windowed(40, 4, 2, 20, 0, 5),           // rows that attend to all rows, and rows that do not
        windowed(67, 2, 1, 64, 50, 33),         // tiles that attend to none of the first keys
        windowed(35, 2, 1, 128, 200, 1),
        case(1, 2, 2, 32, 0, None).few(),       // one head, two, three (of five and of nine), four (of seven and of eight)
        case(2, 4, 2, 128, 1023, None).few(),   // past two chunks of scores
        case(3, 10, 2, 96, 511, Some(1e-5)).few(),
        case(1, 9, 1, 64, 6, None).few(),
        case(2, 14, 2, 64, 70, Some(0.5)).few(),
        case(1, 8, 1, 32, 33, None).few(),
        case(2, 3, 1, 20, 40, None).few(),      // not whole subgroups
        apart(9, 3, 64, None, None),
        apart(4, 4, 128, Some(1e-6), None),
        apart(4, 1, 64, None, Some(32)),
        apart(3, 1, 32, None, Some(520)),
        case(1, 9, 3, 64, 255, None).few().bench(), // MobileLLM-125M, one token, and eight
        case(8, 9, 3, 64, 255, None).few().bench(),
        case(1, 9, 3, 64, 2047, None).few().bench(),
        case(128, 9, 3, 64, 128, None).bench(), // MobileLLM-125M, a prompt
        whole(1, 1, 1, 2, 0),
        whole(3, 2, 2, 22, 0),                  // few rows
        whole(3, 4, 2, 64, 9),
        whole(4, 2, 1, 8, 0),
        whole(5, 2, 1, 256, 0),                 // D larger than tiles allow
        whole(17, 2, 2, 22, 0),                 // one past a tile of rows
        whole(17, 3, 1, 12, 0),
        whole(17, 2, 2, 8, 7),
        whole(32, 4, 4, 10, 0),                 // a whole tile of keys
        whole(33, 2, 2, 104, 0),
        whole(65, 2, 2, 128, 0),
        whole(577, 16, 16, 64, 0).bench(),      // CLIP ViT-L/14 at 336
        whole(1024, 2, 2, 104, 0),              // Qwen-VL's tower, two of its 16 heads
        cross(1, 1, 1, 2, 7),
        cross(3, 2, 1, 22, 1),
        cross(17, 2, 2, 20, 65),
        cross(33, 2, 2, 104, 31),
        cross(5, 1, 1, 192, 1030),              // D larger than tiles allow, past one chunk of scores
        cross(256, 2, 2, 128, 1024).bench(),    // Qwen-VL's resampler, two of its 32 heads
    ]
}
