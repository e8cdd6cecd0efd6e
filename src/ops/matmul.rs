//! y[m, n] = Σ_k x[m, k] · W[n, k]
//!
//! x: (m, k)   W: (n, k) in any weight format   y: (m, n)

use crate::checkpoint::quant::dot_rows;
use crate::kernel::source::{COOPERATIVE_8, COOPERATIVE_16, GEMM, GEMM_COOPERATIVE, GEMM_EDGES, GEMM_ROWS, GEMM_SUBGROUP, GEMV, PLAIN, QUADS_SHARED, QUADS_SUBGROUP, TILE_F16, TILE_F32};
use crate::kernel::{DeviceProfile, Dispatch, Kernel, KernelRef, Requires, Run, layout};
use crate::ops::weight::{Part, WeightKernels, parts};
use crate::ops::{Case, Given, Matrix, Operand, Operator, Read, TensorType, groups, params, weight_kernel, weight_kernels};
use crate::tensor::DType;
use crate::threads;

#[derive(Clone, Debug)]
pub struct Matmul;

/// Params of `gemv.wgsl`, here and in `matmul_add`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemvParams {
    weight_blocks: u32,
    cols: u32,
    first: u32,
    rows: u32,
    out: u32,
}

/// Params of `gemm.wgsl`, here and in `matmul_add`.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemmParams {
    weight_blocks: u32,
    cols: u32,
    first: u32,
    rows: u32,
    out: u32,
    m: u32,
    stride: u32,
}

/// One vector, read from workgroup memory or by broadcasts; a matrix, in tiles of float32 or float16, by broadcasts, or by
/// cooperative matrices of 8 × 8 or 16 × 16.
pub struct MatmulKernels {
    pub gemv: [WeightKernels; 2],
    pub gemm_f32: WeightKernels,
    pub gemm_f16: WeightKernels,
    pub gemm_subgroup: WeightKernels,
    pub gemm_cooperative: [WeightKernels; 2],
}

/// How tiles of a matrix product are computed.
struct Tiles {
    kernels: &'static WeightKernels,
    constants: Vec<(&'static str, f64)>,
    /// Rows of x and of W that a workgroup takes.
    m: usize,
    n: usize,
}

/// Rows of x from which cooperative matrices are worth a tile of 64 that may be filled in part.
const LEAST_COOPERATIVE: usize = 16;

static KERNELS: MatmulKernels = MatmulKernels {
    gemv: [
        weight_kernels!("matmul/gemv.wgsl", "gemv", [GEMV, PLAIN, QUADS_SHARED], [ReadWrite Read Read ReadWrite], GemvParams, ["SPLIT" = 4.0], Requires::NOTHING),
        weight_kernels!("matmul/gemv.wgsl", "gemv", [GEMV, PLAIN, QUADS_SUBGROUP], [ReadWrite Read Read ReadWrite], GemvParams, ["SPLIT" = 4.0], Requires::SUBGROUPS),
    ],
    gemm_f32: weight_kernels!("matmul/gemm.wgsl", "gemm", [GEMM, GEMM_EDGES, GEMM_ROWS, TILE_F32], [ReadWrite Read Read ReadWrite], GemmParams),
    gemm_f16: weight_kernels!("matmul/gemm.wgsl", "gemm", [GEMM, GEMM_EDGES, GEMM_ROWS, TILE_F16], [ReadWrite Read Read ReadWrite], GemmParams, [], Requires::F16),
    gemm_subgroup: weight_kernels!("matmul/gemm.wgsl", "gemm", [GEMM_SUBGROUP, GEMM_EDGES, GEMM_ROWS], [ReadWrite Read Read ReadWrite], GemmParams, [], Requires::SUBGROUPS),
    gemm_cooperative: [
        weight_kernels!("matmul/gemm.wgsl", "gemm", [GEMM_COOPERATIVE, COOPERATIVE_8, GEMM_EDGES, GEMM_ROWS], [ReadWrite Read Read ReadWrite], GemmParams, ["STRIPS" = 1.0], Requires::cooperative(8)),
        weight_kernels!("matmul/gemm.wgsl", "gemm", [GEMM_COOPERATIVE, COOPERATIVE_16, GEMM_EDGES, GEMM_ROWS], [ReadWrite Read Read ReadWrite], GemmParams, ["STRIPS" = 1.0], Requires::cooperative(16)),
    ],
};

pub fn kernels() -> Vec<&'static Kernel> {
    KERNELS.all()
}

impl MatmulKernels {
    pub fn all(&'static self) -> Vec<&'static Kernel> {
        let gemm = [&self.gemm_f32, &self.gemm_f16, &self.gemm_subgroup];
        self.gemv.iter().chain(gemm).chain(&self.gemm_cooperative).flatten().collect()
    }

    /// What suits a product of `m` rows on a device.
    fn tiles(&'static self, m: usize, profile: &DeviceProfile) -> Tiles {
        let half = profile.f16 && profile.reduced_precision;
        let plain = |kernels, m, n| Tiles { kernels, constants: vec![], m, n };
        match cooperative(profile) {
            _ if profile.broadcasts() => plain(&self.gemm_subgroup, 16, 128),
            Some((size, strips)) if half && m >= LEAST_COOPERATIVE => {
                let kernels = &self.gemm_cooperative[usize::from(size == 16)];
                Tiles { kernels, constants: vec![("STRIPS", f64::from(strips))], m: 64, n: 64 }
            }
            _ if half => plain(&self.gemm_f16, 32, 64),
            _ => plain(&self.gemm_f32, 32, 64),
        }
    }

    /// The dispatches of y = x · Wᵀ; `slots` orders the bindings of one part.
    pub fn dispatch(
        &'static self,
        x: &Operand,
        w: &Operand,
        profile: &DeviceProfile,
        slots: impl Fn(&Part) -> Vec<crate::kernel::Slot>,
    ) -> Vec<Dispatch> {
        let (m, cols) = x.ty.matrix();
        let (n, _) = w.ty.matrix();
        let dispatch = |part: Part| {
            let [weight_blocks, cols, first, rows, out] =
                [layout::blocks(cols), cols, part.first, part.rows, part.out].map(|v| v as u32);
            if m == 1 {
                return Dispatch {
                    kernel: KernelRef(weight_kernel(&self.gemv[usize::from(profile.broadcasts())], w.ty.dtype())),
                    constants: vec![("SPLIT", gemv_split(part.rows, profile))],
                    slots: slots(&part),
                    params: params(&GemvParams { weight_blocks, cols, first, rows, out }),
                    groups: [groups(part.rows, 64), 1, 1],
                };
            }
            let tiles = self.tiles(m, profile);
            let groups = [groups(m, tiles.m), groups(part.rows, tiles.n), 1];
            let (m, stride) = (m as u32, n as u32);
            Dispatch {
                kernel: KernelRef(weight_kernel(tiles.kernels, w.ty.dtype())),
                constants: tiles.constants,
                slots: slots(&part),
                params: params(&GemmParams { weight_blocks, cols, first, rows, out, m, stride }),
                groups,
            }
        };
        parts(w, profile).into_iter().map(dispatch).collect()
    }
}

/// The size of a device's cooperative matrices, and how many strips of a tile of 64 × 64 a subgroup has in registers:
/// as many as give each of the most subgroups that 64 threads can be a share, within half of the tile.
fn cooperative(profile: &DeviceProfile) -> Option<(u32, u32)> {
    let (size, (threads, _)) = (profile.cooperative?, profile.subgroups?);
    // Fewer threads would be more subgroups than there are strips, and than there is workgroup memory for.
    (threads >= size).then(|| (size, (threads / size).min(32 / size)))
}

/// How many threads share a row of a matrix-vector product: more where rows are few and cores many.
pub fn gemv_split(rows: usize, profile: &DeviceProfile) -> f64 {
    let wanted = match rows {
        _ if profile.rasteriser => 2,
        8192.. => 4,
        _ => 8,
    };
    f64::from(wanted.min(profile.max_invocations / 32))
}

/// The product, rows of W side by side on all cores; each is read once for up to four rows of x.
pub fn product(x: &[f32], w: &Matrix, y: &mut [f32]) {
    let (k, n) = (w.cols, w.rows());
    let m = x.len() / k;
    if m == 1 {
        threads::rows(y, 1, |row, y| [y[0]] = dot_rows(w.dtype, w.row(row), [x]));
        return;
    }
    let mut transposed = vec![0.0; m * n];
    threads::rows(&mut transposed, m, |row, y| {
        let w_row = w.row(row);
        let mut quads = x.chunks_exact(4 * k).zip(y.chunks_exact_mut(4));
        for (x, y) in &mut quads {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| &x[i * k..(i + 1) * k]);
            y.copy_from_slice(&dot_rows(w.dtype, w_row, [a, b, c, d]));
        }
        for r in m / 4 * 4..m {
            [y[r]] = dot_rows(w.dtype, w_row, [&x[r * k..(r + 1) * k]]);
        }
    });
    for (r, y) in y.chunks_exact_mut(n).enumerate() {
        for (c, y) in y.iter_mut().enumerate() {
            *y = transposed[c * m + r];
        }
    }
}

impl Operator for Matmul {
    fn name(&self) -> &'static str {
        "matmul"
    }

    fn infer(&self, reads: &[&TensorType]) -> Vec<TensorType> {
        let ((m, k), (n, cols)) = (reads[0].matrix(), reads[1].matrix());
        assert_eq!(k, cols, "matmul of ({m}, {k}) with ({n}, {cols})");
        vec![TensorType::f32([m, n])]
    }

    fn reference(&self, reads: &[Read], writes: &mut [&mut [f32]], _run: &Run) {
        product(reads[0].f32(), reads[1].weight(), writes[0]);
    }

    fn dispatch(&self, reads: &[Operand], writes: &[Operand], profile: &DeviceProfile) -> Vec<Dispatch> {
        let (x, w) = (&reads[0], &reads[1]);
        KERNELS.dispatch(x, w, profile, |part| vec![x.slot(), part.codes, part.scales, writes[0].slot()])
    }
}

/// (m, n, k) of products whose weight is split, and the bytes of a binding: chunks of 64 rows, and of fewer.
pub fn split_shapes() -> [((DType, usize, usize, usize), u64); 4] {
    [
        ((DType::F32, 1, 150, 31), 70 * 128),
        ((DType::F16, 3, 150, 154), 64 * 320),
        ((DType::Q4_0, 1, 67, 160), 9 * 80 + 1),
        ((DType::Q6_K, 2, 67, 768), 30 * 384),
    ]
}

/// (m, n, k) that products are held to: every format, primes, one past a workgroup, rows that end inside a block.
pub fn shapes() -> Vec<(DType, usize, usize, usize)> {
    let mut shapes = Vec::new();
    for dtype in DType::ALL {
        let k = if dtype.block().0 == 256 { 768 } else { 160 };
        shapes.extend([(dtype, 1, 67, k), (dtype, 35, 67, k)]);
    }
    for (m, n, k) in [(1, 1, 1), (1, 64, 31), (1, 65, 154), (1, 3, 2113), (1, 36, 33), (1, 68, 33), (3, 68, 33), (2, 1, 1), (33, 65, 31), (31, 64, 154), (5, 129, 257)] {
        shapes.push((DType::F32, m, n, k));
        shapes.push((DType::F16, m, n, k));
    }
    shapes
}

pub fn cases() -> Vec<Case> {
    let case = |(dtype, m, n, k)| Case::new(Matmul, vec![Given::f32([m, k]), Given::weight(dtype, n, k)]);
    let mut cases: Vec<Case> = shapes().into_iter().map(case).collect();
    cases.extend(split_shapes().map(|(shape, bytes)| case(shape).in_bindings_of(bytes)));
    // MobileLLM-125M: down projection of one token and of a prompt; the head.
    for (dtype, m, n, k) in [(DType::Q4_0, 1, 576, 1536), (DType::Q4_0, 128, 576, 1536), (DType::F16, 128, 576, 1536), (DType::Q8_0, 1, 32000, 576)] {
        cases.push(case((dtype, m, n, k)).bench());
    }
    cases
}
