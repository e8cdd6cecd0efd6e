// y[c] = x[rows − 1, c]
//
// One thread per column.

struct Params {
    rows: u32,
    cols: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>; // (rows, cols)
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // (1, cols)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn last_row(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var c = id.x; c < params.cols; c += 64u * groups.x) {
        y[c] = x[(params.rows - 1u) * params.cols + c];
    }
}
