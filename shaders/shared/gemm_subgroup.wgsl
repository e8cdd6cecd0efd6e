// The product of a tile of 16 rows of x with 128 rows of W; the kernel's `store(row, n, value)` receives each result.
//
// A workgroup has 64 threads. Each thread holds a block of 32 columns of two rows of W in registers and multiplies it
// with all 16 rows of x. Lane l loads quads of rows l and l + 8 of x and broadcasts them. This suits CPU rasterisers,
// which run a load once per lane and a broadcast as one instruction; shared/gemm suits GPUs. A subgroup is 8 to 64
// neighbouring threads.

const TILE_M: u32 = 16u;
const TILE_N: u32 = 128u;

var<private> first0: vec4<f32>; // rows 0 .. 3 of x with the first row of W
var<private> first1: vec4<f32>;
var<private> first2: vec4<f32>;
var<private> first3: vec4<f32>;
var<private> second0: vec4<f32>; // rows 0 .. 3 of x with the second row of W
var<private> second1: vec4<f32>;
var<private> second2: vec4<f32>;
var<private> second3: vec4<f32>;

fn tile_product(thread: u32, group: vec3<u32>) {
    let m0 = group.x * TILE_M;
    let n = vec2<u32>(group.y * TILE_N + thread) + vec2<u32>(0u, 64u);
    let row = params.first + min(n, vec2<u32>(params.rows - 1u));
    let m = min(m0 + thread % 8u + vec2<u32>(0u, 8u), vec2<u32>(params.m - 1u));
    for (var block = 0u; block < params.weight_blocks; block++) {
        let v = weight32(row.x, block);
        let w = weight32(row.y, block);
        columns(m, 8u * block + 0u, v[0], w[0]);
        columns(m, 8u * block + 1u, v[1], w[1]);
        columns(m, 8u * block + 2u, v[2], w[2]);
        columns(m, 8u * block + 3u, v[3], w[3]);
        columns(m, 8u * block + 4u, v[4], w[4]);
        columns(m, 8u * block + 5u, v[5], w[5]);
        columns(m, 8u * block + 6u, v[6], w[6]);
        columns(m, 8u * block + 7u, v[7], w[7]);
    }
    store4(m0, n.x, first0);
    store4(m0 + 4u, n.x, first1);
    store4(m0 + 8u, n.x, first2);
    store4(m0 + 12u, n.x, first3);
    store4(m0, n.y, second0);
    store4(m0 + 4u, n.y, second1);
    store4(m0 + 8u, n.y, second2);
    store4(m0 + 12u, n.y, second3);
}

// Multiplies four columns of both rows of W with all rows of x.
fn columns(m: vec2<u32>, quad: u32, v: vec4<f32>, w: vec4<f32>) {
    let low = x_quad(m.x, quad);
    let high = x_quad(m.y, quad);
    let x0 = subgroupBroadcast(low, 0u);
    let x1 = subgroupBroadcast(low, 1u);
    let x2 = subgroupBroadcast(low, 2u);
    let x3 = subgroupBroadcast(low, 3u);
    first0 += vec4<f32>(dot(x0, v), dot(x1, v), dot(x2, v), dot(x3, v));
    second0 += vec4<f32>(dot(x0, w), dot(x1, w), dot(x2, w), dot(x3, w));
    let x4 = subgroupBroadcast(low, 4u);
    let x5 = subgroupBroadcast(low, 5u);
    let x6 = subgroupBroadcast(low, 6u);
    let x7 = subgroupBroadcast(low, 7u);
    first1 += vec4<f32>(dot(x4, v), dot(x5, v), dot(x6, v), dot(x7, v));
    second1 += vec4<f32>(dot(x4, w), dot(x5, w), dot(x6, w), dot(x7, w));
    let y0 = subgroupBroadcast(high, 0u);
    let y1 = subgroupBroadcast(high, 1u);
    let y2 = subgroupBroadcast(high, 2u);
    let y3 = subgroupBroadcast(high, 3u);
    first2 += vec4<f32>(dot(y0, v), dot(y1, v), dot(y2, v), dot(y3, v));
    second2 += vec4<f32>(dot(y0, w), dot(y1, w), dot(y2, w), dot(y3, w));
    let y4 = subgroupBroadcast(high, 4u);
    let y5 = subgroupBroadcast(high, 5u);
    let y6 = subgroupBroadcast(high, 6u);
    let y7 = subgroupBroadcast(high, 7u);
    first3 += vec4<f32>(dot(y4, v), dot(y5, v), dot(y6, v), dot(y7, v));
    second3 += vec4<f32>(dot(y4, w), dot(y5, w), dot(y6, w), dot(y7, w));
}
