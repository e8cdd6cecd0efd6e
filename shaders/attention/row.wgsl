// y[r, h, :] = Σ_t softmax_t(scale · q[r, h] · k[t, h / G]) · v[t, h / G, :]
//
// t counts from the slot of row r: 0 .. its position + 1 where attention is causal, or the last `window` of these with
// a window; else 0 .. position of row 0 + keys
//
// One workgroup per row and query head, for decoding, where rows are few. Keys are processed in chunks of CHUNK whose
// scores fit workgroup memory, with a running maximum and sum (online softmax), so memory does not grow with the
// context. If `eps` is not negative, q and k are first normalised to unit mean square (weightless QK-norm).

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

override WG: u32 = 64u; // a power of two
const CHUNK: u32 = 1024u;
const MOST_QUADS: u32 = 64u; // D up to 256

var<workgroup> query: array<vec4<f32>, MOST_QUADS>;
var<workgroup> scores: array<f32, CHUNK>;
var<workgroup> sums: array<vec4<f32>, WG>;
var<workgroup> output: array<vec4<f32>, MOST_QUADS>;

@compute @workgroup_size(WG)
fn row(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let head = group.x;
    let kv_head = head / (params.heads / params.kv_heads);
    let quads = params.head_stride / 4u;
    let stride = params.kv_heads * quads;
    var first = batch[group.y].slot;
    var length = batch[group.y].position + 1u;
    // A picture may have more rows than the table, so its first row is used for all of them.
    if params.causal == 0u {
        first = batch[0].slot;
        length = batch[0].position + params.keys;
    }
    let base = (group.y * params.heads + head) * params.head_dim;

    for (var i = thread; i < quads; i += WG) {
        var v = vec4<f32>(0.0);
        for (var j = 0u; j < 4u; j++) {
            if 4u * i + j < params.head_dim {
                v[j] = q[base + 4u * i + j];
            }
        }
        query[i] = v;
        output[i] = vec4<f32>(0.0);
    }
    workgroupBarrier();
    var scale = params.scale;
    if params.eps >= 0.0 {
        var squares = 0.0;
        for (var i = 0u; i < quads; i++) {
            squares += dot(query[i], query[i]);
        }
        scale *= inverseSqrt(squares / f32(params.head_dim) + params.eps);
    }

    // Threads with the same four columns of v take every `groups`-th key.
    let groups = max(WG / quads, 1u);
    var largest = -3.0e38;
    var total = 0.0;
    for (var start = length - min(length, params.window); start < length; start += CHUNK) {
        let count = min(CHUNK, length - start);
        var most = -3.0e38;
        for (var t = thread; t < count; t += WG) {
            let at = (first + start + t) * stride + kv_head * quads;
            var product = 0.0;
            var squares = 0.0;
            for (var i = 0u; i < quads; i++) {
                let k = vec4<f32>(keys[at + i]);
                product += dot(query[i], k);
                squares += dot(k, k);
            }
            var score = product * scale;
            if params.eps >= 0.0 {
                score *= inverseSqrt(squares / f32(params.head_dim) + params.eps);
            }
            scores[t] = score;
            most = max(most, score);
        }
        let before = largest;
        largest = max(before, group_max(thread, most));
        let kept = exp(before - largest);

        var sum = 0.0;
        for (var t = thread; t < count; t += WG) {
            let p = exp(scores[t] - largest);
            scores[t] = p;
            sum += p;
        }
        total = total * kept + group_sum(thread, sum);

        let column = thread % quads;
        let part = thread / quads;
        var v = vec4<f32>(0.0);
        if part < groups {
            for (var t = part; t < count; t += groups) {
                v += scores[t] * vec4<f32>(values[(first + start + t) * stride + kv_head * quads + column]);
            }
        }
        sums[thread] = v;
        workgroupBarrier();
        if thread < quads {
            v = output[thread] * kept;
            for (var part = 0u; part < groups; part++) {
                v += sums[part * quads + thread];
            }
            output[thread] = v;
        }
        workgroupBarrier();
    }

    for (var d = thread; d < params.head_dim; d += WG) {
        y[base + d] = output[d / 4u][d % 4u] / total;
    }
}
