// The activations of a few-row product after an RMS norm, x[row, k] · gain[k], and the factor of the sums:
//     factors[r] = 1 / sqrt(mean(x²) + eps)
//
// Each quad of a row is staged by exactly one thread, so this thread adds up its squares.

var<private> squares: array<f32, 8>;
var<workgroup> lane_squares: array<array<f32, 8>, LANES>; // by lane, then by row of x
var<workgroup> factors: array<f32, 8>;

fn activation(r: u32, row: u32, quad: u32) -> vec4<f32> {
    if 4u * quad >= params.cols {
        return vec4<f32>(0.0);
    }
    let v = x_quad(row, quad);
    squares[r] = fma(v.w, v.w, fma(v.z, v.z, fma(v.y, v.y, fma(v.x, v.x, squares[r]))));
    return v * gain[quad];
}

// All threads of the workgroup must call it, between the product and the stores.
fn rms_factors(thread: u32) {
    let threads = LANES * SPLIT;
    staged[thread] = vec4<f32>(squares[0], squares[1], squares[2], squares[3]);
    if ROWS > 4u {
        staged[threads + thread] = vec4<f32>(squares[4], squares[5], squares[6], squares[7]);
    }
    workgroupBarrier();
    for (var i = thread; i < LANES * ((ROWS + 3u) / 4u); i += threads) {
        var sums = vec4<f32>(0.0);
        for (var split = 0u; split < SPLIT; split++) {
            sums += staged[(i / LANES) * threads + split * LANES + i % LANES];
        }
        for (var r = 0u; r < 4u; r++) {
            lane_squares[i % LANES][4u * (i / LANES) + r] = sums[r];
        }
    }
    workgroupBarrier();
    if thread < ROWS {
        var total = 0.0;
        for (var lane = 0u; lane < LANES; lane++) {
            total += lane_squares[lane][thread];
        }
        factors[thread] = inverseSqrt(total / f32(params.cols) + params.eps);
    }
    workgroupBarrier();
}
