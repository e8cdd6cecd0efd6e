// n = x / sqrt(mean(x²) + eps) · gain; the rows of W · n[m] + bias are q, k and v of row m, one head after the other;
// with a QK-norm heads of q and k are normalised with gains of their own; q and k are rotated by the angles of the
// row's position, or not at all; k and v are written to the cache.
//
// One workgroup computes LANES · PAIRS pairs of rows of W for up to 8 rows of x (shared/gemv, shared/norm). With a
// QK-norm these are whole heads, and the products are passed to `store2` twice: for the squares of the heads, then for their
// elements. A pair is rotated together by rope: rows i and i + D/2 of a head, or 2i and 2i + 1 where pairs are
// interleaved. Rows of v are paired in the same way and not rotated.

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
    bias: u32,          // whether there is a bias
    rope: u32,          // whether q and k are rotated
    q_angles: u32,      // offset in the table from the angles of k to those of q
    each: u32,          // rows per table, where rows select one of several tables
}

@group(0) @binding(0) var<storage, read_write> x: array<vec4<f32>>;      // (m, cols)
@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;         // (cols), then bias (rows of W), norms of q and k (D)
@group(0) @binding(2) var<storage, read> codes: array<vec4<u32>>;        // W, (q_rows + k_rows + v_rows, cols)
@group(0) @binding(3) var<storage, read> scales: array<u32>;
@group(0) @binding(4) var<storage, read> angles: array<vec2<f32>>;       // (context, D/2): cos, sin
@group(0) @binding(5) var<storage, read_write> keys: array<Kv>;          // (capacity, kv_heads, head_stride)
@group(0) @binding(6) var<storage, read_write> values: array<Kv>;        // (capacity, kv_heads, head_stride)
@group(0) @binding(7) var<storage, read_write> q: array<f32>;            // (m, q_rows)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

override QK_NORM: u32 = 0u;

var<private> measuring: bool; // whether `store2` adds squares to `lane_squares` instead of writing elements

@compute @workgroup_size(LANES * SPLIT)
fn norm_qkv_rope(@builtin(local_invocation_index) thread: u32, @builtin(workgroup_id) group: vec3<u32>) {
    row_products(thread, group);
    rms_factors(thread);
    if QK_NORM != 0u {
        measuring = true;
        store_products(thread, group);
        measuring = false;
        workgroupBarrier();
    }
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

// Element i of the vectors after the gain.
fn behind_gain(i: u32) -> f32 {
    let at = params.cols + i;
    return gain[at / 4u][at % 4u];
}

// Every sum is an `fma`, as in shared/gemv: the bits of a row must not depend on the number of rows.
fn store2(r: u32, lane: u32, group: vec3<u32>, sums: vec2<f32>) {
    let rows = params.q_rows + params.k_rows + params.v_rows;
    let pair = LANES * group.x + lane;
    let half_dim = params.head_dim / 2u;
    if pair >= rows / 2u {
        return;
    }
    let m = ROWS * group.y + r;
    let row = pair_rows(pair);
    let within = row % params.head_dim;
    var bias = vec2<f32>(0.0);
    if params.bias != 0u {
        bias = vec2<f32>(behind_gain(row.x), behind_gain(row.y));
    }
    var v = fma(sums, vec2<f32>(factors[r]), bias);
    if QK_NORM != 0u {
        if measuring {
            lane_squares[lane][r] = fma(v.y, v.y, v.x * v.x);
            return;
        }
        if row.x < params.q_rows + params.k_rows {
            var at = select(0u, params.head_dim, row.x >= params.q_rows);
            at += select(0u, rows, params.bias != 0u);
            let norm = vec2<f32>(behind_gain(at + within.x), behind_gain(at + within.y));
            v = v * head_factor(r, lane - pair % half_dim) * norm;
        }
    }
    var rotated = v;
    if params.rope != 0u {
        let table = (batch[m].top_k >> 24u) * params.each + select(0u, params.q_angles, row.x < params.q_rows);
        let angle = angles[(table + batch[m].position) * half_dim + pair % half_dim];
        rotated = vec2<f32>(fma(v.x, angle.x, -(v.y * angle.y)), fma(v.y, angle.x, v.x * angle.y));
    }
    if row.x < params.q_rows {
        q[m * params.q_rows + row.x] = rotated.x;
        q[m * params.q_rows + row.y] = rotated.y;
        return;
    }
    let place = (batch[m].slot + batch[m].position) * params.kv_heads;
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

// 1 / sqrt(mean(·²) + eps) of the head whose first pair belongs to lane `first`.
fn head_factor(r: u32, first: u32) -> f32 {
    var total = 0.0;
    for (var i = 0u; i < params.head_dim / 2u; i++) {
        total += lane_squares[first + i][r];
    }
    return inverseSqrt(total / f32(params.head_dim) + params.eps);
}
