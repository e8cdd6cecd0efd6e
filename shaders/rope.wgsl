// Rotates the pairs of each head by the angles of the row's position:
//     y[a] = x[a] · cos − x[b] · sin        y[b] = x[b] · cos + x[a] · sin
// (a, b) is (i, i + D/2), or (2i, 2i + 1) where pairs are interleaved.
//
// One thread per pair.

struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,    // D
    interleaved: u32,
    first: u32,       // first row of the table for position 0
    each: u32,        // rows per table, where rows select one of several tables
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;        // (rows, heads · D)
@group(0) @binding(1) var<storage, read> angles: array<vec2<f32>>;   // (context, D/2): cos, sin
@group(0) @binding(2) var<storage, read_write> y: array<f32>;        // (rows, heads · D)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

@compute @workgroup_size(64)
fn rope(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let half_dim = params.head_dim / 2u;
    for (var pair = id.x; pair < params.rows * params.heads * half_dim; pair += 64u * groups.x) {
        let i = pair % half_dim;
        let head = pair / half_dim;   // counted over all rows
        let row = head / params.heads;
        var a = head * params.head_dim + i;
        var b = a + half_dim;
        if params.interleaved != 0u {
            a = head * params.head_dim + 2u * i;
            b = a + 1u;
        }
        let at = (batch[row].top_k >> 24u) * params.each + params.first + batch[row].position;
        let angle = angles[at * half_dim + i];
        y[a] = x[a] * angle.x - x[b] * angle.y;
        y[b] = x[b] * angle.x + x[a] * angle.y;
    }
}
