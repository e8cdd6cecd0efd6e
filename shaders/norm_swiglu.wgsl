// n = x / sqrt(mean(x²) + eps) · gain        y[j] = silu(Σ_k Wgate[j, k] · n[k]) · Σ_k Wup[j, k] · n[k]
//
// W is gate above up: (2 · ffn, cols). One workgroup computes 32 outputs; a thread has rows j and ffn + j of W.

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k
    ffn: u32,           // outputs
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;  // (cols)
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;     // (cols)
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;    // W, (2 · ffn, cols)
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;        // (ffn)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(LANES * SPLIT)
fn norm_swiglu(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let j = LANES * group.x + thread % LANES;
    let row = min(j, params.ffn - 1u);
    let products = row_products(thread, vec2<u32>(row, params.ffn + row));
    let sum = products * rms_factor(thread);
    if thread < LANES && j < params.ffn {
        y[j] = sum.x / (1.0 + exp(-sum.x)) * sum.y;
    }
}
