// y[t] = TILES · SUMS · STEPS · rounds · Σ_k A[r, k] · B[c, k], where (r, c) is element t of the SIZE × SIZE product
//
// Nothing but products of cooperative matrices in registers: SUMS that do not wait for each other, STEPS times a round.
// The subgroups of a workgroup share TILES equal pieces of work, so that the number of products does not depend on the
// size of a subgroup. Only the driver knows which threads form one, so subgroups are numbered as they arrive.

struct Params {
    rounds: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>; // (64, 4): A and B, periodic
@group(0) @binding(1) var<storage, read_write> y: array<f32>;       // (threads)
@group(1) @binding(0) var<uniform> params: Params;

const TILES: u32 = 8u;
const SUMS: u32 = 4u;
const STEPS: u32 = 8u;
const AREA: u32 = SIZE * SIZE;

var<workgroup> a_tile: array<f16, AREA>;
var<workgroup> b_tile: array<f16, AREA>;
var<workgroup> results: array<f32, 64u * SIZE>; // a matrix of each subgroup, which has SIZE threads or more
var<workgroup> arrived: atomic<u32>;

@compute @workgroup_size(64)
fn peak_matrix(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    if thread == 0u {
        atomicStore(&arrived, 0u);
    }
    for (var i = thread; i < AREA; i += 64u) {
        a_tile[i] = f16(x[i % 64u].x);
        b_tile[i] = f16(x[i % 64u].y);
    }
    workgroupBarrier();
    var number = 0u;
    if subgroupMin(thread) == thread {
        number = atomicAdd(&arrived, 1u);
    }
    let subgroup = subgroupAdd(number);
    workgroupBarrier();
    let subgroups = atomicLoad(&arrived);

    let a = coopLoadT<MatrixA>(&a_tile[0], SIZE);
    let b = coopLoad<MatrixB>(&b_tile[0], SIZE);
    var sums: array<MatrixC, SUMS>;
    for (var tile = subgroup; tile < TILES; tile += subgroups) {
        for (var i = 0u; i < params.rounds * STEPS; i++) {
            sums[0] = coopMultiplyAdd(a, b, sums[0]);
            sums[1] = coopMultiplyAdd(a, b, sums[1]);
            sums[2] = coopMultiplyAdd(a, b, sums[2]);
            sums[3] = coopMultiplyAdd(a, b, sums[3]);
        }
    }
    var total = 0.0;
    for (var j = 0u; j < SUMS; j++) {
        coopStoreT(sums[j], &results[subgroup * AREA], SIZE);
        workgroupBarrier();
        for (var i = 0u; i < subgroups; i++) {
            total += results[i * AREA + thread];
        }
        workgroupBarrier();
    }
    y[group.x * 64u + thread] = total;
}
