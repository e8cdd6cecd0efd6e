// y[r, h, :] = Σ_t softmax_t(scale · q[r, h] · k[t, h / G]) · v[t, h / G, :]
//
// t counts from the slot of row r: 0 .. its position + 1, or the last `window` of these with a window
//
// The variant of row.wgsl for CPU rasterisers, which run a load once per lane and a broadcast as one instruction. One
// workgroup of 64 threads computes one row of HEADS query heads of one KV head, which share every load of keys and
// values. For the scores each thread has one key of 64: eight lanes load eight quads of a query and broadcast them. For
// the sums each thread has four columns of v and a share of the keys: eight lanes hold the weights of eight keys. D is
// a multiple of four subgroups and at most 128. A subgroup is 8 to 32 neighbouring threads.

struct Params {
    heads: u32,
    kv_heads: u32,    // G = heads / kv_heads
    head_dim: u32,    // D
    head_stride: u32, // D
    scale: f32,
    eps: f32,         // < 0: no QK-norm
    rows: u32,
    causal: u32,      // 1
    window: u32,      // the largest number of rows that a row attends to, itself included
    keys: u32,        // not used here
}

@group(0) @binding(0) var<storage, read_write> q: array<f32>;      // (rows, heads · D)
@group(0) @binding(1) var<storage, read_write> keys: array<Kv4>;   // (capacity, kv_heads, D / 4)
@group(0) @binding(2) var<storage, read_write> values: array<Kv4>; // (capacity, kv_heads, D / 4)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;      // (rows, heads · D)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

override HEADS: u32 = 4u; // 1 to 4
const WG: u32 = 64u;
const CHUNK: u32 = 512u;
const MOST_QUADS: u32 = 32u; // D up to 128
const LOWEST: f32 = -3.0e38;

var<workgroup> query: array<vec4<f32>, 4u * MOST_QUADS>; // of all heads
var<workgroup> factors: array<f32, 4>;                   // the factor of each head's query
var<workgroup> scores: array<vec4<f32>, CHUNK>;          // of all heads with a key; later the key's weights
var<workgroup> shared4: array<vec4<f32>, WG>;

// Four columns of each head.
struct Sums {
    h0: vec4<f32>,
    h1: vec4<f32>,
    h2: vec4<f32>,
    h3: vec4<f32>,
}

@compute @workgroup_size(WG)
fn heads(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let together = params.heads / params.kv_heads;
    let tiles = (together + HEADS - 1u) / HEADS;
    let kv_head = group.x / tiles;
    let within = group.x % tiles * HEADS; // the first of its heads within the KV head
    let head = kv_head * together + within;
    let count_heads = min(HEADS, together - within);
    let quads = params.head_dim / 4u;
    let stride = params.kv_heads * quads;
    let first = batch[group.y].slot;
    let length = batch[group.y].position + 1u;
    let base = (group.y * params.heads + head) * params.head_dim;

    for (var i = thread; i < HEADS * quads; i += WG) {
        let h = i / quads;
        let at = base + min(h, count_heads - 1u) * params.head_dim + 4u * (i % quads);
        query[h * MOST_QUADS + i % quads] = vec4<f32>(q[at], q[at + 1u], q[at + 2u], q[at + 3u]);
    }
    workgroupBarrier();
    if thread < HEADS {
        factors[thread] = query_factor(thread, quads);
    }
    workgroupBarrier();
    let factor = vec4<f32>(factors[0], factors[1], factors[2], factors[3]);

    // Threads with the same columns take blocks of eight keys in turn.
    let column = thread % quads;
    let part = thread / quads;
    let parts = WG / quads;
    var sums = Sums();
    var largest = vec4<f32>(LOWEST);
    var total = vec4<f32>(0.0);
    for (var start = length - min(length, params.window); start < length; start += CHUNK) {
        let count = min(CHUNK, length - start);
        var most = vec4<f32>(LOWEST);
        for (var t0 = 0u; t0 < count; t0 += WG) {
            // The condition is uniform in a subgroup.
            if t0 + thread / 32u * 32u < count {
                let t = t0 + thread;
                let at = (first + start + min(t, count - 1u)) * stride + kv_head * quads;
                let score = select(vec4<f32>(LOWEST), factor * key_products(thread, at, quads), t < count);
                scores[t] = score;
                most = max(most, score);
            }
        }
        let before = largest;
        largest = max(before, group_max(thread, most));
        let kept = exp(before - largest);

        var sum = vec4<f32>(0.0);
        for (var t = thread; t < (count + 7u) / 8u * 8u; t += WG) {
            let p = select(vec4<f32>(0.0), exp(scores[t] - largest), t < count);
            scores[t] = p;
            sum += p;
        }
        total = total * kept + group_sum(thread, sum);

        sums = Sums(kept.x * sums.h0, kept.y * sums.h1, kept.z * sums.h2, kept.w * sums.h3);
        for (var t0 = 8u * part; t0 < select(0u, count, part < parts); t0 += 8u * parts) {
            let mine = scores[t0 + thread % 8u];
            let at = (first + start) * stride + kv_head * quads + column;
            // The weights of keys past the last are zero.
            let last = count - 1u - t0;
            sums = add_value(sums, subgroupBroadcast(mine, 0u), at + t0 * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 1u), at + (t0 + min(1u, last)) * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 2u), at + (t0 + min(2u, last)) * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 3u), at + (t0 + min(3u, last)) * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 4u), at + (t0 + min(4u, last)) * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 5u), at + (t0 + min(5u, last)) * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 6u), at + (t0 + min(6u, last)) * stride);
            sums = add_value(sums, subgroupBroadcast(mine, 7u), at + (t0 + min(7u, last)) * stride);
        }
        workgroupBarrier();
    }

    store(thread, 0u, count_heads, base, sums.h0 / total.x);
    if HEADS > 1u {
        store(thread, 1u, count_heads, base, sums.h1 / total.y);
    }
    if HEADS > 2u {
        store(thread, 2u, count_heads, base, sums.h2 / total.z);
    }
    if HEADS > 3u {
        store(thread, 3u, count_heads, base, sums.h3 / total.w);
    }
}

// The factor of a head's query.
fn query_factor(head: u32, quads: u32) -> f32 {
    if params.eps < 0.0 {
        return params.scale;
    }
    var squares = 0.0;
    for (var i = 0u; i < quads; i++) {
        let v = query[head * MOST_QUADS + i];
        squares += dot(v, v);
    }
    return params.scale * inverseSqrt(squares / f32(params.head_dim) + params.eps);
}

// The products of a key with each head's query. All lanes of a subgroup must call it.
fn key_products(thread: u32, at: u32, quads: u32) -> vec4<f32> {
    var p0 = vec4<f32>(0.0);
    var p1 = vec4<f32>(0.0);
    var p2 = vec4<f32>(0.0);
    var p3 = vec4<f32>(0.0);
    var squares = vec4<f32>(0.0);
    for (var i = 0u; i < quads; i += 8u) {
        let k = array<vec4<f32>, 8>(
            vec4<f32>(keys[at + i]),
            vec4<f32>(keys[at + i + 1u]),
            vec4<f32>(keys[at + i + 2u]),
            vec4<f32>(keys[at + i + 3u]),
            vec4<f32>(keys[at + i + 4u]),
            vec4<f32>(keys[at + i + 5u]),
            vec4<f32>(keys[at + i + 6u]),
            vec4<f32>(keys[at + i + 7u]),
        );
        let mine = i + thread % 8u;
        p0 = add_products(p0, query[mine], k);
        if HEADS > 1u {
            p1 = add_products(p1, query[MOST_QUADS + mine], k);
        }
        if HEADS > 2u {
            p2 = add_products(p2, query[2u * MOST_QUADS + mine], k);
        }
        if HEADS > 3u {
            p3 = add_products(p3, query[3u * MOST_QUADS + mine], k);
        }
        if params.eps >= 0.0 {
            squares += k[0] * k[0] + k[1] * k[1] + k[2] * k[2] + k[3] * k[3];
            squares += k[4] * k[4] + k[5] * k[5] + k[6] * k[6] + k[7] * k[7];
        }
    }
    var products = vec4<f32>(across(p0), across(p1), across(p2), across(p3));
    if params.eps >= 0.0 {
        products *= inverseSqrt(across(squares) / f32(params.head_dim) + params.eps);
    }
    return products;
}

// sums + Σ_i x_i · k[i], where lane i holds x_i.
fn add_products(sums: vec4<f32>, x: vec4<f32>, k: array<vec4<f32>, 8>) -> vec4<f32> {
    var p = fma(subgroupBroadcast(x, 0u), k[0], sums);
    p = fma(subgroupBroadcast(x, 1u), k[1], p);
    p = fma(subgroupBroadcast(x, 2u), k[2], p);
    p = fma(subgroupBroadcast(x, 3u), k[3], p);
    p = fma(subgroupBroadcast(x, 4u), k[4], p);
    p = fma(subgroupBroadcast(x, 5u), k[5], p);
    p = fma(subgroupBroadcast(x, 6u), k[6], p);
    return fma(subgroupBroadcast(x, 7u), k[7], p);
}

// sums + p · v, for the quad of values at `at` and the weights p of its key for all heads.
fn add_value(sums: Sums, p: vec4<f32>, at: u32) -> Sums {
    let v = vec4<f32>(values[at]);
    var s = sums;
    s.h0 = fma(vec4<f32>(p.x), v, s.h0);
    if HEADS > 1u {
        s.h1 = fma(vec4<f32>(p.y), v, s.h1);
    }
    if HEADS > 2u {
        s.h2 = fma(vec4<f32>(p.z), v, s.h2);
    }
    if HEADS > 3u {
        s.h3 = fma(vec4<f32>(p.w), v, s.h3);
    }
    return s;
}

fn across(v: vec4<f32>) -> f32 {
    return v.x + v.y + v.z + v.w;
}

// Writes a thread's columns of a head; every thread adds its share of the keys. All threads must call it.
fn store(thread: u32, h: u32, count: u32, base: u32, share: vec4<f32>) {
    let quads = params.head_dim / 4u;
    shared4[thread] = share;
    workgroupBarrier();
    if thread < quads && h < count {
        var v = vec4<f32>(0.0);
        for (var part = 0u; part < WG / quads; part++) {
            v += shared4[part * quads + thread];
        }
        let at = base + h * params.head_dim + 4u * thread;
        y[at] = v.x;
        y[at + 1u] = v.y;
        y[at + 2u] = v.z;
        y[at + 3u] = v.w;
    }
    workgroupBarrier();
}

// The maximum over all threads, returned to every thread. All threads must call it.
fn group_max(thread: u32, value: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    shared4[thread] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            shared4[thread] = max(shared4[thread], shared4[thread + half]);
        }
        workgroupBarrier();
    }
    return shared4[0];
}

// The sum over all threads, returned to every thread. All threads must call it.
fn group_sum(thread: u32, value: vec4<f32>) -> vec4<f32> {
    workgroupBarrier();
    shared4[thread] = value;
    workgroupBarrier();
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        if thread < half {
            shared4[thread] += shared4[thread + half];
        }
        workgroupBarrier();
    }
    return shared4[0];
}
