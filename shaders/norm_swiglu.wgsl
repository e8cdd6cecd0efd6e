// n = x / sqrt(mean(x²) + eps) · gain        y[m, j] = f(Σ_k Wgate[j, k] · n[m, k]) · Σ_k Wup[j, k] · n[m, k]
//
// f: silu, or gelu tanh where the constant GELU is 1 (shared/gate).
// W is gate above up: (2 · ffn, cols). One workgroup computes LANES · PAIRS columns j of up to 8 rows m; a pair is
// rows j and ffn + j of W (shared/gemv, shared/norm).

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k
    m: u32,             // rows of x
    ffn: u32,           // columns of y
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // (m, cols)
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;     // (cols)
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;    // W, (2 · ffn, cols)
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;        // (m, ffn)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(LANES * SPLIT)
fn norm_swiglu(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    row_products(thread, group);
    rms_factors(thread);
    store_products(thread, group);
}

fn weight_rows(lane: u32, group: u32) -> vec2<u32> {
    let row = min(LANES * group + lane, params.ffn - 1u);
    return vec2<u32>(row, params.ffn + row);
}

fn store2(r: u32, lane: u32, group: vec3<u32>, sums: vec2<f32>) {
    let j = LANES * group.x + lane;
    let v = sums * factors[r];
    if j < params.ffn {
        y[(ROWS * group.y + r) * params.ffn + j] = gated(v.x) * v.y;
    }
}
