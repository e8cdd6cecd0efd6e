// The product of a tile of 32 rows of x with 64 rows of W; the kernel's `store(row, n, value)` receives each result.
//
// 64 threads per workgroup. Each block of 32 columns of both tiles is copied to workgroup memory as quads; weights are
// unpacked once for all 32 rows. Thread (a, b) = (thread / 8, thread % 8) has rows 4a .. 4a + 3 of x and rows b, b + 8,
// … b + 56 of W: 12 loads for 128 multiply-adds. Strides of 9 put neighbouring rows in different banks.

const TILE_M: u32 = 32u;
const TILE_N: u32 = 64u;
const STRIDE: u32 = 9u;

var<workgroup> x_tile: array<Tile4, TILE_M * STRIDE>;
var<workgroup> w_tile: array<Tile4, TILE_N * STRIDE>;

fn tile_product(thread: u32, group: vec3<u32>) {
    let m0 = group.x * TILE_M;
    let n0 = group.y * TILE_N;
    let a = (thread / 8u) * 4u;
    let b = thread % 8u;
    var s0 = vec4<f32>(0.0);
    var s1 = vec4<f32>(0.0);
    var s2 = vec4<f32>(0.0);
    var s3 = vec4<f32>(0.0);
    var s4 = vec4<f32>(0.0);
    var s5 = vec4<f32>(0.0);
    var s6 = vec4<f32>(0.0);
    var s7 = vec4<f32>(0.0);
    for (var block = 0u; block < params.weight_blocks; block++) {
        let w = weight32(params.first + min(n0 + thread, params.rows - 1u), block);
        let at = thread * STRIDE;
        w_tile[at] = Tile4(w[0]);
        w_tile[at + 1u] = Tile4(w[1]);
        w_tile[at + 2u] = Tile4(w[2]);
        w_tile[at + 3u] = Tile4(w[3]);
        w_tile[at + 4u] = Tile4(w[4]);
        w_tile[at + 5u] = Tile4(w[5]);
        w_tile[at + 6u] = Tile4(w[6]);
        w_tile[at + 7u] = Tile4(w[7]);
        for (var i = thread; i < TILE_M * 8u; i += 64u) {
            x_tile[(i / 8u) * STRIDE + i % 8u] = tile4(x_quad(min(m0 + i / 8u, params.m - 1u), 8u * block + i % 8u));
        }
        workgroupBarrier();
        for (var k = 0u; k < 8u; k++) {
            let x0 = vec4<f32>(x_tile[a * STRIDE + k]);
            let x1 = vec4<f32>(x_tile[(a + 1u) * STRIDE + k]);
            let x2 = vec4<f32>(x_tile[(a + 2u) * STRIDE + k]);
            let x3 = vec4<f32>(x_tile[(a + 3u) * STRIDE + k]);
            s0 = four_dots(s0, x0, x1, x2, x3, w_tile[b * STRIDE + k]);
            s1 = four_dots(s1, x0, x1, x2, x3, w_tile[(b + 8u) * STRIDE + k]);
            s2 = four_dots(s2, x0, x1, x2, x3, w_tile[(b + 16u) * STRIDE + k]);
            s3 = four_dots(s3, x0, x1, x2, x3, w_tile[(b + 24u) * STRIDE + k]);
            s4 = four_dots(s4, x0, x1, x2, x3, w_tile[(b + 32u) * STRIDE + k]);
            s5 = four_dots(s5, x0, x1, x2, x3, w_tile[(b + 40u) * STRIDE + k]);
            s6 = four_dots(s6, x0, x1, x2, x3, w_tile[(b + 48u) * STRIDE + k]);
            s7 = four_dots(s7, x0, x1, x2, x3, w_tile[(b + 56u) * STRIDE + k]);
        }
        workgroupBarrier();
    }
    let m = m0 + a;
    let n = n0 + b;
    store4(m, n, s0);
    store4(m, n + 8u, s1);
    store4(m, n + 16u, s2);
    store4(m, n + 24u, s3);
    store4(m, n + 32u, s4);
    store4(m, n + 40u, s5);
    store4(m, n + 48u, s6);
    store4(m, n + 56u, s7);
}

fn four_dots(s: vec4<f32>, x0: vec4<f32>, x1: vec4<f32>, x2: vec4<f32>, x3: vec4<f32>, tile: Tile4) -> vec4<f32> {
    let w = vec4<f32>(tile);
    var v = fma(vec4<f32>(x0.x, x1.x, x2.x, x3.x), w.xxxx, s);
    v = fma(vec4<f32>(x0.y, x1.y, x2.y, x3.y), w.yyyy, v);
    v = fma(vec4<f32>(x0.z, x1.z, x2.z, x3.z), w.zzzz, v);
    return fma(vec4<f32>(x0.w, x1.w, x2.w, x3.w), w.wwww, v);
}
