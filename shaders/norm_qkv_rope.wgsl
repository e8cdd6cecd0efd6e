// n = x / sqrt(mean(x²) + eps) · gain; the rows of W · n[m] are q, k and v of row m, one head after the other;
// q and k are rotated by the angles of the row's position, k and v go to the cache.
//
// One workgroup computes 32 pairs of rows of W for up to 8 rows of x (shared/gemv, shared/norm). A pair is what rope
// rotates together: rows i and i + D/2 of a head, or 2i and 2i + 1 where pairs are interleaved; rows of v are paired
// alike and left as they are.

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,          // k
    m: u32,             // rows of x
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

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;      // (m, cols)
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;         // (cols)
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;        // W, (q_rows + k_rows + v_rows, cols)
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read> angles: array<vec2<f32>>;       // (context, D/2): cos, sin
@group(0) @binding(5) var<storage, read_write> keys: array<Kv>;          // (capacity, kv_heads, head_stride)
@group(0) @binding(6) var<storage, read_write> values: array<Kv>;        // (capacity, kv_heads, head_stride)
@group(0) @binding(7) var<storage, read_write> q: array<f32>;            // (m, q_rows)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

@compute @workgroup_size(LANES * SPLIT)
fn norm_qkv_rope(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    row_products(thread, group);
    rms_factors(thread);
    store_products(thread, group);
}

fn weight_rows(lane: u32, group: u32) -> vec2<u32> {
    let pairs = (params.q_rows + params.k_rows + params.v_rows) / 2u;
    return params.first + pair_rows(min(LANES * group + lane, pairs - 1u));
}

// The two rows of a pair.
fn pair_rows(pair: u32) -> vec2<u32> {
    let half_dim = params.head_dim / 2u;
    let head = pair / half_dim * params.head_dim;
    let i = pair % half_dim;
    if params.interleaved != 0u {
        return head + vec2<u32>(2u * i, 2u * i + 1u);
    }
    return head + vec2<u32>(i, i + half_dim);
}

fn store2(r: u32, lane: u32, group: vec3<u32>, sums: vec2<f32>) {
    let pair = LANES * group.x + lane;
    let half_dim = params.head_dim / 2u;
    if pair >= (params.q_rows + params.k_rows + params.v_rows) / 2u {
        return;
    }
    let m = ROWS * group.y + r;
    let v = sums * factors[r];
    let row = pair_rows(pair);
    let angle = angles[batch[m].position * half_dim + pair % half_dim];
    let rotated = vec2<f32>(fma(v.x, angle.x, -(v.y * angle.y)), fma(v.y, angle.x, v.x * angle.y));
    if row.x < params.q_rows {
        q[m * params.q_rows + row.x] = rotated.x;
        q[m * params.q_rows + row.y] = rotated.y;
        return;
    }
    let place = (batch[m].slot + batch[m].position) * params.kv_heads;
    let within = row % params.head_dim;
    if row.x < params.q_rows + params.k_rows {
        let at = (place + (row.x - params.q_rows) / params.head_dim) * params.head_stride;
        keys[at + within.x] = Kv(rotated.x);
        keys[at + within.y] = Kv(rotated.y);
    } else {
        let at = (place + (row.x - params.q_rows - params.k_rows) / params.head_dim) * params.head_stride;
        values[at + within.x] = Kv(v.x);
        values[at + within.y] = Kv(v.y);
    }
}
