//! n = x / sqrt(mean(x²) + eps) · gain, row by row; the rows of W · n[m] are q, k and v of row m, one head after the other;
//! q and k are rotated by the angles of the row's position, k and v go to the cache.
//!
//! x: (m, cols)   gain: (cols)   W: (q_rows + k_rows + v_rows, cols) in any weight format   angles: (context, D)
//! keys, values: (capacity, kv heads, D), written in place   q: (m, q_rows)
//!
//! Any of the three row counts may be 0: where q, k and v differ in format, each format is a part of its own.

use crate::kernel::source::{KV_F16, KV_F32, NORM, ROWS};
use crate::kernel::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Requires, Row, layout};
use crate::ops::product::{GemvKernels, GemvTuning, gemv_candidates, gemv_kernels, plain_product};
use crate::ops::rms_norm::RmsNorm;
use crate::ops::rope::Rope;
use crate::ops::weight::parts;
use crate::ops::{Case, Given, Operand, Operator, Read, TensorType, head_stride, params, weight_kernel};
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
}

/// By what the cache holds.
static KERNELS: [GemvKernels; 2] = [
    gemv_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, NORM, KV_F32], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, []),
    gemv_kernels!("norm_qkv_rope.wgsl", "norm_qkv_rope", [ROWS, NORM, KV_F16], [ReadWrite Read Read Read Read ReadWrite ReadWrite ReadWrite], Params, [], Requires::F16, Requires::BOTH),
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
        assert_eq!((k, n), (cols, self.rows()), "{self:?} of ({m}, {k}) with ({n}, {cols})");
        // A part without q still has a place to bind.
        vec![TensorType::f32([m, self.q_rows.max(1)])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], rows: &[Row]) {
        let (x, gain, w, table) = (reads[0].f32(), reads[1].f32(), reads[2].weight(), reads[3].f32());
        let [keys, values, q] = writes else { panic!("norm_qkv_rope writes keys, values and q") };
        let m = x.len() / gain.len();
        let mut qkv = vec![0.0; m * self.rows()];
        plain_product(&RmsNorm { eps: self.eps }.rows(x, gain), w, &mut qkv);

        let d = self.head_dim;
        let rope = Rope { heads: 1, head_dim: d, interleaved: self.interleaved };
        for (r, (qkv, row)) in qkv.chunks_exact(self.rows()).zip(rows).enumerate() {
            let angles = &table[row.position as usize * d..][..d];
            let (q_part, kv) = qkv.split_at(self.q_rows);
            let (k_part, v_part) = kv.split_at(self.k_rows);
            for (x, y) in q_part.chunks_exact(d).zip(q[r * self.q_rows..].chunks_exact_mut(d)) {
                rope.rotate(x, angles, y);
            }
            let at = row.place() * self.kv_heads * d;
            for (x, y) in k_part.chunks_exact(d).zip(keys[at..].chunks_exact_mut(d)) {
                rope.rotate(x, angles, y);
            }
            values[at..at + v_part.len()].copy_from_slice(v_part);
        }
    }

    fn candidates(&self, reads: &[Operand], writes: &[Operand], _family: Family, profile: &DeviceProfile) -> Vec<Candidate> {
        let [x, gain, w, angles] = reads else { panic!("norm_qkv_rope reads x, gain, W and angles") };
        let [keys, values, q] = writes else { panic!("norm_qkv_rope writes keys, values and q") };
        let ((m, _), (rows, cols)) = (x.ty.matrix(), w.ty.matrix());
        let [part] = &parts(w, profile)[..] else { panic!("norm_qkv_rope wants its weight in one chunk") };
        let slots = [x.slot(), gain.slot(), part.codes, part.scales, angles.slot(), keys.slot(), values.slot(), q.slot()];
        let tuning = GemvTuning::new(rows, x, profile);
        gemv_candidates(&KERNELS[usize::from(profile.kv_f16())], profile, |kernels| {
            vec![Dispatch {
            kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
            constants: tuning.constants().into(),
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
            }),
            groups: tuning.groups(rows / 2, 32),
            }]
        })
    }
}

pub fn cases() -> Vec<Case> {
    // heads of q, of k and of v; slot and position of each row
    let case = |dtype, [q, k, v]: [usize; 3], head_dim: usize, cols: usize, at: &[(usize, usize)], interleaved| {
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
        let context = at.iter().map(|(_, position)| position + 1).max().unwrap_or(0);
        let reads = vec![Given::f32([at.len(), cols]), Given::f32([cols]), weight, Given::angles(context, head_dim)];
        let capacity = at.iter().map(|(slot, position)| slot + position + 2).max().unwrap_or(0);
        let cache = Given::kv(capacity, kv_heads, head_dim);
        let rows = at.iter().map(|&(slot, position)| Row { slot: slot as u32, ..Row::at(position) }).collect();
        Case::new(op, reads).state(vec![cache.clone(), cache]).rows(rows).few()
    };
    // Sequences that lie in no order and stand at no two positions in a row.
    let apart = [(20, 3), (0, 7), (31, 0), (11, 5), (40, 1), (60, 6), (50, 9), (35, 2), (70, 4)];
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        let cols = if dtype.block().0 == 256 { 768 } else { 160 };
        cases.extend([1, 5].map(|m| case(dtype, [3, 1, 1], 16, cols, &apart[..m], false)));
    }
    cases.extend([
        case(DType::F32, [1, 1, 1], 2, 1, &[(0, 0)], false),
        case(DType::F32, [4, 2, 2], 22, 88, &[(0, 5)], false),
        case(DType::F32, [4, 2, 2], 22, 88, &apart[..2], false),
        case(DType::F16, [6, 2, 2], 20, 154, &[(0, 1)], true),
        case(DType::F16, [6, 2, 2], 20, 154, &apart[..3], true),
        case(DType::F32, [4, 2, 2], 22, 2113, &apart[..8], true),
        case(DType::F32, [2, 1, 1], 8, 31, &apart, false),
        case(DType::Q4_K, [9, 3, 0], 64, 768, &[(0, 9)], false),
        case(DType::Q6_K, [0, 0, 3], 64, 768, &[(0, 9)], false),
        case(DType::Q4_K, [9, 3, 0], 64, 768, &apart[..3], false),
        case(DType::Q6_K, [0, 0, 3], 64, 768, &apart[..3], false),
        case(DType::Q4_0, [9, 3, 3], 64, 576, &[(0, 100)], false).bench(), // MobileLLM-125M
        case(DType::Q4_0, [9, 3, 3], 64, 576, &apart[..8], false).bench(),
    ]);
    cases
}
