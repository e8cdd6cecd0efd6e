//! n = x / sqrt(mean(x²) + eps) · gain; the rows of W · n are q, k and v, one head after the other;
//! q and k are rotated by the angles of the position, k and v go to the cache.
//!
//! x: (1, cols)   gain: (cols)   W: (q_rows + k_rows + v_rows, cols) in any weight format   angles: (context, D)
//! keys, values: (capacity, kv heads, D), written in place   q: (1, q_rows)
//!
//! Any of the three row counts may be 0: where q, k and v differ in format, each format is a part of its own.

use crate::kernel::source::{GEMV, KV_F16, KV_F32, NORM, QUADS_SHARED, QUADS_SUBGROUP, ROWS};
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row, layout};
use crate::ops::product::{gemv_split, product};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::Rope;
use crate::ops::weight::{WeightKernels, parts};
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, groups, head_stride, params, weight_kernel, weight_kernels};
use crate::tensor::DType;

#[derive(Clone, Debug)]
pub struct NormQkvRope {
    pub eps: f32,
    pub q_rows: usize,
    pub k_rows: usize,
    pub v_rows: usize,
    pub kv_heads: usize,
    /// D
    pub head_dim: usize,
    pub interleaved: bool,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct Params {
    weight_blocks: u32,
    cols: u32,
    eps: f32,
    first: u32,
    q_rows: u32,
    k_rows: u32,
    v_rows: u32,
    head_dim: u32,
    head_stride: u32,
    kv_heads: u32,
    interleaved: u32,
}

/// By how the vector is read, then by what the cache holds.
static KERNELS: [[WeightKernels; 2]; 2] = [
    [
        weight_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, GEMV, NORM, QUADS_SHARED, KV_F32], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, ["SPLIT" = 4.0], Requires::NOTHING),
        weight_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, GEMV, NORM, QUADS_SHARED, KV_F16], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, ["SPLIT" = 4.0], Requires::F16),
    ],
    [
        weight_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, GEMV, NORM, QUADS_SUBGROUP, KV_F32], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, ["SPLIT" = 4.0], Requires::SUBGROUPS),
        weight_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, GEMV, NORM, QUADS_SUBGROUP, KV_F16], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, ["SPLIT" = 4.0], Requires::BOTH),
    ],
];

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.iter().flatten().flatten().collect()
}

impl NormQkvRope {
    fn rows(&self) -> usize {
        self.q_rows + self.k_rows + self.v_rows
    }
}

impl Operator for NormQkvRope {
    fn name(&self) -> &'static str {
        "norm_qkv_rope"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[2].matrix());
        assert_eq!((m, k, n), (1, cols, self.rows()), "{self:?} of ({m}, {k}) with ({n}, {cols})");
        // A part without q still has a place to bind.
        vec![TensorType::f32([1, self.q_rows.max(1)])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (x, gain, w, table) = (reads[0].f32(), reads[1].f32(), reads[2].weight(), reads[3].f32());
        let [keys, values, q] = writes else { panic!("norm_qkv_rope writes keys, values and q") };
        let mut normed = vec![0.0; x.len()];
        RmsNorm { eps: self.eps }.row(x, gain, &mut normed);
        let mut qkv = vec![0.0; self.rows()];
        product(&normed, w, &mut qkv);

        let d = self.head_dim;
        let rope = Rope { heads: 1, head_dim: d, interleaved: self.interleaved };
        let angles = &table[rows[0].position as usize * d..][..d];
        let (q_part, kv) = qkv.split_at(self.q_rows);
        let (k_part, v_part) = kv.split_at(self.k_rows);
        for (x, y) in q_part.chunks_exact(d).zip(q.chunks_exact_mut(d)) {
            rope.rotate(x, angles, y);
        }
        let at = rows[0].place() * self.kv_heads * d;
        for (x, y) in k_part.chunks_exact(d).zip(keys[at..].chunks_exact_mut(d)) {
            rope.rotate(x, angles, y);
        }
        values[at..at + v_part.len()].copy_from_slice(v_part);
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Dispatch> {
        let [x, gain, w, angles] = reads else { panic!("norm_qkv_rope reads x, gain, W and angles") };
        let [keys, values, q] = writes else { panic!("norm_qkv_rope writes keys, values and q") };
        let (rows, cols) = w.ty.matrix();
        let [part] = &parts(w, profile)[..] else { panic!("norm_qkv_rope wants its weight in one chunk") };
        let kernels = &KERNELS[usize::from(profile.broadcasts())][usize::from(profile.kv_f16())];
        let slots = [x.slot(), gain.slot(), part.codes, part.scales, angles.slot(), keys.slot(), values.slot(), q.slot()];
        vec![Dispatch {
            kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
            constants: vec![("SPLIT", gemv_split(rows, profile))],
            slots: slots.into(),
            params: params(&Params {
                weight_blocks: layout::blocks(cols) as u32,
                cols: cols as u32,
                eps: self.eps,
                first: part.first as u32,
                q_rows: self.q_rows as u32,
                k_rows: self.k_rows as u32,
                v_rows: self.v_rows as u32,
                head_dim: self.head_dim as u32,
                head_stride: head_stride(self.head_dim) as u32,
                kv_heads: self.kv_heads as u32,
                interleaved: self.interleaved.into(),
            }),
            groups: [groups(rows / 2, 32), 1, 1],
        }]
    }
}

pub fn cases() -> Vec<Case> {
    // heads of q, of k and of v
    let case = |dtype, [q, k, v]: [usize; 3], head_dim: usize, cols: usize, position: usize, interleaved| {
        let kv_heads = k.max(v).max(1);
        let op = NormQkvRope {
            eps: 1e-5,
            q_rows: q * head_dim,
            k_rows: k * head_dim,
            v_rows: v * head_dim,
            kv_heads,
            head_dim,
            interleaved,
        };
        let weight = Given::weight(dtype, (q + k + v) * head_dim, cols);
        let reads = vec![Given::f32([1, cols]), Given::f32([cols]), weight, Given::angles(position + 1, head_dim)];
        let cache = Given::kv(position + 2, kv_heads, head_dim);
        Case::new(op, reads).state(vec![cache.clone(), cache]).at(position)
    };
    let mut cases: Vec<Case> = DType::ALL
        .into_iter()
        .map(|dtype| case(dtype, [3, 1, 1], 16, if dtype.block().0 == 256 { 768 } else { 160 }, 3, false))
        .collect();
    cases.extend([
        case(DType::F32, [1, 1, 1], 2, 1, 0, false),
        case(DType::F32, [4, 2, 2], 22, 88, 5, false),
        case(DType::F16, [6, 2, 2], 20, 154, 1, true),
        case(DType::Q4_K, [9, 3, 0], 64, 768, 9, false),
        case(DType::Q6_K, [0, 0, 3], 64, 768, 9, false),
        case(DType::Q4_0, [9, 3, 3], 64, 576, 100, false).bench(), // MobileLLM-125M
    ]);
    cases
}
