//! The common parts of products with a weight matrix: kernels, their selection, the CPU's loop, and test shapes.

use crate::formats::dequantize_row;
use crate::ops::weight::{Part, WeightKernels, parts};
use crate::ops::{Matrix, Operand, groups, params, weight_kernel};
use crate::tensor::DType;
use crate::work::{Candidate, DeviceProfile, Dispatch, Family, Kernel, KernelRef, Slot, layout};

/// The params of a product, or their common first part.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct ProductParams {
    weight_blocks: u32,
    cols: u32,
    first: u32,
    rows: u32,
    out: u32,
    m: u32,
    stride: u32,
}

impl ProductParams {
    /// The params for m rows of x and one part of w.
    pub fn new(m: usize, w: &Operand, part: &Part) -> Self {
        let (n, cols) = w.ty.matrix();
        let [weight_blocks, cols, first, rows, out, m, stride] =
            [layout::blocks(cols), cols, part.first, part.rows, part.out, m, n].map(|v| v as u32);
        ProductParams { weight_blocks, cols, first, rows, out, m, stride }
    }
}

/// The kernels for few rows, and the kernels for a matrix.
pub struct ProductKernels {
    pub gemv: GemvKernels,
    pub gemm: GemmKernels,
}

/// Few rows: blocks of them are read from workgroup memory by every thread, or by broadcasts.
pub type GemvKernels = [WeightKernels; 2];

/// A matrix: tiles of float32 or float16, broadcasts, or cooperative matrices of 8 × 8 or 16 × 16.
pub struct GemmKernels {
    pub tiles_f32: WeightKernels,
    pub tiles_f16: WeightKernels,
    pub broadcasts: WeightKernels,
    pub cooperative: [WeightKernels; 2],
}

/// Declares the kernels of a file that includes shared/gemv.wgsl:
/// `gemv_kernels!("file.wgsl", "entry", [modules], [accesses], Params, [constants])`.
macro_rules! gemv_kernels {
    ($file:literal, $entry:literal, [$($module:expr),*], $accesses:tt, $params:ty, [$($constant:literal = $value:literal),*]) => {
        $crate::ops::product::gemv_kernels!($file, $entry, [$($module),*], $accesses, $params, [$($constant = $value),*],
            $crate::work::Requires::NOTHING, $crate::work::Requires::SUBGROUPS)
    };
    ($file:literal, $entry:literal, [$($module:expr),*], $accesses:tt, $params:ty, [$($constant:literal = $value:literal),*], $shared:expr, $subgroups:expr) => {
        [
            $crate::ops::weight_kernels!($file, $entry, [$crate::work::source::GEMV, $crate::work::source::X_ROWS, $($module,)* $crate::work::source::QUADS_SHARED], $accesses, $params, ["SPLIT" = 4.0, "ROWS" = 1.0, "PAIRS" = 1.0, "LANES" = 32.0, "ALIGNED" = 1.0 $(, $constant = $value)*], $shared),
            $crate::ops::weight_kernels!($file, $entry, [$crate::work::source::GEMV, $crate::work::source::X_ROWS, $($module,)* $crate::work::source::QUADS_SUBGROUP], $accesses, $params, ["SPLIT" = 4.0, "ROWS" = 1.0, "PAIRS" = 1.0, "LANES" = 32.0, "ALIGNED" = 1.0 $(, $constant = $value)*], $subgroups),
        ]
    };
}
pub(crate) use gemv_kernels;

/// Declares the kernels of one `gemm.wgsl`: `gemm_kernels!("file.wgsl", [modules], [accesses], Params, [constants])`.
macro_rules! gemm_kernels {
    ($file:literal, [$($module:expr),*], $accesses:tt, $params:ty, [$($constant:literal = $value:literal),*]) => {
        $crate::ops::product::GemmKernels {
            tiles_f32: $crate::ops::weight_kernels!($file, "gemm", [$crate::work::source::GEMM, $crate::work::source::GEMM_EDGES, $($module,)* $crate::work::source::TILE_F32], $accesses, $params, [$($constant = $value),*], $crate::work::Requires::NOTHING),
            tiles_f16: $crate::ops::weight_kernels!($file, "gemm", [$crate::work::source::GEMM, $crate::work::source::GEMM_EDGES, $($module,)* $crate::work::source::TILE_F16], $accesses, $params, [$($constant = $value),*], $crate::work::Requires::F16),
            broadcasts: $crate::ops::weight_kernels!($file, "gemm", [$crate::work::source::GEMM_SUBGROUP, $crate::work::source::GEMM_EDGES $(, $module)*], $accesses, $params, [$($constant = $value),*], $crate::work::Requires::SUBGROUPS),
            cooperative: [
                $crate::ops::weight_kernels!($file, "gemm", [$crate::work::source::GEMM_COOPERATIVE, $crate::work::source::COOPERATIVE_8, $crate::work::source::GEMM_EDGES $(, $module)*], $accesses, $params, ["STRIPS" = 1.0 $(, $constant = $value)*], $crate::work::Requires::cooperative(8)),
                $crate::ops::weight_kernels!($file, "gemm", [$crate::work::source::GEMM_COOPERATIVE, $crate::work::source::COOPERATIVE_16, $crate::work::source::GEMM_EDGES $(, $module)*], $accesses, $params, ["STRIPS" = 1.0 $(, $constant = $value)*], $crate::work::Requires::cooperative(16)),
            ],
        }
    };
}
pub(crate) use gemm_kernels;

impl ProductKernels {
    pub fn all(&'static self) -> Vec<&'static Kernel> {
        self.gemv.iter().flatten().chain(self.gemm.all()).collect()
    }

    /// The candidates for x · Wᵀ; `slots` orders the bindings of one part, and `constants` follow the kernel's own.
    pub fn candidates(
        &'static self,
        x: &Operand,
        w: &Operand,
        family: Family,
        profile: &DeviceProfile,
        constants: &[(&'static str, f64)],
        slots: impl Fn(&Part) -> Vec<Slot>,
    ) -> Vec<Candidate> {
        let (m, cols) = x.ty.matrix();
        if family == Family::Many {
            let constants = [&[aligned(cols)], constants].concat();
            return self.gemm.candidates(m, w, profile, &constants, &[], slots);
        }
        gemv_candidates(&self.gemv, profile, |kernels| {
            let dispatch = |part: Part| {
                let tuning = GemvTuning::new(part.rows, x, profile);
                Dispatch {
                    kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
                    constants: [&tuning.constants(), constants].concat(),
                    slots: slots(&part),
                    params: params(&ProductParams::new(m, w, &part)),
                    groups: tuning.groups(part.rows, 64),
                }
            };
            parts(w, profile).into_iter().map(dispatch).collect()
        })
    }
}

impl GemmKernels {
    pub fn all(&'static self) -> Vec<&'static Kernel> {
        let tiles = [&self.tiles_f32, &self.tiles_f16, &self.broadcasts];
        tiles.into_iter().chain(&self.cooperative).flatten().collect()
    }

    /// The candidates for a product with `m` rows: see [`ProductKernels::candidates`]. `more` are params after the
    /// common ones.
    pub fn candidates(
        &'static self,
        m: usize,
        w: &Operand,
        profile: &DeviceProfile,
        constants: &[(&'static str, f64)],
        more: &[u32],
        slots: impl Fn(&Part) -> Vec<Slot>,
    ) -> Vec<Candidate> {
        // One workgroup per tile of so many rows of x and of W.
        let tiles =
            |kernels: &'static WeightKernels, own: &[(&'static str, f64)], [tile_m, tile_n]: [usize; 2], why| {
                let dispatch = |part: Part| Dispatch {
                    kernel: KernelRef(weight_kernel(kernels, w.ty.dtype())),
                    constants: [own, constants].concat(),
                    slots: slots(&part),
                    params: [&params(&ProductParams::new(m, w, &part)), bytemuck::cast_slice(more)].concat(),
                    groups: [groups(m, tile_m), groups(part.rows, tile_n), 1],
                };
                Candidate { dispatches: parts(w, profile).into_iter().map(dispatch).collect(), why }
            };
        let matrices = |kernels, size| {
            tiles(kernels, &[strips(size, profile)], [64, 64], "cooperative matrices do the most arithmetic")
        };
        let [of_8, of_16] = &self.cooperative;
        let by_broadcasts = tiles(&self.broadcasts, &[], [16, 128], BROADCASTS);
        let mut ways = vec![
            matrices(of_16, 16),
            matrices(of_8, 8),
            tiles(&self.tiles_f16, &[], [32, 64], "tiles of f16 are half the bytes of tiles of f32"),
            tiles(&self.tiles_f32, &[], [32, 64], "tiles of f32 need nothing of a device"),
        ];
        ways.insert(if profile.rasteriser { 0 } else { ways.len() }, by_broadcasts);
        ways
    }
}

/// The number of strips of a 64 × 64 tile that a subgroup holds in registers, with cooperative matrices of `size`: an
/// equal share of the strips where subgroups are small, and half of the tile at most.
fn strips(size: u32, profile: &DeviceProfile) -> (&'static str, f64) {
    let threads = profile.subgroups.map_or(size, |(least, _)| least);
    ("STRIPS", f64::from((threads / size).clamp(1, 32 / size)))
}

/// The reason given for candidates that use broadcasts.
pub const BROADCASTS: &str = "on a CPU rasteriser a broadcast is faster than a load";

/// The candidates of an operator with few rows; `dispatches` makes its work from kernels.
pub fn gemv_candidates(
    kernels: &'static GemvKernels,
    profile: &DeviceProfile,
    dispatches: impl Fn(&'static WeightKernels) -> Vec<Dispatch>,
) -> Vec<Candidate> {
    let [shared, broadcasts] = kernels;
    let shared = Candidate { dispatches: dispatches(shared), why: "a GPU loads for all threads of a subgroup at once" };
    let broadcasts = Candidate { dispatches: dispatches(broadcasts), why: BROADCASTS };
    if profile.rasteriser { vec![broadcasts, shared] } else { vec![shared, broadcasts] }
}

/// Whether rows of activations begin on a quad, as a shader constant.
fn aligned(cols: usize) -> (&'static str, f64) {
    ("ALIGNED", f64::from(u8::from(cols.is_multiple_of(4))))
}

/// Maximum number of threads in a workgroup of a few-row kernel.
const MOST_THREADS: u32 = 256;

/// Maximum number of rows of x in a workgroup of a few-row kernel.
const MOST_GEMV_ROWS: usize = 8;

/// Lanes of a few-row kernel's workgroup, unless whole heads need more.
pub const LANES: usize = 32;

/// The division of the work of a few-row kernel.
pub struct GemvTuning {
    /// Rows of x.
    m: usize,
    /// Threads that share a row of W. It determines the order of sums, so it must not depend on m.
    split: u32,
    /// Rows of x per workgroup: the smallest power of two that is at least m, up to the limit.
    together: usize,
    /// Pairs of rows of W per thread.
    pairs: usize,
    /// Threads with different pairs; the other threads of the workgroup share the rows of these.
    lanes: usize,
    aligned: (&'static str, f64),
}

impl GemvTuning {
    /// For `rows` rows of W and all of x. More threads share a row of W where rows are few and cores are many. On CPU
    /// rasterisers loads of x cost most, so with several rows of x a thread uses each load for two pairs; a GPU lacks
    /// registers for that.
    pub fn new(rows: usize, x: &Operand, profile: &DeviceProfile) -> Self {
        let (m, cols) = x.ty.matrix();
        let wanted = match rows {
            _ if profile.rasteriser => 2,
            8192.. => 4,
            _ => 8,
        };
        GemvTuning {
            m,
            split: wanted.min(profile.max_invocations.min(MOST_THREADS) / LANES as u32),
            together: m.next_power_of_two().min(MOST_GEMV_ROWS),
            pairs: if profile.rasteriser && m > 1 { 2 } else { 1 },
            lanes: LANES,
            aligned: aligned(cols),
        }
    }

    /// The same work in workgroups of `lanes` lanes, with one pair each.
    pub fn in_lanes(self, lanes: usize, profile: &DeviceProfile) -> Self {
        let split = self.split.min(profile.max_invocations.min(MOST_THREADS) / lanes as u32);
        GemvTuning { split, lanes, pairs: 1, ..self }
    }

    pub fn constants(&self) -> [(&'static str, f64); 5] {
        [
            ("SPLIT", f64::from(self.split)),
            ("ROWS", self.together as f64),
            ("PAIRS", self.pairs as f64),
            ("LANES", self.lanes as f64),
            self.aligned,
        ]
    }

    /// The number of workgroups for `count` items (rows of W, or pairs of them), where 32 lanes with one pair each
    /// cover `each` items.
    pub fn groups(&self, count: usize, each: usize) -> [u32; 3] {
        [groups(count, each * self.pairs * self.lanes / LANES), groups(self.m, MOST_GEMV_ROWS), 1]
    }
}

/// x · Wᵀ, row by row: the definition for every operator that contains a product.
pub fn plain_product(x: &[f32], w: &Matrix, y: &mut [f32]) {
    let n = w.rows();
    let mut row = vec![0.0; w.cols];
    for c in 0..n {
        dequantize_row(w.dtype, w.row(c), &mut row);
        for (r, x) in x.chunks_exact(w.cols).enumerate() {
            y[r * n + c] = x.iter().zip(&row).map(|(x, w)| x * w).sum();
        }
    }
}

/// (m, n, k) of products whose weight is split, and the limit of a binding in bytes: chunks of 64 rows, and of fewer.
pub fn split_shapes() -> [((DType, usize, usize, usize), u64); 4] {
    [
        ((DType::F32, 1, 150, 31), 70 * 128),
        ((DType::F16, 3, 150, 154), 64 * 320),
        ((DType::Q4_0, 1, 67, 160), 9 * 80 + 1),
        ((DType::Q6_K, 2, 67, 768), 30 * 384),
    ]
}

/// (m, n, k) of the test cases with few rows: every format, every number of rows that a workgroup has, one more, and
/// rows that end inside a block.
pub fn few_shapes() -> Vec<(DType, usize, usize, usize)> {
    let mut shapes = Vec::new();
    for dtype in DType::ALL {
        let k = if dtype.block().0 == 256 { 768 } else { 160 };
        shapes.extend([(dtype, 1, 67, k), (dtype, 5, 67, k)]);
    }
    for (m, n, k) in [
        (1, 1, 1),
        (1, 64, 31),
        (1, 65, 154),
        (1, 3, 2113),
        (1, 36, 33),
        (1, 68, 33),
        (2, 67, 2113), // several stages
        (3, 65, 576),
        (5, 3, 2112),
        (8, 64, 1536),
        (8, 33, 31),
        (9, 66, 154),
        (17, 5, 300),
    ] {
        shapes.extend([(DType::F32, m, n, k), (DType::F16, m, n, k)]);
    }
    shapes
}

/// (m, n, k) of the test cases with many rows: every format, primes, one past a tile, rows that end inside a block.
pub fn many_shapes() -> Vec<(DType, usize, usize, usize)> {
    let mut shapes = Vec::new();
    for dtype in DType::ALL {
        let k = if dtype.block().0 == 256 { 768 } else { 160 };
        shapes.extend([(dtype, 1, 67, k), (dtype, 35, 67, k)]);
    }
    for (m, n, k) in
        [(1, 1, 1), (3, 68, 33), (2, 1, 1), (33, 65, 31), (31, 64, 154), (5, 129, 257), (13, 33, 513), (65, 66, 97)]
    {
        shapes.extend([(DType::F32, m, n, k), (DType::F16, m, n, k)]);
    }
    shapes
}
