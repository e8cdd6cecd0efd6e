//! What products with a weight matrix share: kernels, how they are chosen, the CPU's loop, the shapes they are held to.

use crate::checkpoint::quant::dequantize_row;
use crate::kernel::{DeviceProfile, Dispatch, Family, Kernel, KernelRef, Slot, layout};
use crate::ops::weight::{Part, WeightKernels, parts};
use crate::ops::{Matrix, Operand, groups, weight_kernel};
use crate::tensor::DType;

/// The params that every `gemv.wgsl` begins with.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub struct GemvParams {
    weight_blocks: u32,
    cols: u32,
    first: u32,
    rows: u32,
    out: u32,
}

/// The params that every `gemm.wgsl` begins with.
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

/// One vector, read from workgroup memory or by broadcasts; and a matrix.
pub struct ProductKernels {
    pub gemv: [WeightKernels; 2],
    pub gemm: GemmKernels,
}

/// A matrix: in tiles of float32 or float16, by broadcasts, or by cooperative matrices of 8 × 8 or 16 × 16.
pub struct GemmKernels {
    pub tiles_f32: WeightKernels,
    pub tiles_f16: WeightKernels,
    pub broadcasts: WeightKernels,
    pub cooperative: [WeightKernels; 2],
}

/// How tiles of a matrix product are computed.
struct Tiles {
    kernels: &'static WeightKernels,
    constants: Vec<(&'static str, f64)>,
    /// Rows of x and of W that a workgroup takes.
    m: usize,
    n: usize,
}

/// Declares the kernels of one `gemv.wgsl`: `gemv_kernels!("file.wgsl", [modules], [accesses], Params)`.
macro_rules! gemv_kernels {
    ($file:literal, [$($module:expr),*], $accesses:tt, $params:ty) => {
        [
            $crate::ops::weight_kernels!($file, "gemv", [$crate::kernel::source::GEMV, $($module,)* $crate::kernel::source::QUADS_SHARED], $accesses, $params, ["SPLIT" = 4.0], $crate::kernel::Requires::NOTHING),
            $crate::ops::weight_kernels!($file, "gemv", [$crate::kernel::source::GEMV, $($module,)* $crate::kernel::source::QUADS_SUBGROUP], $accesses, $params, ["SPLIT" = 4.0], $crate::kernel::Requires::SUBGROUPS),
        ]
    };
}
pub(crate) use gemv_kernels;

/// Declares the kernels of one `gemm.wgsl`: `gemm_kernels!("file.wgsl", [modules], [accesses], Params)`.
macro_rules! gemm_kernels {
    ($file:literal, [$($module:expr),*], $accesses:tt, $params:ty) => {
        $crate::ops::product::GemmKernels {
            tiles_f32: $crate::ops::weight_kernels!($file, "gemm", [$crate::kernel::source::GEMM, $crate::kernel::source::GEMM_EDGES, $($module,)* $crate::kernel::source::TILE_F32], $accesses, $params),
            tiles_f16: $crate::ops::weight_kernels!($file, "gemm", [$crate::kernel::source::GEMM, $crate::kernel::source::GEMM_EDGES, $($module,)* $crate::kernel::source::TILE_F16], $accesses, $params, [], $crate::kernel::Requires::F16),
            broadcasts: $crate::ops::weight_kernels!($file, "gemm", [$crate::kernel::source::GEMM_SUBGROUP, $crate::kernel::source::GEMM_EDGES $(, $module)*], $accesses, $params, [], $crate::kernel::Requires::SUBGROUPS),
            cooperative: [
                $crate::ops::weight_kernels!($file, "gemm", [$crate::kernel::source::GEMM_COOPERATIVE, $crate::kernel::source::COOPERATIVE_8, $crate::kernel::source::GEMM_EDGES $(, $module)*], $accesses, $params, ["STRIPS" = 1.0], $crate::kernel::Requires::cooperative(8)),
                $crate::ops::weight_kernels!($file, "gemm", [$crate::kernel::source::GEMM_COOPERATIVE, $crate::kernel::source::COOPERATIVE_16, $crate::kernel::source::GEMM_EDGES $(, $module)*], $accesses, $params, ["STRIPS" = 1.0], $crate::kernel::Requires::cooperative(16)),
            ],
        }
    };
}
pub(crate) use gemm_kernels;

impl ProductKernels {
    pub fn all(&'static self) -> Vec<&'static Kernel> {
        self.gemv.iter().flatten().chain(self.gemm.all()).collect()
    }

    /// The dispatches of x · Wᵀ; `slots` orders the bindings of one part, `more` are params behind the common ones.
    pub fn dispatch(
        &'static self,
        x: &Operand,
        w: &Operand,
        family: Family,
        profile: &DeviceProfile,
        more: &[u32],
        slots: impl Fn(&Part) -> Vec<Slot>,
    ) -> Vec<Dispatch> {
        let (m, cols) = x.ty.matrix();
        if m > 1 || family == Family::Many {
            return self.gemm.dispatch(m, w, profile, more, slots);
        }
        let dispatch = |part: Part| {
            let [weight_blocks, cols, first, rows, out] =
                [layout::blocks(cols), cols, part.first, part.rows, part.out].map(|v| v as u32);
            let params = GemvParams { weight_blocks, cols, first, rows, out };
            Dispatch {
                kernel: KernelRef(weight_kernel(&self.gemv[usize::from(profile.broadcasts())], w.ty.dtype())),
                constants: vec![("SPLIT", gemv_split(part.rows, profile))],
                slots: slots(&part),
                params: [bytemuck::bytes_of(&params), bytemuck::cast_slice(more)].concat(),
                groups: [groups(part.rows, 64), 1, 1],
            }
        };
        parts(w, profile).into_iter().map(dispatch).collect()
    }
}

impl GemmKernels {
    pub fn all(&'static self) -> Vec<&'static Kernel> {
        let tiles = [&self.tiles_f32, &self.tiles_f16, &self.broadcasts];
        tiles.into_iter().chain(&self.cooperative).flatten().collect()
    }

    /// What suits a device.
    fn tiles(&'static self, profile: &DeviceProfile) -> Tiles {
        let half = profile.f16 && profile.reduced_precision;
        let plain = |kernels, m, n| Tiles { kernels, constants: vec![], m, n };
        match cooperative(profile) {
            _ if profile.broadcasts() => plain(&self.broadcasts, 16, 128),
            Some((size, strips)) if half => {
                let kernels = &self.cooperative[usize::from(size == 16)];
                Tiles { kernels, constants: vec![("STRIPS", f64::from(strips))], m: 64, n: 64 }
            }
            _ if half => plain(&self.tiles_f16, 32, 64),
            _ => plain(&self.tiles_f32, 32, 64),
        }
    }

    /// The dispatches of a product with `m` rows: see [`ProductKernels::dispatch`].
    pub fn dispatch(
        &'static self,
        m: usize,
        w: &Operand,
        profile: &DeviceProfile,
        more: &[u32],
        slots: impl Fn(&Part) -> Vec<Slot>,
    ) -> Vec<Dispatch> {
        let (n, cols) = w.ty.matrix();
        let tiles = self.tiles(profile);
        let dispatch = |part: Part| {
            let [weight_blocks, cols, first, rows, out, m, stride] =
                [layout::blocks(cols), cols, part.first, part.rows, part.out, m, n].map(|v| v as u32);
            let params = GemmParams { weight_blocks, cols, first, rows, out, m, stride };
            Dispatch {
                kernel: KernelRef(weight_kernel(tiles.kernels, w.ty.dtype())),
                constants: tiles.constants.clone(),
                slots: slots(&part),
                params: [bytemuck::bytes_of(&params), bytemuck::cast_slice(more)].concat(),
                groups: [groups(m as usize, tiles.m), groups(part.rows, tiles.n), 1],
            }
        };
        parts(w, profile).into_iter().map(dispatch).collect()
    }
}

/// The size of a device's cooperative matrices, and how many strips of a tile of 64 × 64 a subgroup has in registers: its
/// share where subgroups are small, half of the tile at most.
fn cooperative(profile: &DeviceProfile) -> Option<(u32, u32)> {
    let (size, (threads, _)) = (profile.cooperative?, profile.subgroups?);
    Some((size, (threads / size).min(32 / size)))
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

/// x · Wᵀ
pub fn product(x: &[f32], w: &Matrix, y: &mut [f32]) {
    let mut row = vec![0.0; w.cols];
    for (c, stored) in w.rows_in(0..w.rows()).enumerate() {
        dequantize_row(w.dtype, stored, &mut row);
        for (x, y) in x.chunks_exact(w.cols).zip(y.chunks_exact_mut(w.rows())) {
            y[c] = x.iter().zip(&row).map(|(x, w)| x * w).sum();
        }
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
    for (m, n, k) in [
        (1, 1, 1),
        (1, 64, 31),
        (1, 65, 154),
        (1, 3, 2113),
        (1, 36, 33),
        (1, 68, 33),
        (3, 68, 33),
        (2, 1, 1),
        (33, 65, 31),
        (31, 64, 154),
        (5, 129, 257),
        (13, 33, 513),
        (65, 66, 97),
    ] {
        shapes.push((DType::F32, m, n, k));
        shapes.push((DType::F16, m, n, k));
    }
    shapes
}
