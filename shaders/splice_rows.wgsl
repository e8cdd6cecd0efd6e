// y[r, :] = rows[t − vocab, :] where t = tokens[slot + position] of row r is past the vocabulary, else x[r, :]
//
// One thread per element. An id past the last row selects the last row.

struct Params {
    count: u32,  // elements of y
    cols: u32,
    vocab: u32,
    rows: u32,
}

@group(0) @binding(0) var<storage, read_write> tokens: array<u32>; // (capacity)
@group(0) @binding(1) var<storage, read_write> x: array<f32>;      // (n, cols)
@group(0) @binding(2) var<storage, read_write> rows: array<f32>;   // (rows, cols)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;      // (n, cols)
@group(1) @binding(0) var<uniform> params: Params;
@group(1) @binding(1) var<uniform> batch: array<Row, 512>;

@compute @workgroup_size(64)
fn splice_rows(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < params.count; i += 64u * groups.x) {
        let row = batch[i / params.cols];
        let token = tokens[row.slot + row.position];
        if token < params.vocab {
            y[i] = x[i];
        } else {
            let source = min(token - params.vocab, params.rows - 1u);
            y[i] = rows[source * params.cols + i % params.cols];
        }
    }
}
