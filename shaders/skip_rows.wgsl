// y[r, :] = x[first + r, :]
//
// One thread per element.

struct Params {
    count: u32, // elements of y
    start: u32, // first element of x that is copied
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>; // (first + rows, cols)
@group(0) @binding(1) var<storage, read_write> y: array<f32>; // (rows, cols)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn skip_rows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.count; i += 64u * groups.x) {
        y[i] = x[params.start + i];
    }
}
