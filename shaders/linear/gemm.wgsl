// y[m, n] = residual[m, n] + f(bias[n] + Σ_k x[m, k] · W[n, k]), for the rows n of one chunk of W.
//
// One workgroup computes a tile of y: 32 × 64 (shared/gemm), 16 × 128 (gemm_subgroup) or 64 × 64
// (gemm_cooperative). shared/epilogue_* add bias and residual where there are any.

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k
    first: u32,         // first row of W within the chunk
    rows: u32,          // rows n to compute
    out: u32,           // first column of y to write
    m: u32,             // rows of x
    stride: u32,        // columns of y
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // (m, cols)
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;    // W, (rows, cols)
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // (m, stride)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn gemm(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    tile_product(thread, group);
}

fn store(m: u32, n: u32, value: f32) {
    y[m * params.stride + params.out + n] = epilogue(m, params.out + n, value);
}
