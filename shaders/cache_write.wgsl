// cache[slot + position, head, d] = x[r, head · D + d], slot and position of row r
//
// One thread per element.

struct Params {
    rows: u32,
    heads: u32,
    head_dim: u32,    // D
    head_stride: u32, // D rounded up to 4
    each: u32,        // 0: rows are consecutive from the first one on; a picture may have more rows than the table
}

@group(0) @binding(0) var<storage, read_write> x: array<f32>;        // (rows, heads · D)
@group(0) @binding(1) var<storage, read_write> cache: array<Kv>;     // (capacity, heads, head_stride)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

@compute @workgroup_size(64)
fn cache_write(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.rows * params.heads * params.head_dim; i += 64u * groups.x) {
        let head = i / params.head_dim;   // counted over all rows
        let row = head / params.heads;
        var place = batch[0].slot + batch[0].position + row;
        if params.each != 0u {
            place = batch[row].slot + batch[row].position;
        }
        let at = (place * params.heads + head % params.heads) * params.head_stride + i % params.head_dim;
        cache[at] = Kv(x[i]);
    }
}
