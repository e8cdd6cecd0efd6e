// y[r, c] = x[r, c] / sqrt(mean(x[r, :]²) + eps) · gain[c]
//
// One workgroup per row, or per head where heads are normalised separately.

struct Params {
    rows: u32,
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;    // (rows, cols)
@group(0) @binding(1) var<storage, read> gain: array<f32>;       // (cols)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (rows, cols)
@group(1) @binding(0) var<uniform> params: Params;

const WG: u32 = 64u;

@compute @workgroup_size(WG)
fn rms_norm(
    @builtin(local_invocation_index) thread: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
) {
    for (var row = group.x; row < params.rows; row += groups.x) {
        let first = row * params.cols;
        let factor = rms_factor(thread, first);
        for (var c = thread; c < params.cols; c += WG) {
            y[first + c] = x[first + c] * factor * gain[c];
        }
    }
}
