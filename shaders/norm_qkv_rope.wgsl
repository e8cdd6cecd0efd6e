// n = x / sqrt(mean(x²) + eps) · gain; the rows of W · n are q, k and v, one head after the other;
// q and k are rotated by the angles of the position, k and v go to the cache.
//
// One workgroup computes 32 pairs of rows. A pair is what rope rotates together: rows i and i + D/2 of a head, or 2i
// and 2i + 1 where pairs are interleaved; rows of v are paired alike and left as they are.

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k
    eps: f32,
    first: u32,         // first row of this part within the matrix
    q_rows: u32,        // query heads · D; any of the three may be 0
    k_rows: u32,        // kv heads · D
    v_rows: u32,
    head_dim: u32,      // D
    head_stride: u32,   // D rounded up to 4: a head in the cache
    kv_heads: u32,
    interleaved: u32,
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;      // (cols)
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;         // (cols)
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;        // W, (q_rows + k_rows + v_rows, cols)
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read> angles: array<vec2<f32>>;       // (context, D/2): cos, sin
@group(0) @binding(5) var<storage, read_write> keys: array<Kv>;          // (capacity, kv_heads, head_stride)
@group(0) @binding(6) var<storage, read_write> values: array<Kv>;        // (capacity, kv_heads, head_stride)
@group(0) @binding(7) var<storage, read_write> q: array<f32>;            // (q_rows)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

@compute @workgroup_size(LANES * SPLIT)
fn norm_qkv_rope(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    let half_dim = params.head_dim / 2u;
    let pairs = (params.q_rows + params.k_rows + params.v_rows) / 2u;
    let pair = LANES * group.x + thread % LANES;
    let head = min(pair, pairs - 1u) / half_dim;
    let i = min(pair, pairs - 1u) % half_dim;
    var row = head * params.head_dim + vec2<u32>(i, i + half_dim);
    if params.interleaved != 0u {
        row = head * params.head_dim + vec2<u32>(2u * i, 2u * i + 1u);
    }
    let products = row_products(thread, params.first + row);
    let v = products * rms_factor(thread);
    if thread >= LANES || pair >= pairs {
        return;
    }
    let angle = angles[batch[0].position * half_dim + i];
    let rotated = vec2<f32>(v.x * angle.x - v.y * angle.y, v.y * angle.x + v.x * angle.y);
    if row.x < params.q_rows {
        q[row.x] = rotated.x;
        q[row.y] = rotated.y;
        return;
    }
    let within = row % params.head_dim;
    if row.x < params.q_rows + params.k_rows {
        let kv_head = head - params.q_rows / params.head_dim;
        let at = ((batch[0].slot + batch[0].position) * params.kv_heads + kv_head) * params.head_stride;
        keys[at + within.x] = Kv(rotated.x);
        keys[at + within.y] = Kv(rotated.y);
    } else {
        let kv_head = head - (params.q_rows + params.k_rows) / params.head_dim;
        let at = ((batch[0].slot + batch[0].position) * params.kv_heads + kv_head) * params.head_stride;
        values[at + within.x] = Kv(v.x);
        values[at + within.y] = Kv(v.y);
    }
}
