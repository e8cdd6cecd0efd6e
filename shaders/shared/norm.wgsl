// The vector of a product behind an RMS norm, x[k] · gain[k], and the factor that is left for the end:
//     rms_factor = 1 / sqrt(mean(x²) + eps)
//
// Each quad of the vector is staged by exactly one thread, so its squares are added up there.

var<private> squares: f32;
var<workgroup> partial_squares: array<f32, LANES * SPLIT>;

fn activation(quad: u32) -> vec4<f32> {
    let k = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    if 4u * quad >= params.cols {
        return vec4<f32>(0.0);
    }
    let v = select(vec4<f32>(0.0), x[quad], k < vec4<u32>(params.cols));
    squares += dot(v, v);
    return v * gain[quad];
}

// Valid in threads below LANES. Called by all threads of the workgroup, after the product.
fn rms_factor(thread: u32) -> f32 {
    partial_squares[thread] = squares;
    workgroupBarrier();
    var mine = 0.0;
    if thread < LANES {
        for (var split = 0u; split < SPLIT; split++) {
            mine += partial_squares[thread + split * LANES];
        }
    }
    workgroupBarrier();
    if thread < LANES {
        partial_squares[thread] = mine;
    }
    workgroupBarrier();
    var total = 0.0;
    if thread < LANES {
        for (var lane = 0u; lane < LANES; lane++) {
            total += partial_squares[lane];
        }
    }
    return inverseSqrt(total / f32(params.cols) + params.eps);
}
