// y[0, :] = class[:] + positions[0, :]        y[1 + p, :] = patches[p, :] + positions[1 + p, :]
//
// One thread per element.

struct Params {
    count: u32, // elements of y
    width: u32,
}

@group(0) @binding(0) var<storage, read_write> patches: array<f32>;  // (n, width)
@group(0) @binding(1) var<storage, read> class_row: array<f32>;      // (width)
@group(0) @binding(2) var<storage, read> positions: array<f32>;      // ((n + 1) · width)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // (n + 1, width)
@group(1) @binding(0) var<uniform> params: Params;

@compute @workgroup_size(64)
fn class_token(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.count; i += 64u * groups.x) {
        if i < params.width {
            y[i] = class_row[i] + positions[i];
        } else {
            y[i] = patches[i - params.width] + positions[i];
        }
    }
}
