// y[r, c] = (x[r, c] − mean) / sqrt(variance + eps) · gain[c] + bias[c]
//
// One workgroup per row. It computes the mean first and then the squared differences from it, which avoids
// cancellation; the mean of the differences corrects the rounding of the mean.

struct Params {
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;    // (rows, cols)
@group(0) @binding(1) var<storage, read> gain: array<f32>;       // (cols)
@group(0) @binding(2) var<storage, read> bias: array<f32>;       // (cols)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;    // (rows, cols)
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> sums: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn layer_norm(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.x * params.cols;
    var first = 0.0;
    for (var c = thread; c < params.cols; c += 64u) {
        first += x[row + c];
    }
    let mean = average(thread, vec2<f32>(first, 0.0)).x;
    var second = vec2<f32>(0.0);
    for (var c = thread; c < params.cols; c += 64u) {
        let d = x[row + c] - mean;
        second += vec2<f32>(d, d * d);
    }
    let rest = average(thread, second);
    let factor = inverseSqrt(max(rest.y - rest.x * rest.x, 0.0) + params.eps);
    for (var c = thread; c < params.cols; c += 64u) {
        y[row + c] = (x[row + c] - mean - rest.x) * factor * gain[c] + bias[c];
    }
}

// The mean over the columns of all threads' values, returned to every thread. All threads must call it.
fn average(thread: u32, value: vec2<f32>) -> vec2<f32> {
    workgroupBarrier();
    sums[thread] = value;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if thread < half {
            sums[thread] += sums[thread + half];
        }
        workgroupBarrier();
    }
    return sums[0] / f32(params.cols);
}
