// y[m, n] = residual[m, n] + f(bias[n] + Σ_k W[n, k] · x[m, k]), for the rows of one chunk of W and few rows of x.
//
// One workgroup computes 2 · LANES · PAIRS rows n of up to 8 rows m; a pair is rows lane and lane + LANES of one thread
// (shared/gemv). shared/epilogue_* add bias and residual where there are any.

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

@compute @workgroup_size(LANES * SPLIT)
fn gemv(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    row_products(thread, group);
    store_products(thread, group);
}

fn weight_rows(lane: u32, group: u32) -> vec2<u32> {
    let row = vec2<u32>(64u * group + lane) + vec2<u32>(0u, LANES);
    return params.first + min(row, vec2<u32>(params.rows - 1u));
}

fn store2(r: u32, lane: u32, group: vec3<u32>, sums: vec2<f32>) {
    let m = ROWS * group.y + r;
    let n = 64u * group.x + lane;
    if n < params.rows {
        y[m * params.stride + params.out + n] = epilogue(m, params.out + n, sums.x);
    }
    if n + LANES < params.rows {
        y[m * params.stride + params.out + n + LANES] = epilogue(m, params.out + n + LANES, sums.y);
    }
}
