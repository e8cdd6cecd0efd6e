// y[m, n] = Σ_k x[m, k] · W[n, k]
//
// One thread a result, 8 × 8 of them a workgroup, and the plainest loop: no tiles, no vectors, W already float32.

struct Params {
    m: u32,
    n: u32,
    k: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>; // (m, k)
@group(0) @binding(1) var<storage, read_write> w: array<f32>; // (n, k)
@group(0) @binding(2) var<storage, read_write> y: array<f32>; // (m, n)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(8, 8)
fn plain(@builtin(global_invocation_id) id: vec3<u32>) {
    let n = id.x;
    let m = id.y;
    if n >= params.n || m >= params.m {
        return;
    }
    var sum = 0.0;
    for (var k = 0u; k < params.k; k++) {
        sum += x[m * params.k + k] * w[n * params.k + k];
    }
    y[m * params.n + n] = sum;
}
