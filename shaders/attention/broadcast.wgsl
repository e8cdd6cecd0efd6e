// y[r, h, :] = Σ_t softmax_t(scale · q[r, h] · k[t, h / G]) · v[t, h / G, :]
//
// t counts from the slot of the pass: 0 .. position + r + 1 where attention is causal (position of row 0; the rows are
// consecutive), or the last `window` of these with a window; else 0 .. position + keys for every row
//
// The variant of tile.wgsl for CPU rasterisers, which run a load once per lane and a broadcast as one instruction. One
// workgroup of 64 threads computes 32 rows of one query head, over blocks of 64 keys with a running maximum and sum per
// row. In both products a thread has 16 rows and two columns: first keys l and l + 32, then columns l and l + 32 of the
// values (and l + 64, l + 96). Lane i loads quads of rows i and i + 8 and broadcasts them. The softmax uses two threads
// per row. D is at most 128. A subgroup is 8 to 32 neighbouring threads.

struct Params {
    heads: u32,
    kv_heads: u32,    // G = heads / kv_heads
    head_dim: u32,    // D
    head_stride: u32, // D rounded up to 4: a head in the cache
    scale: f32,
    eps: f32,         // < 0: no QK-norm
    rows: u32,
    causal: u32,
    window: u32,      // the largest number of rows that a causal row attends to, itself included
    keys: u32,        // the number of keys, where attention is not causal
}

@group(0) @binding(0) var<storage, read_write> q: array<f32>;      // (rows, heads · D)
@group(0) @binding(1) var<storage, read_write> keys: array<Kv4>;   // (capacity, kv_heads, head_stride / 4)
@group(0) @binding(2) var<storage, read_write> values: array<Kv4>; // (capacity, kv_heads, head_stride / 4)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;      // (rows, heads · D)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

const ROWS: u32 = 32u;
const KEYS: u32 = 64u;
const LOWEST: f32 = -3.0e38;

var<workgroup> scores: array<f32, ROWS * KEYS>;
var<workgroup> pairs: array<f32, 64>; // values of each of a row's two threads: first maxima, then sums
var<workgroup> kept: array<f32, ROWS>;

// 16 rows by two columns; each vector holds four rows.
struct Sums {
    a0: vec4<f32>,
    a1: vec4<f32>,
    a2: vec4<f32>,
    a3: vec4<f32>,
    b0: vec4<f32>,
    b1: vec4<f32>,
    b2: vec4<f32>,
    b3: vec4<f32>,
}

@compute @workgroup_size(64)
fn broadcast(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let head = group.x;
    let row0 = group.y * ROWS + thread / 32u * 16u;
    let rows = row0 + thread % 8u + vec2<u32>(0u, 8u);
    let kv = (place().x * params.kv_heads + head / (params.heads / params.kv_heads)) * (params.head_stride / 4u);
    let scale = vec2<f32>(query_scale(rows.x, head), query_scale(rows.y, head));

    var near = Sums(); // columns up to 64
    var far = Sums();  // the other columns
    var largest = LOWEST;
    var total = 0.0;
    let row = thread / 2u;
    let length = place().y + select(params.keys, min((group.y + 1u) * ROWS, params.rows), params.causal != 0u);
    // Loops over whole blocks of keys, so that the order of a row's sums does not depend on its tile.
    for (var start = first_keys(group.y * ROWS).x / KEYS * KEYS; start < length; start += KEYS) {
        score(thread, start, length, row0, rows, scale, head, kv);
        workgroupBarrier();

        var most = largest;
        for (var t = thread % 2u; t < KEYS; t += 2u) {
            most = max(most, scores[row * KEYS + t]);
        }
        pairs[thread] = most;
        workgroupBarrier();
        most = max(most, pairs[thread ^ 1u]);
        let keep = exp(largest - most);
        total *= keep;
        for (var t = thread % 2u; t < KEYS; t += 2u) {
            let score = scores[row * KEYS + t];
            let p = select(exp(score - most), 0.0, score == LOWEST);
            scores[row * KEYS + t] = p;
            total += p;
        }
        largest = most;
        kept[row] = keep;
        workgroupBarrier();

        let count = select(0u, min(KEYS, length - start), row0 < params.rows);
        near = weigh(near, thread, 0u, start, count, length, kv);
        if params.head_dim > 64u {
            far = weigh(far, thread, 64u, start, count, length, kv);
        }
        workgroupBarrier();
    }
    pairs[thread] = total;
    workgroupBarrier();
    store_columns(near, thread, 0u, row0, head);
    store_columns(far, thread, 64u, row0, head);
}

// The factor of a row of q.
fn query_scale(row: u32, head: u32) -> f32 {
    if params.eps < 0.0 {
        return params.scale;
    }
    var squares = 0.0;
    for (var i = 0u; i < params.head_stride / 4u; i++) {
        let v = query_quad(row, head, i);
        squares += dot(v, v);
    }
    return params.scale * inverseSqrt(squares / f32(params.head_dim) + params.eps);
}

// Four columns of a row of q, zero past D.
fn query_quad(row: u32, head: u32, i: u32) -> vec4<f32> {
    let at = (min(row, params.rows - 1u) * params.heads + head) * params.head_dim + 4u * i;
    if 4u * i + 4u <= params.head_dim {
        return vec4<f32>(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
    }
    var v = vec4<f32>(0.0);
    for (var j = 0u; j < params.head_dim - 4u * i; j++) {
        v[j] = q[at + j];
    }
    return v;
}

// The scores of this thread's rows with its two keys; LOWEST where the row does not attend to the key.
fn score(
    thread: u32,
    start: u32,
    length: u32,
    row0: u32,
    rows: vec2<u32>,
    scale: vec2<f32>,
    head: u32,
    kv: u32,
) {
    let quads = params.head_stride / 4u;
    let t = thread % 32u + vec2<u32>(0u, 32u);
    let at = min(start + t, vec2<u32>(length - 1u)) * params.kv_heads * quads + kv;
    var sums = Sums();
    var squares = vec2<f32>(0.0);
    for (var i = 0u; i < select(0u, quads, row0 < params.rows); i++) {
        let k0 = vec4<f32>(keys[at.x + i]);
        let k1 = vec4<f32>(keys[at.y + i]);
        sums = add_products(sums, scale.x * query_quad(rows.x, head, i), scale.y * query_quad(rows.y, head, i), k0, k1);
        squares += vec2<f32>(dot(k0, k0), dot(k1, k1));
    }
    var factor = vec2<f32>(1.0);
    if params.eps >= 0.0 {
        factor = inverseSqrt(squares / f32(params.head_dim) + params.eps);
    }
    let row = thread / 32u * 16u;
    put(row, t.x, factor.x * sums.a0, start, row0, length);
    put(row + 4u, t.x, factor.x * sums.a1, start, row0 + 4u, length);
    put(row + 8u, t.x, factor.x * sums.a2, start, row0 + 8u, length);
    put(row + 12u, t.x, factor.x * sums.a3, start, row0 + 12u, length);
    put(row, t.y, factor.y * sums.b0, start, row0, length);
    put(row + 4u, t.y, factor.y * sums.b1, start, row0 + 4u, length);
    put(row + 8u, t.y, factor.y * sums.b2, start, row0 + 8u, length);
    put(row + 12u, t.y, factor.y * sums.b3, start, row0 + 12u, length);
}

// Writes the scores of four rows with a key; `first` is the first of them among all rows.
fn put(row: u32, t: u32, v: vec4<f32>, start: u32, first: u32, length: u32) {
    var last = vec4<u32>(length - 1u);
    if params.causal != 0u {
        last = place().y + first + vec4<u32>(0u, 1u, 2u, 3u);
    }
    let key = vec4<u32>(start + t);
    let seen = select(vec4<f32>(LOWEST), v, (key >= first_keys(first)) & (key <= last));
    scores[row * KEYS + t] = seen.x;
    scores[(row + 1u) * KEYS + t] = seen.y;
    scores[(row + 2u) * KEYS + t] = seen.z;
    scores[(row + 3u) * KEYS + t] = seen.w;
}

// sums · kept + Σ_t scores[row, t] · v[t, column], for this thread's rows and two columns from `column` on.
fn weigh(sums: Sums, thread: u32, column: u32, start: u32, count: u32, length: u32, kv: u32) -> Sums {
    let row = thread / 32u * 16u;
    let k0 = vec4<f32>(kept[row], kept[row + 1u], kept[row + 2u], kept[row + 3u]);
    let k1 = vec4<f32>(kept[row + 4u], kept[row + 5u], kept[row + 6u], kept[row + 7u]);
    let k2 = vec4<f32>(kept[row + 8u], kept[row + 9u], kept[row + 10u], kept[row + 11u]);
    let k3 = vec4<f32>(kept[row + 12u], kept[row + 13u], kept[row + 14u], kept[row + 15u]);
    var s = Sums(
        k0 * sums.a0, k1 * sums.a1, k2 * sums.a2, k3 * sums.a3,
        k0 * sums.b0, k1 * sums.b1, k2 * sums.b2, k3 * sums.b3,
    );
    let c = min(column + thread % 32u + vec2<u32>(0u, 32u), vec2<u32>(params.head_stride - 1u));
    let at = (row + thread % 8u) * KEYS;
    for (var t = 0u; t < count; t += 4u) {
        let low = vec4<f32>(scores[at + t], scores[at + t + 1u], scores[at + t + 2u], scores[at + t + 3u]);
        let b = at + 8u * KEYS + t;
        let high = vec4<f32>(scores[b], scores[b + 1u], scores[b + 2u], scores[b + 3u]);
        s = add_products(s, low, high, value_quad(start + t, length, kv, c.x), value_quad(start + t, length, kv, c.y));
    }
    return s;
}

// One column of four values. Positions past the last are multiplied by scores of zero.
fn value_quad(first: u32, length: u32, kv: u32, column: u32) -> vec4<f32> {
    let stride = params.kv_heads * (params.head_stride / 4u);
    let at = min(first + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(length - 1u)) * stride + kv + column / 4u;
    let j = column % 4u;
    return vec4<f32>(f32(values[at.x][j]), f32(values[at.y][j]), f32(values[at.z][j]), f32(values[at.w][j]));
}

// Adds four more products to each sum: `low` and `high` are lane i's quads of rows i and i + 8, v and w the columns'.
fn add_products(sums: Sums, low: vec4<f32>, high: vec4<f32>, v: vec4<f32>, w: vec4<f32>) -> Sums {
    var s = sums;
    let x0 = subgroupBroadcast(low, 0u);
    let x1 = subgroupBroadcast(low, 1u);
    let x2 = subgroupBroadcast(low, 2u);
    let x3 = subgroupBroadcast(low, 3u);
    s.a0 += vec4<f32>(dot(x0, v), dot(x1, v), dot(x2, v), dot(x3, v));
    s.b0 += vec4<f32>(dot(x0, w), dot(x1, w), dot(x2, w), dot(x3, w));
    let x4 = subgroupBroadcast(low, 4u);
    let x5 = subgroupBroadcast(low, 5u);
    let x6 = subgroupBroadcast(low, 6u);
    let x7 = subgroupBroadcast(low, 7u);
    s.a1 += vec4<f32>(dot(x4, v), dot(x5, v), dot(x6, v), dot(x7, v));
    s.b1 += vec4<f32>(dot(x4, w), dot(x5, w), dot(x6, w), dot(x7, w));
    let y0 = subgroupBroadcast(high, 0u);
    let y1 = subgroupBroadcast(high, 1u);
    let y2 = subgroupBroadcast(high, 2u);
    let y3 = subgroupBroadcast(high, 3u);
    s.a2 += vec4<f32>(dot(y0, v), dot(y1, v), dot(y2, v), dot(y3, v));
    s.b2 += vec4<f32>(dot(y0, w), dot(y1, w), dot(y2, w), dot(y3, w));
    let y4 = subgroupBroadcast(high, 4u);
    let y5 = subgroupBroadcast(high, 5u);
    let y6 = subgroupBroadcast(high, 6u);
    let y7 = subgroupBroadcast(high, 7u);
    s.a3 += vec4<f32>(dot(y4, v), dot(y5, v), dot(y6, v), dot(y7, v));
    s.b3 += vec4<f32>(dot(y4, w), dot(y5, w), dot(y6, w), dot(y7, w));
    return s;
}

fn store_columns(sums: Sums, thread: u32, column: u32, row0: u32, head: u32) {
    let c = column + thread % 32u;
    let local = thread / 32u * 16u;
    store4(head, row0, local, c, sums.a0);
    store4(head, row0 + 4u, local + 4u, c, sums.a1);
    store4(head, row0 + 8u, local + 8u, c, sums.a2);
    store4(head, row0 + 12u, local + 12u, c, sums.a3);
    store4(head, row0, local, c + 32u, sums.b0);
    store4(head, row0 + 4u, local + 4u, c + 32u, sums.b1);
    store4(head, row0 + 8u, local + 8u, c + 32u, sums.b2);
    store4(head, row0 + 12u, local + 12u, c + 32u, sums.b3);
}

fn store4(head: u32, row: u32, local: u32, column: u32, v: vec4<f32>) {
    if column < params.head_dim {
        for (var i = 0u; i < 4u; i++) {
            if row + i < params.rows {
                let total = pairs[2u * (local + i)] + pairs[2u * (local + i) + 1u];
                y[((row + i) * params.heads + head) * params.head_dim + column] = v[i] / total;
            }
        }
    }
}
