// y[n] = residual[n] + bias[n] + Σ_k W[n, k] · x[k], for the rows of one chunk of W.
//
// One workgroup computes 64 rows; a thread has rows lane and lane + 32 of them (shared/gemv).

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k
    first: u32,         // first row of W within the chunk
    rows: u32,          // rows to compute
    out: u32,           // where they begin in y
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // (cols)
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;    // W, (rows, cols)
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;           // (all rows of W)
@group(0) @binding(4) var<storage, read_write> residual: array<f32>; // (all rows of W)
@group(0) @binding(5) var<storage, read_write> y: array<f32>;        // (all rows of W)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(LANES * SPLIT)
fn gemv(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = vec2<u32>(64u * group.x + thread % LANES) + vec2<u32>(0u, LANES);
    let sum = row_products(thread, params.first + min(row, vec2<u32>(params.rows - 1u)));
    if thread < LANES {
        if row.x < params.rows {
            y[params.out + row.x] = residual[params.out + row.x] + bias[params.out + row.x] + sum.x;
        }
        if row.y < params.rows {
            y[params.out + row.y] = residual[params.out + row.y] + bias[params.out + row.y] + sum.y;
        }
    }
}
