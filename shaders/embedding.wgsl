// y[r, :] = scale · W[tokens[slot + position], :], slot and position of row r
//
// One thread writes 32 columns of one row. Rows whose token is in another chunk of W stay unchanged.

struct Params {
    weight_blocks: u32, // blocks of 32 columns
    cols: u32,
    rows: u32,          // tokens
    start: u32,         // token of the chunk's first row
    count: u32,         // rows of the chunk
    scale: f32,
}

@group(0) @binding(0) var<storage, read_write> tokens: array<u32>;   // (capacity)
@group(0) @binding(1) var<storage, read> codes: array<vec4<u32>>;    // W, (vocab, cols)
@group(0) @binding(2) var<storage, read> scales: array<u32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;        // (rows, cols)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

@compute @workgroup_size(64)
fn embedding(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.rows * params.weight_blocks; i += 64u * groups.x) {
        let row = i / params.weight_blocks;
        let token = tokens[batch[row].slot + batch[row].position];
        if token >= params.start && token - params.start < params.count {
            put_block(row, token - params.start, i % params.weight_blocks);
        }
    }
}

fn put_block(row: u32, token: u32, block: u32) {
    let w = weight32(token, block);
    put(row, 32u * block, w[0]);
    put(row, 32u * block + 4u, w[1]);
    put(row, 32u * block + 8u, w[2]);
    put(row, 32u * block + 12u, w[3]);
    put(row, 32u * block + 16u, w[4]);
    put(row, 32u * block + 20u, w[5]);
    put(row, 32u * block + 24u, w[6]);
    put(row, 32u * block + 28u, w[7]);
}

fn put(row: u32, col: u32, v: vec4<f32>) {
    for (var i = 0u; i < 4u; i++) {
        if col + i < params.cols {
            y[row * params.cols + col + i] = params.scale * v[i];
        }
    }
}
