// The product of a tile of 64 rows of x with 64 rows of W by cooperative matrices; the kernel's `store(row, n, value)`
// receives each result.
//
// A workgroup has 64 threads. For every block of 32 columns it copies both tiles to workgroup memory as float16 and
// unpacks the weights once for all 64 rows. The result is divided into strips of SIZE columns, each SIDE matrices of
// SIZE × SIZE. A subgroup holds the float32 sums of STRIPS strips in registers at a time. There are at most SIDE
// subgroups, because each has SIZE threads or more.
//
// The driver decides which threads form a subgroup, so subgroups are numbered in the order in which they arrive.

override STRIPS: u32 = 1u;

const TILE: u32 = 64u;
const SIDE: u32 = TILE / SIZE;
const STRIDE: u32 = 40u; // rows begin at multiples of 16 bytes, as matrix loads require, and in different banks

var<workgroup> x_tile: array<f16, TILE * STRIDE>;
var<workgroup> w_tile: array<f16, TILE * STRIDE>;
var<workgroup> results: array<f32, SIDE * SIZE * SIZE>; // one matrix per subgroup
var<workgroup> arrived: atomic<u32>;

fn tile_product(thread: u32, group: vec3<u32>) {
    let m0 = group.x * TILE;
    let n0 = group.y * TILE;
    if thread == 0u {
        atomicStore(&arrived, 0u);
    }
    workgroupBarrier();
    var number = 0u;
    if subgroupMin(thread) == thread {
        number = atomicAdd(&arrived, 1u);
    }
    let subgroup = subgroupAdd(number);
    workgroupBarrier();
    let subgroups = atomicLoad(&arrived);
    // One iteration where STRIPS fits the number of subgroups. If STRIPS is too large, some subgroups repeat a strip.
    for (var strips = 0u; strips < SIDE; strips += subgroups * STRIPS) {
        let first = strips + subgroup * STRIPS;
        var sums: array<MatrixC, SIDE * SIDE / 2u>;
        for (var block = 0u; block < params.weight_blocks; block++) {
            let w = weight32(params.first + min(n0 + thread, params.rows - 1u), block);
            put_w(thread, 0u, w[0]);
            put_w(thread, 1u, w[1]);
            put_w(thread, 2u, w[2]);
            put_w(thread, 3u, w[3]);
            put_w(thread, 4u, w[4]);
            put_w(thread, 5u, w[5]);
            put_w(thread, 6u, w[6]);
            put_w(thread, 7u, w[7]);
            for (var i = thread; i < TILE * 8u; i += 64u) {
                put_x(i / 8u, i % 8u, x_quad(min(m0 + i / 8u, params.m - 1u), 8u * block + i % 8u));
            }
            workgroupBarrier();
            for (var k = 0u; k < 32u; k += SIZE) {
                for (var j = 0u; j < STRIPS; j++) {
                    let w_matrix = coopLoad<MatrixB>(&w_tile[min(first + j, SIDE - 1u) * SIZE * STRIDE + k], STRIDE);
                    for (var i = 0u; i < SIDE; i++) {
                        let x_matrix = coopLoadT<MatrixA>(&x_tile[i * SIZE * STRIDE + k], STRIDE);
                        sums[j * SIDE + i] = coopMultiplyAdd(x_matrix, w_matrix, sums[j * SIDE + i]);
                    }
                }
            }
            workgroupBarrier();
        }
        for (var j = 0u; j < STRIPS; j++) {
            for (var i = 0u; i < SIDE; i++) {
                coopStoreT(sums[j * SIDE + i], &results[subgroup * SIZE * SIZE], SIZE);
                workgroupBarrier();
                for (var quad = thread; quad < subgroups * SIZE * SIZE / 4u; quad += 64u) {
                    let strip = strips + quad / (SIZE * SIZE / 4u) * STRIPS + j;
                    let row = quad / SIZE * 4u;
                    let column = quad % SIZE;
                    let at = row * SIZE + column;
                    if strip < SIDE {
                        let v = vec4<f32>(results[at], results[at + SIZE], results[at + 2u * SIZE], results[at + 3u * SIZE]);
                        store4(m0 + i * SIZE + row % SIZE, n0 + strip * SIZE + column, v);
                    }
                }
                workgroupBarrier();
            }
        }
    }
}

fn put_w(row: u32, quad: u32, v: vec4<f32>) {
    let at = row * STRIDE + 4u * quad;
    w_tile[at] = f16(v.x);
    w_tile[at + 1u] = f16(v.y);
    w_tile[at + 2u] = f16(v.z);
    w_tile[at + 3u] = f16(v.w);
}

// An activation past the range of float16 would become infinite, and a product with infinity makes a whole row NaN.
fn put_x(row: u32, quad: u32, v: vec4<f32>) {
    let at = row * STRIDE + 4u * quad;
    let h = vec4<f16>(clamp(v, vec4<f32>(-65504.0), vec4<f32>(65504.0)));
    x_tile[at] = h.x;
    x_tile[at + 1u] = h.y;
    x_tile[at + 2u] = h.z;
    x_tile[at + 3u] = h.w;
}
