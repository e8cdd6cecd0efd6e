// The products of pairs of rows of W with ROWS rows of x, up to 8; each thread computes PAIRS pairs:
//     store2(r, lane, group, sums)       sums[i] = Σ_k W[row[i], k] · activation(r, row of x, k)
//
// A workgroup has LANES × SPLIT threads and computes PAIRS groups of LANES pairs, which `group.x` counts in
// `weight_rows` and `store2`. Neighbouring lanes have neighbouring rows of W, so their loads of codes are adjacent; the
// SPLIT threads of a lane share its rows and take every SPLIT-th block of 32 columns. The rows of x are staged in
// workgroup memory, STAGE vec4s of each row at a time; `block_quads` (shared/quads_*) reads a block of one row. A block
// of W is unpacked once for all rows of x. The kernel defines `activation(r, row, quad)`: columns from 4·quad on of a
// row of x, zero past its end; `weight_rows(lane, group)`: a pair of rows of W, any two past the last; and `store2`,
// which receives the results of a pair, if it exists.
//
// The result of a row of x has the same bits for all values of ROWS and PAIRS and for every place of the row: block b
// belongs to split b % SPLIT, thread t stages quads t, t + THREADS, …, and every sum is a chain of `fma` in a fixed
// order, which a compiler cannot contract differently.

override SPLIT: u32 = 4u; // 2, 4 or 8
override ROWS: u32 = 1u;  // 1, 2, 4 or 8
override PAIRS: u32 = 1u; // 1 or 2
override LANES: u32 = 32u; // a multiple of 32; LANES · SPLIT up to 256
const STAGE: u32 = 512u;

var<workgroup> staged: array<vec4<f32>, STAGE>;

// Sums of the first pair, by row of x.
var<private> sums0: vec2<f32>;
var<private> sums1: vec2<f32>;
var<private> sums2: vec2<f32>;
var<private> sums3: vec2<f32>;
var<private> sums4: vec2<f32>;
var<private> sums5: vec2<f32>;
var<private> sums6: vec2<f32>;
var<private> sums7: vec2<f32>;

// Sums of the second pair.
var<private> more0: vec2<f32>;
var<private> more1: vec2<f32>;
var<private> more2: vec2<f32>;
var<private> more3: vec2<f32>;
var<private> more4: vec2<f32>;
var<private> more5: vec2<f32>;
var<private> more6: vec2<f32>;
var<private> more7: vec2<f32>;

// This thread's share of the products with rows ROWS · group.y .. of x. All threads of the workgroup must call it.
fn row_products(thread: u32, group: vec3<u32>) {
    let threads = LANES * SPLIT;
    let depth = STAGE / ROWS;
    let quads = params.weight_blocks * 8u;
    let row = weight_rows(thread % LANES, PAIRS * group.x);
    let other = weight_rows(thread % LANES, PAIRS * group.x + PAIRS - 1u);
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
            var c = a;
            var d = b;
            if PAIRS > 1u {
                c = weight32(other.x, block);
                d = weight32(other.y, block);
            }
            let x0 = block_quads(thread, i);
            sums0 += block_products(a, b, x0);
            if PAIRS > 1u {
                more0 += block_products(c, d, x0);
            }
            if ROWS > 1u {
                let x1 = block_quads(thread, depth + i);
                sums1 += block_products(a, b, x1);
                if PAIRS > 1u {
                    more1 += block_products(c, d, x1);
                }
            }
            if ROWS > 2u {
                let x2 = block_quads(thread, 2u * depth + i);
                sums2 += block_products(a, b, x2);
                if PAIRS > 1u {
                    more2 += block_products(c, d, x2);
                }
                let x3 = block_quads(thread, 3u * depth + i);
                sums3 += block_products(a, b, x3);
                if PAIRS > 1u {
                    more3 += block_products(c, d, x3);
                }
            }
            if ROWS > 4u {
                let x4 = block_quads(thread, 4u * depth + i);
                sums4 += block_products(a, b, x4);
                if PAIRS > 1u {
                    more4 += block_products(c, d, x4);
                }
                let x5 = block_quads(thread, 5u * depth + i);
                sums5 += block_products(a, b, x5);
                if PAIRS > 1u {
                    more5 += block_products(c, d, x5);
                }
                let x6 = block_quads(thread, 6u * depth + i);
                sums6 += block_products(a, b, x6);
                if PAIRS > 1u {
                    more6 += block_products(c, d, x6);
                }
                let x7 = block_quads(thread, 7u * depth + i);
                sums7 += block_products(a, b, x7);
                if PAIRS > 1u {
                    more7 += block_products(c, d, x7);
                }
            }
        }
        workgroupBarrier();
    }
}

// Multiplies a block of two rows of W with a block of x.
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

// Adds up the shares and passes them to `store2`. All threads of the workgroup must call it.
fn store_products(thread: u32, group: vec3<u32>) {
    let first = vec3<u32>(PAIRS * group.x, group.yz);
    store_pair(thread, first, vec4<f32>(sums0, sums1), vec4<f32>(sums2, sums3), vec4<f32>(sums4, sums5), vec4<f32>(sums6, sums7));
    if PAIRS > 1u {
        workgroupBarrier();
        let second = first + vec3<u32>(1u, 0u, 0u);
        store_pair(thread, second, vec4<f32>(more0, more1), vec4<f32>(more2, more3), vec4<f32>(more4, more5), vec4<f32>(more6, more7));
    }
}

// Stores the sums of a pair with rows 0 and 1, 2 and 3, … of x: four rows at a time, and the splits take turns.
fn store_pair(thread: u32, group: vec3<u32>, r01: vec4<f32>, r23: vec4<f32>, r45: vec4<f32>, r67: vec4<f32>) {
    let threads = LANES * SPLIT;
    staged[thread] = r01;
    if ROWS > 2u {
        staged[threads + thread] = r23;
    }
    workgroupBarrier();
    for (var r = thread / LANES; r < min(ROWS, 4u); r += SPLIT) {
        store_row(r, r, thread, group);
    }
    if ROWS > 4u {
        workgroupBarrier();
        staged[thread] = r45;
        staged[threads + thread] = r67;
        workgroupBarrier();
        for (var r = thread / LANES; r < 4u; r += SPLIT) {
            store_row(r, 4u + r, thread, group);
        }
    }
}

// Stores row r, whose shares are at index `at` of four.
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
