// The product of two weight rows a thread with one vector:
//     row_products(thread, row)[i] = Σ_k W[row[i], k] · activation(k)
//
// A workgroup is LANES × SPLIT threads. Neighbouring lanes own neighbouring rows, so their loads of codes are
// neighbours too; the SPLIT threads of a lane share its rows and take every SPLIT-th block of 32 columns. The vector
// goes through workgroup memory, STAGE vec4s at a time; `block_quads` (shared/quads_*) reads a block of it. The kernel defines `activation(quad)`: columns 4·quad.. of the
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
            let x = block_quads(thread, i);
            let block = (start + i) / 8u;
            let a = weight32(row.x, block);
            let b = weight32(row.y, block);
            let p = a[0] * x[0] + a[1] * x[1] + a[2] * x[2] + a[3] * x[3] + a[4] * x[4] + a[5] * x[5] + a[6] * x[6] + a[7] * x[7];
            let q = b[0] * x[0] + b[1] * x[1] + b[2] * x[2] + b[3] * x[3] + b[4] * x[4] + b[5] * x[5] + b[6] * x[6] + b[7] * x[7];
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
