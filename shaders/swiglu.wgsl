// y = f(gate) · up, f: silu, or gelu tanh where the constant GELU is 1 (shared/gate)
//
// One thread per element.

struct Params {
    count: u32,
}

@group(0) @binding(0) var<storage, read_write> gate: array<f32>; // (rows, cols)
@group(0) @binding(1) var<storage, read_write> up: array<f32>;   // (rows, cols)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (rows, cols)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn swiglu(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.count; i += 64u * groups.x) {
        y[i] = gated(gate[i]) * up[i];
    }
}
