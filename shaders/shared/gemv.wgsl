// The product of two weight rows a thread with one vector:
//     row_products(thread, row)[i] = Σ_k W[row[i], k] · activation(k)
//
// A workgroup is LANES × SPLIT threads. Neighbouring lanes own neighbouring rows, so their loads of codes are
// neighbours too; the SPLIT threads of a lane share its rows and take every SPLIT-th block of 32 columns. The vector
// goes through workgroup memory, STAGE vec4s at a time. The kernel defines `activation(quad)`: columns 4·quad.. of the
// vector, zero past its end.

override SPLIT: u32 = 4u;
const LANES: u32 = 32u;
const STAGE: u32 = 512u;

var<workgroup> staged: array<vec4<f32>, STAGE>;
var<workgroup> partial_sums: array<vec2<f32>, LANES * SPLIT>;

// Valid in threads below LANES. Called by all threads of the workgroup.
fn row_products(thread: u32, row: vec2<u32>) -> vec2<f32> {
    let quads = params.weight_blocks * 8u;
    var sum = vec2<f32>(0.0);
    for (var start = 0u; start < quads; start += STAGE) {
        let count = min(STAGE, quads - start);
        for (var i = thread; i < count; i += LANES * SPLIT) {
            staged[i] = activation(start + i);
        }
        workgroupBarrier();
        for (var i = (thread / LANES) * 8u; i < count; i += SPLIT * 8u) {
            let x0 = staged[i];
            let x1 = staged[i + 1u];
            let x2 = staged[i + 2u];
            let x3 = staged[i + 3u];
            let x4 = staged[i + 4u];
            let x5 = staged[i + 5u];
            let x6 = staged[i + 6u];
            let x7 = staged[i + 7u];
            let block = (start + i) / 8u;
            let a = weight32(row.x, block);
            let b = weight32(row.y, block);
            let p = a[0] * x0 + a[1] * x1 + a[2] * x2 + a[3] * x3 + a[4] * x4 + a[5] * x5 + a[6] * x6 + a[7] * x7;
            let q = b[0] * x0 + b[1] * x1 + b[2] * x2 + b[3] * x3 + b[4] * x4 + b[5] * x5 + b[6] * x6 + b[7] * x7;
            sum += vec2<f32>(p.x + p.y + p.z + p.w, q.x + q.y + q.z + q.w);
        }
        workgroupBarrier();
    }
    partial_sums[thread] = sum;
    workgroupBarrier();
    if thread < LANES {
        for (var split = 1u; split < SPLIT; split++) {
            sum += partial_sums[thread + split * LANES];
        }
    }
    return sum;
}
