//! n = x / sqrt(mean(x²) + eps) · gain, for each row; the rows of W · n[m] + bias are q, k and v of row m, one head
//! after the other; with a QK-norm each head of q and k is normalised in the same way, with gains of its own; q and k
//! are rotated by the angles of the row's position, or not at all; k and v are written to the cache.
//!
//! x: (m, cols)   W: (q_rows + k_rows + v_rows, cols) in any weight format   angles: (context, D), see `rope`
//! vectors: gain (cols), then the bias (rows of W) where there is one, then the gains of q and of k (D each) with a QK-norm
//! keys, values: (capacity, kv heads, D), written in place   q: (m, q_rows)
//!
//! Any of the three row counts may be 0: where q, k and v differ in format, one operator computes each format.

use crate::work::source::{KV_F16, KV_F32, NORM, ROWS};
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row, layout};
use crate::ops::product::{GemvKernels, GemvTuning, LANES, gemv_candidates, gemv_kernels, plain_product};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::{Angles, Rope};
use crate::ops::weight::parts;
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, head_stride, params, weight_kernel};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct NormQkvRope {
    pub eps: f32,
    pub bias: bool,
    /// Whether heads of q and k are normalised before rope.
    pub qk_norm: bool,
    /// Whether q and k are rotated.
    pub rope: bool,
    pub q_rows: usize,
    pub k_rows: usize,
    pub v_rows: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    pub interleaved: bool,
    /// The angles of q; those of k are `q_angles.first` rows earlier.
    pub q_angles: Angles,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight_blocks: u32,
    cols: u32,
    m: u32,
    eps: f32,
    first: u32,
    q_rows: u32,
    k_rows: u32,
    v_rows: u32,
    head_dim: u32,
    head_stride: u32,
    kv_heads: u32,
    interleaved: u32,
    bias: u32,
    rope: u32,
    q_angles: u32,
    each: u32,
}

/// Indexed by the type of the KV cache.
static KERNELS: [GemvKernels; 2] = [
    gemv_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, NORM, KV_F32], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, ["QK_NORM" = 0.0]),
    gemv_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, NORM, KV_F16], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, ["QK_NORM" = 0.0], Requires::F16, Requires::BOTH),
];

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().flatten().collect()
}

impl NormQkvRope {
    fn rows(&self) -> usize {
        self.q_rows + self.k_rows + self.v_rows
    }

    /// The angles of k.
    pub fn k_angles(&self) -> Angles {
        Angles { first: 0, ..self.q_angles }
    }

    /// The parts of the vectors; missing parts are empty.
    pub fn vectors<'a>(&self, vectors: &'a [f32]) -> Vectors<'a> {
        let norm = if self.qk_norm { self.head_dim } else { 0 };
        let (rest, k_norm) = vectors.split_at(vectors.len() - norm);
        let (rest, q_norm) = rest.split_at(rest.len() - norm);
        let (gain, bias) = rest.split_at(rest.len() - if self.bias { self.rows() } else { 0 });
        Vectors { gain, bias, q_norm, k_norm }
    }

    /// The number of elements after the gain.
    fn more_vectors(&self) -> usize {
        let bias = if self.bias { self.rows() } else { 0 };
        bias + if self.qk_norm { 2 * self.head_dim } else { 0 }
    }

    fn rotation(&self) -> Rope {
        Rope { heads: 1, head_dim: self.head_dim, interleaved: self.interleaved, angles: self.q_angles }
    }
}

/// The parts of the binding `gain`.
pub struct Vectors<'a> {
    pub gain: &'a [f32],
    pub bias: &'a [f32],
    pub q_norm: &'a [f32],
    pub k_norm: &'a [f32],
}

/// The number of row pairs of W per workgroup such that the workgroup has whole heads and can compute their norms, if
/// `most_threads` threads suffice. Heads of other sizes are normalised by `rms_norm`.
pub fn lanes_of_heads(head_dim: usize, most_threads: u32) -> Option<usize> {
    let whole = |lanes: &usize| lanes.is_multiple_of(head_dim / 2) && 2 * lanes <= most_threads as usize;
    [LANES, 2 * LANES, 4 * LANES].into_iter().find(whole)
}

impl Operator for NormQkvRope {
    fn name(&self) -> &'static str {
        "norm_qkv_rope"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[2].matrix());
        assert_eq!((k, n), (cols, self.rows()), "{self:?} of ({m}, {k}) with ({n}, {cols})");
        assert_eq!(reads[1].count(), k + self.more_vectors(), "the vectors of {self:?}");
        // A part without q still needs a buffer to bind.
        vec![TensorType::f32([m, self.q_rows.max(1)])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (x, vectors, w, table) = (reads[0].f32(), reads[1].f32(), reads[2].weight(), reads[3].f32());
        let [keys, values, q] = writes else { panic!("norm_qkv_rope writes keys, values and q") };
        let Vectors { gain, bias, q_norm, k_norm } = self.vectors(vectors);
        let m = x.len() / gain.len();
        let mut qkv = vec![0.0; m * self.rows()];
        plain_product(&RmsNorm { eps: self.eps }.rows(x, gain), w, &mut qkv);
        for row in qkv.chunks_exact_mut(self.rows()) {
            row.iter_mut().zip(bias).for_each(|(v, bias)| *v += bias);
        }

        let d = self.head_dim;
        // A head of q or k, normalised and rotated.
        let head = |x: &[f32], gain: &[f32], angles: &[f32], y: &mut [f32]| {
            let normed = if self.qk_norm { RmsNorm { eps: self.eps }.rows(x, gain) } else { x.to_vec() };
            if self.rope { self.rotation().rotate(&normed, angles, y) } else { y.copy_from_slice(&normed) }
        };
        for (r, (qkv, row)) in qkv.chunks_exact(self.rows()).zip(rows).enumerate() {
            let angles = |angles: Angles| &table[angles.of(row) * d..][..d];
            let (q_part, kv) = qkv.split_at(self.q_rows);
            let (k_part, v_part) = kv.split_at(self.k_rows);
            for (x, y) in q_part.chunks_exact(d).zip(q[r * self.q_rows..].chunks_exact_mut(d)) {
                head(x, q_norm, angles(self.q_angles), y);
            }
            let at = row.place() * self.kv_heads * d;
            for (x, y) in k_part.chunks_exact(d).zip(keys[at..].chunks_exact_mut(d)) {
                head(x, k_norm, angles(self.k_angles()), y);
            }
            values[at..at + v_part.len()].copy_from_slice(v_part);
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let [x, vectors, w, angles] = reads else { panic!("norm_qkv_rope reads x, vectors, W and angles") };
        let [keys, values, q] = writes else { panic!("norm_qkv_rope writes keys, values and q") };
        let ((m, _), (rows, cols)) = (x.ty.matrix(), w.ty.matrix());
        let [part] = &parts(w, profile)[..] else { panic!("norm_qkv_rope wants its weight in one chunk") };
        let slots = [x.slot(), vectors.slot(), part.codes, part.scales, angles.slot(), keys.slot(), values.slot(), q.slot()];
        let tuning = GemvTuning::new(rows, x, profile);
        let tuning = if self.qk_norm {
            tuning.in_lanes(lanes_of_heads(self.head_dim, profile.max_invocations).expect("fusion asks first"), profile)
        } else {
            tuning
        };
        gemv_candidates(&KERNELS[usize::from(profile.kv_f16())], profile, |kernels| {
            vec![Dispatch {
            kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
            constants: [&tuning.constants()[..], &[("QK_NORM", f64::from(u8::from(self.qk_norm)))]].concat(),
            slots: slots.to_vec(),
            params: params(&Params {
                weight_blocks: layout::blocks(cols) as u32,
                cols: cols as u32,
                m: m as u32,
                eps: self.eps,
                first: part.first as u32,
                q_rows: self.q_rows as u32,
                k_rows: self.k_rows as u32,
                v_rows: self.v_rows as u32,
                head_dim: self.head_dim as u32,
                head_stride: head_stride(self.head_dim) as u32,
                kv_heads: self.kv_heads as u32,
                interleaved: self.interleaved.into(),
                bias: self.bias.into(),
                rope: self.rope.into(),
                q_angles: self.q_angles.first as u32,
                each: self.q_angles.each as u32,
            }),
            groups: tuning.groups(rows / 2, 32),
            }]
        })
    }
}

pub fn cases() -> Vec<Case> {
    // heads of q, of k and of v; slot and position of each row
    let case = |dtype, [q, k, v]: [usize; 3], head_dim: usize, cols: usize, at: &[(usize, usize)], plain: NormQkvRope| {
        let kv_heads = k.max(v).max(1);
        let [q_rows, k_rows, v_rows] = [q, k, v].map(|heads| heads * head_dim);
        let op = NormQkvRope { q_rows, k_rows, v_rows, kv_heads, head_dim, ..plain };
        let weight = Given::weight(dtype, op.rows(), cols);
        let context = at.iter().map(|(_, position)| position + 1).max().unwrap_or(0);
        let vectors = Given::f32([cols + op.more_vectors()]);
        let reads = vec![Given::f32([at.len(), cols]), vectors, weight, Given::angles(context, head_dim)];
        let capacity = at.iter().map(|(slot, position)| slot + position + 2).max().unwrap_or(0);
        let cache = Given::kv(capacity, kv_heads, head_dim);
        let rows = at.iter().map(|&(slot, position)| Row { slot: slot as u32, ..Row::at(position) }).collect();
        Case::new(op, reads).state(vec![cache.clone(), cache]).rows(rows).few()
    };
    // Attributes only: the shapes come from the case.
    let halves = || NormQkvRope {
        eps: 1e-5,
        bias: false,
        qk_norm: false,
        rope: true,
        q_rows: 0,
        k_rows: 0,
        v_rows: 0,
        kv_heads: 1,
        head_dim: 2,
        interleaved: false,
        q_angles: Angles::default(),
    };
    let pairs = || NormQkvRope { interleaved: true, ..halves() };
    let biased = || NormQkvRope { bias: true, ..halves() };
    let normed = || NormQkvRope { qk_norm: true, eps: 1e-3, ..halves() };
    let unrotated = || NormQkvRope { rope: false, ..halves() };
    // Sequences in no order, whose rows have no consecutive positions.
    let apart = [(20, 3), (0, 7), (31, 0), (11, 5), (40, 1), (60, 6), (50, 9), (35, 2), (70, 4)];
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let cols = if dtype.block().0 == 256 { 768 } else { 160 };
        cases.extend([1, 5].map(|m| case(dtype, [3, 1, 1], 16, cols, &apart[..m], halves())));
    }
    // Sequences whose rows select different tables of angles, 11 rows each; the last 5 of them rotate q.
    let op = NormQkvRope {
        q_rows: 40,
        k_rows: 20,
        v_rows: 20,
        kv_heads: 2,
        head_dim: 10,
        q_angles: Angles { first: 6, each: 11 },
        ..biased()
    };
    let rows = [(20, 2, 3), (0, 0, 4), (8, 1, 0), (30, 2, 1)]
        .map(|(slot, stretch, at)| Row { slot, ..Row::at(at) }.stretched(stretch));
    let (weight, angles) = (Given::weight(DType::F16, 80, 64), Given::angles(33, 10));
    let reads = vec![Given::f32([4, 64]), Given::f32([144]), weight, angles];
    let cache = Given::kv(40, 2, 10);
    cases.push(Case::new(op, reads).state(vec![cache.clone(), cache]).rows(rows.into()).few());
    cases.extend([
        case(DType::F32, [1, 1, 1], 2, 1, &[(0, 0)], halves()),
        case(DType::F32, [4, 2, 2], 22, 88, &[(0, 5)], halves()),
        case(DType::F32, [4, 2, 2], 22, 88, &apart[..2], halves()),
        case(DType::F16, [6, 2, 2], 20, 154, &[(0, 1)], pairs()),
        case(DType::F16, [6, 2, 2], 20, 154, &apart[..3], pairs()),
        case(DType::F32, [4, 2, 2], 22, 2113, &apart[..8], pairs()),
        case(DType::F32, [2, 1, 1], 8, 31, &apart, halves()),
        case(DType::Q4_K, [9, 3, 0], 64, 768, &[(0, 9)], halves()),
        case(DType::Q6_K, [0, 0, 3], 64, 768, &[(0, 9)], halves()),
        case(DType::Q4_K, [9, 3, 0], 64, 768, &apart[..3], halves()),
        case(DType::Q6_K, [0, 0, 3], 64, 768, &apart[..3], halves()),
        case(DType::F32, [1, 1, 1], 2, 1, &[(0, 0)], biased()),
        case(DType::F32, [4, 2, 2], 22, 91, &apart, biased()), // the bias begins inside a quad
        case(DType::F16, [6, 2, 2], 20, 154, &apart[..3], NormQkvRope { bias: true, ..pairs() }),
        case(DType::Q4_K, [7, 1, 0], 64, 768, &[(0, 9)], biased()),
        case(DType::Q6_K, [0, 0, 1], 64, 768, &apart[..3], biased()),
        case(DType::F32, [3, 1, 1], 2, 33, &apart[..3], normed()),
        case(DType::F32, [3, 1, 1], 16, 97, &apart, normed()), // several heads a workgroup
        case(DType::F16, [5, 2, 2], 64, 154, &apart[..5], NormQkvRope { interleaved: true, ..normed() }),
        case(DType::Q4_K, [3, 1, 0], 128, 256, &apart[..2], normed()),
        case(DType::F32, [0, 2, 0], 32, 66, &apart[..2], NormQkvRope { bias: true, ..normed() }),
        case(DType::F16, [2, 1, 1], 256, 64, &[(0, 9)], normed()),
        case(DType::F16, [2, 1, 1], 256, 64, &apart, NormQkvRope { rope: false, ..normed() }),
        case(DType::F32, [4, 2, 2], 22, 88, &apart[..2], unrotated()),
        case(DType::F16, [6, 2, 2], 20, 154, &apart[..3], NormQkvRope { rope: false, ..pairs() }),
        case(DType::Q8_0, [14, 2, 2], 64, 896, &[(0, 100)], biased()).bench(), // Qwen2.5-0.5B
        case(DType::Q8_0, [16, 8, 8], 128, 1024, &[(0, 100)], normed()).bench(), // Qwen3-0.6B
        case(DType::Q8_0, [4, 1, 1], 256, 640, &[(0, 100)], normed()).bench(), // Gemma 3 270M
        case(DType::Q4_0, [9, 3, 3], 64, 576, &[(0, 100)], halves()).bench(), // MobileLLM-125M
        case(DType::Q4_0, [9, 3, 3], 64, 576, &apart[..8], halves()).bench(),
    ]);
    cases
}
