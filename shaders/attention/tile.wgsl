// y[r, h, :] = Σ_t softmax_t(scale · q[r, h] · k[t, h / G]) · v[t, h / G, :]
//
// t counts from the slot of the pass: 0 .. position + r + 1 where attention is causal (position of row 0; the rows are
// consecutive), or the last `window` of these with a window; else 0 .. position + keys for every row
//
// One workgroup of 64 threads computes 16 rows of one query head, for prompts, over blocks of 32 keys with a running
// maximum and sum per row (online softmax). For the scores, thread t has key t % 32 and eight rows; for the softmax,
// row t % 16 and every fourth key; for the sums, up to two items of four columns and four rows. D is at most 128.

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

const ROWS: u32 = 16u;
const KEYS: u32 = 32u;
const LOWEST: f32 = -3.0e38;

var<workgroup> queries: array<vec4<f32>, 32u * ROWS>;      // (D / 4, rows)
var<workgroup> scores: array<vec4<f32>, KEYS * ROWS / 4u>; // (keys, rows / 4)
var<workgroup> parts: array<vec4<f32>, ROWS>;              // (4 threads of a row, rows / 4): maxima, at the end sums
var<workgroup> kept: array<vec4<f32>, ROWS / 4u>;

@compute @workgroup_size(64)
fn tile(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let head = group.x;
    let row0 = group.y * ROWS;
    let quads = params.head_stride / 4u;
    let stride = params.kv_heads * quads;
    let kv = place().x * stride + (head / (params.heads / params.kv_heads)) * quads;
    load_queries(thread, head, row0, quads);

    // Two items of this thread: columns from 4c on and rows from 4g on.
    let c0 = thread % quads;
    let g0 = thread / quads;
    let c1 = (thread + 64u) % quads;
    let g1 = (thread + 64u) / quads;
    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var a2 = vec4<f32>(0.0);
    var a3 = vec4<f32>(0.0);
    var b0 = vec4<f32>(0.0);
    var b1 = vec4<f32>(0.0);
    var b2 = vec4<f32>(0.0);
    var b3 = vec4<f32>(0.0);

    // The largest score of this thread's row so far, and the sum over this thread's keys.
    let row = thread % ROWS;
    var largest = LOWEST;
    var total = 0.0;

    let length = place().y + select(params.keys, min(row0 + ROWS, params.rows), params.causal != 0u);
    // Loops over whole blocks of keys, so that the order of a row's sums does not depend on its tile.
    for (var start = first_keys(row0).x / KEYS * KEYS; start < length; start += KEYS) {
        score(thread, start, length, row0, stride, kv, quads);
        workgroupBarrier();
        var most = largest;
        for (var t = thread / ROWS; t < KEYS; t += 4u) {
            most = max(most, scores[t * (ROWS / 4u) + row / 4u][row % 4u]);
        }
        parts[thread / 4u][thread % 4u] = most;
        workgroupBarrier();
        for (var i = row / 4u; i < ROWS; i += ROWS / 4u) {
            most = max(most, parts[i][row % 4u]);
        }
        let keep = exp(largest - most);
        largest = most;
        total *= keep;
        for (var t = thread / ROWS; t < KEYS; t += 4u) {
            let at = t * (ROWS / 4u) + row / 4u;
            let score = scores[at][row % 4u];
            let p = select(exp(score - most), 0.0, score == LOWEST);
            scores[at][row % 4u] = p;
            total += p;
        }
        if thread < ROWS {
            kept[row / 4u][row % 4u] = keep;
        }
        workgroupBarrier();
        let count = min(KEYS, length - start);
        if g0 < ROWS / 4u {
            let k = kept[g0];
            a0 *= k.x;
            a1 *= k.y;
            a2 *= k.z;
            a3 *= k.w;
            for (var t = 0u; t < count; t++) {
                let v = vec4<f32>(values[(start + t) * stride + kv + c0]);
                let p = scores[t * (ROWS / 4u) + g0];
                a0 += p.x * v;
                a1 += p.y * v;
                a2 += p.z * v;
                a3 += p.w * v;
            }
        }
        if g1 < ROWS / 4u {
            let k = kept[g1];
            b0 *= k.x;
            b1 *= k.y;
            b2 *= k.z;
            b3 *= k.w;
            for (var t = 0u; t < count; t++) {
                let v = vec4<f32>(values[(start + t) * stride + kv + c1]);
                let p = scores[t * (ROWS / 4u) + g1];
                b0 += p.x * v;
                b1 += p.y * v;
                b2 += p.z * v;
                b3 += p.w * v;
            }
        }
        workgroupBarrier();
    }
    parts[thread / 4u][thread % 4u] = total;
    workgroupBarrier();
    if g0 < ROWS / 4u {
        let total = row_totals(g0);
        store(head, row0 + 4u * g0, c0, a0 / total.x);
        store(head, row0 + 4u * g0 + 1u, c0, a1 / total.y);
        store(head, row0 + 4u * g0 + 2u, c0, a2 / total.z);
        store(head, row0 + 4u * g0 + 3u, c0, a3 / total.w);
    }
    if g1 < ROWS / 4u {
        let total = row_totals(g1);
        store(head, row0 + 4u * g1, c1, b0 / total.x);
        store(head, row0 + 4u * g1 + 1u, c1, b1 / total.y);
        store(head, row0 + 4u * g1 + 2u, c1, b2 / total.z);
        store(head, row0 + 4u * g1 + 3u, c1, b3 / total.w);
    }
}

// The tile's rows of q, times the scale (and brought to unit mean square), zero past D and past the last row.
fn load_queries(thread: u32, head: u32, row0: u32, quads: u32) {
    for (var i = thread; i < quads * ROWS; i += 64u) {
        let row = row0 + i % ROWS;
        let d = 4u * (i / ROWS);
        var v = vec4<f32>(0.0);
        if row < params.rows {
            for (var j = 0u; j < 4u; j++) {
                if d + j < params.head_dim {
                    v[j] = q[(row * params.heads + head) * params.head_dim + d + j];
                }
            }
        }
        queries[i] = v;
    }
    workgroupBarrier();
    if thread < ROWS {
        var factor = params.scale;
        if params.eps >= 0.0 {
            var squares = 0.0;
            for (var i = 0u; i < quads; i++) {
                let v = queries[i * ROWS + thread];
                squares += dot(v, v);
            }
            factor *= inverseSqrt(squares / f32(params.head_dim) + params.eps);
        }
        for (var i = 0u; i < quads; i++) {
            queries[i * ROWS + thread] *= factor;
        }
    }
    workgroupBarrier();
}

// Writes scores[key, row] for this thread's key and eight rows; LOWEST where the row does not attend to the key.
fn score(thread: u32, start: u32, length: u32, row0: u32, stride: u32, kv: u32, quads: u32) {
    let t = thread % KEYS;
    let rows = (thread / KEYS) * 8u;
    let key = min(start + t, length - 1u);
    var low = vec4<f32>(0.0);
    var high = vec4<f32>(0.0);
    var squares = 0.0;
    for (var i = 0u; i < quads; i++) {
        let k = vec4<f32>(keys[key * stride + kv + i]);
        let at = i * ROWS + rows;
        low += vec4<f32>(
            dot(queries[at], k),
            dot(queries[at + 1u], k),
            dot(queries[at + 2u], k),
            dot(queries[at + 3u], k),
        );
        high += vec4<f32>(
            dot(queries[at + 4u], k),
            dot(queries[at + 5u], k),
            dot(queries[at + 6u], k),
            dot(queries[at + 7u], k),
        );
        squares += dot(k, k);
    }
    if params.eps >= 0.0 {
        let factor = inverseSqrt(squares / f32(params.head_dim) + params.eps);
        low *= factor;
        high *= factor;
    }
    let seen = vec4<u32>(start + t);
    let at = t * (ROWS / 4u) + rows / 4u;
    let lows = (seen >= first_keys(row0 + rows)) & (seen <= last_keys(row0 + rows, length));
    let highs = (seen >= first_keys(row0 + rows + 4u)) & (seen <= last_keys(row0 + rows + 4u, length));
    scores[at] = select(vec4<f32>(LOWEST), low, lows);
    scores[at + 1u] = select(vec4<f32>(LOWEST), high, highs);
}

// The last keys that four rows attend to: for each row its own position where attention is causal, else the last key.
fn last_keys(row: u32, length: u32) -> vec4<u32> {
    if params.causal == 0u {
        return vec4<u32>(length - 1u);
    }
    return vec4<u32>(place().y + row) + vec4<u32>(0u, 1u, 2u, 3u);
}

// Σ of the scores of four rows.
fn row_totals(g: u32) -> vec4<f32> {
    return parts[g] + parts[g + 4u] + parts[g + 8u] + parts[g + 12u];
}

fn store(head: u32, row: u32, column: u32, v: vec4<f32>) {
    if row < params.rows {
        for (var j = 0u; j < 4u; j++) {
            if 4u * column + j < params.head_dim {
                y[(row * params.heads + head) * params.head_dim + 4u * column + j] = v[j];
            }
        }
    }
}
