// The products of two rows of W a thread with ROWS rows of x, up to 8:
//     store2(r, lane, group, sums)       sums[i] = Σ_k W[row[i], k] · activation(r, row of x, k)
//
// A workgroup is LANES × SPLIT threads. Neighbouring lanes own neighbouring rows of W, so their loads of codes are
// neighbours too; the SPLIT threads of a lane share its rows and take every SPLIT-th block of 32 columns. The rows of x
// go through workgroup memory, STAGE vec4s of all of them at a time; `block_quads` (shared/quads_*) reads a block of
// one. A block of W is unpacked once for all rows of x. The kernel defines `activation(r, row, quad)`: columns 4·quad..
// of a row of x, zero past its end; and `store2`, which takes the results.
//
// The result of a row of x has the same bits whatever ROWS is and whichever row it is: block b belongs to split b % SPLIT,
// thread t stages quads t, t + THREADS, …, and every sum is a chain of `fma` in one order, which no compiler may contract
// in another way.

override SPLIT: u32 = 4u; // 2, 4 or 8
override ROWS: u32 = 1u;  // 1, 2, 4 or 8
override LANES: u32 = 32u; // a multiple of 32; LANES · SPLIT up to 256
const STAGE: u32 = 512u;

var<workgroup> staged: array<vec4<f32>, STAGE>;

var<private> sums0: vec2<f32>;
var<private> sums1: vec2<f32>;
var<private> sums2: vec2<f32>;
var<private> sums3: vec2<f32>;
var<private> sums4: vec2<f32>;
var<private> sums5: vec2<f32>;
var<private> sums6: vec2<f32>;
var<private> sums7: vec2<f32>;

// The share of this thread in the products with rows ROWS · group.y .. of x. Called by all threads of the workgroup.
fn row_products(thread: u32, group: vec3<u32>, row: vec2<u32>) {
    let threads = LANES * SPLIT;
    let depth = STAGE / ROWS;
    let quads = params.weight_blocks * 8u;
    for (var start = 0u; start < quads; start += depth) {
        let count = min(depth, quads - start);
        for (var i = (thread - start) % threads; i < count; i += threads) {
            for (var r = 0u; r < ROWS; r++) {
                staged[r * depth + i] = activation(r, min(ROWS * group.y + r, params.m - 1u), start + i);
            }
        }
        workgroupBarrier();
        for (var i = (thread / LANES) * 8u; i < count; i += SPLIT * 8u) {
            let block = (start + i) / 8u;
            let a = weight32(row.x, block);
            let b = weight32(row.y, block);
            sums0 += block_products(a, b, block_quads(thread, i));
            if ROWS > 1u {
                sums1 += block_products(a, b, block_quads(thread, depth + i));
            }
            if ROWS > 2u {
                sums2 += block_products(a, b, block_quads(thread, 2u * depth + i));
                sums3 += block_products(a, b, block_quads(thread, 3u * depth + i));
            }
            if ROWS > 4u {
                sums4 += block_products(a, b, block_quads(thread, 4u * depth + i));
                sums5 += block_products(a, b, block_quads(thread, 5u * depth + i));
                sums6 += block_products(a, b, block_quads(thread, 6u * depth + i));
                sums7 += block_products(a, b, block_quads(thread, 7u * depth + i));
            }
        }
        workgroupBarrier();
    }
}

// A block of two rows of W times a block of x.
fn block_products(a: array<vec4<f32>, 8>, b: array<vec4<f32>, 8>, x: array<vec4<f32>, 8>) -> vec2<f32> {
    var p = a[0] * x[0];
    var q = b[0] * x[0];
    p = fma(a[1], x[1], p);
    q = fma(b[1], x[1], q);
    p = fma(a[2], x[2], p);
    q = fma(b[2], x[2], q);
    p = fma(a[3], x[3], p);
    q = fma(b[3], x[3], q);
    p = fma(a[4], x[4], p);
    q = fma(b[4], x[4], q);
    p = fma(a[5], x[5], p);
    q = fma(b[5], x[5], q);
    p = fma(a[6], x[6], p);
    q = fma(b[6], x[6], q);
    p = fma(a[7], x[7], p);
    q = fma(b[7], x[7], q);
    return vec2<f32>(p.x + p.y + p.z + p.w, q.x + q.y + q.z + q.w);
}

// Adds up the shares, four rows at a time; the splits take turns in handing the rows to `store2`. Called by all threads
// of the workgroup.
fn store_products(thread: u32, group: vec3<u32>) {
    let threads = LANES * SPLIT;
    staged[thread] = vec4<f32>(sums0, sums1);
    if ROWS > 2u {
        staged[threads + thread] = vec4<f32>(sums2, sums3);
    }
    workgroupBarrier();
    for (var r = thread / LANES; r < min(ROWS, 4u); r += SPLIT) {
        store_row(r, r, thread, group);
    }
    if ROWS > 4u {
        workgroupBarrier();
        staged[thread] = vec4<f32>(sums4, sums5);
        staged[threads + thread] = vec4<f32>(sums6, sums7);
        workgroupBarrier();
        for (var r = thread / LANES; r < 4u; r += SPLIT) {
            store_row(r, 4u + r, thread, group);
        }
    }
}

// Row r, whose shares stand in place `at` of four.
fn store_row(at: u32, r: u32, thread: u32, group: vec3<u32>) {
    if ROWS * group.y + r >= params.m {
        return;
    }
    var sums = vec2<f32>(0.0);
    for (var split = 0u; split < SPLIT; split++) {
        let pair = staged[(at / 2u) * LANES * SPLIT + split * LANES + thread % LANES];
        sums += select(pair.xy, pair.zw, at % 2u == 1u);
    }
    store2(r, thread % LANES, group, sums);
}
