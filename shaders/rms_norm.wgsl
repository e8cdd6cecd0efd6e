// y[r, c] = x[r, c] / sqrt(mean(x[r, :]²) + eps) · gain[c]
//
// One workgroup per row, or per head where heads are normalised separately.

struct Params {
    cols: u32,
    eps: f32,
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;    // (rows, cols)
@group(0) @binding(1) var<storage, read> gain: array<f32>;       // (cols)
@group(0) @binding(2) var<storage, read_write> y: array<f32>;    // (rows, cols)
@group(1) @binding(0) var<uniform> params: Params;

var<workgroup> partial_squares: array<f32, 64>;

@compute @workgroup_size(64)
fn rms_norm(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let row = group.x * params.cols;
    var squares = 0.0;
    for (var c = thread; c < params.cols; c += 64u) {
        squares += x[row + c] * x[row + c];
    }
    partial_squares[thread] = squares;
    workgroupBarrier();
    for (var half = 32u; half > 0u; half /= 2u) {
        if thread < half {
            partial_squares[thread] += partial_squares[thread + half];
        }
        workgroupBarrier();
    }
    let factor = inverseSqrt(partial_squares[0] / f32(params.cols) + params.eps);
    for (var c = thread; c < params.cols; c += 64u) {
        y[row + c] = x[row + c] * factor * gain[c];
    }
}
